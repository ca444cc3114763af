/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/vctx.h"

#include <stdlib.h>

/*
 * Handle -> stream, read at every launch: open addressing, written under the context's lock, read
 * without. A table that is full is replaced by one of twice the size; old ones stay, because a
 * reader may still be in them (together they are smaller than the newest).
 */
struct ds_stream_table {
	size_t mask; /* entries - 1; entries is a power of two */
	size_t used; /* entries that ever held a handle */
	struct ds_stream_table *older;
	struct ds_stream_entry {
		_Atomic(CUstream) handle; /* NULL: free, and the end of a search */
		_Atomic(struct ds_vstream *) stream;
	} entries[];
};

enum { FIRST_ENTRIES = 64 };

/* In a freed entry: searches go on past it, no program has it as a handle. */
#define TOMBSTONE CU_STREAM_PER_THREAD

static __thread struct {
	unsigned generation;
	struct ds_vstream *stream;
} thread_default;

static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;

static size_t hash(CUstream handle)
{
	return (size_t)(((uintptr_t)handle >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

struct ds_vstream *ds_streams_find(struct ds_vctx *vctx, CUstream handle)
{
	struct ds_stream_table *table = atomic_load_explicit(&vctx->streams, memory_order_acquire);

	for (size_t i = hash(handle);; i++) {
		struct ds_stream_entry *entry = &table->entries[i & table->mask];
		CUstream found = atomic_load_explicit(&entry->handle, memory_order_acquire);

		if (found == handle)
			return atomic_load_explicit(&entry->stream, memory_order_relaxed);
		if (!found)
			return NULL;
	}
}

static struct ds_stream_table *table_new(size_t n_entries, struct ds_stream_table *older)
{
	struct ds_stream_table *table =
	    calloc(1, sizeof(*table) + n_entries * sizeof(table->entries[0]));

	if (table) {
		table->mask = n_entries - 1;
		table->older = older;
	}
	return table;
}

static void table_put(struct ds_stream_table *table, CUstream handle, struct ds_vstream *stream)
{
	for (size_t i = hash(handle);; i++) {
		struct ds_stream_entry *entry = &table->entries[i & table->mask];
		CUstream found = atomic_load_explicit(&entry->handle, memory_order_relaxed);

		if (found && found != TOMBSTONE)
			continue;
		atomic_store_explicit(&entry->stream, stream, memory_order_relaxed);
		atomic_store_explicit(&entry->handle, handle, memory_order_release);
		table->used += !found;
		return;
	}
}

/* Under the lock. At most three quarters full, so that every search ends at a free entry. */
static bool table_make_room(struct ds_vctx *vctx)
{
	struct ds_stream_table *table = atomic_load_explicit(&vctx->streams, memory_order_relaxed);
	struct ds_stream_table *bigger;

	if (table->used * 4 < (table->mask + 1) * 3)
		return true;
	bigger = table_new((table->mask + 1) * 2, table);
	if (!bigger)
		return false;
	for (size_t i = 0; i <= table->mask; i++) {
		CUstream handle =
		    atomic_load_explicit(&table->entries[i].handle, memory_order_relaxed);

		if (handle && handle != TOMBSTONE)
			table_put(
			    bigger, handle,
			    atomic_load_explicit(&table->entries[i].stream, memory_order_relaxed));
	}
	atomic_store_explicit(&vctx->streams, bigger, memory_order_release);
	return true;
}

static void table_remove(struct ds_vctx *vctx, CUstream handle)
{
	struct ds_stream_table *table = atomic_load_explicit(&vctx->streams, memory_order_relaxed);

	for (size_t i = hash(handle);; i++) {
		struct ds_stream_entry *entry = &table->entries[i & table->mask];
		CUstream found = atomic_load_explicit(&entry->handle, memory_order_relaxed);

		if (found == handle)
			atomic_store_explicit(&entry->handle, TOMBSTONE, memory_order_release);
		if (!found || found == handle)
			return;
	}
}

static void link_blocking(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	stream->next = vctx->blocking;
	stream->link = &vctx->blocking;
	if (stream->next)
		stream->next->link = &stream->next;
	vctx->blocking = stream;
}

/* The driver's part of a stream: a shadow in the partition and, if it takes part in the order, an event. */
static CUresult make_shadow(struct ds_vctx *vctx, struct ds_vstream *stream, int priority)
{
	CUresult result = ds_real.cuGreenCtxStreamCreate(&stream->shadow, vctx->pctx.green,
							 CU_STREAM_NON_BLOCKING, priority);

	if (result != CUDA_SUCCESS || stream->kind == DS_STREAM_FREE)
		return result;
	/* An event belongs to the current context, which may be another's. */
	result = ds_real.cuCtxPushCurrent_v2(vctx->primary);
	if (result == CUDA_SUCCESS) {
		CUcontext popped;

		result = ds_real.cuEventCreate(&stream->event, CU_EVENT_DISABLE_TIMING);
		ds_real.cuCtxPopCurrent_v2(&popped);
	}
	if (result != CUDA_SUCCESS) {
		ds_real.cuStreamDestroy_v2(stream->shadow);
		stream->shadow = NULL;
	}
	return result;
}

CUresult ds_streams_init(struct ds_vctx *vctx)
{
	struct ds_stream_table *table = table_new(FIRST_ENTRIES, NULL);

	if (!table)
		return CUDA_ERROR_OUT_OF_MEMORY;
	atomic_store_explicit(&vctx->streams, table, memory_order_relaxed);
	vctx->null = (struct ds_vstream){.kind = DS_STREAM_NULL};
	return make_shadow(vctx, &vctx->null, 0);
}

static struct ds_vstream *vstream_new(enum ds_stream_kind kind, unsigned flags)
{
	struct ds_vstream *stream = calloc(1, sizeof(*stream));

	if (stream) {
		stream->kind = kind;
		stream->flags = flags;
	}
	return stream;
}

CUresult ds_streams_create(struct ds_vctx *vctx, unsigned flags, int priority,
			   struct ds_vstream **out)
{
	struct ds_vstream *stream = vstream_new(
	    flags & CU_STREAM_NON_BLOCKING ? DS_STREAM_FREE : DS_STREAM_BLOCKING, flags);
	CUresult result;

	*out = NULL;
	if (!stream)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = make_shadow(vctx, stream, priority);
	if (result != CUDA_SUCCESS) {
		free(stream);
		return result;
	}
	pthread_mutex_lock(&vctx->lock);
	if (table_make_room(vctx)) {
		table_put(atomic_load_explicit(&vctx->streams, memory_order_relaxed),
			  stream->shadow, stream);
		if (stream->kind == DS_STREAM_BLOCKING)
			link_blocking(vctx, stream);
		*out = stream;
	}
	pthread_mutex_unlock(&vctx->lock);
	if (!*out) {
		ds_real.cuStreamDestroy_v2(stream->shadow);
		free(stream);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	return CUDA_SUCCESS;
}

/*
 * A blocking stream whose work the NULL stream has not waited for leaves its event behind: the NULL
 * stream's next operation waits for it and forgets the stream (see order.c).
 */
static CUresult destroy(struct ds_vctx *vctx, struct ds_vstream *stream, bool in_table)
{
	CUstream shadow = stream->shadow;
	bool left_behind = false;
	CUresult result;

	pthread_mutex_lock(&vctx->lock);
	if (in_table)
		table_remove(vctx, shadow);
	if (stream->kind == DS_STREAM_BLOCKING) {
		left_behind = atomic_load_explicit(&stream->dirty, memory_order_acquire) &&
			      !ds_order_captured(shadow) &&
			      ds_real.cuEventRecord(stream->event, shadow) == CUDA_SUCCESS;
		if (left_behind) {
			stream->shadow = NULL;
		} else {
			*stream->link = stream->next;
			if (stream->next)
				stream->next->link = stream->link;
			ds_real.cuEventDestroy_v2(stream->event);
		}
	}
	pthread_mutex_unlock(&vctx->lock);
	result = ds_real.cuStreamDestroy_v2(shadow);
	if (!left_behind)
		free(stream);
	return result;
}

CUresult ds_streams_destroy(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	return destroy(vctx, stream, true);
}

bool ds_streams_break_captures(struct ds_vctx *vctx)
{
	struct ds_stream_table *table;
	bool any = false;

	if (atomic_load_explicit(&vctx->captures, memory_order_relaxed) <= 0)
		return false;
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->blocking; stream; stream = stream->next)
		any |= stream->shadow && ds_order_break_capture(stream->shadow);
	table = atomic_load_explicit(&vctx->streams, memory_order_relaxed);
	for (size_t i = 0; i <= table->mask; i++) {
		CUstream handle =
		    atomic_load_explicit(&table->entries[i].handle, memory_order_relaxed);

		if (handle && handle != TOMBSTONE)
			any |= ds_order_break_capture(handle);
	}
	pthread_mutex_unlock(&vctx->lock);
	return any;
}

void ds_streams_drop(struct ds_vctx *vctx)
{
	struct ds_stream_table *table = atomic_load_explicit(&vctx->streams, memory_order_relaxed);

	for (size_t i = 0; table && i <= table->mask; i++) {
		CUstream handle =
		    atomic_load_explicit(&table->entries[i].handle, memory_order_relaxed);
		struct ds_vstream *stream =
		    atomic_load_explicit(&table->entries[i].stream, memory_order_relaxed);

		if (handle && handle != TOMBSTONE && stream->kind == DS_STREAM_FREE)
			free(stream);
	}
	while (vctx->blocking) {
		struct ds_vstream *stream = vctx->blocking;

		vctx->blocking = stream->next;
		free(stream);
	}
	while (table) {
		struct ds_stream_table *older = table->older;

		free(table);
		table = older;
	}
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
	struct ds_vstream *stream = vstream_new(DS_STREAM_BLOCKING, 0);
	CUresult result;

	if (!stream)
		return CUDA_ERROR_OUT_OF_MEMORY;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	result = make_shadow(vctx, stream, 0);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (result != CUDA_SUCCESS) {
		free(stream);
		return result;
	}
	pthread_mutex_lock(&vctx->lock);
	link_blocking(vctx, stream);
	pthread_mutex_unlock(&vctx->lock);
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
