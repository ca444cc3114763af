/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/reach.h"
#include "noderuntime/coroutine/vgraph.h"
#include "noderuntime/coroutine/whole.h"

/*
 * The stand-ins that follow from the table alone. Each finds the stream that really does the work,
 * keeps the legacy order around it, and calls the driver.
 */

static CUresult begin_LAUNCH(struct ds_op *op, CUstream handle, bool per_thread,
			     const struct ds_launch *launch)
{
	return ds_op_begin_launch(op, handle, per_thread, launch);
}

static void end_LAUNCH(const struct ds_op *op, CUfunction f, CUresult result)
{
	ds_op_launched(op, f, result);
}

static inline __attribute__((always_inline)) CUresult
begin_KERNEL(struct ds_op *op, CUstream handle, bool per_thread, const struct ds_launch *launch)
{
	return ds_op_begin_launch(op, handle, per_thread, launch);
}

static inline __attribute__((always_inline)) void end_KERNEL(const struct ds_op *op, CUfunction f,
							     CUresult result)
{
	ds_op_launched(op, f, result);
}

static CUresult begin_WORK(struct ds_op *op, CUstream handle, bool per_thread,
			   const struct ds_launch *none)
{
	return ds_op_begin(op, handle, per_thread);
}

static void end_WORK(const struct ds_op *op, CUfunction none, CUresult result)
{
	ds_op_end(op);
	ds_vctx_heard(result);
}

/* The state of the NULL stream is that of the blocking streams too; they are asked for alone. */
static CUresult begin_WAIT(struct ds_op *op, CUstream handle, bool per_thread,
			   const struct ds_launch *none)
{
	CUresult result = ds_op_map(op, handle, per_thread);

	if (result != CUDA_SUCCESS || !op->stream)
		return result;
	if (op->stream->kind == DS_STREAM_NULL)
		result = ds_op_order(op);
	if (result == CUDA_SUCCESS)
		result = ds_op_await(op);
	return result;
}

static void end_WAIT(const struct ds_op *op, CUfunction none, CUresult result)
{
	ds_op_awaited(op);
	ds_vctx_heard(result);
}

static CUresult begin_AWAIT(struct ds_op *op, CUstream handle, bool per_thread,
			    const struct ds_launch *none)
{
	return begin_WAIT(op, handle, per_thread, none);
}

static void end_AWAIT(const struct ds_op *op, CUfunction none, CUresult result)
{
	end_WAIT(op, none, result);
	ds_measure_sync();
}

/* Properties are kept with the handle and the same everywhere. */
static CUresult begin_MAP(struct ds_op *op, CUstream handle, bool per_thread,
			  const struct ds_launch *none)
{
	CUresult result = ds_op_map(op, handle, per_thread);

	if (result == CUDA_SUCCESS && op->stream)
		op->target = op->stream->handle;
	return result;
}

static void end_MAP(const struct ds_op *op, CUfunction none, CUresult result)
{
}

/* The legacy stream is never captured: the driver says so of its own. */
static CUresult begin_CAPTURE(struct ds_op *op, CUstream handle, bool per_thread,
			      const struct ds_launch *none)
{
	CUresult result = ds_op_look(op, handle, per_thread);

	if (result != CUDA_SUCCESS || !op->stream || op->stream->kind != DS_STREAM_NULL)
		return result;
	op->target = handle;
	result = ds_order_null_may_ask(op->vctx);
	if (result != CUDA_SUCCESS)
		ds_op_abandon(op);
	return result;
}

static void end_CAPTURE(const struct ds_op *op, CUfunction none, CUresult result)
{
	ds_op_abandon(op);
}

/* What is measured of a use, by the parameters' names. */
#define SAMPLE_KERNEL                                                                       \
	ds_measure_launch(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, \
			  op.stream != NULL, op.target)
#define SAMPLE_LAUNCH  NULL
#define SAMPLE_WORK    NULL
#define SAMPLE_WAIT    NULL
#define SAMPLE_AWAIT   NULL
#define SAMPLE_MAP     NULL
#define SAMPLE_CAPTURE NULL

/* Kernels that may be held back, or need the GPU as a whole: the operation is begun anew then. */
#define WHOLE_KERNEL(handle, per_thread)                                                           \
	if (ds_unlikely(ds_whole_watched() & DS_WHOLE_BEFORE)) {                                   \
		struct ds_op named = op;                                                           \
		const struct ds_whole_verdict verdict = ds_whole_before(                           \
		    &named, handle, per_thread,                                                    \
		    &(struct ds_whole_kernel){f, (uint64_t)gridDimX * gridDimY * gridDimZ,         \
					      blockDimX * blockDimY * blockDimZ, sharedMemBytes}); \
                                                                                                   \
		op = named;                                                                        \
		if (verdict.result != CUDA_SUCCESS)                                                \
			return verdict.result;                                                     \
		whole = verdict.whole;                                                             \
	}
#define WHOLE_LAUNCH(handle, per_thread)
#define WHOLE_WORK(handle, per_thread)
#define WHOLE_WAIT(handle, per_thread)
#define WHOLE_AWAIT(handle, per_thread)
#define WHOLE_MAP(handle, per_thread)
#define WHOLE_CAPTURE(handle, per_thread)

static __attribute__((cold, noinline)) void end_whole(const struct ds_op op, CUresult result)
{
	ds_whole_end(&op, result);
}

/* What is launched, and how. */
#define LAUNCH_KERNEL         \
	(&(struct ds_launch){ \
	    f, {gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, NULL})
#define LAUNCH_LAUNCH \
	(&(struct ds_launch){f, {(unsigned)grid_width, (unsigned)grid_height, 1}, {0}, NULL})
#define LAUNCH_WORK    NULL
#define LAUNCH_WAIT    NULL
#define LAUNCH_AWAIT   NULL
#define LAUNCH_MAP     NULL
#define LAUNCH_CAPTURE NULL

#define FUNCTION_KERNEL  f
#define FUNCTION_LAUNCH  f
#define FUNCTION_WORK    NULL
#define FUNCTION_WAIT    NULL
#define FUNCTION_AWAIT   NULL
#define FUNCTION_MAP     NULL
#define FUNCTION_CAPTURE NULL

#define DS_STREAM_(use, symbol, base, since, per_thread, params, handle, args)        \
	CUresult ds_##symbol params                                                   \
	{                                                                             \
		struct ds_sample *sample;                                             \
		bool whole = false;                                                   \
		struct ds_op op;                                                      \
		CUresult result = begin_##use(&op, handle, per_thread, LAUNCH_##use); \
                                                                                      \
		if (ds_unlikely(result != CUDA_SUCCESS))                              \
			return result;                                                \
		WHOLE_##use(handle, per_thread) handle = op.target;                   \
		sample = SAMPLE_##use;                                                \
		result = ds_real.symbol args;                                         \
		ds_measure_launched(sample, op.target, result);                       \
		if (ds_unlikely(whole))                                               \
			end_whole(op, result);                                        \
		end_##use(&op, FUNCTION_##use, result);                               \
		return result;                                                        \
	}                                                                             \
	DS_EXPORT(symbol);

/*
 * A synchronous call while something is captured: whether it is allowed is the driver's to say, so the
 * program's own call goes there, with nothing left to run before it, and nothing after it until it is
 * done.
 */
static CUresult begin_settled(struct ds_op *op)
{
	return op->stream->kind == DS_STREAM_NULL ? ds_order_settle(op->vctx) : CUDA_SUCCESS;
}

static void end_settled(const struct ds_op *op, CUresult result)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

	if (result != CUDA_SUCCESS)
		return;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	ds_real.cuStreamSynchronize(op->stream->kind == DS_STREAM_NULL ? CU_STREAM_LEGACY
								       : CU_STREAM_PER_THREAD);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	ds_measure_sync();
}

static bool capturing(const struct ds_op *op)
{
	return atomic_load_explicit(&op->vctx->captures, memory_order_relaxed) > 0;
}

/* The wait is not part of the operation: a thread that waits must not keep its partition. */
static CUresult end_sync(struct ds_op *op, CUresult result, bool wait)
{
	CUstream target = op->target;

	if (wait)
		atomic_store_explicit(&op->mark->waits_for, target, memory_order_relaxed);
	ds_op_end(op);
	if (wait) {
		result = ds_real.cuStreamSynchronize(target);
		ds_mark_waited(op->mark);
		ds_vctx_heard(result);
		ds_measure_sync();
	}
	return result;
}

#define UNPACK(...) __VA_ARGS__

#define DS_SYNC_(symbol, base, since, per_thread, params, args, async, wait)    \
	CUresult ds_##symbol params                                             \
	{                                                                       \
		struct ds_op op;                                                \
		CUresult result = ds_op_begin(&op, NULL, per_thread);           \
                                                                                \
		if (result != CUDA_SUCCESS)                                     \
			return result;                                          \
		if (!op.stream)                                                 \
			return ds_real.symbol args;                             \
		if (capturing(&op)) {                                           \
			ds_op_abandon(&op);                                     \
			result = begin_settled(&op);                            \
			if (result != CUDA_SUCCESS)                             \
				return result;                                  \
			result = ds_real.symbol args;                           \
			end_settled(&op, result);                               \
			return result;                                          \
		}                                                               \
		result = ds_real.async(UNPACK args, op.target);                 \
		return end_sync(&op, result, result == CUDA_SUCCESS && (wait)); \
	}                                                                       \
	DS_EXPORT(symbol);

#define DS_SETTLE_(symbol, base, since, per_thread, params, args)     \
	CUresult ds_##symbol params                                   \
	{                                                             \
		struct ds_op op;                                      \
		CUresult result = ds_op_begin(&op, NULL, per_thread); \
                                                                      \
		if (result != CUDA_SUCCESS)                           \
			return result;                                \
		if (!op.stream)                                       \
			return ds_real.symbol args;                   \
		ds_op_abandon(&op);                                   \
		result = begin_settled(&op);                          \
		if (result != CUDA_SUCCESS)                           \
			return result;                                \
		result = ds_real.symbol args;                         \
		end_settled(&op, result);                             \
		return result;                                        \
	}                                                             \
	DS_EXPORT(symbol);

/* Memory in use must not be freed: alone, the driver waits for the work of the context first. */
static CUresult before_free(void)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	return vctx && ds_vctx_current(vctx) ? ds_streams_wait(vctx) : CUDA_SUCCESS;
}

#define HANDLE(handle) (uint64_t)(handle)

/* Graphs may copy from it or to it. Which arrays are levels of a mipmapped one is not known. */
static void graphs_lose(enum ds_holding_kind held, uint64_t handle)
{
	if (held == DS_HOLD_MIPMAP)
		ds_vgraphs_lose(DS_REFERS_ARRAY, 0, UINT64_MAX);
	else
		ds_vgraphs_lose(held == DS_HOLD_ARRAY ? DS_REFERS_ARRAY : DS_REFERS_MEMORY, handle,
				1);
}

#define DS_FREE_(symbol, base, since, params, args, holding)                 \
	CUresult ds_##symbol params                                          \
	{                                                                    \
		CUresult result = before_free();                             \
		struct ds_holding held;                                      \
                                                                             \
		if (result != CUDA_SUCCESS)                                  \
			return result;                                       \
		graphs_lose(DS_HOLD_##holding, HANDLE args);                 \
		held = ds_memory_free_begin(DS_HOLD_##holding, HANDLE args); \
		result = ds_real.symbol args;                                \
		ds_memory_free_end(&held, result);                           \
		return result;                                               \
	}                                                                    \
	DS_EXPORT(symbol);

#include "noderuntime/coroutine/hooks.def"
