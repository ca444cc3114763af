/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/own.h"
#include "noderuntime/coroutine/remap.h"

/* Waiting for a context as a whole. */

/*
 * To wait for a context while one of its streams is captured is an error, and ends the capture. The
 * driver does not see it that way for the streams of a green context.
 */
static bool may_wait(CUcontext context)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);

	return !vctx || (context ? context != vctx->primary : !ds_vctx_current(vctx)) ||
	       !ds_streams_break_captures(vctx);
}

/*
 * The driver's wait for a context may end before a graph's last node in a green context has: on an H200 it
 * did so for graphs of a copy and two kernels on four streams. Its waits for streams do not.
 */
static CUresult wait_for_graphs(CUcontext context, CUresult result)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	uint64_t launched, waited;

	if (result != CUDA_SUCCESS || !vctx ||
	    (context ? context != vctx->primary : !ds_vctx_current(vctx)))
		return result;
	launched = atomic_load_explicit(&vctx->graphs, memory_order_acquire);
	waited = atomic_load_explicit(&vctx->graphs_waited, memory_order_acquire);
	if (waited == launched)
		return result;
	result = ds_streams_wait(vctx);
	if (result == CUDA_SUCCESS && waited < launched)
		atomic_compare_exchange_strong(&vctx->graphs_waited, &waited, launched);
	return result;
}

CUresult ds_vctx_wait(void)
{
	return wait_for_graphs(NULL, ds_real.cuCtxSynchronize());
}

CUresult ds_cuCtxSynchronize(void)
{
	CUresult result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (may_wait(NULL))
		result = ds_vctx_wait();
	ds_vctx_heard(result);
	ds_measure_sync();
	return result;
}
DS_EXPORT(cuCtxSynchronize);

CUresult ds_cuCtxSynchronize_v2(CUcontext ctx)
{
	CUresult result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	ctx = ds_own_real(ctx);
	if (may_wait(ctx))
		result = wait_for_graphs(ctx, ds_real.cuCtxSynchronize_v2(ctx));
	ds_vctx_heard(result);
	ds_measure_sync();
	return result;
}
DS_EXPORT(cuCtxSynchronize_v2);

/*
 * An event over all work of the primary context, which is in one partition or in several. A stream that
 * waits for them all stands for them, so that none has to wait for another.
 */
static CUresult record_all(struct ds_vctx *vctx, CUevent event)
{
	CUresult result = ds_streams_join(vctx);

	for (unsigned slot = 0; result == CUDA_SUCCESS && slot < DS_PCTX_MAX; slot++) {
		struct ds_pctx *pctx = ds_remap_slot(vctx, slot);

		if (!pctx)
			continue;
		result = ds_real.cuGreenCtxRecordEvent(pctx->green, vctx->joined);
		if (result == CUDA_SUCCESS)
			result = ds_real.cuStreamWaitEvent(vctx->join, vctx->joined, 0);
	}
	return result == CUDA_SUCCESS ? ds_real.cuEventRecord(event, vctx->join) : result;
}

/* A partition that work moves to later is waited in by way of the streams that move. */
static CUresult wait_all(struct ds_vctx *vctx, CUevent event)
{
	CUresult result = CUDA_SUCCESS;

	for (unsigned slot = 0; result == CUDA_SUCCESS && slot < DS_PCTX_MAX; slot++) {
		struct ds_pctx *pctx = ds_remap_slot(vctx, slot);

		if (pctx)
			result = ds_real.cuGreenCtxWaitEvent(pctx->green, event);
	}
	return result;
}

static CUresult over_context(CUcontext context, CUevent event,
			     CUresult (*over_ours)(struct ds_vctx *, CUevent),
			     CUresult (*over_own)(CUcontext, CUevent))
{
	struct ds_vctx *vctx;
	CUresult result = ds_vctx_enter(&vctx);

	if (result != CUDA_SUCCESS)
		return result;
	context = ds_own_real(context);
	if (!vctx || context != vctx->primary)
		return over_own(context, event);
	pthread_mutex_lock(&vctx->moving);
	result = over_ours(vctx, event);
	pthread_mutex_unlock(&vctx->moving);
	return result;
}

CUresult ds_cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent)
{
	return over_context(hCtx, hEvent, record_all, ds_real.cuCtxRecordEvent);
}
DS_EXPORT(cuCtxRecordEvent);

CUresult ds_cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent)
{
	return over_context(hCtx, hEvent, wait_all, ds_real.cuCtxWaitEvent);
}
DS_EXPORT(cuCtxWaitEvent);
