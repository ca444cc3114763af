/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/mark.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread struct ds_mark *ds_mark_mine;

/* Marks are never freed, so that the list can be read without a lock. */
struct listed {
	struct ds_mark mark;
	uint64_t noted; /* the word that ds_marks_note() found; 0: nothing to wait for */
};

static _Atomic(struct ds_mark *) all;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;

static void thread_ends(void *own)
{
	struct ds_mark *mark = own;

	ds_mark_mine = NULL;
	/* A thread that was cancelled inside the driver has ended all the same. */
	atomic_store_explicit(
	    &mark->word, ((atomic_load_explicit(&mark->word, memory_order_relaxed) >> 8) + 1) << 8,
	    memory_order_release);
	atomic_store_explicit(&mark->waits_for, NULL, memory_order_relaxed);
	atomic_store_explicit(&mark->taken, false, memory_order_release);
}

static void make_key(void)
{
	/* Without a key the marks of ended threads are not used again: a leak, not an error. */
	has_key = pthread_key_create(&key, thread_ends) == 0;
}

static struct ds_mark *recycled(void)
{
	for (struct ds_mark *mark = atomic_load_explicit(&all, memory_order_acquire); mark;
	     mark = mark->next) {
		bool taken = false;

		if (atomic_compare_exchange_strong(&mark->taken, &taken, true))
			return mark;
	}
	return NULL;
}

struct ds_mark *ds_mark_take(void)
{
	struct ds_mark *mark = recycled();

	pthread_once(&key_once, make_key);
	if (!mark) {
		struct listed *fresh = calloc(1, sizeof(*fresh));

		if (!fresh)
			return NULL;
		mark = &fresh->mark;
		atomic_store_explicit(&mark->taken, true, memory_order_relaxed);
		mark->next = atomic_load_explicit(&all, memory_order_relaxed);
		while (!atomic_compare_exchange_weak(&all, &mark->next, mark))
			;
	}
	if (has_key)
		pthread_setspecific(key, mark);
	ds_mark_mine = mark;
	return mark;
}

static int membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

bool ds_marks_prepare(void)
{
	return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
}

void ds_marks_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
	membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
	atomic_thread_fence(memory_order_seq_cst);
}

void ds_marks_note(void)
{
	for (struct ds_mark *mark = atomic_load_explicit(&all, memory_order_acquire); mark;
	     mark = mark->next) {
		const uint64_t word = atomic_load_explicit(&mark->word, memory_order_acquire);

		((struct listed *)mark)->noted = word & 0xff ? word : 0;
	}
}

bool ds_marks_passed(void)
{
	bool passed = true;

	for (struct ds_mark *mark = atomic_load_explicit(&all, memory_order_acquire); mark;
	     mark = mark->next) {
		struct listed *listed = (struct listed *)mark;
		const uint64_t word = atomic_load_explicit(&mark->word, memory_order_acquire);

		if (listed->noted && word & 0xff && word >> 8 == listed->noted >> 8)
			passed = false;
		else
			listed->noted = 0;
	}
	return passed;
}

uint64_t ds_marks_count(bool *any)
{
	uint64_t count = 0;

	*any = false;
	for (struct ds_mark *mark = atomic_load_explicit(&all, memory_order_acquire); mark;
	     mark = mark->next) {
		const uint64_t word = atomic_load_explicit(&mark->word, memory_order_acquire);

		count += word >> 8;
		*any |= (word & 0xff) != 0;
	}
	return count;
}

bool ds_marks_awaited(CUstream stream)
{
	for (struct ds_mark *mark = atomic_load_explicit(&all, memory_order_acquire); mark;
	     mark = mark->next)
		if (atomic_load_explicit(&mark->waits_for, memory_order_acquire) == stream)
			return true;
	return false;
}
