/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/task_env.h"

/* Whatever parses must plan, and applying the plan's LD_PRELOAD again must change nothing. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ds_task_env env;
	const char *const current[] = {"LD_PRELOAD=/a.so:/l/libdetshare-cuda.so", "DETSHARE_X=1",
				       NULL};
	struct ds_task_grant grant = {.share_milli = 500,
				      .allocation_here = true,
				      .coroutine_library = "/l/libdetshare-cuda.so",
				      .runtime_dir = "/run/detshare"};
	struct ds_env_edits edits;
	struct ds_error err;

	if (ds_task_env_parse((const char *)data, size, &env, &err) < 0)
		return 0;
	for (uint32_t i = 0; i < env.n; i++) {
		if (ds_task_env_value(&env, env.vars[i].name) != env.vars[i].value)
			abort();
	}
	grant.env = &env;
	if (ds_env_edits_plan(current, &grant, &edits, &err) < 0)
		abort();
	for (uint32_t i = 0; i < edits.n; i++) {
		for (uint32_t j = 0; j < i; j++) {
			if (!strcmp(edits.list[i].name, edits.list[j].name))
				abort();
		}
	}
	const char *preload = ds_task_env_value(&env, "LD_PRELOAD");
	if (preload) {
		char *once = ds_preload_list("/a.so /b.so", preload, true);
		char *twice = ds_preload_list(once, preload, true);
		if (!once || !twice || (!strpbrk(preload, " :") && strcmp(once, twice) != 0))
			abort();
		free(once);
		free(twice);
	}
	ds_env_edits_free(&edits);
	return 0;
}
