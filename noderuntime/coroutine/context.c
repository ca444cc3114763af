/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/remap.h"

/* Contexts: the primary one's life, and those that cannot be held inside a partition. */

/* The earliest call that shows a program to be about to use the GPU: a refusal here is the clearest. */
CUresult ds_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_vctx_admits();
	return result == CUDA_SUCCESS ? ds_real.cuDevicePrimaryCtxRetain(pctx, dev) : result;
}
DS_EXPORT(cuDevicePrimaryCtxRetain);

CUresult ds_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	ds_vctx_drop(dev);
	result = ds_real.cuDevicePrimaryCtxReset_v2(dev);
	ds_vctx_dropped();
	return result;
}
DS_EXPORT(cuDevicePrimaryCtxReset_v2);

CUresult ds_cuDevicePrimaryCtxReset(CUdevice dev)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	ds_vctx_drop(dev);
	result = ds_real.cuDevicePrimaryCtxReset(dev);
	ds_vctx_dropped();
	return result;
}
DS_EXPORT(cuDevicePrimaryCtxReset);

static CUresult own_context(CUdevice device, const char *call)
{
	return ds_driver_ready() ? ds_vctx_own_context(device, call) : CUDA_ERROR_NOT_INITIALIZED;
}

CUresult ds_cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	CUresult result = own_context(dev, "cuCtxCreate");

	return result == CUDA_SUCCESS ? ds_real.cuCtxCreate(pctx, flags, dev) : result;
}
DS_EXPORT(cuCtxCreate);

CUresult ds_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	CUresult result = own_context(dev, "cuCtxCreate");

	return result == CUDA_SUCCESS ? ds_real.cuCtxCreate_v2(pctx, flags, dev) : result;
}
DS_EXPORT(cuCtxCreate_v2);

CUresult ds_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
			   unsigned int flags, CUdevice dev)
{
	CUresult result = own_context(dev, "cuCtxCreate");

	return result == CUDA_SUCCESS
		   ? ds_real.cuCtxCreate_v3(pctx, paramsArray, numParams, flags, dev)
		   : result;
}
DS_EXPORT(cuCtxCreate_v3);

CUresult ds_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags,
			   CUdevice dev)
{
	CUresult result = own_context(dev, "cuCtxCreate");

	return result == CUDA_SUCCESS ? ds_real.cuCtxCreate_v4(pctx, ctxCreateParams, flags, dev)
				      : result;
}
DS_EXPORT(cuCtxCreate_v4);

CUresult ds_cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev,
			     unsigned int flags)
{
	CUresult result = own_context(dev, "cuGreenCtxCreate");

	return result == CUDA_SUCCESS ? ds_real.cuGreenCtxCreate(phCtx, desc, dev, flags) : result;
}
DS_EXPORT(cuGreenCtxCreate);

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

CUresult ds_cuCtxSynchronize(void)
{
	CUresult result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (may_wait(NULL))
		result = ds_real.cuCtxSynchronize();
	ds_measure_sync();
	return result;
}
DS_EXPORT(cuCtxSynchronize);

CUresult ds_cuCtxSynchronize_v2(CUcontext ctx)
{
	CUresult result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (may_wait(ctx))
		result = ds_real.cuCtxSynchronize_v2(ctx);
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
