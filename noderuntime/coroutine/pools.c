/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/vgraph.h"

/*
 * Memory pools. What a pool has from the GPU counts, used or not: nobody else can have it. The driver knows
 * how much that is, and changes it by itself: it grows by blocks when something is allocated, and shrinks
 * when the program synchronises, to the pool's release threshold. So the pool is asked before and after
 * each allocation, and when the program has synchronised.
 *
 * No lock is held while the driver allocates: it may wait for work that another thread has yet to launch.
 * Threads that allocate at once may count a block twice for that moment.
 */

#define BLOCK (UINT64_C(32) << 20) /* what a pool grows by, at least */

struct pool {
	CUmemoryPool handle; /* NULL: destroyed, but not all that was allocated from it is free */
	uint64_t id;
	uint64_t counted; /* bytes */
	bool own;         /* made by the program */
	bool ignored;     /* not the GPU's memory */
	struct pool *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pool *pools;
static uint64_t next_id = 1;
static atomic_bool any_pool;

static uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute what, uint64_t otherwise)
{
	cuuint64_t value = otherwise;

	return ds_real.cuMemPoolGetAttribute(pool, what, &value) == CUDA_SUCCESS ? value
										 : otherwise;
}

/* The pool, noted at its first use. NULL: no memory. Under the lock. */
static struct pool *find(CUmemoryPool handle, bool add)
{
	struct pool *pool = pools;

	while (pool && pool->handle != handle)
		pool = pool->next;
	if (pool || !add)
		return pool;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return NULL;
	*pool = (struct pool){.handle = handle, .id = next_id++, .next = pools};
	pools = pool;
	atomic_store(&any_pool, true);
	return pool;
}

/* Count what the pool has now. `wanted` was in the book for what it may have got. Under the lock. */
static void recount(struct pool *pool, uint64_t wanted)
{
	uint64_t now = pool->counted;

	if (pool->handle && !pool->ignored)
		now = attribute(pool->handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, now);
	ds_memory_changed(pool->counted, now, wanted);
	pool->counted = now;
}

void ds_pools_synchronised(void)
{
	if (!atomic_load_explicit(&any_pool, memory_order_relaxed))
		return;
	pthread_mutex_lock(&lock);
	for (struct pool *pool = pools; pool; pool = pool->next)
		if (pool->counted && pool->handle)
			recount(pool, 0);
	pthread_mutex_unlock(&lock);
}

void ds_pools_trim(void)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

	if (!atomic_load(&any_pool) && !ds_graph_memory_any())
		return;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	pthread_mutex_lock(&lock);
	for (struct pool *pool = pools; pool; pool = pool->next) {
		if (!pool->handle || pool->ignored)
			continue;
		ds_real.cuMemPoolTrimTo(pool->handle, 0);
		recount(pool, 0);
	}
	pthread_mutex_unlock(&lock);
	ds_graph_memory_trim();
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
}

/* -- allocating from a pool -------------------------------------------------------------------- */

/* What an allocation may make a pool grow by, at least and (if its free memory is in pieces) at most. */
struct growth {
	uint64_t least, most;
};

static struct growth growth_of(CUmemoryPool handle, uint64_t bytes)
{
	const uint64_t has = attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, 0);
	const uint64_t used = attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0);
	const uint64_t idle = has > used ? has - used : 0;
	const uint64_t most =
	    bytes > UINT64_MAX - BLOCK ? bytes : (bytes + BLOCK - 1) / BLOCK * BLOCK;

	return (struct growth){.least = bytes > idle ? ds_memory_rounded(bytes - idle) : 0,
			       .most = most};
}

/* Whether the call is captured: then it makes a node, and memory comes when the graph runs. */
static bool is_captured(CUstream stream, bool per_thread)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
	struct ds_op op;
	bool captured;

	if (!vctx)
		return ds_real.cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS &&
		       status != CU_STREAM_CAPTURE_STATUS_NONE;
	if (atomic_load_explicit(&vctx->captures, memory_order_relaxed) <= 0 ||
	    ds_op_look(&op, stream, per_thread) != CUDA_SUCCESS || !op.stream)
		return false;
	captured = ds_order_captured(op.target);
	ds_op_abandon(&op);
	return captured;
}

/* An allocation that counts, from before the driver knows of it. */
struct request {
	struct ds_payment payment;
	CUmemoryPool handle; /* NULL: it does not count */
	uint64_t bytes;
};

static CUresult want(struct request *request, size_t bytes, CUmemoryPool handle, CUstream stream,
		     bool per_thread)
{
	struct growth growth;
	struct pool *pool;
	bool counts;
	CUdevice device;

	*request = (struct request){.handle = NULL, .bytes = bytes};
	if (!ds_memory_counts() || is_captured(stream, per_thread))
		return CUDA_SUCCESS;
	if (!handle && (ds_real.cuCtxGetDevice(&device) != CUDA_SUCCESS ||
			ds_real.cuDeviceGetMemPool(&handle, device) != CUDA_SUCCESS))
		return CUDA_SUCCESS;
	pthread_mutex_lock(&lock);
	pool = find(handle, true);
	counts = pool && !pool->ignored;
	if (counts)
		recount(pool, 0);
	pthread_mutex_unlock(&lock);
	if (!counts)
		return CUDA_SUCCESS;
	request->handle = handle;
	growth = growth_of(handle, bytes);
	if (ds_memory_want_quietly(&request->payment, growth.most) ||
	    ds_memory_want(&request->payment, growth.least))
		return CUDA_SUCCESS;
	request->handle = NULL;
	return CUDA_ERROR_OUT_OF_MEMORY;
}

/*
 * The driver answered. If the pool grew beyond the quota all the same, the memory goes back. Its order on
 * the stream is that of the allocation.
 */
static CUresult have(const struct request *request, CUresult result, CUdeviceptr *address,
		     CUstream target)
{
	struct pool *pool;
	bool own = false, too_much;
	uint64_t before = 0, after = 0, id = 0;

	if (!request->handle)
		return result;
	pthread_mutex_lock(&lock);
	pool = find(request->handle, false);
	if (pool) {
		before = pool->counted;
		recount(pool, request->payment.wanted);
		after = pool->counted;
		own = pool->own;
		id = pool->id;
	} else {
		ds_memory_changed(0, 0, request->payment.wanted);
	}
	pthread_mutex_unlock(&lock);
	if (result != CUDA_SUCCESS)
		return result;
	too_much = after > before && after - before > request->payment.wanted && ds_memory_over();
	if (too_much) {
		ds_real.cuMemFreeAsync(*address, target);
		*address = 0;
		ds_pools_trim();
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	/* For when the program destroys the pool before the last of its memory is free. */
	if (own)
		ds_holdings_put(&(struct ds_holding){.kind = DS_HOLD_FROM_POOL,
						     .key = *address,
						     .bytes = ds_memory_rounded(request->bytes),
						     .other = id});
	return CUDA_SUCCESS;
}

static CUresult allocate(CUdeviceptr *dptr, size_t bytes, CUstream stream, bool per_thread,
			 CUresult (*real)(CUdeviceptr *, size_t, CUstream))
{
	struct request request;
	struct ds_op op;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = want(&request, bytes, NULL, stream, per_thread);
	if (result != CUDA_SUCCESS)
		return result;
	result = ds_op_begin(&op, stream, per_thread);
	if (result != CUDA_SUCCESS)
		return have(&request, result, dptr, NULL);
	result = real(dptr, bytes, op.target);
	result = have(&request, result, dptr, op.target);
	ds_op_end(&op);
	return result;
}

CUresult ds_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	return allocate(dptr, bytesize, hStream, false, ds_real.cuMemAllocAsync);
}
DS_EXPORT(cuMemAllocAsync);

CUresult ds_cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	return allocate(dptr, bytesize, hStream, true, ds_real.cuMemAllocAsync_ptsz);
}
DS_EXPORT(cuMemAllocAsync_ptsz);

static CUresult allocate_from(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream,
			      bool per_thread,
			      CUresult (*real)(CUdeviceptr *, size_t, CUmemoryPool, CUstream))
{
	struct request request;
	struct ds_op op;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = pool ? want(&request, bytes, pool, stream, per_thread) : CUDA_SUCCESS;
	if (!pool)
		request = (struct request){.handle = NULL};
	if (result != CUDA_SUCCESS)
		return result;
	result = ds_op_begin(&op, stream, per_thread);
	if (result != CUDA_SUCCESS)
		return have(&request, result, dptr, NULL);
	result = real(dptr, bytes, pool, op.target);
	result = have(&request, result, dptr, op.target);
	ds_op_end(&op);
	return result;
}

CUresult ds_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
				    CUstream hStream)
{
	return allocate_from(dptr, bytesize, pool, hStream, false, ds_real.cuMemAllocFromPoolAsync);
}
DS_EXPORT(cuMemAllocFromPoolAsync);

CUresult ds_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool,
					 CUstream hStream)
{
	return allocate_from(dptr, bytesize, pool, hStream, true,
			     ds_real.cuMemAllocFromPoolAsync_ptsz);
}
DS_EXPORT(cuMemAllocFromPoolAsync_ptsz);

/* Memory of cuMemAlloc may be freed so, too; what a captured call frees is free when the graph has run. */
static CUresult free_async(CUdeviceptr address, CUstream stream, bool per_thread,
			   CUresult (*real)(CUdeviceptr, CUstream))
{
	struct ds_holding holding = {.kind = DS_HOLD_NONE};
	struct ds_op op;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!is_captured(stream, per_thread)) {
		ds_vgraphs_lose(DS_REFERS_MEMORY, address, 1);
		holding = ds_memory_free_begin(DS_HOLD_ADDRESS, address);
	}
	result = ds_op_begin(&op, stream, per_thread);
	if (result == CUDA_SUCCESS) {
		result = real(address, op.target);
		ds_op_end(&op);
	}
	ds_memory_free_end(&holding, result);
	return result;
}

CUresult ds_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	return free_async(dptr, hStream, false, ds_real.cuMemFreeAsync);
}
DS_EXPORT(cuMemFreeAsync);

CUresult ds_cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
	return free_async(dptr, hStream, true, ds_real.cuMemFreeAsync_ptsz);
}
DS_EXPORT(cuMemFreeAsync_ptsz);

/* -- pools of the program's own ---------------------------------------------------------------- */

CUresult ds_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	struct pool *made;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuMemPoolCreate(pool, poolProps);
	if (result != CUDA_SUCCESS)
		return result;
	pthread_mutex_lock(&lock);
	made = find(*pool, true);
	if (made) {
		made->own = true;
		made->ignored = poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
				!ds_memory_counts_on(poolProps->location.id);
	}
	pthread_mutex_unlock(&lock);
	return result;
}
DS_EXPORT(cuMemPoolCreate);

/* Forget a pool with nothing left. Under the lock. */
static void forget(struct pool *pool)
{
	struct pool **link = &pools;

	while (*link != pool)
		link = &(*link)->next;
	*link = pool->next;
	free(pool);
}

CUresult ds_cuMemPoolDestroy(CUmemoryPool pool)
{
	uint64_t used = 0;
	struct pool *known;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	pthread_mutex_lock(&lock);
	known = pool ? find(pool, false) : NULL;
	if (known && !known->ignored)
		used = attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0);
	/* Before the driver can give the same handle to another pool. */
	if (known)
		known->handle = NULL;
	pthread_mutex_unlock(&lock);
	result = ds_real.cuMemPoolDestroy(pool);
	pthread_mutex_lock(&lock);
	if (known && result != CUDA_SUCCESS) {
		known->handle = pool;
	} else if (known) {
		ds_memory_changed(known->counted, used < known->counted ? used : known->counted, 0);
		known->counted = used < known->counted ? used : known->counted;
		if (!known->counted)
			forget(known);
	}
	pthread_mutex_unlock(&lock);
	return result;
}
DS_EXPORT(cuMemPoolDestroy);

/* Only of a destroyed pool does it matter: others are asked. */
void ds_pools_freed(const struct ds_holding *holding)
{
	pthread_mutex_lock(&lock);
	for (struct pool *pool = pools; pool; pool = pool->next) {
		uint64_t left;

		if (pool->id != holding->other || pool->handle)
			continue;
		left = pool->counted > holding->bytes ? pool->counted - holding->bytes : 0;
		ds_memory_changed(pool->counted, left, 0);
		pool->counted = left;
		if (!left)
			forget(pool);
		break;
	}
	pthread_mutex_unlock(&lock);
}

CUresult ds_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuMemPoolTrimTo(pool, minBytesToKeep);
	ds_pools_synchronised();
	return result;
}
DS_EXPORT(cuMemPoolTrimTo);

void ds_pools_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	pools = NULL;
	atomic_store(&any_pool, false);
}
