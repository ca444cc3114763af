/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/stream_table.h"

#include <stdlib.h>

enum { FIRST_ENTRIES = 256 /* 4 KiB: 64 streams */ };

/* In a freed entry: searches go on past it, no program has it as a handle. */
#define TOMBSTONE CU_STREAM_PER_THREAD

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

struct ds_stream_table *ds_stream_table_new(void)
{
	return table_new(FIRST_ENTRIES, NULL);
}

static void put(struct ds_stream_table *table, CUstream handle, struct ds_vstream *stream)
{
	for (size_t i = ds_stream_hash(handle);; i++) {
		struct ds_stream_entry *entry = &table->entries[i & table->mask];
		CUstream found = atomic_load_explicit(&entry->handle, memory_order_relaxed);

		if (found && found != TOMBSTONE)
			continue;
		atomic_store_explicit(&entry->stream, stream, memory_order_relaxed);
		atomic_store_explicit(&entry->handle, handle, memory_order_release);
		table->used += !found;
		table->live++;
		return;
	}
}

/* One with room. If most of the old one was of streams that are no more, it need not be larger. */
static struct ds_stream_table *replace(struct ds_stream_table *old)
{
	const size_t n = old->mask + 1;
	struct ds_stream_table *table = table_new(old->live > n / 8 ? 2 * n : n, old);

	for (size_t i = 0; table && i < n; i++) {
		CUstream handle =
		    atomic_load_explicit(&old->entries[i].handle, memory_order_relaxed);

		if (handle && handle != TOMBSTONE)
			put(table, handle,
			    atomic_load_explicit(&old->entries[i].stream, memory_order_relaxed));
	}
	return table;
}

bool ds_stream_table_put(_Atomic(struct ds_stream_table *) *table, CUstream handle,
			 struct ds_vstream *stream)
{
	struct ds_stream_table *now = atomic_load_explicit(table, memory_order_relaxed);

	if (now->used >= (now->mask + 1) / 4) {
		now = replace(now);
		if (!now)
			return false;
		atomic_store_explicit(table, now, memory_order_release);
	}
	put(now, handle, stream);
	return true;
}

void ds_stream_table_remove(_Atomic(struct ds_stream_table *) *table, CUstream handle)
{
	struct ds_stream_table *now = atomic_load_explicit(table, memory_order_relaxed);

	for (size_t i = ds_stream_hash(handle);; i++) {
		struct ds_stream_entry *entry = &now->entries[i & now->mask];
		CUstream found = atomic_load_explicit(&entry->handle, memory_order_relaxed);

		if (!found)
			return;
		if (found != handle)
			continue;
		atomic_store_explicit(&entry->handle, TOMBSTONE, memory_order_release);
		now->live--;
		return;
	}
}

void ds_stream_table_free(struct ds_stream_table *table)
{
	while (table) {
		struct ds_stream_table *older = table->older;

		free(table);
		table = older;
	}
}
