/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/vctx.h"

#include <stdlib.h>

/*
 * To wait for all that the program has put on its streams. Not with cuCtxSynchronize: that ends every
 * capture under way, in whatever thread and mode. So each stream that has work leaves an event behind, and
 * those are waited for by the host, one after the other: a stream that waited for them all would share a
 * queue of the GPU's with others, and could hold up what one of them needs to end.
 */
struct awaited {
	struct ds_vstream *stream; /* with a user, so that its event lasts */
	CUevent event;
};

/* What stands behind the stream's work, or NULL: there is none. Under its lock. */
static CUevent behind(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	CUstream shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);

	/* To ask a captured stream would end the capture; under its lock it does not become one. */
	if (atomic_load_explicit(&vctx->captures, memory_order_relaxed) > 0 &&
	    ds_order_captured(shadow))
		return stream->uncaptured;
	if (ds_real.cuStreamQuery(shadow) != CUDA_ERROR_NOT_READY ||
	    ds_real.cuEventRecord(stream->moved, shadow) != CUDA_SUCCESS)
		return NULL;
	return stream->moved;
}

static bool done(CUevent event)
{
	return !event || ds_real.cuEventQuery(event) != CUDA_ERROR_NOT_READY;
}

static void await(struct awaited awaited[], size_t *n, struct ds_vstream *stream, CUevent event)
{
	if (done(event))
		return;
	stream->users++;
	awaited[(*n)++] = (struct awaited){stream, event};
}

/* Everything that has work now. The caller frees it; NULL: no memory. */
static struct awaited *list(struct ds_vctx *vctx, size_t *n)
{
	struct awaited *awaited;
	size_t room = 1;

	*n = 0;
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next)
		room++;
	for (struct ds_vstream *stream = vctx->destroyed; stream; stream = stream->all_next)
		room++;
	awaited = malloc(room * sizeof(*awaited));
	for (struct ds_vstream *stream = vctx->all; awaited && stream; stream = stream->all_next) {
		pthread_mutex_lock(&stream->lock);
		await(awaited, n, stream, behind(vctx, stream));
		pthread_mutex_unlock(&stream->lock);
	}
	for (struct ds_vstream *stream = vctx->destroyed; awaited && stream;
	     stream = stream->all_next)
		await(awaited, n, stream, stream->moved_recorded ? stream->moved : NULL);
	pthread_mutex_unlock(&vctx->lock);
	return awaited;
}

static void forget(struct ds_vctx *vctx, unsigned generation, const struct awaited awaited[],
		   size_t n)
{
	pthread_mutex_lock(&vctx->lock);
	/* After a reset there are no such streams any more. */
	for (size_t i = 0; generation == vctx->generation && i < n; i++)
		awaited[i].stream->users--;
	pthread_mutex_unlock(&vctx->lock);
}

CUresult ds_streams_wait(struct ds_vctx *vctx)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	const unsigned generation = vctx->generation;
	struct awaited *awaited;
	size_t n;

	/* Our own questions: no act of the program's that a capture in another thread may forbid. */
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	awaited = list(vctx, &n);
	for (size_t i = 0; i < n; i++)
		ds_real.cuEventSynchronize(awaited[i].event);
	forget(vctx, generation, awaited, n);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (!awaited)
		return CUDA_ERROR_OUT_OF_MEMORY;
	free(awaited);
	return CUDA_SUCCESS;
}
