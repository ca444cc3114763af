/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts: primary, made by cuCtxCreate, and green. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"

#include <stdlib.h>
#include <string.h>

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

/* Current, but perhaps destroyed since: the driver tells these two apart. */
static CUresult current(struct CUctx_st **ctx)
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
	rc = current(ctx);
	if (!rc)
		rc = emu_device_fault((*ctx)->dev);
	if (rc)
		emu_exit();
	return rc;
}

static struct CUctx_st *new_context(struct emu_device *dev, struct CUctx_st *root,
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

static void free_context(struct CUctx_st *ctx)
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
	return new_context(dev, NULL, &all);
}

static struct CUctx_st *part_context(struct emu_device *dev, unsigned n_sms)
{
	struct emu_sms some = {{0}};
	struct CUctx_st *ctx;

	for (unsigned sm = 0; sm < dev->map.gpu->n_sms && sm < n_sms; sm++)
		emu_sms_add(&some, sm);
	ctx = new_context(dev, NULL, &some);
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
	free_context(ctx);
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

static bool are_flags(unsigned flags)
{
	const unsigned how = flags & CU_CTX_SCHED_MASK;

	return !(flags & ~(unsigned)CU_CTX_FLAGS_MASK) && !(how & (how - 1));
}

static CUresult create(CUcontext *out, const CUexecAffinityParam *params, int n, unsigned flags,
		       CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = out && are_flags(flags) && n >= 0 && (!n || params)
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
			free_context(ctx);
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
		free_context(ctx);
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

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device)
{
	struct CUctx_st *ctx;
	CUresult rc = device ? emu_begin() : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = current(&ctx);
	if (!rc)
		*device = emu_device_number(ctx->dev);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxGetFlags(unsigned *flags)
{
	struct CUctx_st *ctx;
	CUresult rc = flags ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*flags = ctx->flags;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetFlags(unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = are_flags(flags) ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	ctx->flags = flags;
	emu_exit();
	return CUDA_SUCCESS;
}

/* A handle, or this thread's context for NULL. */
static CUresult begin_named(CUcontext handle, struct CUctx_st **ctx)
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

CUresult CUDAAPI cuCtxGetId(CUcontext handle, unsigned long long *id)
{
	struct CUctx_st *ctx;
	CUresult rc = id ? begin_named(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*id = ctx->id;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetApiVersion(CUcontext handle, unsigned *version)
{
	struct CUctx_st *ctx;
	CUresult rc = version ? begin_named(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*version = 3020;
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

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	if (least)
		*least = 0;
	if (greatest)
		*greatest = -5;
	emu_exit();
	return CUDA_SUCCESS;
}

/* Limits and preferences are those of a context and its green ones, and mean nothing here. */
CUresult CUDAAPI cuCtxSetLimit(CUlimit limit, size_t value)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	if ((unsigned)limit < CU_LIMIT_MAX)
		ctx->root->limits[limit] = (value + 15) / 16 * 16;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxGetLimit(size_t *value, CUlimit limit)
{
	struct CUctx_st *ctx;
	CUresult rc = value ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if ((unsigned)limit < CU_LIMIT_MAX)
		*value = ctx->root->limits[limit];
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxSetCacheConfig(CUfunc_cache config)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	ctx->root->cache = config;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCacheConfig(CUfunc_cache *config)
{
	struct CUctx_st *ctx;
	CUresult rc = config ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*config = ctx->root->cache;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSetSharedMemConfig(CUsharedconfig config)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	emu_exit();
	return CUDA_SUCCESS; /* without an effect since Maxwell */
}

CUresult CUDAAPI cuCtxGetSharedMemConfig(CUsharedconfig *config)
{
	struct CUctx_st *ctx;
	CUresult rc = config ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*config = ctx->root->shared;
	emu_exit();
	return CUDA_SUCCESS;
}

/* Under MPS only. */
CUresult CUDAAPI cuDeviceGetExecAffinitySupport(int *supported, CUexecAffinityType type,
						CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = supported && type == CU_EXEC_AFFINITY_TYPE_SM_COUNT
			  ? emu_begin_device(number, &dev)
			  : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*supported = emu.server_pid != 0;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetExecAffinity(CUexecAffinityParam *affinity, CUexecAffinityType type)
{
	struct CUctx_st *ctx;
	CUresult rc = affinity && type == CU_EXEC_AFFINITY_TYPE_SM_COUNT ? emu_begin_context(&ctx)
									 : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	affinity->type = type;
	affinity->param.smCount.val =
	    ctx->affinity_sms ? ctx->affinity_sms : ctx->dev->n_visible_sms;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevResource(CUcontext handle, CUdevResource *resource,
				     CUdevResourceType type)
{
	struct CUctx_st *ctx;
	CUresult rc = resource ? begin_named(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (type == CU_DEV_RESOURCE_TYPE_SM)
		*resource = ctx->resource;
	else
		rc = CUDA_ERROR_INVALID_RESOURCE_TYPE;
	emu_exit();
	return rc;
}

/* ---- green contexts ---- */

static CUresult begin_green(CUgreenCtx handle, struct CUctx_st **ctx)
{
	CUresult rc = handle ? begin_named(&handle->ctx, ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if ((*ctx)->green)
		return CUDA_SUCCESS;
	emu_exit();
	return CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc desc, CUdevice number,
				  unsigned flags)
{
	struct emu_device *dev;
	CUresult rc = out ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;
	struct CUctx_st *root, *ctx;
	struct emu_sms sms;

	if (rc)
		return rc;
	if (!emu_desc_read(desc, dev, &sms) || flags != CU_GREEN_CTX_DEFAULT_STREAM)
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (emu.server_pid && dev->n_visible_sms < dev->map.gpu->n_sms)
		rc = CUDA_ERROR_NOT_SUPPORTED; /* not under an MPS thread percentage */
	else
		rc = emu_primary_retain(dev, &root);
	if (!rc) {
		ctx = new_context(dev, root, &sms);
		if (ctx) {
			*out = (CUgreenCtx)ctx;
			root->n_green++;
		} else {
			emu_primary_release(dev);
			rc = CUDA_ERROR_OUT_OF_MEMORY;
		}
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGreenCtxDestroy(CUgreenCtx handle)
{
	struct CUctx_st *ctx;
	struct emu_device *dev;
	CUresult rc = begin_green(handle, &ctx);

	if (rc)
		return rc;
	dev = ctx->dev;
	free_context(ctx);
	dev->primary->n_green--;
	emu_primary_release(dev);
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxFromGreenCtx(CUcontext *out, CUgreenCtx handle)
{
	struct CUctx_st *ctx;
	CUresult rc = out ? begin_green(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*out = ctx;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGreenCtxGetDevResource(CUgreenCtx handle, CUdevResource *resource,
					  CUdevResourceType type)
{
	struct CUctx_st *ctx;
	CUresult rc = resource ? begin_green(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (type == CU_DEV_RESOURCE_TYPE_SM)
		*resource = ctx->resource;
	else
		rc = CUDA_ERROR_INVALID_RESOURCE_TYPE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *out, CUgreenCtx handle, unsigned flags,
					int priority)
{
	struct CUctx_st *ctx;
	CUresult rc = out ? begin_green(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (flags != CU_STREAM_NON_BLOCKING)
		rc = CUDA_ERROR_INVALID_VALUE; /* the driver asks for it */
	else
		*out = emu_stream_new(ctx, flags, priority);
	if (!rc && !*out)
		rc = CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}

/* An operation on the NULL stream of `ctx`, after everything that is unfinished in it. */
static CUresult joint(struct CUctx_st *ctx, struct emu_op **out)
{
	struct emu_op *op = emu_op_new(EMU_OP_NOP, ctx->streams);

	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (struct CUstream_st *s = ctx->streams; s; s = s->next)
		emu_op_after(op, s->tail);
	*out = op;
	emu_op_ref(op);
	return emu_op_submit(op, ctx->streams);
}

static CUresult record_context(struct CUctx_st *ctx, CUevent event)
{
	struct emu_op *op = NULL;
	CUresult rc;

	if (!emu_handle_is(event, EMU_HANDLE_EVENT) || event->root_id != ctx->root->id)
		return CUDA_ERROR_INVALID_HANDLE;
	rc = emu_capture_none_in(ctx);
	if (!rc)
		rc = joint(ctx, &op);
	if (rc) {
		emu_op_unref(op);
		return rc;
	}
	emu_capture_forget_event(event);
	emu_op_unref(event->op);
	event->op = op;
	return CUDA_SUCCESS;
}

/* All future work of the context waits: every stream that there is gets a joint. */
static CUresult make_context_wait(struct CUctx_st *ctx, CUevent event)
{
	CUresult rc = emu_capture_none_in(ctx);

	if (!emu_handle_is(event, EMU_HANDLE_EVENT))
		return CUDA_ERROR_INVALID_HANDLE;
	if (!rc)
		rc = emu_capture_not_this_event(event);
	for (struct CUstream_st *s = ctx->streams; s && !rc && event->op; s = s->next) {
		struct emu_op *op = emu_op_new(EMU_OP_NOP, s);
		if (!op)
			return CUDA_ERROR_OUT_OF_MEMORY;
		emu_op_after(op, event->op);
		rc = emu_op_submit(op, s);
	}
	return rc;
}

CUresult CUDAAPI cuGreenCtxRecordEvent(CUgreenCtx handle, CUevent event)
{
	struct CUctx_st *ctx;
	CUresult rc = begin_green(handle, &ctx);

	if (rc)
		return rc;
	rc = record_context(ctx, event);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGreenCtxWaitEvent(CUgreenCtx handle, CUevent event)
{
	struct CUctx_st *ctx;
	CUresult rc = begin_green(handle, &ctx);

	if (rc)
		return rc;
	rc = make_context_wait(ctx, event);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxRecordEvent(CUcontext handle, CUevent event)
{
	struct CUctx_st *ctx;
	CUresult rc = begin_named(handle, &ctx);

	if (rc)
		return rc;
	rc = record_context(ctx, event);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxWaitEvent(CUcontext handle, CUevent event)
{
	struct CUctx_st *ctx;
	CUresult rc = begin_named(handle, &ctx);

	if (rc)
		return rc;
	rc = make_context_wait(ctx, event);
	emu_exit();
	return rc;
}
