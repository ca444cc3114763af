/* SPDX-License-Identifier: Apache-2.0 */
/* Green contexts, and events of whole contexts. */
#include "tests/emugpu/context.h"
#include "tests/emugpu/graph.h"

static CUresult begin_green(CUgreenCtx handle, struct CUctx_st **ctx)
{
	CUresult rc = handle ? emu_begin_named(&handle->ctx, ctx) : CUDA_ERROR_INVALID_VALUE;

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
		ctx = emu_context_new(dev, root, &sms);
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
	emu_context_free(ctx);
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

/* ---- events of a whole context, green or not ---- */

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

#define CONTEXT_EVENT(name, handle_type, begin, act)             \
	CUresult CUDAAPI name(handle_type handle, CUevent event) \
	{                                                        \
		struct CUctx_st *ctx;                            \
		CUresult rc = begin(handle, &ctx);               \
                                                                 \
		if (rc)                                          \
			return rc;                               \
		rc = act(ctx, event);                            \
		emu_exit();                                      \
		return rc;                                       \
	}

CONTEXT_EVENT(cuGreenCtxRecordEvent, CUgreenCtx, begin_green, record_context)
CONTEXT_EVENT(cuGreenCtxWaitEvent, CUgreenCtx, begin_green, make_context_wait)
CONTEXT_EVENT(cuCtxRecordEvent, CUcontext, emu_begin_named, record_context)
CONTEXT_EVENT(cuCtxWaitEvent, CUcontext, emu_begin_named, make_context_wait)
