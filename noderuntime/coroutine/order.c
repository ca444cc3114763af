/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/vctx.h"

#include <stdlib.h>

/*
 * The legacy order: the NULL stream's work waits for all earlier work of the blocking streams, and
 * theirs for all earlier work of the NULL stream. A captured stream takes no part in it; the NULL
 * stream may not run while a blocking stream is captured.
 *
 * A stream wait looks back to what is recorded at the time of the call, so no order of calls made
 * here can close a circle.
 */

/* A capture that has become invalid is one until it is ended. */
bool ds_order_captured(CUstream shadow)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;

	return ds_real.cuStreamIsCapturing(shadow, &status) == CUDA_SUCCESS &&
	       status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* To wait for a captured stream is what the driver punishes so. */
bool ds_order_break_capture(CUstream shadow)
{
	if (!ds_order_captured(shadow))
		return false;
	ds_real.cuStreamSynchronize(shadow);
	return true;
}

static void forget(struct ds_vstream *stream)
{
	*stream->link = stream->next;
	if (stream->next)
		stream->next->link = stream->link;
	ds_real.cuEventDestroy_v2(stream->event);
	free(stream);
}

/* Under the lock. */
static CUresult wait_for(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	CUresult result = CUDA_SUCCESS;

	if (stream->shadow)
		result = ds_real.cuEventRecord(stream->event, stream->shadow);
	if (result == CUDA_SUCCESS)
		result = ds_real.cuStreamWaitEvent(vctx->null.shadow, stream->event, 0);
	return result;
}

CUresult ds_order_null(struct ds_vctx *vctx)
{
	CUresult result = CUDA_SUCCESS;
	struct ds_vstream *next;

	pthread_mutex_lock(&vctx->lock);
	/* Cleared before the streams are looked at: who marks itself later is seen next time. */
	atomic_exchange(&vctx->any_dirty, false);
	for (struct ds_vstream *stream = vctx->blocking; stream; stream = next) {
		CUresult now = CUDA_SUCCESS;

		next = stream->next;
		if (!atomic_exchange(&stream->dirty, false))
			continue;
		/* As alone: the call fails, and the capture is invalid. */
		if (stream->shadow && ds_order_break_capture(stream->shadow))
			now = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
		else
			now = wait_for(vctx, stream);
		if (now != CUDA_SUCCESS) {
			atomic_store(&stream->dirty, true);
			atomic_store(&vctx->any_dirty, true);
			result = now;
		} else if (!stream->shadow) {
			forget(stream);
		}
	}
	pthread_mutex_unlock(&vctx->lock);
	return result;
}

CUresult ds_order_null_may_ask(struct ds_vctx *vctx)
{
	CUresult result = CUDA_SUCCESS;

	if (atomic_load_explicit(&vctx->captures, memory_order_relaxed) <= 0)
		return CUDA_SUCCESS;
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->blocking; stream; stream = stream->next)
		if (stream->shadow && ds_order_captured(stream->shadow))
			result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	pthread_mutex_unlock(&vctx->lock);
	return result;
}

CUresult ds_order_blocking(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	CUresult result = CUDA_SUCCESS;
	uint64_t work;

	if (ds_order_captured(stream->shadow))
		return CUDA_SUCCESS;
	pthread_mutex_lock(&vctx->lock);
	/* Read before the event is recorded: what was counted is behind it. */
	work = atomic_load_explicit(&vctx->null_work, memory_order_acquire);
	if (vctx->null_recorded != work) {
		result = ds_real.cuEventRecord(vctx->null.event, vctx->null.shadow);
		if (result == CUDA_SUCCESS)
			vctx->null_recorded = work;
	}
	if (result == CUDA_SUCCESS)
		result = ds_real.cuStreamWaitEvent(stream->shadow, vctx->null.event, 0);
	if (result == CUDA_SUCCESS)
		atomic_store_explicit(&stream->seen, work, memory_order_release);
	pthread_mutex_unlock(&vctx->lock);
	return result;
}

CUresult ds_order_settle(struct ds_vctx *vctx)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	CUresult result = CUDA_SUCCESS;

	if (atomic_load_explicit(&vctx->any_dirty, memory_order_acquire))
		result = ds_order_null(vctx);
	if (result != CUDA_SUCCESS)
		return result;
	/* Our own wait: no act of the program's that a capture in another thread may forbid. */
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	result = ds_real.cuStreamSynchronize(vctx->null.shadow);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	return result;
}
