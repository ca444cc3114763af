/* SPDX-License-Identifier: Apache-2.0 */
/* Streams and events. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local uint64_t thread_number;
static uint64_t threads;

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
	emu_handle_add(s, EMU_HANDLE_STREAM);
	return s;
}

void emu_stream_free(struct CUstream_st *stream)
{
	struct CUstream_st **p = &stream->ctx->streams;

	while (*p != stream)
		p = &(*p)->next;
	*p = stream->next;
	emu_handle_remove(stream);
	emu_op_unref(stream->tail);
	free(stream);
}

/* The per-thread default stream of this thread in `ctx`: a blocking stream, made when first used. */
static struct CUstream_st *per_thread_stream(struct CUctx_st *ctx)
{
	struct CUstream_st *s;

	if (!thread_number)
		thread_number = ++threads;
	for (s = ctx->streams; s; s = s->next)
		if (s->thread == thread_number)
			return s;
	s = emu_stream_new(ctx, CU_STREAM_DEFAULT, 0);
	if (s) {
		emu_handle_remove(s); /* it has no handle of its own */
		s->thread = thread_number;
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
	CUresult rc = emu_begin_stream(handle, &s);
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
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamSynchronize_ptsz, (CUstream s), cuStreamSynchronize(emu_per_thread(s)))

CUresult CUDAAPI cuStreamQuery(CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_stream(handle, &s);

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

CUresult CUDAAPI cuStreamGetFlags(CUstream handle, unsigned *flags)
{
	struct CUstream_st *s;
	CUresult rc = flags ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*flags = s->flags;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetFlags_ptsz, (CUstream s, unsigned *f), cuStreamGetFlags(emu_per_thread(s), f))

CUresult CUDAAPI cuStreamGetPriority(CUstream handle, int *priority)
{
	struct CUstream_st *s;
	CUresult rc = priority ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*priority = s->priority;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetPriority_ptsz, (CUstream s, int *p), cuStreamGetPriority(emu_per_thread(s), p))

CUresult CUDAAPI cuStreamGetId(CUstream handle, unsigned long long *id)
{
	struct CUstream_st *s;
	CUresult rc = id ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*id = s->id;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetId_ptsz, (CUstream s, unsigned long long *i),
	 cuStreamGetId(emu_per_thread(s), i))

/* For a stream of a green context the first form gives that context, the second the primary one. */
CUresult CUDAAPI cuStreamGetCtx(CUstream handle, CUcontext *ctx)
{
	struct CUstream_st *s;
	CUresult rc = ctx ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*ctx = s->ctx;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetCtx_ptsz, (CUstream s, CUcontext *c), cuStreamGetCtx(emu_per_thread(s), c))

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

CUresult CUDAAPI cuStreamGetGreenCtx(CUstream handle, CUgreenCtx *green)
{
	struct CUstream_st *s;
	CUresult rc = green ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*green = s->ctx->green ? (CUgreenCtx)s->ctx : NULL;
	emu_exit();
	return CUDA_SUCCESS;
}

#if CUDA_VERSION >= 12080
CUresult CUDAAPI cuStreamGetDevice(CUstream handle, CUdevice *device)
{
	struct CUstream_st *s;
	CUresult rc = device ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*device = emu_device_number(s->ctx->dev);
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetDevice_ptsz, (CUstream s, CUdevice *d), cuStreamGetDevice(emu_per_thread(s), d))
#endif

/* ---- graph capture: not emulated; said so, not faked ---- */

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
	struct CUstream_st *s;
	CUresult rc = status ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*status = CU_STREAM_CAPTURE_STATUS_NONE;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamIsCapturing_ptsz, (CUstream s, CUstreamCaptureStatus *st),
	 cuStreamIsCapturing(emu_per_thread(s), st))

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_stream(handle, &s);

	if (rc)
		return rc;
	emu_exit();
	return CUDA_ERROR_NOT_SUPPORTED;
}
EMU_TWIN(cuStreamBeginCapture_v2_ptsz, (CUstream s, CUstreamCaptureMode m),
	 cuStreamBeginCapture_v2(emu_per_thread(s), m))

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *graph)
{
	struct CUstream_st *s;
	CUresult rc = graph ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	emu_exit();
	return CUDA_ERROR_ILLEGAL_STATE;
}
EMU_TWIN(cuStreamEndCapture_ptsz, (CUstream s, CUgraph *g),
	 cuStreamEndCapture(emu_per_thread(s), g))

/* Where nothing is captured the driver writes the status and leaves the rest alone. */
CUresult CUDAAPI cuStreamGetCaptureInfo_v3(CUstream handle, CUstreamCaptureStatus *status,
					   cuuint64_t *id, CUgraph *graph,
					   const CUgraphNode **nodes, const CUgraphEdgeData **edges,
					   size_t *n)
{
	return cuStreamIsCapturing(handle, status);
}
EMU_TWIN(cuStreamGetCaptureInfo_v3_ptsz,
	 (CUstream s, CUstreamCaptureStatus *st, cuuint64_t *i, CUgraph *g, const CUgraphNode **d,
	  const CUgraphEdgeData **e, size_t *n),
	 cuStreamGetCaptureInfo_v3(emu_per_thread(s), st, i, g, d, e, n))

CUresult CUDAAPI cuStreamGetCaptureInfo_v2(CUstream handle, CUstreamCaptureStatus *status,
					   cuuint64_t *id, CUgraph *graph,
					   const CUgraphNode **nodes, size_t *n)
{
	return cuStreamIsCapturing(handle, status);
}
EMU_TWIN(cuStreamGetCaptureInfo_v2_ptsz,
	 (CUstream s, CUstreamCaptureStatus *st, cuuint64_t *i, CUgraph *g, const CUgraphNode **d,
	  size_t *n),
	 cuStreamGetCaptureInfo_v2(emu_per_thread(s), st, i, g, d, n))

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
	static _Thread_local CUstreamCaptureMode mine = CU_STREAM_CAPTURE_MODE_GLOBAL;
	CUstreamCaptureMode old = mine;

	if (!mode || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_ERROR_INVALID_VALUE;
	mine = *mode;
	*mode = old;
	return CUDA_SUCCESS;
}

/* ---- ordering between streams ---- */

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_stream(handle, &s);
	struct emu_op *op;

	if (rc)
		return rc;
	if (!emu_handle_is(event, EMU_HANDLE_EVENT)) {
		rc = CUDA_ERROR_INVALID_HANDLE;
	} else if (event->op) {
		op = emu_op_new(EMU_OP_NOP, s);
		if (op)
			emu_op_after(op, event->op);
		rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamWaitEvent_ptsz, (CUstream s, CUevent e, unsigned f),
	 cuStreamWaitEvent(emu_per_thread(s), e, f))

static CUresult value_op(enum emu_op_kind kind, CUstream handle, CUdeviceptr address,
			 uint64_t value, unsigned size, unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = address % size ? CUDA_ERROR_INVALID_VALUE : emu_begin_stream(handle, &s);
	struct emu_op *op;

	if (rc)
		return rc;
	if (!emu_device_may_touch((void *)address, size)) {
		emu_exit();
		return CUDA_ERROR_INVALID_VALUE;
	}
	op = emu_op_new(kind, s);
	if (op) {
		op->u.value.address = (void *)address;
		op->u.value.value = value;
		op->u.value.size = size;
		op->u.value.flags = flags;
	}
	rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}

#define VALUE_CALL(name, kind, type)                                                  \
	CUresult CUDAAPI name##_v2(CUstream s, CUdeviceptr a, type v, unsigned flags) \
	{                                                                             \
		return value_op(kind, s, a, v, sizeof(type), flags);                  \
	}                                                                             \
	EMU_TWIN(name##_v2_ptsz, (CUstream s, CUdeviceptr a, type v, unsigned f),     \
		 name##_v2(emu_per_thread(s), a, v, f))

VALUE_CALL(cuStreamWriteValue32, EMU_OP_WRITE_VALUE, cuuint32_t)
VALUE_CALL(cuStreamWaitValue32, EMU_OP_WAIT_VALUE, cuuint32_t)
VALUE_CALL(cuStreamWriteValue64, EMU_OP_WRITE_VALUE, cuuint64_t)
VALUE_CALL(cuStreamWaitValue64, EMU_OP_WAIT_VALUE, cuuint64_t)

CUresult CUDAAPI cuStreamBatchMemOp_v2(CUstream s, unsigned n, CUstreamBatchMemOpParams *ops,
				       unsigned flags)
{
	CUresult rc = ops && n && n <= 256 && !flags ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;

	for (unsigned i = 0; i < n && !rc; i++) {
		const CUstreamBatchMemOpParams *p = &ops[i];
		switch (p->operation) {
		case CU_STREAM_MEM_OP_WAIT_VALUE_32:
			rc = value_op(EMU_OP_WAIT_VALUE, s, p->waitValue.address,
				      p->waitValue.value, 4, p->waitValue.flags);
			break;
		case CU_STREAM_MEM_OP_WAIT_VALUE_64:
			rc = value_op(EMU_OP_WAIT_VALUE, s, p->waitValue.address,
				      p->waitValue.value64, 8, p->waitValue.flags);
			break;
		case CU_STREAM_MEM_OP_WRITE_VALUE_32:
			rc = value_op(EMU_OP_WRITE_VALUE, s, p->writeValue.address,
				      p->writeValue.value, 4, 0);
			break;
		case CU_STREAM_MEM_OP_WRITE_VALUE_64:
			rc = value_op(EMU_OP_WRITE_VALUE, s, p->writeValue.address,
				      p->writeValue.value64, 8, 0);
			break;
		default: /* barriers and flushes: everything here is in order anyway */
			break;
		}
	}
	return rc;
}
EMU_TWIN(cuStreamBatchMemOp_v2_ptsz,
	 (CUstream s, unsigned n, CUstreamBatchMemOpParams *o, unsigned f),
	 cuStreamBatchMemOp_v2(emu_per_thread(s), n, o, f))

/* ---- host functions ---- */

CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn fn, void *data)
{
	struct CUstream_st *s;
	CUresult rc = fn ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	struct emu_op *op;

	if (rc)
		return rc;
	op = emu_op_new(EMU_OP_HOST, s);
	if (op) {
		op->u.host.fn = fn;
		op->u.host.data = data;
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
	CUresult rc = callback && !flags ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	struct emu_op *op;

	if (rc)
		return rc;
	op = emu_op_new(EMU_OP_HOST, s);
	if (op) {
		op->u.host.callback = callback;
		op->u.host.data = data;
		op->u.host.stream = handle;
	}
	rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamAddCallback_ptsz, (CUstream s, CUstreamCallback c, void *d, unsigned f),
	 cuStreamAddCallback(emu_per_thread(s), c, d, f))

/* ---- events ---- */

CUresult CUDAAPI cuEventCreate(CUevent *out, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = out && !(flags & ~7u) ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct CUevent_st *e;

	if (rc)
		return rc;
	e = calloc(1, sizeof(*e));
	if (e) {
		e->root_id = ctx->root->id;
		e->flags = flags;
		emu_handle_add(e, EMU_HANDLE_EVENT);
		*out = e;
	}
	emu_exit();
	return e ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult begin_event(CUevent event)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (emu_handle_is(event, EMU_HANDLE_EVENT))
		return CUDA_SUCCESS;
	emu_exit();
	return CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuEventDestroy_v2(CUevent event)
{
	CUresult rc = begin_event(event);

	if (rc)
		return rc;
	emu_handle_remove(event);
	emu_op_unref(event->op);
	free(event);
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent event, CUstream handle, unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_stream(handle, &s);
	struct emu_op *op = NULL;

	if (rc)
		return rc;
	/* Event and stream must be of one context; green ones count as their primary. */
	if (!emu_handle_is(event, EMU_HANDLE_EVENT) || event->root_id != s->ctx->root->id)
		rc = CUDA_ERROR_INVALID_HANDLE;
	else
		op = emu_op_new(EMU_OP_NOP, s);
	if (!rc && !op)
		rc = CUDA_ERROR_OUT_OF_MEMORY;
	if (!rc) {
		emu_op_ref(op);
		rc = emu_op_submit(op, s);
		if (!rc) {
			emu_op_unref(event->op);
			event->op = op;
		}
	}
	emu_exit();
	return rc;
}
EMU_TWIN(cuEventRecordWithFlags_ptsz, (CUevent e, CUstream s, unsigned f),
	 cuEventRecordWithFlags(e, emu_per_thread(s), f))

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream handle)
{
	return cuEventRecordWithFlags(event, handle, 0);
}
EMU_TWIN(cuEventRecord_ptsz, (CUevent e, CUstream s), cuEventRecord(e, emu_per_thread(s)))

CUresult CUDAAPI cuEventQuery(CUevent event)
{
	CUresult rc = begin_event(event);

	if (rc)
		return rc;
	if (event->op)
		rc = event->op->done ? event->op->result : CUDA_ERROR_NOT_READY;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuEventSynchronize(CUevent event)
{
	CUresult rc = begin_event(event);

	if (rc)
		return rc;
	rc = emu_wait_op(event->op);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuEventElapsedTime_v2(float *ms, CUevent start, CUevent end)
{
	CUresult rc = ms ? begin_event(start) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (!emu_handle_is(end, EMU_HANDLE_EVENT) || !start->op || !end->op ||
	    (start->flags | end->flags) & CU_EVENT_DISABLE_TIMING)
		rc = CUDA_ERROR_INVALID_HANDLE;
	else if (!start->op->done || !end->op->done)
		rc = CUDA_ERROR_NOT_READY;
	else
		*ms = (float)((double)(int64_t)(end->op->done_ns - start->op->done_ns) / 1e6);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent start, CUevent end)
{
	return cuEventElapsedTime_v2(ms, start, end);
}
