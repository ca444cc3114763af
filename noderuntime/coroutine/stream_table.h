/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_STREAM_TABLE_H
#define DETSHARE_COROUTINE_STREAM_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "noderuntime/coroutine/cuda_api.h"

/*
 * Handle -> stream, read at every launch: open addressing, written under a lock, read without. It is at
 * most a quarter full, so that the first look nearly always finds. A table with no more room is
 * replaced by another; old ones stay, because a reader may still be in them (those that were smaller are
 * together smaller than the newest; one of the same size comes only after as many new handles).
 */
struct ds_vstream;

struct ds_stream_table {
	size_t mask; /* entries - 1; entries is a power of two */
	size_t used; /* entries that ever held a handle */
	size_t live; /* that hold one now */
	struct ds_stream_table *older;
	struct ds_stream_entry {
		_Atomic(CUstream) handle; /* NULL: free, and the end of a search */
		_Atomic(struct ds_vstream *) stream;
	} entries[];
};

static inline size_t ds_stream_hash(CUstream handle)
{
	return (size_t)(((uintptr_t)handle >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

/* The stream, or NULL. No lock. */
static inline struct ds_vstream *ds_stream_table_find(struct ds_stream_table *table,
						      CUstream handle)
{
	for (size_t i = ds_stream_hash(handle);; i++) {
		struct ds_stream_entry *entry = &table->entries[i & table->mask];
		CUstream found = atomic_load_explicit(&entry->handle, memory_order_acquire);

		if (__builtin_expect(found == handle, 1))
			return atomic_load_explicit(&entry->stream, memory_order_relaxed);
		if (!found)
			return NULL;
	}
}

/* An empty table; NULL: no memory. */
struct ds_stream_table *ds_stream_table_new(void);

/* Under the lock of *table. False: no memory. The handle is none of a default stream. */
bool ds_stream_table_put(_Atomic(struct ds_stream_table *) *table, CUstream handle,
			 struct ds_vstream *stream);
void ds_stream_table_remove(_Atomic(struct ds_stream_table *) *table, CUstream handle);

/* Free it, and those it replaced: nobody reads them any more. */
void ds_stream_table_free(struct ds_stream_table *table);

#endif
