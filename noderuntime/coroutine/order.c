/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/vctx.h"

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

/* The shadow of a stream that cannot move until its lock is given back. */
static CUstream lock_shadow(struct ds_vstream *stream)
{
	pthread_mutex_lock(&stream->lock);
	return atomic_load_explicit(&stream->shadow, memory_order_relaxed);
}

static CUresult record_behind(struct ds_vstream *stream)
{
	CUstream shadow = lock_shadow(stream);
	CUresult result = shadow ? ds_real.cuEventRecord(stream->event, shadow)
				 : CUDA_SUCCESS /* was at its end */;

	pthread_mutex_unlock(&stream->lock);
	return result;
}

/* *shadow, if asked for, is the one that waits. */
static CUresult wait_before(struct ds_vstream *stream, CUevent event, CUstream *waits)
{
	CUstream shadow = lock_shadow(stream);
	CUresult result = ds_real.cuStreamWaitEvent(shadow, event, 0);

	pthread_mutex_unlock(&stream->lock);
	if (waits)
		*waits = shadow;
	return result;
}

static bool break_capture(struct ds_vstream *stream)
{
	CUstream shadow = lock_shadow(stream);
	const bool broken = shadow && ds_order_break_capture(shadow);

	pthread_mutex_unlock(&stream->lock);
	return broken;
}

static bool is_captured(struct ds_vstream *stream)
{
	CUstream shadow = lock_shadow(stream);
	const bool captured = shadow && ds_order_captured(shadow);

	pthread_mutex_unlock(&stream->lock);
	return captured;
}

static bool is_gone(struct ds_vstream *stream)
{
	return !atomic_load_explicit(&stream->shadow, memory_order_relaxed);
}

CUresult ds_order_null(struct ds_vctx *vctx, CUstream *shadow)
{
	CUresult result = CUDA_SUCCESS;
	struct ds_vstream *next;
	int ordering = DS_ORDERING;

	pthread_mutex_lock(&vctx->lock);
	/*
	 * Not clean before the waits are there: another thread must not pass by. Who marks itself from
	 * now on is seen next time.
	 */
	atomic_exchange(&vctx->any_dirty, DS_ORDERING);
	for (struct ds_vstream *stream = vctx->blocking; stream; stream = next) {
		CUresult now = CUDA_SUCCESS;

		next = stream->next;
		if (!atomic_exchange(&stream->dirty, false))
			continue;
		/* As alone: the call fails, and the capture is invalid. */
		if (break_capture(stream))
			now = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
		else
			now = record_behind(stream);
		if (now == CUDA_SUCCESS)
			now = wait_before(&vctx->null, stream->event, NULL);
		if (now != CUDA_SUCCESS) {
			atomic_store(&stream->dirty, true);
			atomic_store(&vctx->any_dirty, DS_DIRTY);
			result = now;
		} else if (is_gone(stream)) {
			ds_streams_leave_order(stream);
		}
	}
	atomic_compare_exchange_strong(&vctx->any_dirty, &ordering, DS_CLEAN);
	*shadow = lock_shadow(&vctx->null);
	pthread_mutex_unlock(&vctx->null.lock);
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
		if (is_captured(stream))
			result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	pthread_mutex_unlock(&vctx->lock);
	return result;
}

CUresult ds_order_blocking(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream *shadow)
{
	CUresult result = CUDA_SUCCESS;
	uint64_t work;

	if (ds_order_captured(*shadow))
		return CUDA_SUCCESS;
	pthread_mutex_lock(&vctx->lock);
	/* Read before the event is recorded: what was counted is behind it. */
	work = atomic_load_explicit(&vctx->null_work, memory_order_acquire);
	if (vctx->null_recorded != work) {
		result = record_behind(&vctx->null);
		if (result == CUDA_SUCCESS)
			vctx->null_recorded = work;
	}
	if (result == CUDA_SUCCESS)
		result = wait_before(stream, vctx->null.event, shadow);
	if (result == CUDA_SUCCESS)
		atomic_store_explicit(&stream->seen, work, memory_order_release);
	pthread_mutex_unlock(&vctx->lock);
	return result;
}

CUresult ds_order_settle(struct ds_vctx *vctx)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	struct ds_mark *mark = ds_mark_get();
	CUresult result = CUDA_SUCCESS;
	CUstream shadow;

	if (!mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (atomic_load_explicit(&vctx->any_dirty, memory_order_acquire))
		result = ds_order_null(vctx, &shadow);
	if (result != CUDA_SUCCESS)
		return result;
	/* Our own wait: no act of the program's that a capture in another thread may forbid. */
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	result = ds_real.cuStreamSynchronize(ds_mark_wait_for(mark, &vctx->null.shadow));
	ds_mark_waited(mark);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	return result;
}
