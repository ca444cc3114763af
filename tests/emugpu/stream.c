/* SPDX-License-Identifier: Apache-2.0 */
/* Streams: which one a handle means, what is asked of them, and work that is no kernel and no copy. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>

static _Thread_local uint64_t thread_number;
static uint64_t threads;

uint64_t emu_thread(void)
{
	if (!thread_number)
		thread_number = ++threads;
	return thread_number;
}

struct CUstream_st *emu_stream_new(struct CUctx_st *ctx, unsigned flags, int priority)
{
	struct CUstream_st *s = calloc(1, sizeof(*s));
	struct CUstream_st **end = &ctx->streams;

	if (!s)
		return NULL;
	while (*end)
		end = &(*end)->next;
	*end = s;
	s->ctx = ctx;
	s->flags = flags;
	s->blocking = !(flags & CU_STREAM_NON_BLOCKING);
	s->priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
	s->id = ++emu.next_id;
	s->queue = emu.n_queues ? emu.next_queue++ % emu.n_queues : 0;
	emu_handle_add(s, EMU_HANDLE_STREAM);
	return s;
}

static bool unfinished(const struct CUstream_st *s)
{
	return s->tail && !s->tail->done;
}

static void unlink_stream(struct CUstream_st *stream)
{
	struct CUstream_st **p = &stream->ctx->streams;

	while (*p != stream)
		p = &(*p)->next;
	*p = stream->next;
	emu_op_unref(stream->tail);
	free(stream);
}

void emu_stream_free(struct CUstream_st *stream)
{
	emu_capture_forget_stream(stream);
	emu_handle_remove(stream);
	/* As measured: the NULL stream waits for the work of a blocking stream that is no more. */
	stream->destroyed = true;
	if (!stream->blocking || stream->null_stream || !unfinished(stream))
		unlink_stream(stream);
}

void emu_streams_prune(struct CUctx_st *ctx)
{
	struct CUstream_st *next;

	for (struct CUstream_st *s = ctx->streams; s; s = next) {
		next = s->next;
		if (s->destroyed && !unfinished(s))
			unlink_stream(s);
	}
}

/* The per-thread default stream of this thread in `ctx`: a blocking stream, made when first used. */
static struct CUstream_st *per_thread_stream(struct CUctx_st *ctx)
{
	struct CUstream_st *s;

	for (s = ctx->streams; s; s = s->next)
		if (s->thread == emu_thread())
			return s;
	s = emu_stream_new(ctx, CU_STREAM_DEFAULT, 0);
	if (s) {
		emu_handle_remove(s); /* it has no handle of its own */
		s->thread = emu_thread();
	}
	return s;
}

struct CUstream_st *emu_stream(CUstream handle, CUresult *rc)
{
	struct CUstream_st *s = NULL;
	struct CUctx_st *ctx;

	if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
		ctx = emu_current();
		if (!ctx) {
			*rc = CUDA_ERROR_INVALID_CONTEXT;
			return NULL;
		}
		s = handle == CU_STREAM_PER_THREAD ? per_thread_stream(ctx) : ctx->streams;
		*rc = s ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	} else if (emu_handle_is(handle, EMU_HANDLE_STREAM)) {
		s = handle;
		*rc = CUDA_SUCCESS;
	} else {
		*rc = CUDA_ERROR_INVALID_HANDLE;
	}
	if (s)
		*rc = emu_device_fault(s->ctx->dev);
	return *rc ? NULL : s;
}

CUresult emu_begin_stream(CUstream handle, struct CUstream_st **stream)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	*stream = emu_stream(handle, &rc);
	if (rc)
		emu_exit();
	return rc;
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
	struct CUctx_st *ctx;
	CUresult rc = out && !(flags & ~CU_STREAM_NON_BLOCKING) ? emu_begin_context(&ctx)
								: CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*out = emu_stream_new(ctx, flags, priority);
	emu_exit();
	return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuStreamCreate(CUstream *out, unsigned flags)
{
	return cuStreamCreateWithPriority(out, flags, 0);
}

CUresult CUDAAPI cuStreamDestroy_v2(CUstream handle)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	/* Work that is queued still runs: its operations live on without the stream. */
	if (emu_handle_is(handle, EMU_HANDLE_STREAM))
		emu_stream_free(handle);
	else
		rc = CUDA_ERROR_INVALID_HANDLE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_wait(handle, &s);
	struct emu_device *dev;

	if (rc)
		return rc;
	dev = s->ctx->dev;
	if (s->null_stream && !s->ctx->green) {
		/* Waits for the blocking streams, too: the NULL stream's next operation would. */
		struct emu_op *op = emu_op_new(EMU_OP_NOP, s);
		rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (!rc)
		rc = emu_wait_op(s->tail);
	if (!rc)
		rc = emu_device_fault(dev);
	emu_pools_synchronised();
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamSynchronize_ptsz, (CUstream s), cuStreamSynchronize(emu_per_thread(s)))

CUresult CUDAAPI cuStreamQuery(CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_wait(handle, &s);

	if (rc)
		return rc;
	if (s->tail && !s->tail->done)
		rc = CUDA_ERROR_NOT_READY;
	if (s->null_stream && !s->ctx->green)
		for (struct CUstream_st *other = s->ctx->streams; other; other = other->next)
			if (other->blocking && other->tail && !other->tail->done)
				rc = CUDA_ERROR_NOT_READY;
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamQuery_ptsz, (CUstream s), cuStreamQuery(emu_per_thread(s)))

/* What a stream is asked, here of one fact about it. */
#define GET(name, type, value)                                                               \
	CUresult CUDAAPI name(CUstream handle, type *out)                                    \
	{                                                                                    \
		struct CUstream_st *s;                                                       \
		CUresult rc = out ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE; \
                                                                                             \
		if (rc)                                                                      \
			return rc;                                                           \
		*out = (value);                                                              \
		emu_exit();                                                                  \
		return CUDA_SUCCESS;                                                         \
	}
#define GET_AND_TWIN(name, type, value) \
	GET(name, type, value)          \
	EMU_TWIN(name##_ptsz, (CUstream s, type * out), name(emu_per_thread(s), out))

GET_AND_TWIN(cuStreamGetFlags, unsigned, s->flags)
GET_AND_TWIN(cuStreamGetPriority, int, s->priority)
GET_AND_TWIN(cuStreamGetId, unsigned long long, s->id)
/* For a stream of a green context this gives that context, the second form the primary one. */
GET_AND_TWIN(cuStreamGetCtx, CUcontext, s->ctx)
GET(cuStreamGetGreenCtx, CUgreenCtx, s->ctx->green ? (CUgreenCtx)s->ctx : NULL)
#if CUDA_VERSION >= 12080
GET_AND_TWIN(cuStreamGetDevice, CUdevice, emu_device_number(s->ctx->dev))
#endif

CUresult CUDAAPI cuStreamGetCtx_v2(CUstream handle, CUcontext *ctx, CUgreenCtx *green)
{
	struct CUstream_st *s;
	CUresult rc = ctx && green ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*ctx = s->ctx->root;
	*green = s->ctx->green ? (CUgreenCtx)s->ctx : NULL;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetCtx_v2_ptsz, (CUstream s, CUcontext *c, CUgreenCtx *g),
	 cuStreamGetCtx_v2(emu_per_thread(s), c, g))

/* ---- ordering between streams ---- */

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_work(handle, &s);
	bool done = true;
	struct emu_op *op;

	if (rc)
		return rc;
	if (!emu_handle_is(event, EMU_HANDLE_EVENT))
		rc = CUDA_ERROR_INVALID_HANDLE;
	else
		rc = emu_capture_wait(s, event, flags, &done);
	if (!rc && !done && event->op) {
		op = emu_op_new(EMU_OP_NOP, s);
		if (op && !emu_forget("event"))
			emu_op_after(op, event->op);
		rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamWaitEvent_ptsz, (CUstream s, CUevent e, unsigned f),
	 cuStreamWaitEvent(emu_per_thread(s), e, f))

CUresult emu_value_work(struct emu_work *work, const CUstreamBatchMemOpParams *p)
{
	bool wait = p->operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 ||
		    p->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
	bool wide = p->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64 ||
		    p->operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
	CUdeviceptr address = wait ? p->waitValue.address : p->writeValue.address;
	unsigned size = wide ? 8 : 4;

	*work = (struct emu_work){.kind = EMU_OP_NOP};
	if (!wait && p->operation != CU_STREAM_MEM_OP_WRITE_VALUE_32 &&
	    p->operation != CU_STREAM_MEM_OP_WRITE_VALUE_64)
		return CUDA_SUCCESS; /* barriers and flushes: everything here is in order anyway */
	if (address % size || !emu_device_may_touch((void *)address, size))
		return CUDA_ERROR_INVALID_VALUE;
	work->kind = wait ? EMU_OP_WAIT_VALUE : EMU_OP_WRITE_VALUE;
	work->u.value.address = (void *)address;
	work->u.value.value = wait   ? wide ? p->waitValue.value64 : p->waitValue.value
			      : wide ? p->writeValue.value64
				     : p->writeValue.value;
	work->u.value.size = size;
	work->u.value.flags = wait ? p->waitValue.flags : 0;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamBatchMemOp_v2(CUstream handle, unsigned n, CUstreamBatchMemOpParams *ops,
				       unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc =
	    ops && n && n <= 256 && !flags ? emu_begin_work(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	struct emu_work work;

	if (rc)
		return rc;
	for (unsigned i = 0; i < n && !rc; i++)
		rc = emu_value_work(&work, &ops[i]);
	if (!rc && s->capture) {
		rc = emu_capture_values(s, n, ops);
		n = 0;
	}
	for (unsigned i = 0; i < n && !rc; i++) {
		struct emu_op *op = emu_op_new(EMU_OP_NOP, s);
		rc = op ? emu_value_work(&op->work, &ops[i]) : CUDA_ERROR_OUT_OF_MEMORY;
		if (rc)
			emu_op_unref(op);
		else
			rc = emu_op_submit(op, s);
	}
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamBatchMemOp_v2_ptsz,
	 (CUstream s, unsigned n, CUstreamBatchMemOpParams *o, unsigned f),
	 cuStreamBatchMemOp_v2(emu_per_thread(s), n, o, f))

#define VALUE_CALL(name, op, field, member, type)                                           \
	CUresult CUDAAPI name##_v2(CUstream s, CUdeviceptr a, type v, unsigned flags)       \
	{                                                                                   \
		CUstreamBatchMemOpParams p = {                                              \
		    .field = {.operation = op, .address = a, .member = v, .flags = flags}}; \
		return cuStreamBatchMemOp_v2(s, 1, &p, 0);                                  \
	}                                                                                   \
	EMU_TWIN(name##_v2_ptsz, (CUstream s, CUdeviceptr a, type v, unsigned f),           \
		 name##_v2(emu_per_thread(s), a, v, f))

VALUE_CALL(cuStreamWriteValue32, CU_STREAM_MEM_OP_WRITE_VALUE_32, writeValue, value, cuuint32_t)
VALUE_CALL(cuStreamWaitValue32, CU_STREAM_MEM_OP_WAIT_VALUE_32, waitValue, value, cuuint32_t)
VALUE_CALL(cuStreamWriteValue64, CU_STREAM_MEM_OP_WRITE_VALUE_64, writeValue, value64, cuuint64_t)
VALUE_CALL(cuStreamWaitValue64, CU_STREAM_MEM_OP_WAIT_VALUE_64, waitValue, value64, cuuint64_t)

/* ---- host functions ---- */

CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn fn, void *data)
{
	struct CUstream_st *s;
	CUresult rc = fn ? emu_begin_work(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	struct emu_op *op;

	if (rc)
		return rc;
	op = emu_op_new(EMU_OP_HOST, s);
	if (op) {
		op->work.u.host.fn = fn;
		op->work.u.host.data = data;
	}
	rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}
EMU_TWIN(cuLaunchHostFunc_ptsz, (CUstream s, CUhostFn f, void *d),
	 cuLaunchHostFunc(emu_per_thread(s), f, d))

CUresult CUDAAPI cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void *data,
				     unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = callback && !flags ? emu_begin_wait(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	struct emu_op *op;

	if (rc)
		return rc;
	op = emu_op_new(EMU_OP_HOST, s);
	if (op) {
		op->work.u.host.callback = callback;
		op->work.u.host.data = data;
		op->work.u.host.stream = handle;
	}
	rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamAddCallback_ptsz, (CUstream s, CUstreamCallback c, void *d, unsigned f),
	 cuStreamAddCallback(emu_per_thread(s), c, d, f))
