/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_OP_H
#define DETSHARE_COROUTINE_OP_H

#include "noderuntime/coroutine/gate.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/watchdog.h"

/*
 * One operation of the program on one of its streams: ds_op_begin says where it really goes and has it
 * wait for what it must wait for, ds_op_end marks that it is there. This is the path of every kernel
 * launch: no lock, no system call, no allocation, unless the stream has to move or the legacy order
 * asks for an event. Only the rare parts, which get copies, may take its address: the compiler keeps
 * it in registers then. Between the two the calling thread is marked (mark.h).
 */
struct ds_op {
	struct ds_vctx *vctx;
	struct ds_vstream *stream; /* NULL: not ours, goes to the driver as it came */
	CUstream target;
	struct ds_mark *mark; /* with a stream, from begin to end */
	uint64_t epoch;       /* of the stream when it had this target; gate.h */
};

#define ds_likely(x)   __builtin_expect(!!(x), 1)
#define ds_unlikely(x) __builtin_expect(!!(x), 0)

static inline bool ds_is_default(CUstream handle)
{
	return (uintptr_t)handle <= (uintptr_t)CU_STREAM_PER_THREAD;
}

static inline bool ds_is_legacy(CUstream handle, bool per_thread)
{
	return handle == CU_STREAM_LEGACY || (!handle && !per_thread);
}

/* Find the stream. Only whose it is: where it runs may change at any time. */
static inline __attribute__((always_inline)) CUresult ds_op_map(struct ds_op *op, CUstream handle,
								bool per_thread)
{
	*op = (struct ds_op){
	    .vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire),
	    .target = handle,
	};
	if (ds_unlikely(!op->vctx)) {
		struct ds_vctx *vctx;
		CUresult result = ds_vctx_enter(&vctx);

		op->vctx = vctx;
		if (result != CUDA_SUCCESS || !op->vctx)
			return result;
	}
	if (!ds_is_default(handle)) {
		op->stream = ds_streams_find(op->vctx, handle);
	} else if (!ds_vctx_current(op->vctx)) {
		return CUDA_SUCCESS;
	} else if (ds_is_legacy(handle, per_thread)) {
		op->stream = &op->vctx->null;
	} else {
		struct ds_vstream *stream;
		CUresult result = ds_streams_of_thread(op->vctx, &stream);

		if (ds_unlikely(result != CUDA_SUCCESS))
			return result;
		op->stream = stream;
	}
	return CUDA_SUCCESS;
}

/* Nothing came of the operation, or it puts nothing on the stream. */
static inline void ds_op_abandon(const struct ds_op *op)
{
	if (op->stream)
		ds_mark_end(op->mark);
}

/*
 * Find the stream and the shadow that runs its work now, which stays valid until ds_op_abandon. For what
 * puts no work on it.
 */
static inline CUresult ds_op_look(struct ds_op *op, CUstream handle, bool per_thread)
{
	CUresult result = ds_op_map(op, handle, per_thread);

	if (result != CUDA_SUCCESS || !op->stream)
		return result;
	op->mark = ds_mark_get();
	if (!op->mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	ds_mark_begin(op->mark);
	op->target = atomic_load_explicit(&op->stream->shadow, memory_order_acquire);
	return CUDA_SUCCESS;
}

/*
 * Find the shadow to wait for, which stays valid until ds_op_awaited. Not marked meanwhile: it may take
 * long. The present shadow waits for all others the stream has had.
 */
static inline CUresult ds_op_await(struct ds_op *op)
{
	op->mark = ds_mark_get();
	if (!op->mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	op->target = ds_mark_wait_for(op->mark, &op->stream->shadow);
	return CUDA_SUCCESS;
}

static inline void ds_op_awaited(const struct ds_op *op)
{
	if (op->stream)
		ds_mark_waited(op->mark);
}

/*
 * Bring the stream to where new work goes, through the gate (gate.h). Marked; not to be relied on to
 * have been marked all the time. `launch`: what comes is this launch, which may be held back; no lock of
 * ours is held, and nothing is marked but the operation itself. Or NULL.
 */
static inline __attribute__((always_inline)) CUresult ds_op_follow(struct ds_op *op,
								   const struct ds_launch *launch)
{
	struct ds_vstream *stream = op->stream;

	op->epoch = atomic_load_explicit(&op->vctx->epoch, memory_order_acquire);
	if (ds_unlikely(atomic_load_explicit(&stream->epoch, memory_order_acquire) != op->epoch)) {
		const struct ds_launch launched = launch ? *launch : (struct ds_launch){0};
		struct ds_op passes = *op;
		CUresult result = ds_gate_pass(&passes, launch ? &launched : NULL);

		*op = passes;
		return result;
	}
	op->target = atomic_load_explicit(&stream->shadow, memory_order_acquire);
	return CUDA_SUCCESS;
}

/* The rare part of ds_op_order(). */
static __attribute__((noinline, cold, unused)) CUresult
ds_op_order_now(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream *target)
{
	return stream->kind == DS_STREAM_NULL ? ds_order_null(vctx, target)
					      : ds_order_blocking(vctx, stream, target);
}

/* Have the operation wait for what the legacy order puts before it. */
static inline __attribute__((always_inline)) CUresult ds_op_order(struct ds_op *op)
{
	struct ds_vstream *stream = op->stream;
	CUstream target = op->target;
	CUresult result;

	if (!stream || stream->kind == DS_STREAM_FREE)
		return CUDA_SUCCESS;
	if (ds_likely(stream->kind == DS_STREAM_NULL
			  ? !atomic_load_explicit(&op->vctx->any_dirty, memory_order_acquire)
			  : atomic_load_explicit(&stream->seen, memory_order_acquire) ==
				atomic_load_explicit(&op->vctx->null_work, memory_order_acquire)))
		return CUDA_SUCCESS;
	result = ds_op_order_now(op->vctx, stream, &target);
	op->target = target;
	return result;
}

static inline __attribute__((always_inline)) CUresult
ds_op_begin_either(struct ds_op *op, CUstream handle, bool per_thread,
		   const struct ds_launch *launch)
{
	CUresult result;

	do {
		result = ds_op_map(op, handle, per_thread);
		if (ds_unlikely(result != CUDA_SUCCESS || !op->stream))
			return result;
		op->mark = ds_mark_get();
		if (ds_unlikely(!op->mark))
			return CUDA_ERROR_OUT_OF_MEMORY;
		ds_mark_begin(op->mark);
		result = ds_op_follow(op, launch);
	} while (ds_unlikely(result == DS_GATE_AGAIN));
	if (ds_likely(result == CUDA_SUCCESS))
		result = ds_op_order(op);
	if (ds_unlikely(result != CUDA_SUCCESS))
		ds_mark_end(op->mark);
	return result;
}

/*
 * The same as ds_op_begin for a launch, without the call, for they are what programs do most. Its
 * description is looked at in the rare part only.
 */
static inline __attribute__((always_inline)) CUresult
ds_op_begin_launch(struct ds_op *op, CUstream handle, bool per_thread,
		   const struct ds_launch *launch)
{
	return ds_op_begin_either(op, handle, per_thread, launch);
}

static __attribute__((noinline, unused)) CUresult ds_op_begin(struct ds_op *op, CUstream handle,
							      bool per_thread)
{
	return ds_op_begin_either(op, handle, per_thread, NULL);
}

/* The driver has taken the operation (or refused it: then an unneeded event comes of it, no more). */
static inline __attribute__((always_inline)) void ds_op_end(const struct ds_op *op)
{
	struct ds_vstream *stream = op->stream;

	if (!stream)
		return;
	if (ds_unlikely(atomic_load_explicit(&stream->epoch, memory_order_acquire) != op->epoch)) {
		const struct ds_op leaves = *op;

		ds_gate_left(&leaves);
	}
	if (stream->kind == DS_STREAM_NULL) {
		atomic_fetch_add_explicit(&op->vctx->null_work, 1, memory_order_release);
	} else if (stream->kind == DS_STREAM_BLOCKING) {
		/*
		 * Stored even if set: the flag may be on its way to being cleared for work before
		 * ours, and to look first would be to look before our work is seen to be there.
		 */
		atomic_store_explicit(&stream->dirty, true, memory_order_release);
		atomic_store_explicit(&op->vctx->any_dirty, DS_DIRTY, memory_order_release);
	}
	ds_mark_end(op->mark);
}

/* What it launched is a `function`, or DS_LAUNCHED_GRAPH. */
static inline __attribute__((always_inline)) void
ds_op_launched(const struct ds_op *op, CUfunction function, CUresult result)
{
	if (!op->stream)
		return;
	ds_watchdog_note(&op->stream->watched, function);
	ds_op_end(op);
	atomic_fetch_add_explicit(op->vctx->launches, 1, memory_order_relaxed);
	ds_vctx_heard(result);
	if (ds_unlikely(op->vctx->chaos.every))
		ds_chaos_launched(op->vctx);
}

#endif
