/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory pools: each has a reserve that grows by blocks of 32 MiB and shrinks, beyond its release threshold,
 * when the program synchronises. All graphs of a device use one more.
 */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"

#include <stdlib.h>

#define BLOCK (UINT64_C(32) << 20)

struct CUmemPoolHandle_st {
	struct emu_device *dev;
	uint64_t reserved, used, threshold, reserved_high, used_high;
	bool destroyed; /* lives until the last of its memory is free */
	struct CUmemPoolHandle_st *next;
};

static struct CUmemPoolHandle_st *pools; /* default ones and others */
static struct CUmemPoolHandle_st *defaults[EMU_GPUS_MAX], *current[EMU_GPUS_MAX];
static uint64_t graph_reserved[EMU_GPUS_MAX], graph_high[EMU_GPUS_MAX];

static struct CUmemPoolHandle_st *pool_new(struct emu_device *dev)
{
	struct CUmemPoolHandle_st *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->dev = dev;
	pool->next = pools;
	pools = pool;
	emu_handle_add(pool, EMU_HANDLE_POOL);
	return pool;
}

static struct CUmemPoolHandle_st *default_pool(struct emu_device *dev)
{
	const int number = emu_device_number(dev);

	if (!defaults[number])
		defaults[number] = pool_new(dev);
	return defaults[number];
}

struct CUmemPoolHandle_st *emu_pool_of(struct emu_device *dev)
{
	const int number = emu_device_number(dev);

	return current[number] ? current[number] : default_pool(dev);
}

static void forget(struct CUmemPoolHandle_st *pool)
{
	struct CUmemPoolHandle_st **link = &pools;

	while (*link != pool)
		link = &(*link)->next;
	*link = pool->next;
	free(pool);
}

static void shrink(struct CUmemPoolHandle_st *pool, uint64_t keep)
{
	uint64_t least = (pool->used + BLOCK - 1) / BLOCK * BLOCK;

	if (keep < least)
		keep = least;
	if (pool->reserved <= keep)
		return;
	emu_memory_credit(pool->dev, pool->reserved - keep);
	pool->reserved = keep;
}

bool emu_pool_take(struct CUmemPoolHandle_st *pool, uint64_t bytes)
{
	if (pool->used + bytes > pool->reserved) {
		uint64_t more = pool->used + bytes - pool->reserved;
		more = (more + BLOCK - 1) / BLOCK * BLOCK;
		if (!emu_memory_charge(pool->dev, more))
			return false;
		pool->reserved += more;
	}
	pool->used += bytes;
	if (pool->used > pool->used_high)
		pool->used_high = pool->used;
	if (pool->reserved > pool->reserved_high)
		pool->reserved_high = pool->reserved;
	return true;
}

void emu_pool_give(struct CUmemPoolHandle_st *pool, uint64_t bytes)
{
	pool->used -= bytes;
	if (!pool->destroyed)
		return;
	shrink(pool, 0);
	if (!pool->used)
		forget(pool);
}

void emu_pools_trim(const struct emu_device *dev)
{
	for (struct CUmemPoolHandle_st *pool = pools; pool; pool = pool->next)
		if (pool->dev == dev)
			shrink(pool, 0);
}

void emu_pools_synchronised(void)
{
	for (struct CUmemPoolHandle_st *pool = pools; pool; pool = pool->next)
		shrink(pool, pool->threshold);
}

static struct emu_device *device_of(CUdevice device)
{
	return device >= 0 && device < (int)emu.n_devices ? &emu.devices[device] : NULL;
}

static CUresult give_pool(CUmemoryPool *out, CUdevice device,
			  struct CUmemPoolHandle_st *(*which)(struct emu_device *))
{
	struct emu_device *dev;
	CUresult rc = CUDA_ERROR_INVALID_DEVICE;

	if (!out)
		return CUDA_ERROR_INVALID_VALUE;
	emu_enter();
	dev = device_of(device);
	if (dev) {
		*out = which(dev);
		rc = *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool *out, CUdevice device)
{
	return give_pool(out, device, default_pool);
}

CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool *out, CUdevice device)
{
	return give_pool(out, device, emu_pool_of);
}

CUresult CUDAAPI cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	if (device_of(device) && emu_handle_is(pool, EMU_HANDLE_POOL)) {
		current[device] = pool;
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *props)
{
	struct emu_device *dev;
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	if (!out || !props || props->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
		return rc;
	emu_enter();
	dev = device_of(props->location.id);
	if (dev) {
		*out = pool_new(dev);
		rc = *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	if (pool && emu_handle_is(pool, EMU_HANDLE_POOL) &&
	    pool != defaults[emu_device_number(pool->dev)]) {
		if (current[emu_device_number(pool->dev)] == pool)
			current[emu_device_number(pool->dev)] = NULL;
		emu_handle_remove(pool);
		pool->destroyed = true;
		shrink(pool, 0);
		if (!pool->used)
			forget(pool);
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t keep)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	if (emu_handle_is(pool, EMU_HANDLE_POOL)) {
		shrink(pool, keep);
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute what, void *value)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	if (value && emu_handle_is(pool, EMU_HANDLE_POOL)) {
		if (what == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
			pool->threshold = *(cuuint64_t *)value;
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute what, void *value)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	if (value && emu_handle_is(pool, EMU_HANDLE_POOL)) {
		cuuint64_t *out = value;
		rc = CUDA_SUCCESS;
		if (what == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
			*out = pool->threshold;
		else if (what == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
			*out = pool->reserved;
		else if (what == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
			*out = pool->reserved_high;
		else if (what == CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
			*out = pool->used;
		else if (what == CU_MEMPOOL_ATTR_USED_MEM_HIGH)
			*out = pool->used_high;
		else
			rc = CUDA_ERROR_NOT_SUPPORTED;
	}
	emu_exit();
	return rc;
}

/* ---- graphs ---- */

/* Every graph finds what it needs there, one after the other: their launches never overlap in memory. */
CUresult emu_graph_memory(struct emu_device *dev, uint64_t bytes)
{
	const int number = emu_device_number(dev);

	bytes = (bytes + BLOCK - 1) / BLOCK * BLOCK;
	if (bytes <= graph_reserved[number])
		return CUDA_SUCCESS;
	if (!emu_memory_charge(dev, bytes - graph_reserved[number]))
		return CUDA_ERROR_OUT_OF_MEMORY;
	graph_reserved[number] = bytes;
	if (bytes > graph_high[number])
		graph_high[number] = bytes;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute what,
					      void *value)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	if (value && device_of(device)) {
		cuuint64_t *out = value;
		*out = what == CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT ? graph_reserved[device]
		       : what == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH  ? graph_high[device]
								      : 0;
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuDeviceGraphMemTrim(CUdevice device)
{
	CUresult rc = CUDA_ERROR_INVALID_DEVICE;

	emu_enter();
	if (device_of(device)) {
		if (graph_reserved[device])
			emu_memory_credit(device_of(device), graph_reserved[device]);
		graph_reserved[device] = 0;
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}
