/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/memory.h"

/*
 * Two of the limits of cuCtxSetLimit are memory of the GPU that kernels use, and have no bound. What every
 * context has of them belongs to the reserve; what a program sets beyond that counts.
 */
static uint64_t beyond_usual(uint64_t value)
{
	const uint64_t usual = UINT64_C(8) << 20; /* of both; the drivers' values vary below it */

	return value > usual ? ds_memory_rounded(value - usual) : 0;
}

CUresult ds_memory_set_limit(CUlimit limit, size_t value)
{
	const bool is_memory =
	    limit == CU_LIMIT_MALLOC_HEAP_SIZE || limit == CU_LIMIT_PRINTF_FIFO_SIZE;
	struct ds_holding before = {.kind = DS_HOLD_NONE};
	struct ds_payment payment;
	uint64_t bytes;
	CUresult result;

	if (!is_memory || !ds_memory_counts())
		return ds_real.cuCtxSetLimit(limit, value);
	bytes = beyond_usual(value);
	/* The former value is free only when the driver has taken the new one: both must fit meanwhile. */
	if (!ds_memory_want(&payment, bytes))
		return CUDA_ERROR_OUT_OF_MEMORY;
	before = ds_memory_free_begin(DS_HOLD_LIMIT, (uint64_t)limit);
	result = ds_real.cuCtxSetLimit(limit, value);
	ds_memory_free_end(&before, result);
	if (result == CUDA_SUCCESS)
		ds_memory_have(&payment, result,
			       &(struct ds_holding){
				   .kind = DS_HOLD_LIMIT, .key = (uint64_t)limit, .bytes = bytes});
	else
		ds_memory_have(&payment, result, &before);
	return result;
}
