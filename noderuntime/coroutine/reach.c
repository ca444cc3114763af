/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/reach.h"

/* Memory that the driver does not know is the host's; managed memory is everybody's. */
bool ds_reaches_host(CUdeviceptr address)
{
	unsigned type = 0, managed = 0;

	if (ds_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) !=
		CUDA_SUCCESS ||
	    type != CU_MEMORYTYPE_DEVICE)
		return true;
	return ds_real.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, address) ==
		   CUDA_SUCCESS &&
	       managed;
}

static bool end_reaches_host(CUmemorytype type, CUdeviceptr address)
{
	switch (type) {
	case CU_MEMORYTYPE_ARRAY:
		return false;
	case CU_MEMORYTYPE_DEVICE:
	case CU_MEMORYTYPE_UNIFIED:
		return ds_reaches_host(address);
	default:
		return true;
	}
}

bool ds_copy_2d_reaches_host(const CUDA_MEMCPY2D *copy)
{
	return end_reaches_host(copy->srcMemoryType, copy->srcDevice) ||
	       end_reaches_host(copy->dstMemoryType, copy->dstDevice);
}

bool ds_copy_3d_reaches_host(const CUDA_MEMCPY3D *copy)
{
	return end_reaches_host(copy->srcMemoryType, copy->srcDevice) ||
	       end_reaches_host(copy->dstMemoryType, copy->dstDevice);
}

bool ds_copy_3d_peer_reaches_host(const CUDA_MEMCPY3D_PEER *copy)
{
	return end_reaches_host(copy->srcMemoryType, copy->srcDevice) ||
	       end_reaches_host(copy->dstMemoryType, copy->dstDevice);
}
