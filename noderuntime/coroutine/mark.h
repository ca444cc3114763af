/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_MARK_H
#define DETSHARE_COROUTINE_MARK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/cuda_api.h"

/*
 * Each thread says when it is about to give the driver work, and when the driver has taken it. Who
 * changes where work goes publishes the change, calls ds_marks_fence(), and then waits for those who
 * began before: all others see the change. The mark costs its thread two plain stores; the fence makes
 * every running thread of the process pass a barrier.
 */
struct ds_mark {
	_Atomic uint64_t word; /* times ended << 8 | begun and not ended */
	/* A stream that the thread waits for, maybe for long, which must not be destroyed meanwhile. */
	_Atomic(CUstream) waits_for;
	atomic_bool taken; /* a thread's; else free for the next thread */
	struct ds_mark *next;
};

extern __thread struct ds_mark *ds_mark_mine __attribute__((visibility("hidden")));

/* Give the calling thread a mark; it goes back when the thread ends. NULL: no memory. */
struct ds_mark *ds_mark_take(void);

/* The calling thread's mark, or NULL: no memory. */
static inline struct ds_mark *ds_mark_get(void)
{
	struct ds_mark *mark = ds_mark_mine;

	return __builtin_expect(mark != NULL, 1) ? mark : ds_mark_take();
}

/* Everything that the thread reads after this, it reads marked. May nest. */
static inline void ds_mark_begin(struct ds_mark *mark)
{
	atomic_store_explicit(&mark->word,
			      atomic_load_explicit(&mark->word, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void ds_mark_end(struct ds_mark *mark)
{
	const uint64_t word = atomic_load_explicit(&mark->word, memory_order_relaxed);

	atomic_store_explicit(&mark->word, (word & 0xff) == 1 ? word + 0xff : word - 1,
			      memory_order_release);
}

/* Between two begins and their ends. Only of the calling thread's. */
static inline bool ds_mark_is_nested(const struct ds_mark *mark)
{
	return (atomic_load_explicit(&mark->word, memory_order_relaxed) & 0xff) > 1;
}

/* Name the stream that the thread is about to wait for: the one in *stream once it is named. */
static inline CUstream ds_mark_wait_for(struct ds_mark *mark, _Atomic(CUstream) *stream)
{
	CUstream named;

	do {
		named = atomic_load_explicit(stream, memory_order_acquire);
		atomic_store_explicit(&mark->waits_for, named, memory_order_relaxed);
		atomic_signal_fence(memory_order_seq_cst);
	} while (named != atomic_load_explicit(stream, memory_order_acquire));
	return named;
}

static inline void ds_mark_waited(struct ds_mark *mark)
{
	atomic_store_explicit(&mark->waits_for, NULL, memory_order_release);
}

/*
 * Prepare this process for ds_marks_fence(). Returns whether this system can do it. Of a process with several
 * threads the kernel waits until each CPU has gone through its scheduler (sync_runqueues_membarrier_state()
 * in Linux's kernel/sched/membarrier.c), 5 to 20 ms; so call it first while there is one. Again: nothing.
 */
bool ds_marks_prepare(void);

/* Threads that begin after this returns see all that the caller wrote before it. */
void ds_marks_fence(void);

/*
 * The marks of those who are between begin and end now, for ds_marks_passed(); after ds_marks_fence().
 * Only one at a time in a process.
 */
void ds_marks_note(void);

/* Whether all who were noted have ended since. */
bool ds_marks_passed(void);

/* How often threads have ended so far, all together; *any: whether one is between begin and end now. */
uint64_t ds_marks_count(bool *any);

/* Whether a thread waits for this stream. After ds_marks_fence(). */
bool ds_marks_awaited(CUstream stream);

#endif
