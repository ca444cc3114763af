/* SPDX-License-Identifier: Apache-2.0 */
/* Device memory is memory of this process, at the same address, counted per GPU. */
#include "tests/emugpu/graph.h"
#include "tests/emugpu/ranges.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OF_A_GRAPH = 1 }; /* flag of device memory: a graph's node keeps it */

static size_t round_up(size_t bytes, size_t to)
{
	return (bytes + to - 1) / to * to;
}

/*
 * This process's limit on the device, or none: that of its MPS server, and CUDA_MPS_PINNED_DEVICE_MEM_LIMIT,
 * "0=4G,1=512M", if that is tighter.
 */
static uint64_t memory_limit(const struct emu_device *dev)
{
	const char *text = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
	uint64_t total = dev->map.gpu->total_memory;
	uint64_t server = emu.server_pid ? emu.memory_limits[emu_device_number(dev)] : 0;

	if (server && server < total)
		total = server;

	while (text && *text && emu.server_pid) {
		char *end;
		unsigned long device = strtoul(text, &end, 10);
		if (*end != '=')
			break;
		uint64_t bytes = strtoull(end + 1, &end, 10);
		if (*end == 'G')
			bytes <<= 30;
		else if (*end == 'M')
			bytes <<= 20;
		if (device == (unsigned long)emu_device_number(dev))
			return bytes < total ? bytes : total;
		text = strchr(end, ',');
		text = text ? text + 1 : NULL;
	}
	return total;
}

static uint64_t free_memory(struct emu_device *dev)
{
	struct emu_gpu *gpu = dev->map.gpu;
	uint64_t used = emu_memory_used(gpu), own = gpu->clients[dev->client].memory;
	uint64_t limit = memory_limit(dev);
	uint64_t left = used < gpu->total_memory ? gpu->total_memory - used : 0;
	uint64_t own_left = own < limit ? limit - own : 0;

	return left < own_left ? left : own_left;
}

static bool charge(struct emu_device *dev, uint64_t bytes)
{
	struct emu_gpu *gpu = dev->map.gpu;
	bool fits;

	emu_lock(gpu);
	emu_reap(&dev->map);
	fits = bytes <= free_memory(dev);
	if (fits)
		gpu->clients[dev->client].memory += bytes;
	emu_unlock(gpu);
	return fits;
}

bool emu_memory_charge(struct emu_device *dev, uint64_t bytes)
{
	if (charge(dev, bytes))
		return true;
	/* Before it gives up, the driver takes what pools do not use. */
	emu_pools_trim(dev);
	return charge(dev, bytes);
}

void emu_memory_credit(struct emu_device *dev, uint64_t bytes)
{
	emu_lock(dev->map.gpu);
	dev->map.gpu->clients[dev->client].memory -= bytes;
	emu_unlock(dev->map.gpu);
}

static CUresult allocate_in(struct CUctx_st *ctx, size_t bytes, enum emu_range_kind kind,
			    unsigned flags, struct CUmemPoolHandle_st *pool, void **out)
{
	size_t mapped = round_up(bytes, (size_t)sysconf(_SC_PAGESIZE));
	size_t charged = kind == EMU_RANGE_DEVICE && !(flags & OF_A_GRAPH) && !pool ? mapped : 0;
	void *p;

	if (!bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (mapped < bytes || (charged && !emu_memory_charge(ctx->dev, charged)) ||
	    (pool && !emu_pool_take(pool, mapped)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0);
	if (p != MAP_FAILED &&
	    emu_range_add((struct emu_range){.base = (uintptr_t)p,
					     .bytes = bytes,
					     .mapped = mapped,
					     .kind = kind,
					     .dev = ctx->dev,
					     .root = pool || flags & OF_A_GRAPH ? NULL : ctx->root,
					     .flags = flags,
					     .charged = charged,
					     .pool = pool})) {
		*out = p;
		return CUDA_SUCCESS;
	}
	if (p != MAP_FAILED)
		munmap(p, mapped);
	if (charged)
		emu_memory_credit(ctx->dev, charged);
	if (pool)
		emu_pool_give(pool, mapped);
	return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult emu_memory_allocate(struct CUctx_st *ctx, size_t bytes, enum emu_range_kind kind,
			     unsigned flags, void **out)
{
	return allocate_in(ctx, bytes, kind, flags, NULL, out);
}

void emu_memory_free(struct emu_device *dev, void *address)
{
	struct emu_range r;

	if (!emu_range_take((uintptr_t)address, EMU_RANGE_DEVICE, &r))
		return;
	munmap((void *)r.base, r.mapped);
	if (r.charged)
		emu_memory_credit(dev, r.charged);
	if (r.pool)
		emu_pool_give(r.pool, r.mapped);
}

void emu_memory_drop(struct CUctx_st *root)
{
	struct emu_range found;

	while (emu_range_of(root, &found)) {
		if (found.kind == EMU_RANGE_DEVICE)
			emu_memory_free(found.dev, (void *)found.base);
		else if (emu_range_take(found.base, found.kind, &found) &&
			 found.kind == EMU_RANGE_HOST)
			munmap((void *)found.base, found.mapped);
	}
}

CUresult emu_graph_allocate(struct CUctx_st *ctx, size_t bytes, CUdeviceptr *out)
{
	void *p = NULL;
	CUresult rc = emu_memory_allocate(ctx, bytes, EMU_RANGE_DEVICE, OF_A_GRAPH, &p);

	*out = (CUdeviceptr)p;
	return rc;
}

CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	emu_lock(ctx->dev->map.gpu);
	emu_reap(&ctx->dev->map);
	if (free_bytes)
		*free_bytes = free_memory(ctx->dev);
	if (total)
		*total = ctx->dev->map.gpu->total_memory;
	emu_unlock(ctx->dev->map.gpu);
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
	struct CUctx_st *ctx;
	CUresult rc = out ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	void *p = NULL;

	if (rc)
		return rc;
	rc = emu_memory_allocate(ctx, bytes, EMU_RANGE_DEVICE, 0, &p);
	if (!rc)
		*out = (CUdeviceptr)p;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAllocPitch(CUdeviceptr *out, size_t *pitch, size_t width, size_t height,
				 unsigned element)
{
	if (!out || !pitch || !width || !height)
		return CUDA_ERROR_INVALID_VALUE;
	*pitch = round_up(width, 512);
	return cuMemAlloc(out, *pitch * height);
}

CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr *out, size_t bytes, unsigned flags)
{
	return flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST
		   ? cuMemAlloc(out, bytes)
		   : CUDA_ERROR_INVALID_VALUE;
}

/* Device memory at exactly this address? */
static bool is_device(CUdeviceptr p, struct emu_range *r)
{
	return emu_range_find((uintptr_t)p, 0, r) && r->base == (uintptr_t)p &&
	       r->kind == EMU_RANGE_DEVICE;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr p)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_unsafe(&ctx);
	struct emu_range r;

	if (rc)
		return rc;
	if (p && !is_device(p, &r)) {
		rc = CUDA_ERROR_INVALID_VALUE;
	} else if (p) {
		/* The driver waits for the work that may use it. */
		rc = emu_wait_context(ctx->root);
		if (!(r.flags & OF_A_GRAPH))
			emu_memory_free(r.dev, (void *)p);
	}
	emu_exit();
	return rc;
}

/* `pool` NULL: the device's. */
static CUresult allocate_async(CUdeviceptr *out, size_t bytes, CUmemoryPool pool, CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = out ? emu_begin_work(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	void *p = NULL;

	if (rc)
		return rc;
	if (pool && !emu_handle_is(pool, EMU_HANDLE_POOL))
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (s->capture)
		rc = emu_capture_alloc(s, bytes, out);
	else
		rc = allocate_in(s->ctx, bytes, EMU_RANGE_DEVICE, 0,
				 pool ? pool : emu_pool_of(s->ctx->dev), &p);
	if (p)
		*out = (CUdeviceptr)p;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *out, size_t bytes, CUstream handle)
{
	return allocate_async(out, bytes, NULL, handle);
}
EMU_TWIN(cuMemAllocAsync_ptsz, (CUdeviceptr * p, size_t n, CUstream s),
	 cuMemAllocAsync(p, n, emu_per_thread(s)))

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t bytes, CUmemoryPool pool,
					 CUstream handle)
{
	return pool ? allocate_async(out, bytes, pool, handle) : CUDA_ERROR_INVALID_VALUE;
}
EMU_TWIN(cuMemAllocFromPoolAsync_ptsz, (CUdeviceptr * p, size_t n, CUmemoryPool q, CUstream s),
	 cuMemAllocFromPoolAsync(p, n, q, emu_per_thread(s)))

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr p, CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_work(handle, &s);
	struct emu_op *op;
	struct emu_range r;

	if (rc)
		return rc;
	if (!is_device(p, &r)) {
		rc = CUDA_ERROR_INVALID_VALUE;
	} else if (s->capture) {
		rc = emu_capture_free(s, p);
	} else {
		op = emu_op_new(r.flags & OF_A_GRAPH ? EMU_OP_NOP : EMU_OP_FREE, s);
		if (op)
			op->work.u.memory = (void *)p;
		rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}
EMU_TWIN(cuMemFreeAsync_ptsz, (CUdeviceptr p, CUstream s), cuMemFreeAsync(p, emu_per_thread(s)))

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr p)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);
	struct emu_range r;

	if (rc)
		return rc;
	if (emu_range_find((uintptr_t)p, 1, &r)) {
		if (base)
			*base = (CUdeviceptr)r.base;
		if (bytes)
			*bytes = r.bytes;
	} else {
		rc = CUDA_ERROR_NOT_FOUND;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr p)
{
	struct CUctx_st *ctx;
	CUresult rc = data ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct emu_range r;

	if (rc)
		return rc;
	if (!emu_range_find((uintptr_t)p, 1, &r))
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
		*(unsigned *)data =
		    r.kind == EMU_RANGE_DEVICE ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
	else if (attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
		*(CUcontext *)data = r.root;
	else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
		*(int *)data = emu_device_number(r.dev);
	else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER ||
		 attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER)
		memcpy(data, &p, sizeof(p));
	else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)
		memcpy(data, &r.base, sizeof(r.base));
	else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_SIZE)
		memcpy(data, &r.bytes, sizeof(r.bytes));
	else
		rc = CUDA_ERROR_NOT_SUPPORTED;
	emu_exit();
	return rc;
}
