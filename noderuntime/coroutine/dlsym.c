/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/nvml.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

/* What dlsym answers in the whole process; its entry is in dlsym_entry.c. */

typedef void *dlsym_function(void *handle, const char *name);

/*
 * The sanitizers look up what they intercept through dlsym, before they can bear a call from code
 * that they have instrumented.
 */
#define PLAIN \
	__attribute__((no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))

/* Read by the entry, after ds_dlsym_filter has set it. */
__attribute__((visibility("hidden"))) _Atomic(dlsym_function *) ds_dlsym_next;

/* Returns what dlsym(*handle, name) answers, or NULL: ask the real one, with *handle. */
__attribute__((visibility("hidden"))) void *ds_dlsym_filter(void **handle, const char *name);

/* glibc 2.34 moved dlsym from libdl to libc and gave it a new version; programs may use either. */
PLAIN static dlsym_function *find_next(void)
{
	static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
	void *found = NULL;

	for (size_t i = 0; !found && i < sizeof(versions) / sizeof(versions[0]); i++)
		found = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
	return (dlsym_function *)found;
}

PLAIN static dlsym_function *next(void)
{
	dlsym_function *function = atomic_load_explicit(&ds_dlsym_next, memory_order_acquire);

	if (!function) {
		function = find_next();
		if (!function)
			__builtin_trap(); /* a C library without dlsym */
		atomic_store_explicit(&ds_dlsym_next, function, memory_order_release);
	}
	return function;
}

void *ds_next_dlsym(void *handle, const char *name)
{
	return next()(handle, name);
}

/* The preload list may name two copies of us (two installations): the first one does the work. */
static bool another_copy_is_first(void)
{
	static atomic_int answer; /* 0: not asked yet */
	int known = atomic_load_explicit(&answer, memory_order_relaxed);
	Dl_info first, self;

	if (!known) {
		const char *file = NULL;

		if (dladdr(ds_next_dlsym(RTLD_DEFAULT, "dlsym"), &first) && first.dli_fname)
			file = strrchr(first.dli_fname, '/');
		known = file && !strcmp(file, "/libdetshare-cuda.so") &&
				dladdr((void *)find_next, &self) &&
				first.dli_fbase != self.dli_fbase
			    ? 1
			    : -1;
		atomic_store_explicit(&answer, known, memory_order_relaxed);
	}
	return known > 0;
}

/* The same for NVML: what we export shows only where NVML is. */
static void *nvml_filter(void **handle, const char *name)
{
	void *address;

	if (*handle == RTLD_NEXT || another_copy_is_first())
		return NULL;
	address = ds_next_dlsym(*handle, name);
	if (!address)
		return NULL;
	if (ds_nvml_is_stand_in(address)) {
		if (ds_nvml_has(name))
			return address;
		*handle = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
		return NULL;
	}
	return ds_nvml_stand_in(name, address);
}

PLAIN void *ds_dlsym_filter(void **handle, const char *name)
{
	dlsym_function *real_dlsym = next();
	const struct ds_hook *hook;
	void *address;

	if (!name)
		return NULL;
	if (name[0] == 'n' && !strncmp(name, "nvmlDeviceGetMemoryInfo", 23))
		return nvml_filter(handle, name);
	if (name[0] != 'c' || name[1] != 'u' || name[2] < 'A' || name[2] > 'Z')
		return NULL;
	hook = ds_hook_by_symbol(name);
	if (!hook || another_copy_is_first())
		return NULL;
	/*
	 * Relative to the caller, who may itself be an interposer further down: the linker's order with
	 * our exported symbols in it is the right one. Without a driver, those must not show.
	 */
	if (*handle == RTLD_NEXT) {
		if (!ds_driver_ready())
			*handle = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
		return NULL;
	}
	address = real_dlsym(*handle, name);
	if (!address)
		return NULL;
	if (address == (void *)hook->stand_in) {
		if (ds_driver_ready() && ds_driver_has(hook))
			return address;
		*handle = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
		return NULL;
	}
	return ds_stand_in_for(address);
}
