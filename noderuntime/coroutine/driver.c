/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct ds_real ds_real;

static atomic_bool ready;
static pthread_mutex_t fill_lock = PTHREAD_MUTEX_INITIALIZER;

static CUresult not_in_this_driver(void)
{
	return CUDA_ERROR_NOT_SUPPORTED;
}

static void *real_of(const struct ds_hook *hook)
{
	void *address;

	memcpy(&address, (const char *)&ds_real + hook->real_offset, sizeof(address));
	return address;
}

static void fill(size_t offset, void *libcuda, const char *symbol)
{
	void *address = ds_next_dlsym(libcuda, symbol);

	if (!address)
		address = (void *)not_in_this_driver;
	memcpy((char *)&ds_real + offset, &address, sizeof(address));
}

/* The handle is kept: it pins the driver, whose addresses we hold, against dlclose. */
static bool fill_from(void *libcuda)
{
	if (!libcuda)
		return false;
	pthread_mutex_lock(&fill_lock);
	if (!atomic_load_explicit(&ready, memory_order_relaxed)) {
		for (size_t i = 0; i < ds_n_hooks; i++)
			fill(ds_hooks[i].real_offset, libcuda, ds_hooks[i].symbol);
#define DS_CALL(symbol, params) fill(offsetof(struct ds_real, symbol), libcuda, #symbol);
#include "noderuntime/coroutine/hooks.def"
		/* Who asked for a name that is not there must not find our search in dlerror. */
		dlerror();
		atomic_store_explicit(&ready, true, memory_order_release);
	} else {
		dlclose(libcuda);
	}
	pthread_mutex_unlock(&fill_lock);
	return true;
}

bool ds_driver_ready(void)
{
	return atomic_load_explicit(&ready, memory_order_acquire) ||
	       fill_from(dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD));
}

bool ds_driver_has(const struct ds_hook *hook)
{
	return real_of(hook) != (void *)not_in_this_driver;
}

void *ds_stand_in_for(void *address)
{
	if (!ds_driver_ready()) {
		Dl_info info;
		const char *file;

		/* A driver under another name, for example opened by its full path. */
		if (!dladdr(address, &info) || !info.dli_fname)
			return address;
		file = strrchr(info.dli_fname, '/');
		file = file ? file + 1 : info.dli_fname;
		if (strncmp(file, "libcuda.so", strlen("libcuda.so")) ||
		    !fill_from(dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD)))
			return address;
	}
	for (size_t i = 0; i < ds_n_hooks; i++)
		if (real_of(&ds_hooks[i]) == address)
			return (void *)ds_hooks[i].stand_in;
	return address;
}
