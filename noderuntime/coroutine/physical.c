/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>

#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/vgraph.h"

/*
 * Physical memory (cuMemCreate), which lives as long as a handle or a mapping of it, and external memory.
 * What another process exported is its own: it has paid for it.
 */

/* Memory of the GPU, not of the host. The device is in the properties, whatever context is current. */
static bool is_on_device(const CUmemAllocationProp *prop)
{
	return prop && prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
}

CUresult ds_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
			const CUmemAllocationProp *prop, unsigned long long flags)
{
	const uint64_t bytes = is_on_device(prop) ? ds_memory_rounded(size) : 0;
	struct ds_payment payment = {.counted = false};
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (bytes && !ds_memory_want_on(&payment, bytes, prop->location.id))
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuMemCreate(handle, size, prop, flags);
	ds_memory_have(&payment, result,
		       &(struct ds_holding){.kind = DS_HOLD_PHYSICAL,
					    .uses = 1,
					    .key = result == CUDA_SUCCESS ? *handle : 0,
					    .bytes = bytes});
	return result;
}
DS_EXPORT(cuMemCreate);

static void unuse(uint64_t handle)
{
	struct ds_holding gone;

	if (ds_holdings_unuse(DS_HOLD_PHYSICAL, handle, &gone))
		ds_memory_free_end(&gone, CUDA_SUCCESS);
}

/*
 * The driver may give a handle's number to another thread as soon as it is released, so the use goes first
 * here, too. If the driver refuses, the use comes back, unless it was the last one: such a handle was
 * released once too often.
 */
CUresult ds_cuMemRelease(CUmemGenericAllocationHandle handle)
{
	struct ds_holding known = {.kind = DS_HOLD_NONE};
	bool last;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	last = ds_holdings_unuse(DS_HOLD_PHYSICAL, handle, &known);
	result = ds_real.cuMemRelease(handle);
	if (last) {
		known.uses = 1;
		ds_memory_free_end(&known, result);
	} else if (result != CUDA_SUCCESS) {
		ds_holdings_use(DS_HOLD_PHYSICAL, handle);
	}
	return result;
}
DS_EXPORT(cuMemRelease);

CUresult ds_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuMemRetainAllocationHandle(handle, addr);
	if (result == CUDA_SUCCESS)
		ds_holdings_use(DS_HOLD_PHYSICAL, *handle);
	return result;
}
DS_EXPORT(cuMemRetainAllocationHandle);

CUresult ds_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
		     CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	CUresult result;
	bool known;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	known = ds_holdings_use(DS_HOLD_PHYSICAL, handle);
	result = ds_real.cuMemMap(ptr, size, offset, handle, flags);
	if (known && (result != CUDA_SUCCESS ||
		      !ds_holdings_put(&(struct ds_holding){
			  .kind = DS_HOLD_MAPPING, .key = ptr, .bytes = size, .other = handle})))
		unuse(handle);
	return result;
}
DS_EXPORT(cuMemMap);

CUresult ds_cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	const uint64_t end = ptr + size;
	struct ds_holding mapping;
	uint64_t at = ptr;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	/*
	 * Nobody else maps these addresses meanwhile: they are the program's to hand out, and it has just
	 * said that they are free.
	 */
	ds_vgraphs_lose(DS_REFERS_MEMORY, ptr, size);
	result = ds_real.cuMemUnmap(ptr, size);
	if (result != CUDA_SUCCESS)
		return result;
	while (at < end) {
		/* One behind the other, as a rule. */
		if (!ds_holdings_take(DS_HOLD_MAPPING, at, &mapping) &&
		    !ds_holdings_take_within(DS_HOLD_MAPPING, at, end, &mapping))
			break;
		unuse(mapping.other);
		if (mapping.key == at)
			at += mapping.bytes;
	}
	return result;
}
DS_EXPORT(cuMemUnmap);

DS_ALLOCATION(cuImportExternalMemory,
	      (CUexternalMemory * extMem_out,
	       const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc),
	      (extMem_out, memHandleDesc),
	      memHandleDesc ? ds_memory_rounded(memHandleDesc->size) : 0, DS_HOLD_EXTERNAL,
	      *extMem_out);

CUresult ds_cuDestroyExternalMemory(CUexternalMemory extMem)
{
	struct ds_holding holding;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	holding = ds_memory_free_begin(DS_HOLD_EXTERNAL, (uintptr_t)extMem);
	result = ds_real.cuDestroyExternalMemory(extMem);
	ds_memory_free_end(&holding, result);
	return result;
}
DS_EXPORT(cuDestroyExternalMemory);
