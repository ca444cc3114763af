/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/memory.h"

/* Arrays and mipmapped arrays. The driver does not say how much they take: it follows from their shape. */

/* Half bytes of one channel. Of formats that pack texels in blocks, and of unknown ones, about that. */
static uint64_t half_bytes(CUarray_format format)
{
	switch ((unsigned)format) {
	case CU_AD_FORMAT_UNSIGNED_INT8:
	case CU_AD_FORMAT_SIGNED_INT8:
		return 2;
	case CU_AD_FORMAT_UNSIGNED_INT16:
	case CU_AD_FORMAT_SIGNED_INT16:
	case CU_AD_FORMAT_HALF:
		return 4;
	case CU_AD_FORMAT_UNSIGNED_INT32:
	case CU_AD_FORMAT_SIGNED_INT32:
	case CU_AD_FORMAT_FLOAT:
		return 8;
	default:
		return 2;
	}
}

static uint64_t times(uint64_t a, uint64_t b)
{
	return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static uint64_t at_least_one(uint64_t extent)
{
	return extent ? extent : 1;
}

static uint64_t level_bytes(const CUDA_ARRAY3D_DESCRIPTOR *shape, unsigned level)
{
	const bool layered = shape->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP);
	uint64_t texels = at_least_one(shape->Width >> level);

	texels = times(texels, at_least_one(shape->Height >> level));
	texels = times(texels, at_least_one(layered ? shape->Depth : shape->Depth >> level));
	return times(texels, half_bytes(shape->Format) * shape->NumChannels) / 2;
}

/* Memory of arrays without any comes by cuMemMapArrayAsync, from physical memory that is counted. */
static uint64_t bytes_of(const CUDA_ARRAY3D_DESCRIPTOR *shape, unsigned levels)
{
	uint64_t sum = 0;

	if (!shape || shape->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING))
		return 0;
	for (unsigned level = 0; level < levels && level < 32; level++) {
		const uint64_t bytes = level_bytes(shape, level);

		sum = bytes > UINT64_MAX - sum ? UINT64_MAX : sum + bytes;
	}
	return ds_memory_rounded(sum);
}

CUresult ds_cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
	const CUDA_ARRAY3D_DESCRIPTOR shape = {
	    .Width = pAllocateArray ? pAllocateArray->Width : 0,
	    .Height = pAllocateArray ? pAllocateArray->Height : 0,
	    .Format = pAllocateArray ? pAllocateArray->Format : CU_AD_FORMAT_UNSIGNED_INT8,
	    .NumChannels = pAllocateArray ? pAllocateArray->NumChannels : 0};
	const uint64_t bytes = bytes_of(&shape, 1);
	struct ds_payment payment;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!ds_memory_want(&payment, bytes))
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuArrayCreate_v2(pHandle, pAllocateArray);
	ds_memory_have(&payment, result,
		       &(struct ds_holding){.kind = DS_HOLD_ARRAY,
					    .key = result == CUDA_SUCCESS ? (uintptr_t)*pHandle : 0,
					    .bytes = bytes});
	return result;
}
DS_EXPORT(cuArrayCreate_v2);

CUresult ds_cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
	const uint64_t bytes = bytes_of(pAllocateArray, 1);
	struct ds_payment payment;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!ds_memory_want(&payment, bytes))
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuArray3DCreate_v2(pHandle, pAllocateArray);
	ds_memory_have(&payment, result,
		       &(struct ds_holding){.kind = DS_HOLD_ARRAY,
					    .key = result == CUDA_SUCCESS ? (uintptr_t)*pHandle : 0,
					    .bytes = bytes});
	return result;
}
DS_EXPORT(cuArray3DCreate_v2);

CUresult ds_cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
				   const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
				   unsigned int numMipmapLevels)
{
	const uint64_t bytes = bytes_of(pMipmappedArrayDesc, numMipmapLevels);
	struct ds_payment payment;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!ds_memory_want(&payment, bytes))
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels);
	ds_memory_have(&payment, result,
		       &(struct ds_holding){.kind = DS_HOLD_MIPMAP,
					    .key = result == CUDA_SUCCESS ? (uintptr_t)*pHandle : 0,
					    .bytes = bytes});
	return result;
}
DS_EXPORT(cuMipmappedArrayCreate);
