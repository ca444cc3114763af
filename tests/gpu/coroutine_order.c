/* SPDX-License-Identifier: Apache-2.0 */
/* Does work on one stream wait for work on another, as CUDA says? */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "coroutine_program.h"

enum how { ASYNC, SYNC, SYNC_PER_THREAD, BY_EVENT, HOWS };
static const char *const hows[HOWS] = {"async", "sync", "sync-per-thread", "event"};

/* What one attempt works with. */
struct attempt {
	CUstream a, b, by_event;
	CUevent event;
	CUdeviceptr words;
};

/*
 * Whether a copy on b finds what a writes behind a kernel of `us`. *quick: b could have come
 * before that, by half of the time.
 */
static bool finds(const struct attempt *t, enum how how, unsigned us, bool *quick)
{
	const CUdeviceptr flag = t->words, copy = t->words + 4;
	double begun;

	CALL(cuMemsetD32_v2, t->words, 0, 2);
	CALL(cuCtxSynchronize);
	begun = now_us();
	spin(t->a, us, 1);
	CALL(cuMemsetD32Async, flag, 1, 1, t->a);
	switch (how) {
	case ASYNC:
		CALL(cuMemcpyDtoDAsync_v2, copy, flag, 4, t->b);
		break;
	case SYNC:
		CALL(cuMemcpyDtoD_v2, copy, flag, 4);
		break;
	case SYNC_PER_THREAD:
		CALL(cuMemcpyDtoD_v2_ptds, copy, flag, 4);
		break;
	default:
		/* b waits for a through a third stream's event */
		CALL(cuEventRecord, t->event, t->b);
		CALL(cuStreamWaitEvent, t->by_event, t->event, 0);
		CALL(cuMemcpyDtoDAsync_v2, copy, flag, 4, t->by_event);
	}
	*quick = gets_on(begun, us / 2);
	return read_word(copy);
}

/*
 * On a machine that is busy anything may take as long as the kernel, and is found to have waited for it; so a
 * longer one is tried then.
 */
static bool does_wait(const struct attempt *attempt, enum how how)
{
	bool quick = false;

	for (unsigned us = 10000; us <= 640000 && !quick; us *= 4) {
		if (!finds(attempt, how, us, &quick))
			return false;
		/* The copy returns when it has waited, if it does. */
		if (us > 40000 && (how == SYNC || how == SYNC_PER_THREAD))
			break;
	}
	return true;
}

void order(void)
{
	struct attempt attempt;
	CUstream streams[KINDS];

	start();
	make_streams(streams);
	CALL(cuEventCreate, &attempt.event, CU_EVENT_DISABLE_TIMING);
	attempt.words = device_words(2);
	attempt.by_event = streams[5];
	for (int how = 0; how < HOWS; how++) {
		for (int a = 0; a < KINDS; a++) {
			for (int b = 0; b < KINDS; b++) {
				const bool sync = how == SYNC || how == SYNC_PER_THREAD;

				if (sync && b > 0)
					continue;
				attempt.a = streams[a];
				attempt.b = streams[b];
				printf("%s: %s then %s: %s\n", hows[how], kinds[a],
				       sync ? hows[how] : kinds[b],
				       does_wait(&attempt, how) ? "waits" : "does not wait");
			}
		}
	}
}

/* Longer chains, and streams that end with work queued. */
void order_chains(void)
{
	CUstream blocking, other;
	CUresult busy = CUDA_SUCCESS;
	CUdeviceptr words;

	start();
	words = device_words(4);
	/* blocking -> NULL -> other blocking */
	CALL(cuStreamCreate, &blocking, CU_STREAM_DEFAULT);
	CALL(cuStreamCreate, &other, CU_STREAM_DEFAULT);
	spin(blocking, 4000, 1);
	CALL(cuMemsetD32Async, words, 1, 1, blocking);
	CALL(cuMemsetD32Async, words + 4, 1, 1, NULL);
	CALL(cuMemcpyDtoDAsync_v2, words + 8, words, 8, other);
	printf("chain %u\n", read_word(words + 8));
	/* a stream made after the NULL stream's work */
	CALL(cuMemsetD32_v2, words, 0, 4);
	CALL(cuCtxSynchronize);
	spin(NULL, 4000, 1);
	CALL(cuMemsetD32Async, words, 1, 1, NULL);
	CALL(cuStreamCreate, &blocking, CU_STREAM_DEFAULT);
	CALL(cuMemcpyDtoDAsync_v2, words + 8, words, 4, blocking);
	printf("made-later %u\n", read_word(words + 8));
	/* the state of the NULL stream includes that of blocking streams */
	CALL(cuCtxSynchronize);
	printf("idle %d\n", (int)cu.do_cuStreamQuery(NULL));
	for (unsigned us = 20000; us <= 1280000 && busy == CUDA_SUCCESS; us *= 4) {
		spin(blocking, us, 1);
		busy = cu.do_cuStreamQuery(NULL); /* unless that takes longer on a busy machine */
	}
	printf("busy %d\n", (int)busy);
	CALL(cuStreamSynchronize, NULL);
	printf("after-null-sync %d\n", (int)cu.do_cuStreamQuery(blocking));
	/* freeing waits */
	spin(blocking, 4000, 1);
	CALL(cuMemFree_v2, words);
	printf("after-free %d\n", (int)cu.do_cuStreamQuery(blocking));
}

/* A blocking stream destroyed with work queued, then work on the NULL stream. */
void order_destroyed(void)
{
	CUstream blocking;
	CUdeviceptr words;

	start();
	words = device_words(4);
	CALL(cuStreamCreate, &blocking, CU_STREAM_DEFAULT);
	spin(blocking, 4000, 1);
	CALL(cuMemsetD32Async, words, 1, 1, blocking);
	CALL(cuStreamDestroy_v2, blocking);
	CALL(cuMemcpyDtoDAsync_v2, words + 8, words, 4, NULL);
	printf("destroyed %u\n", read_word(words + 8));
}

/*
 * One stream waits for a word in memory that another one writes later. Nobody who moves them may make the
 * second wait for the first.
 */
void wake(void)
{
	CUstream waits, wakes, other;
	CUdeviceptr words;
	unsigned sum = 0;

	start();
	if (!cu.do_cuStreamWaitValue32_v2 || !cu.do_cuStreamWriteValue32_v2)
		exit(77);
	words = device_words(4);
	CALL(cuStreamCreate, &waits, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &wakes, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &other, CU_STREAM_NON_BLOCKING);
	for (unsigned round = 1; round <= 40; round++) {
		unsigned host;

		spin(waits, 10, 1);
		CALL(cuStreamWaitValue32_v2, waits, words, round, CU_STREAM_WAIT_VALUE_GEQ);
		for (unsigned i = 0; i < round % 4; i++)
			spin(other, 10, 1);
		/* These move the stream that waits, or not, behind its wait. */
		spin(waits, 10, 1);
		CALL(cuMemsetD32Async, words + 4, round, 1, waits);
		spin(other, 10, 1);
		spin(waits, 10, 1);
		printf("waits %d\n", (int)cu.do_cuStreamQuery(waits));
		spin(wakes, 10, 1);
		CALL(cuStreamWriteValue32_v2, wakes, words, round, 0);
		spin(wakes, 10, 1);
		CALL(cuStreamSynchronize, waits);
		printf("idle %d\n", (int)cu.do_cuStreamQuery(waits));
		CALL(cuMemcpyDtoH_v2, &host, words + 4, 4);
		sum += host;
	}
	CALL(cuCtxSynchronize);
	printf("sum %u\n", sum);
}
