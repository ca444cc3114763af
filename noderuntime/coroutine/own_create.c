/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/own_things.h"

#include <stdlib.h>

#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/say.h"
#include "noderuntime/coroutine/seen.h"

/* Contexts of the program's own: made, asked about, destroyed. */

/* The program has not retained the primary context: it is active only because of us. */
static atomic_bool primary_is_ours;

/* ---- execution affinity ---- */

/*
 * A context for some of the SMs is one for those of the partition: where its work runs is not the
 * program's to know, and what it asked for is what it is told. *sms: 0 if it did not ask.
 */
static CUresult read_affinity(const CUexecAffinityParam *params, int n, CUdevice device,
			      unsigned *sms)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;
	int supported = 0;

	*sms = 0;
	if (n < 0 || (n > 0 && !params))
		return CUDA_ERROR_INVALID_VALUE;
	for (int i = 0; i < n; i++) {
		if (params[i].type != CU_EXEC_AFFINITY_TYPE_SM_COUNT ||
		    !params[i].param.smCount.val)
			return CUDA_ERROR_INVALID_VALUE;
		if (ds_real.cuDeviceGetExecAffinitySupport(&supported, params[i].type, device) !=
			CUDA_SUCCESS ||
		    !supported)
			return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
		*sms = params[i].param.smCount.val;
	}
	if (*sms)
		ds_say_once(&said,
			    "cuCtxCreate for %u SMs: its work runs on all SMs of this program's "
			    "partition",
			    *sms);
	return CUDA_SUCCESS;
}

/* ---- making ---- */

/* With the primary context current. */
static CUresult fill(struct ds_own *own, struct ds_vctx *vctx, unsigned flags)
{
	CUresult result = ds_own_settings_init(own, flags);

	if (result == CUDA_SUCCESS)
		result = ds_remap_make_token(vctx, &own->green, &own->handle);
	if (result == CUDA_SUCCESS)
		ds_own_add(own);
	return result;
}

/* It is current to the thread then, as alone. The primary context is kept as long as its alias lives. */
static CUresult make(struct ds_vctx *vctx, unsigned flags, unsigned sms, CUcontext *context)
{
	struct ds_own *own = calloc(1, sizeof(*own));
	CUresult result;

	if (!own)
		return CUDA_ERROR_OUT_OF_MEMORY;
	own->device = vctx->device;
	own->affinity_sms = sms;
	atomic_store(&own->uses, 1);
	result = ds_real.cuDevicePrimaryCtxRetain(&own->primary, own->device);
	if (result != CUDA_SUCCESS)
		goto fail;
	result = ds_own_push(own);
	if (result != CUDA_SUCCESS)
		goto release;
	result = fill(own, vctx, flags);
	if (result != CUDA_SUCCESS)
		goto pop;
	ds_vctx_count_own();
	*context = own->handle;
	return CUDA_SUCCESS;
pop:
	ds_own_pop(NULL);
release:
	ds_real.cuDevicePrimaryCtxRelease_v2(own->device);
fail:
	free(own);
	return result;
}

/* *vctx: where it is to be made; NULL: by the driver. */
static CUresult begin(CUdevice device, struct ds_vctx **vctx)
{
	CUresult result;
	unsigned flags;
	int active = 1;

	*vctx = NULL;
	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	ds_real.cuDevicePrimaryCtxGetState(device, &flags, &active);
	result = ds_vctx_enter_device(device, vctx);
	if (!active && result == CUDA_SUCCESS && *vctx)
		atomic_store(&primary_is_ours, true);
	return result;
}

static CUresult create(CUcontext *context, const CUexecAffinityParam *params, int n, unsigned flags,
		       struct ds_vctx *vctx)
{
	unsigned sms;
	CUresult result;

	if (!context || !ds_own_flags_are_fine(flags))
		return CUDA_ERROR_INVALID_VALUE;
	result = read_affinity(params, n, vctx->device, &sms);
	return result == CUDA_SUCCESS ? make(vctx, flags, sms, context) : result;
}

CUresult ds_cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	struct ds_vctx *vctx;
	CUresult result = begin(dev, &vctx);

	if (result != CUDA_SUCCESS)
		return result;
	return vctx ? create(pctx, NULL, 0, flags, vctx) : ds_real.cuCtxCreate(pctx, flags, dev);
}
DS_EXPORT(cuCtxCreate);

CUresult ds_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	struct ds_vctx *vctx;
	CUresult result = begin(dev, &vctx);

	if (result != CUDA_SUCCESS)
		return result;
	return vctx ? create(pctx, NULL, 0, flags, vctx) : ds_real.cuCtxCreate_v2(pctx, flags, dev);
}
DS_EXPORT(cuCtxCreate_v2);

CUresult ds_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
			   unsigned int flags, CUdevice dev)
{
	struct ds_vctx *vctx;
	CUresult result = begin(dev, &vctx);

	if (result != CUDA_SUCCESS)
		return result;
	return vctx ? create(pctx, paramsArray, numParams, flags, vctx)
		    : ds_real.cuCtxCreate_v3(pctx, paramsArray, numParams, flags, dev);
}
DS_EXPORT(cuCtxCreate_v3);

/* Computing inside of a graphics context is a matter between the driver and that: not ours to divide. */
static CUresult refuse_in_graphics(void)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;

	ds_say_once(&said,
		    "cuCtxCreate with cigParams refused: a context that shares the GPU with a "
		    "graphics context cannot be held inside a partition; make it without");
	return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult ds_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags,
			   CUdevice dev)
{
	struct ds_vctx *vctx;
	CUresult result = begin(dev, &vctx);

	if (result != CUDA_SUCCESS)
		return result;
	if (!vctx)
		return ds_real.cuCtxCreate_v4(pctx, ctxCreateParams, flags, dev);
#if CUDA_VERSION >= 12050
	if (ctxCreateParams && ctxCreateParams->cigParams)
		return refuse_in_graphics();
	if (ctxCreateParams)
		return create(pctx, ctxCreateParams->execAffinityParams,
			      ctxCreateParams->numExecAffinityParams, flags, vctx);
#else
	if (ctxCreateParams)
		return refuse_in_graphics();
#endif
	return create(pctx, NULL, 0, flags, vctx);
}
DS_EXPORT(cuCtxCreate_v4);

/* ---- destroying ---- */

static void destroy_what_is_in_it(struct ds_vctx *vctx, const struct ds_own *own)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	ds_streams_destroy_of(vctx, own->handle);
	/* Its default streams are the primary context's: they may still use what goes now. */
	ds_vctx_wait();
	ds_own_destroy_things(own);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
}

/*
 * What was made in it goes with it. If the CUDA runtime is there, it may have made the primary context current
 * meanwhile, unseen: what seems to be this one's may be the runtime's, and stays.
 */
static CUresult destroy(struct ds_own *own)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	CUresult result;
	CUcontext popped;

	if (!ds_own_take(own))
		return CUDA_ERROR_INVALID_CONTEXT;
	result = ds_real.cuCtxPushCurrent_v2(own->primary);
	if (result == CUDA_SUCCESS) {
		if (ds_seen_tables())
			ds_vctx_wait();
		else if (vctx && vctx->primary == own->primary)
			destroy_what_is_in_it(vctx, own);
		ds_real.cuCtxPopCurrent_v2(&popped);
	}
	ds_real.cuGreenCtxDestroy(own->green);
	ds_real.cuDevicePrimaryCtxRelease_v2(own->device);
	ds_own_gone();
	return CUDA_SUCCESS;
}

CUresult ds_cuCtxDestroy_v2(CUcontext ctx)
{
	struct ds_own *own = ds_own_find(ctx);

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	return own ? destroy(own) : ds_real.cuCtxDestroy_v2(ctx);
}
DS_EXPORT(cuCtxDestroy_v2);

CUresult ds_cuCtxDestroy(CUcontext ctx)
{
	return ds_cuCtxDestroy_v2(ctx);
}
DS_EXPORT(cuCtxDestroy);

CUresult ds_cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
	struct ds_own *own = ds_own_current();

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!own || !pctx || flags)
		return ds_real.cuCtxAttach(pctx, flags);
	atomic_fetch_add(&own->uses, 1);
	*pctx = own->handle;
	return CUDA_SUCCESS;
}
DS_EXPORT(cuCtxAttach);

CUresult ds_cuCtxDetach(CUcontext ctx)
{
	struct ds_own *own = ds_own_find(ctx);

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!own)
		return ds_real.cuCtxDetach(ctx);
	return atomic_fetch_sub(&own->uses, 1) == 1 ? destroy(own) : CUDA_SUCCESS;
}
DS_EXPORT(cuCtxDetach);

/* ---- questions ---- */

/* NULL means the current context. */
static CUcontext named(CUcontext context)
{
	const struct ds_own *own = context ? NULL : ds_own_current();

	return own ? own->handle : context;
}

CUresult ds_cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
	return ds_driver_ready() ? ds_real.cuCtxGetId(named(ctx), ctxId)
				 : CUDA_ERROR_NOT_INITIALIZED;
}
DS_EXPORT(cuCtxGetId);

CUresult ds_cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
	return ds_driver_ready() ? ds_real.cuCtxGetApiVersion(ds_own_real(ctx), version)
				 : CUDA_ERROR_NOT_INITIALIZED;
}
DS_EXPORT(cuCtxGetApiVersion);

CUresult ds_cuCtxGetExecAffinity(CUexecAffinityParam *pExecAffinity, CUexecAffinityType type)
{
	const struct ds_own *own = ds_own_current();
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuCtxGetExecAffinity(pExecAffinity, type);
	if (result == CUDA_SUCCESS && pExecAffinity && own && own->affinity_sms &&
	    type == CU_EXEC_AFFINITY_TYPE_SM_COUNT)
		pExecAffinity->param.smCount.val = own->affinity_sms;
	return result;
}
DS_EXPORT(cuCtxGetExecAffinity);

/* ---- the primary context ---- */

/* The earliest call that shows a program to be about to use the GPU: a refusal here is the clearest. */
CUresult ds_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_vctx_admits();
	if (result == CUDA_SUCCESS)
		result = ds_real.cuDevicePrimaryCtxRetain(pctx, dev);
	if (result == CUDA_SUCCESS)
		atomic_store(&primary_is_ours, false);
	return result;
}
DS_EXPORT(cuDevicePrimaryCtxRetain);

CUresult ds_cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
	const struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuDevicePrimaryCtxGetState(dev, flags, active);
	if (result == CUDA_SUCCESS && active && vctx && vctx->device == dev &&
	    atomic_load(&primary_is_ours))
		*active = 0;
	return result;
}
DS_EXPORT(cuDevicePrimaryCtxGetState);

/* Contexts of the program's own live on alone when the primary one is reset; here they share its memory. */
static bool outlives_reset(CUdevice device)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;
	const struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);

	if (!ds_own_any() || !vctx || vctx->device != device)
		return false;
	ds_say_once(&said, "cuDevicePrimaryCtxReset: what the primary context has stays until the "
			   "program ends, because contexts made by cuCtxCreate share it");
	return true;
}

static CUresult reset(CUdevice device, CUresult (*real)(CUdevice))
{
	CUresult result;

	if (outlives_reset(device))
		return ds_vctx_wait();
	ds_vctx_drop(device);
	result = real(device);
	ds_vctx_dropped();
	return result;
}

CUresult ds_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
	return ds_driver_ready() ? reset(dev, ds_real.cuDevicePrimaryCtxReset_v2)
				 : CUDA_ERROR_NOT_INITIALIZED;
}
DS_EXPORT(cuDevicePrimaryCtxReset_v2);

CUresult ds_cuDevicePrimaryCtxReset(CUdevice dev)
{
	return ds_driver_ready() ? reset(dev, ds_real.cuDevicePrimaryCtxReset)
				 : CUDA_ERROR_NOT_INITIALIZED;
}
DS_EXPORT(cuDevicePrimaryCtxReset);
