/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/whole_names.h"

#include "noderuntime/coroutine/kernel_list.h"
#include "noderuntime/coroutine/kernel_name.h"
#include "noderuntime/coroutine/whole.h"

static struct ds_kernel_list named;

void ds_whole_name(const char *list)
{
	if (ds_kernel_list_add(&named, list))
		atomic_fetch_or(&ds_whole_watch, DS_WHOLE_NAMED);
}

bool ds_whole_name_matches(const char *name)
{
	return ds_kernel_list_matches(&named, name);
}

bool ds_whole_is_named(CUfunction function)
{
	const char *name = ds_kernel_name(function);

	return name && ds_kernel_list_has(&named, name);
}
