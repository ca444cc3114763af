/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/kernel_name.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "noderuntime/coroutine/driver.h"

/*
 * Handles seen, and of which kind: open addressing, only ever added to, read without a lock. A handle
 * that comes again as the other kind, after its first owner was unloaded, changes its kind. Where
 * handles are not aligned, or too many, names are not known.
 */
enum { ENTRIES = 1 << 15, ENTRIES_MAX = ENTRIES / 4 * 3 };

#define KIND_KERNEL ((uintptr_t)1)

static _Atomic uintptr_t seen[ENTRIES];
static size_t n_seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t place_of(uintptr_t handle)
{
	return (size_t)((handle >> 3) * UINT64_C(0x9e3779b97f4a7c15) >> 49);
}

_Static_assert(ENTRIES == 1 << (64 - 49), "place_of() keeps this many bits");

/* The entry of the handle, or the free one where it would be. There is always a free one. */
static _Atomic uintptr_t *find(uintptr_t handle)
{
	for (size_t i = place_of(handle);; i++) {
		_Atomic uintptr_t *entry = &seen[i % ENTRIES];
		uintptr_t found = atomic_load_explicit(entry, memory_order_relaxed);

		if (!found || (found & ~KIND_KERNEL) == handle)
			return entry;
	}
}

static void note(const void *address, uintptr_t kind)
{
	const uintptr_t handle = (uintptr_t)address;
	_Atomic uintptr_t *entry;

	if (!handle || handle & KIND_KERNEL)
		return;
	pthread_mutex_lock(&lock);
	entry = find(handle);
	if (atomic_load_explicit(entry, memory_order_relaxed) || n_seen < ENTRIES_MAX) {
		n_seen += !atomic_load_explicit(entry, memory_order_relaxed);
		atomic_store_explicit(entry, handle | kind, memory_order_relaxed);
	}
	pthread_mutex_unlock(&lock);
}

const char *ds_kernel_name(CUfunction function)
{
	const char *name = NULL;
	uintptr_t entry;

	if (!function || (uintptr_t)function & KIND_KERNEL)
		return NULL;
	entry = atomic_load_explicit(find((uintptr_t)function), memory_order_relaxed);
	if (!entry)
		return NULL;
	if ((entry & KIND_KERNEL ? ds_real.cuKernelGetName(&name, (CUkernel)function)
				 : ds_real.cuFuncGetName(&name, function)) != CUDA_SUCCESS)
		return NULL;
	return name;
}

CUresult ds_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuModuleGetFunction(hfunc, hmod, name);
	if (result == CUDA_SUCCESS && hfunc)
		note(*hfunc, 0);
	return result;
}
DS_EXPORT(cuModuleGetFunction);

CUresult ds_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuKernelGetFunction(pFunc, kernel);
	if (result == CUDA_SUCCESS && pFunc)
		note(*pFunc, 0);
	return result;
}
DS_EXPORT(cuKernelGetFunction);

CUresult ds_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuLibraryGetKernel(pKernel, library, name);
	if (result == CUDA_SUCCESS && pKernel)
		note(*pKernel, KIND_KERNEL);
	return result;
}
DS_EXPORT(cuLibraryGetKernel);
