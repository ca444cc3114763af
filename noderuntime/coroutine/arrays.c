/* SPDX-License-Identifier: Apache-2.0 */
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

/* A flat array's shape in the words of the others. */
static uint64_t flat_bytes(const CUDA_ARRAY_DESCRIPTOR *flat)
{
	CUDA_ARRAY3D_DESCRIPTOR shape = {0};

	if (!flat)
		return 0;
	shape.Width = flat->Width;
	shape.Height = flat->Height;
	shape.Format = flat->Format;
	shape.NumChannels = flat->NumChannels;
	return bytes_of(&shape, 1);
}

DS_ALLOCATION(cuArrayCreate_v2, (CUarray * pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray),
	      (pHandle, pAllocateArray), flat_bytes(pAllocateArray), DS_HOLD_ARRAY, *pHandle);
DS_ALLOCATION(cuArray3DCreate_v2,
	      (CUarray * pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray),
	      (pHandle, pAllocateArray), bytes_of(pAllocateArray, 1), DS_HOLD_ARRAY, *pHandle);
DS_ALLOCATION(cuMipmappedArrayCreate,
	      (CUmipmappedArray * pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
	       unsigned int numMipmapLevels),
	      (pHandle, pMipmappedArrayDesc, numMipmapLevels),
	      bytes_of(pMipmappedArrayDesc, numMipmapLevels), DS_HOLD_MIPMAP, *pHandle);
