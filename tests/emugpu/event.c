/* SPDX-License-Identifier: Apache-2.0 */
/* Events: recorded in streams, asked for and timed. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>

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
	emu_capture_forget_event(event);
	emu_op_unref(event->op);
	free(event);
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent event, CUstream handle, unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_work(handle, &s);
	struct emu_op *op = NULL;

	if (rc)
		return rc;
	/* Event and stream must be of one context; green ones count as their primary. */
	if (!emu_handle_is(event, EMU_HANDLE_EVENT) || event->root_id != s->ctx->root->id) {
		rc = CUDA_ERROR_INVALID_HANDLE;
	} else if (s->capture) {
		rc = emu_capture_record(s, event, flags);
	} else {
		op = emu_op_new(EMU_OP_NOP, s);
		rc = op ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (!rc && op) {
		emu_op_ref(op);
		rc = emu_op_submit(op, s);
		if (!rc) {
			emu_capture_forget_event(event);
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
	rc = emu_capture_not_this_event(event);
	if (!rc)
		rc = emu_capture_unsafe();
	if (!rc && event->op)
		rc = event->op->done ? event->op->result : CUDA_ERROR_NOT_READY;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuEventSynchronize(CUevent event)
{
	CUresult rc = begin_event(event);

	if (rc)
		return rc;
	rc = emu_capture_not_this_event(event);
	if (!rc)
		rc = emu_capture_unsafe();
	if (!rc)
		rc = emu_wait_op(event->op);
	emu_pools_synchronised();
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
