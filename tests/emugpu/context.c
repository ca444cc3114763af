/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts, primary or made by cuCtxCreate: their lives, and which is current. */
#include "tests/emugpu/context.h"
#include "tests/emugpu/graph.h"

#include <stdlib.h>

enum { STACK_MAX = 64 };

struct CUctx_st *emu_contexts;

static _Thread_local struct {
	struct CUctx_st *stack[STACK_MAX];
	unsigned depth;
} here;

struct CUctx_st *emu_current(void)
{
	struct CUctx_st *ctx = here.depth ? here.stack[here.depth - 1] : NULL;

	return emu_handle_is(ctx, EMU_HANDLE_CONTEXT) ? ctx : NULL;
}

CUresult emu_current_or_destroyed(struct CUctx_st **ctx)
{
	*ctx = here.depth ? here.stack[here.depth - 1] : NULL;
	if (!*ctx)
		return CUDA_ERROR_INVALID_CONTEXT;
	return emu_handle_is(*ctx, EMU_HANDLE_CONTEXT) ? CUDA_SUCCESS
						       : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUresult emu_begin_context(struct CUctx_st **ctx)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	rc = emu_current_or_destroyed(ctx);
	if (!rc)
		rc = emu_device_fault((*ctx)->dev);
	if (rc)
		emu_exit();
	return rc;
}

/* A handle, or this thread's context for NULL. */
CUresult emu_begin_named(CUcontext handle, struct CUctx_st **ctx)
{
	CUresult rc;

	if (!handle)
		return emu_begin_context(ctx);
	rc = emu_begin();
	if (rc)
		return rc;
	*ctx = handle;
	rc = emu_handle_is(handle, EMU_HANDLE_CONTEXT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
	if (!rc)
		rc = emu_device_fault(handle->dev);
	if (rc)
		emu_exit();
	return rc;
}

struct CUctx_st *emu_context_new(struct emu_device *dev, struct CUctx_st *root,
				 const struct emu_sms *sms)
{
	struct CUgreenCtx_st *green = calloc(1, sizeof(*green));
	struct CUctx_st *ctx = &green->ctx;

	if (!green)
		return NULL;
	ctx->dev = dev;
	ctx->root = root ? root : ctx;
	ctx->green = root != NULL;
	ctx->id = ++emu.next_id;
	for (unsigned i = 0; i < CU_LIMIT_MAX; i++)
		ctx->limits[i] = i == CU_LIMIT_STACK_SIZE ? 1024 : 8u << 20;
	ctx->shared = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
	ctx->sms = *sms;
	ctx->resource = emu_resource(dev, sms, 0);
	ctx->streams = emu_stream_new(ctx, 0, 0);
	if (!ctx->streams) {
		free(green);
		return NULL;
	}
	ctx->streams->null_stream = true;
	emu_handle_remove(ctx->streams);
	emu_handle_add(ctx, EMU_HANDLE_CONTEXT);
	ctx->next = emu_contexts;
	emu_contexts = ctx;
	return ctx;
}

void emu_context_free(struct CUctx_st *ctx)
{
	struct CUctx_st **p = &emu_contexts;

	emu_wait_context(ctx);
	emu_handle_remove(ctx);
	emu_streams_prune(ctx);
	while (ctx->streams)
		emu_stream_free(ctx->streams);
	while (*p != ctx)
		p = &(*p)->next;
	*p = ctx->next;
	free(ctx);
}

static struct CUctx_st *whole_context(struct emu_device *dev)
{
	struct emu_sms all = {{0}};

	for (unsigned sm = 0; sm < dev->map.gpu->n_sms; sm++)
		emu_sms_add(&all, sm);
	return emu_context_new(dev, NULL, &all);
}

static struct CUctx_st *part_context(struct emu_device *dev, unsigned n_sms)
{
	struct emu_sms some = {{0}};
	struct CUctx_st *ctx;

	for (unsigned sm = 0; sm < dev->map.gpu->n_sms && sm < n_sms; sm++)
		emu_sms_add(&some, sm);
	ctx = emu_context_new(dev, NULL, &some);
	if (ctx)
		ctx->affinity_sms = n_sms;
	return ctx;
}

CUresult emu_primary_retain(struct emu_device *dev, struct CUctx_st **ctx)
{
	CUresult rc = emu_device_join(dev);

	if (rc)
		return rc;
	if (!dev->primary) {
		dev->primary = whole_context(dev);
		if (!dev->primary)
			return CUDA_ERROR_OUT_OF_MEMORY;
		dev->primary->primary = true;
		dev->primary->flags = dev->primary_flags;
	}
	dev->primary->refs++;
	*ctx = dev->primary;
	return CUDA_SUCCESS;
}

void emu_primary_release(struct emu_device *dev)
{
	struct CUctx_st *ctx = dev->primary;

	if (--ctx->refs)
		return;
	emu_context_free(ctx);
	dev->primary = NULL;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = out ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = emu_primary_retain(dev, out);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = emu_begin_device(number, &dev);

	if (rc)
		return rc;
	if (dev->primary && dev->primary->refs > dev->primary->n_green)
		emu_primary_release(dev);
	else
		rc = CUDA_ERROR_INVALID_CONTEXT;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuDevicePrimaryCtxReset_v2(CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = emu_begin_device(number, &dev);

	if (rc)
		return rc;
	if (dev->primary) {
		/* Green contexts keep it: everything else lets go. */
		dev->primary->refs = dev->primary->n_green + 1;
		emu_wait_context(dev->primary);
		emu_memory_drop(dev->primary);
		emu_primary_release(dev);
	}
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxSetFlags_v2(CUdevice number, unsigned flags)
{
	struct emu_device *dev;
	CUresult rc = emu_begin_device(number, &dev);

	if (rc)
		return rc;
	dev->primary_flags = flags;
	if (dev->primary)
		dev->primary->flags = flags;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice number)
{
	return cuDevicePrimaryCtxRelease_v2(number);
}

CUresult CUDAAPI cuDevicePrimaryCtxReset(CUdevice number)
{
	return cuDevicePrimaryCtxReset_v2(number);
}

CUresult CUDAAPI cuDevicePrimaryCtxSetFlags(CUdevice number, unsigned flags)
{
	return cuDevicePrimaryCtxSetFlags_v2(number, flags);
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice number, unsigned *flags, int *active)
{
	struct emu_device *dev;
	CUresult rc = emu_begin_device(number, &dev);

	if (rc)
		return rc;
	if (flags)
		*flags = dev->primary_flags;
	if (active)
		*active = dev->primary != NULL;
	emu_exit();
	return CUDA_SUCCESS;
}

static CUresult push(struct CUctx_st *ctx)
{
	if (here.depth == STACK_MAX)
		return CUDA_ERROR_OUT_OF_MEMORY;
	here.stack[here.depth++] = ctx;
	return CUDA_SUCCESS;
}

bool emu_are_context_flags(unsigned flags)
{
	const unsigned how = flags & CU_CTX_SCHED_MASK;

	return !(flags & ~(unsigned)CU_CTX_FLAGS_MASK) && !(how & (how - 1));
}

static CUresult create(CUcontext *out, const CUexecAffinityParam *params, int n, unsigned flags,
		       CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = out && emu_are_context_flags(flags) && n >= 0 && (!n || params)
			  ? emu_begin_device(number, &dev)
			  : CUDA_ERROR_INVALID_VALUE;
	struct CUctx_st *ctx;

	if (rc)
		return rc;
	for (int i = 0; i < n && !rc; i++)
		if (params[i].type != CU_EXEC_AFFINITY_TYPE_SM_COUNT ||
		    !params[i].param.smCount.val)
			rc = CUDA_ERROR_INVALID_VALUE;
		else if (!emu.server_pid)
			rc = CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
	if (!rc)
		rc = emu_device_join(dev);
	if (!rc) {
		ctx = n ? part_context(dev, params[n - 1].param.smCount.val) : whole_context(dev);
		rc = ctx ? push(ctx) : CUDA_ERROR_OUT_OF_MEMORY;
		if (!rc) {
			ctx->flags = flags;
			*out = ctx;
		} else if (ctx) {
			emu_context_free(ctx);
		}
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice number)
{
	return create(out, NULL, 0, flags, number);
}

CUresult CUDAAPI cuCtxCreate_v3(CUcontext *out, CUexecAffinityParam *params, int n, unsigned flags,
				CUdevice number)
{
	return create(out, params, n, flags, number);
}

#if CUDA_VERSION >= 12050
CUresult CUDAAPI cuCtxCreate_v4(CUcontext *out, CUctxCreateParams *params, unsigned flags,
				CUdevice number)
{
	if (params && params->cigParams)
		return CUDA_ERROR_NOT_SUPPORTED;
	return params ? create(out, params->execAffinityParams, params->numExecAffinityParams,
			       flags, number)
		      : create(out, NULL, 0, flags, number);
}

#endif

CUresult CUDAAPI cuCtxDestroy_v2(CUcontext ctx)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (!emu_handle_is(ctx, EMU_HANDLE_CONTEXT) || ctx->green || ctx->primary) {
		rc = CUDA_ERROR_INVALID_CONTEXT;
	} else {
		if (here.depth && here.stack[here.depth - 1] == ctx)
			here.depth--;
		emu_wait_context(ctx);
		emu_memory_drop(ctx);
		emu_context_free(ctx);
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxPushCurrent_v2(CUcontext ctx)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	rc = emu_handle_is(ctx, EMU_HANDLE_CONTEXT) ? push(ctx) : CUDA_ERROR_INVALID_CONTEXT;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxPopCurrent_v2(CUcontext *out)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (!here.depth || !here.stack[here.depth - 1]) {
		rc = CUDA_ERROR_INVALID_CONTEXT;
	} else {
		here.depth--;
		if (out)
			*out = here.stack[here.depth];
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext ctx)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (ctx && !emu_handle_is(ctx, EMU_HANDLE_CONTEXT))
		rc = CUDA_ERROR_INVALID_CONTEXT;
	else if (here.depth && ctx)
		here.stack[here.depth - 1] = ctx;
	else if (here.depth)
		here.depth--;
	else if (ctx)
		rc = push(ctx);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *out)
{
	CUresult rc = out ? emu_begin() : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*out = here.depth ? here.stack[here.depth - 1] : NULL;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSynchronize(void)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	rc = emu_capture_none_in(ctx);
	if (!rc)
		rc = emu_synchronise_context(ctx);
	/* One that began meanwhile is met, too: which stream the driver waits for last nobody knows. */
	if (!rc)
		rc = emu_capture_none_in(ctx);
	emu_pools_synchronised();
	emu_exit();
	return rc;
}
