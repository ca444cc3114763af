/* SPDX-License-Identifier: Apache-2.0 */
/* Does work on one stream wait for work on another, as CUDA says? */
#include <stdio.h>
#include <stdlib.h>

#include "coroutine_program.h"

enum how { ASYNC, SYNC, SYNC_PER_THREAD, BY_EVENT, HOWS };
static const char *const hows[HOWS] = {"async", "sync", "sync-per-thread", "event"};

void order(void)
{
	CUdeviceptr words;
	CUstream streams[KINDS];
	CUevent event;

	start();
	make_streams(streams);
	CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
	words = device_words(2);
	for (int how = 0; how < HOWS; how++) {
		for (int a = 0; a < KINDS; a++) {
			for (int b = 0; b < KINDS; b++) {
				CUdeviceptr flag = words, copy = words + 4;

				if ((how == SYNC || how == SYNC_PER_THREAD) && b > 0)
					continue;
				CALL(cuMemsetD32_v2, words, 0, 2);
				CALL(cuCtxSynchronize);
				CALL(cuLaunchKernel, kernels.spin_us, 1, 1, 1, 1, 1, 1, 0,
				     streams[a], (void *[]){&(unsigned){10000}, &(CUdeviceptr){0}},
				     NULL);
				CALL(cuMemsetD32Async, flag, 1, 1, streams[a]);
				switch (how) {
				case ASYNC:
					CALL(cuMemcpyDtoDAsync_v2, copy, flag, 4, streams[b]);
					break;
				case SYNC:
					CALL(cuMemcpyDtoD_v2, copy, flag, 4);
					break;
				case SYNC_PER_THREAD:
					CALL(cuMemcpyDtoD_v2_ptds, copy, flag, 4);
					break;
				default:
					/* b waits for a through a third stream's event */
					CALL(cuEventRecord, event, streams[b]);
					CALL(cuStreamWaitEvent, streams[5], event, 0);
					CALL(cuMemcpyDtoDAsync_v2, copy, flag, 4, streams[5]);
				}
				printf("%s: %s then %s: %s\n", hows[how], kinds[a],
				       (how == SYNC || how == SYNC_PER_THREAD) ? hows[how]
									       : kinds[b],
				       read_word(copy) ? "waits" : "does not wait");
			}
		}
	}
}

/* Longer chains, and streams that end with work queued. */
void order_chains(void)
{
	CUstream blocking, other;
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
	spin(blocking, 20000, 1);
	printf("busy %d\n", (int)cu.do_cuStreamQuery(NULL));
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
