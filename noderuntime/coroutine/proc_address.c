/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/driver.h"

/*
 * cuGetProcAddress: the driver answers first, so that asked-for version, flags and status are what
 * they are alone; then the address is replaced. As a rule the address itself tells which entry point
 * it is. A driver that hands out others than it exports is known by name and version.
 */
static void substitute(const char *symbol, void **pfn, int version, cuuint64_t flags)
{
	const struct ds_hook *hook;
	void *stand_in;

	if (!symbol || !pfn || !*pfn)
		return;
	stand_in = ds_stand_in_for(*pfn);
	if (stand_in == *pfn) {
		hook = ds_hook_by_version(symbol, version,
					  flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
		if (!hook || !ds_driver_has(hook))
			return;
		stand_in = (void *)hook->stand_in;
	}
	*pfn = stand_in;
}

CUresult ds_cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGetProcAddress(symbol, pfn, cudaVersion, flags);
	if (result == CUDA_SUCCESS)
		substitute(symbol, pfn, cudaVersion, flags);
	return result;
}
DS_EXPORT(cuGetProcAddress);

CUresult ds_cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
				CUdriverProcAddressQueryResult *symbolStatus)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, symbolStatus);
	if (result == CUDA_SUCCESS)
		substitute(symbol, pfn, cudaVersion, flags);
	return result;
}
DS_EXPORT(cuGetProcAddress_v2);
