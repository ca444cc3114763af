/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/remap.h"

#include <stdlib.h>
#include <string.h>

#include "noderuntime/coroutine/ahead.h"

static __thread struct {
	unsigned generation;
	struct ds_vstream *stream;
} thread_default;

static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;

static void link_blocking(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	stream->next = vctx->blocking;
	stream->link = &vctx->blocking;
	if (stream->next)
		stream->next->link = &stream->next;
	vctx->blocking = stream;
}

static void link_all(struct ds_vstream **list, struct ds_vstream *stream)
{
	stream->all_next = *list;
	stream->all_link = list;
	if (stream->all_next)
		stream->all_next->all_link = &stream->all_next;
	*list = stream;
}

static void unlink_all(struct ds_vstream *stream)
{
	*stream->all_link = stream->all_next;
	if (stream->all_next)
		stream->all_next->all_link = stream->all_link;
}

static void destroy_event(CUevent *event)
{
	if (*event)
		ds_real.cuEventDestroy_v2(*event);
	*event = NULL;
}

static CUresult make_event(struct ds_vctx *vctx, CUevent *event)
{
	CUcontext popped;
	CUresult result;

	/* An event belongs to the current context, which may be another's. */
	result = ds_real.cuCtxPushCurrent_v2(vctx->primary);
	if (result != CUDA_SUCCESS)
		return result;
	result = ds_real.cuEventCreate(event, CU_EVENT_DISABLE_TIMING);
	ds_real.cuCtxPopCurrent_v2(&popped);
	return result;
}

/*
 * The driver's part of a stream: a shadow in the first partition, which is its handle, and one where new
 * work goes now; an event for when it moves and, if it takes part in the order, another.
 */
static CUresult make_real(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	struct ds_pctx *first = ds_remap_slot(vctx, 0);
	struct ds_mark *mark = ds_mark_get();
	CUresult result;

	if (!mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuGreenCtxStreamCreate(&stream->handle, first->green,
						CU_STREAM_NON_BLOCKING, stream->priority);
	if (result != CUDA_SUCCESS)
		return result;
	result = make_event(vctx, &stream->moved);
	if (result == CUDA_SUCCESS && stream->kind != DS_STREAM_FREE)
		result = make_event(vctx, &stream->event);
	if (result != CUDA_SUCCESS) {
		destroy_event(&stream->moved);
		ds_real.cuStreamDestroy_v2(stream->handle);
		return result;
	}
	stream->shadows[first->slot] = stream->handle;
	stream->worked = 1U << first->slot;
	atomic_store_explicit(&stream->pctx, first, memory_order_relaxed);
	atomic_store_explicit(&stream->shadow, stream->handle, memory_order_relaxed);
	/* If this fails, the first operation tries again and says so. */
	ds_mark_begin(mark);
	ds_remap_prepare(stream, ds_remap_target(vctx));
	ds_mark_end(mark);
	return CUDA_SUCCESS;
}

static void vstream_init(struct ds_vstream *stream, enum ds_stream_kind kind, unsigned flags,
			 int priority)
{
	*stream = (struct ds_vstream){.kind = kind, .flags = flags, .priority = priority};
	atomic_store_explicit(&stream->epoch, DS_EPOCH_NONE, memory_order_relaxed);
	pthread_mutex_init(&stream->lock, NULL);
}

static struct ds_vstream *vstream_new(enum ds_stream_kind kind, unsigned flags, int priority)
{
	struct ds_vstream *stream = malloc(sizeof(*stream));

	if (stream)
		vstream_init(stream, kind, flags, priority);
	return stream;
}

static void vstream_free(struct ds_vstream *stream)
{
	ds_ahead_leave(stream);
	ds_watchdog_leave(&stream->watched);
	pthread_mutex_destroy(&stream->lock);
	free(stream);
}

CUresult ds_streams_init(struct ds_vctx *vctx)
{
	struct ds_stream_table *table = ds_stream_table_new();
	CUresult result;

	if (!table)
		return CUDA_ERROR_OUT_OF_MEMORY;
	atomic_store_explicit(&vctx->streams, table, memory_order_relaxed);
	vctx->destroyed_end = &vctx->destroyed;
	vstream_init(&vctx->null, DS_STREAM_NULL, 0, 0);
	result = make_real(vctx, &vctx->null);
	if (result == CUDA_SUCCESS)
		link_all(&vctx->all, &vctx->null);
	return result;
}

/* Marked until it is in the lists, for the same reason as when it is destroyed. */
static CUresult create_marked(struct ds_vctx *vctx, CUcontext made_in, unsigned flags, int priority,
			      struct ds_vstream **out)
{
	struct ds_vstream *stream = vstream_new(
	    flags & CU_STREAM_NON_BLOCKING ? DS_STREAM_FREE : DS_STREAM_BLOCKING, flags, priority);
	CUresult result;

	*out = NULL;
	if (!stream)
		return CUDA_ERROR_OUT_OF_MEMORY;
	stream->made_in = made_in;
	result = make_real(vctx, stream);
	if (result != CUDA_SUCCESS) {
		vstream_free(stream);
		return result;
	}
	pthread_mutex_lock(&vctx->lock);
	if (ds_stream_table_put(&vctx->streams, stream->handle, stream)) {
		if (stream->kind == DS_STREAM_BLOCKING)
			link_blocking(vctx, stream);
		link_all(&vctx->all, stream);
		*out = stream;
	}
	pthread_mutex_unlock(&vctx->lock);
	if (!*out) {
		for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
			if (stream->shadows[slot])
				ds_real.cuStreamDestroy_v2(stream->shadows[slot]);
		destroy_event(&stream->moved);
		destroy_event(&stream->event);
		vstream_free(stream);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	return CUDA_SUCCESS;
}

CUresult ds_streams_create(struct ds_vctx *vctx, CUcontext made_in, unsigned flags, int priority,
			   struct ds_vstream **out)
{
	struct ds_mark *mark = ds_mark_get();
	CUresult result;

	*out = NULL;
	if (!mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	ds_mark_begin(mark);
	result = create_marked(vctx, made_in, flags, priority, out);
	ds_mark_end(mark);
	return result;
}

CUresult ds_streams_join(struct ds_vctx *vctx)
{
	CUresult result = CUDA_SUCCESS;

	if (!vctx->joined)
		result = make_event(vctx, &vctx->joined);
	if (result == CUDA_SUCCESS && !vctx->join)
		result = ds_real.cuGreenCtxStreamCreate(&vctx->join, ds_remap_slot(vctx, 0)->green,
							CU_STREAM_NON_BLOCKING, 0);
	return result;
}

void ds_streams_note_uncaptured(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	CUstream shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);

	if (!shadow || ds_order_captured(shadow))
		return;
	if (stream->uncaptured || make_event(vctx, &stream->uncaptured) == CUDA_SUCCESS)
		ds_real.cuEventRecord(stream->uncaptured, shadow);
}

void ds_streams_leave_order(struct ds_vstream *stream)
{
	*stream->link = stream->next;
	if (stream->next)
		stream->next->link = stream->link;
	stream->link = NULL;
	destroy_event(&stream->event);
}

enum { REAP_FEW = 4 };

void ds_streams_reap(struct ds_vctx *vctx, bool all)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	unsigned left = all ? UINT32_MAX : REAP_FEW;
	struct ds_vstream *next;

	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->destroyed; stream && left; stream = next, left--) {
		next = stream->all_next;
		if (stream->users || stream->link ||
		    (stream->moved_recorded &&
		     ds_real.cuEventQuery(stream->moved) == CUDA_ERROR_NOT_READY))
			continue;
		if (vctx->destroyed_end == &stream->all_next)
			vctx->destroyed_end = stream->all_link;
		unlink_all(stream);
		destroy_event(&stream->moved);
		destroy_event(&stream->uncaptured);
		destroy_event(&stream->watched.event);
		vstream_free(stream);
	}
	pthread_mutex_unlock(&vctx->lock);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
}

/* Have `moved` stand behind the last work of a stream that goes; what is captured does not run. */
static void leave_end(struct ds_vstream *stream, CUstream shadow, bool captured)
{
	CUevent moved = stream->moved;

	if (!captured) {
		stream->moved_recorded =
		    ds_real.cuEventRecord(stream->moved, shadow) == CUDA_SUCCESS;
	} else if (stream->uncaptured) {
		stream->moved = stream->uncaptured;
		stream->uncaptured = moved;
		stream->moved_recorded = true;
	}
}

/*
 * A blocking stream whose work the NULL stream has not waited for leaves an event behind: the NULL
 * stream's next operation waits for it (see order.c). And every stream leaves one behind that tells
 * when the partitions it worked in are done with it (see acknowledger.c). Marked, for once it is in no list
 * nobody else knows of its shadows: their physical contexts must not be destroyed before them.
 */
static CUresult destroy_marked(struct ds_vctx *vctx, struct ds_vstream *stream, bool in_table)
{
	CUstream shadow, shadows[DS_PCTX_MAX];
	bool captured, capture_began;
	CUresult result;

	pthread_mutex_lock(&vctx->lock);
	if (in_table)
		ds_stream_table_remove(&vctx->streams, stream->handle);
	pthread_mutex_lock(&stream->lock);
	shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);
	captured = ds_order_captured(shadow);
	if (stream->link &&
	    (!atomic_load_explicit(&stream->dirty, memory_order_acquire) || captured ||
	     ds_real.cuEventRecord(stream->event, shadow) != CUDA_SUCCESS))
		ds_streams_leave_order(stream);
	leave_end(stream, shadow, captured);
	capture_began = stream->capture_began;
	atomic_store_explicit(&stream->shadow, NULL, memory_order_relaxed);
	memcpy(shadows, stream->shadows, sizeof(shadows));
	memset(stream->shadows, 0, sizeof(stream->shadows));
	pthread_mutex_unlock(&stream->lock);
	unlink_all(stream);
	/* At the end: the longest destroyed is the first to be done. */
	link_all(vctx->destroyed_end, stream);
	vctx->destroyed_end = &stream->all_next;
	pthread_mutex_unlock(&vctx->lock);
	result = ds_real.cuStreamDestroy_v2(shadow);
	if (capture_began) /* it ended with the stream */
		atomic_fetch_sub_explicit(&vctx->captures, 1, memory_order_relaxed);
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
		if (shadows[slot] && shadows[slot] != shadow)
			ds_real.cuStreamDestroy_v2(shadows[slot]);
	return result;
}

static CUresult destroy(struct ds_vctx *vctx, struct ds_vstream *stream, bool in_table)
{
	struct ds_mark *mark = ds_mark_get();
	CUresult result;

	if (!mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	ds_mark_begin(mark);
	result = destroy_marked(vctx, stream, in_table);
	ds_mark_end(mark);
	ds_streams_reap(vctx, false);
	return result;
}

CUresult ds_streams_destroy(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	return destroy(vctx, stream, true);
}

void ds_streams_destroy_of(struct ds_vctx *vctx, CUcontext made_in)
{
	struct ds_mark *mark = ds_mark_get();
	struct ds_vstream *stream;

	while (mark) {
		pthread_mutex_lock(&vctx->lock);
		for (stream = vctx->all; stream && stream->made_in != made_in;)
			stream = stream->all_next;
		pthread_mutex_unlock(&vctx->lock);
		if (!stream)
			return;
		/* No thread may use it any more, so nobody else destroys it; it may still be moved. */
		ds_real.cuStreamSynchronize(ds_mark_wait_for(mark, &stream->shadow));
		ds_mark_waited(mark);
		destroy(vctx, stream, true);
	}
}

bool ds_streams_break_captures(struct ds_vctx *vctx)
{
	bool any = false;

	if (atomic_load_explicit(&vctx->captures, memory_order_relaxed) <= 0)
		return false;
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next) {
		pthread_mutex_lock(&stream->lock);
		any |= ds_order_break_capture(
		    atomic_load_explicit(&stream->shadow, memory_order_relaxed));
		pthread_mutex_unlock(&stream->lock);
	}
	pthread_mutex_unlock(&vctx->lock);
	return any;
}

static void free_list(struct ds_vctx *vctx, struct ds_vstream **list)
{
	while (*list) {
		struct ds_vstream *stream = *list;

		*list = stream->all_next;
		if (stream != &vctx->null) {
			vstream_free(stream);
			continue;
		}
		ds_ahead_leave(stream);
		ds_watchdog_leave(&stream->watched);
	}
}

void ds_streams_drop(struct ds_vctx *vctx)
{
	struct ds_stream_table *table = atomic_load_explicit(&vctx->streams, memory_order_relaxed);

	free_list(vctx, &vctx->all);
	free_list(vctx, &vctx->destroyed);
	vctx->destroyed_end = &vctx->destroyed;
	vctx->blocking = NULL;
	vctx->join = NULL;
	vctx->joined = NULL;
	ds_stream_table_free(table);
	atomic_store_explicit(&vctx->streams, NULL, memory_order_relaxed);
}

static void thread_ends(void *unused)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);

	if (vctx && thread_default.stream && thread_default.generation == vctx->generation)
		destroy(vctx, thread_default.stream, false);
	thread_default.stream = NULL;
}

static void make_thread_key(void)
{
	/* Without a key the stream of an ended thread lives on: a leak, not an error. */
	if (pthread_key_create(&thread_key, thread_ends) != 0)
		thread_key = (pthread_key_t)-1;
}

/* Made in whatever capture mode the thread is: it is no act of the program's. */
static CUresult make_thread_default(struct ds_vctx *vctx, struct ds_vstream **out)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	struct ds_mark *mark = ds_mark_get();
	struct ds_vstream *stream = mark ? vstream_new(DS_STREAM_BLOCKING, 0, 0) : NULL;
	CUresult result;

	if (!stream)
		return CUDA_ERROR_OUT_OF_MEMORY;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	ds_mark_begin(mark);
	result = make_real(vctx, stream);
	if (result == CUDA_SUCCESS) {
		pthread_mutex_lock(&vctx->lock);
		link_blocking(vctx, stream);
		link_all(&vctx->all, stream);
		pthread_mutex_unlock(&vctx->lock);
	}
	ds_mark_end(mark);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (result != CUDA_SUCCESS) {
		vstream_free(stream);
		return result;
	}
	pthread_once(&thread_key_once, make_thread_key);
	pthread_setspecific(thread_key, stream);
	thread_default.generation = vctx->generation;
	thread_default.stream = stream;
	*out = stream;
	return CUDA_SUCCESS;
}

CUresult ds_streams_of_thread(struct ds_vctx *vctx, struct ds_vstream **stream)
{
	if (thread_default.stream && thread_default.generation == vctx->generation) {
		*stream = thread_default.stream;
		return CUDA_SUCCESS;
	}
	return make_thread_default(vctx, stream);
}
