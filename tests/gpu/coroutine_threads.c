/* SPDX-License-Identifier: Apache-2.0 */
/* Several threads at once, some of them for ThreadSanitizer. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "coroutine_program.h"

static void *hammer(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUdeviceptr a, b, c, smids = 0;
	static const float zeros[N];
	float *out = malloc(sizeof(float) * N);
	unsigned n = N;
	uintptr_t wrong = 0;

	CALL(cuCtxSetCurrent, primary);
	a = device_words(N);
	b = device_words(N);
	c = device_words(N);
	for (int round = 0; round < 12; round++) {
		static const CUstream fixed[] = {NULL, CU_STREAM_PER_THREAD};
		CUstream stream = NULL;
		void *args[] = {&a, &b, &c, &n, &smids};
		CUevent event;

		if (round % 4 < 2)
			stream = fixed[round % 4];
		else
			CALL(cuStreamCreate, &stream, round % 4 == 2 ? 0 : CU_STREAM_NON_BLOCKING);
		CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
		CALL(cuMemcpyHtoD_v2, c, zeros, sizeof(zeros));
		CALL(cuMemsetD32Async, a, 0x3f800000 + id, N, stream); /* about 1.0 */
		CALL(cuMemsetD32Async, b, 0x40000000, N, stream);      /* 2.0 */
		CALL(cuLaunchKernel, kernels.vector_add, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream,
		     args, NULL);
		CALL(cuEventRecord, event, stream);
		CALL(cuStreamWaitEvent, NULL, event, 0);
		CALL(cuMemcpyDtoH_v2, out, c, sizeof(float) * N);
		for (unsigned i = 0; i < N; i++)
			wrong += out[i] < 2.99f || out[i] > 3.01f;
		if (round % 4 >= 2)
			CALL(cuStreamDestroy_v2, stream);
	}
	free(out);
	return (void *)wrong;
}

void threads(void)
{
	enum { COUNT = 4 };
	pthread_t thread[COUNT];
	uintptr_t wrong = 0;
	void *result;

	start();
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, hammer, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &result);
		wrong += (uintptr_t)result;
	}
	printf("wrong %lu\n", (unsigned long)wrong);
}

/* Streams that all threads use at once, each for operations that must stay in order. */
static CUstream shared[3];

static void *share(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUstream own[2];
	CUdeviceptr words;
	uintptr_t wrong = 0;

	CALL(cuCtxSetCurrent, primary);
	words = device_words(64);
	CALL(cuStreamCreate, &own[0], CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &own[1], CU_STREAM_DEFAULT);
	for (unsigned round = 0; round < 30; round++) {
		const CUstream all[] = {shared[0], shared[1], shared[2],           own[0],
					own[1],    NULL,      CU_STREAM_PER_THREAD};
		const CUstream stream = all[(id + round) % 7];
		unsigned host[32];
		CUevent event;

		for (unsigned i = 0; i < 32; i++) {
			CALL(cuMemsetD32Async, words, round * 64 + i, 1, stream);
			if (i % 8 == id % 8)
				spin(stream, 5, 1);
			CALL(cuMemcpyDtoDAsync_v2, words + 128 + i * 4, words, 4, stream);
		}
		CALL(cuMemsetD32Async, words, 0, 1, stream);
		if (round % 3 == 0) {
			CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
			CALL(cuEventRecord, event, stream);
			CALL(cuEventSynchronize, event);
			wrong += cu.do_cuEventQuery(event) != CUDA_SUCCESS;
			CALL(cuEventDestroy_v2, event);
		} else {
			CALL(cuStreamSynchronize, stream);
		}
		CALL(cuMemcpyDtoH_v2, host, words + 128, sizeof(host));
		for (unsigned i = 0; i < 32; i++)
			wrong += host[i] != round * 64 + i;
		if (round % 8 == 7) {
			CALL(cuStreamDestroy_v2, own[round / 8 % 2]);
			CALL(cuStreamCreate, &own[round / 8 % 2],
			     round / 8 % 2 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
		}
	}
	CALL(cuMemFree_v2, words);
	return (void *)wrong;
}

void threads_share(void)
{
	enum { COUNT = 16 };
	pthread_t thread[COUNT];
	uintptr_t wrong = 0;
	void *result;

	start();
	CALL(cuStreamCreate, &shared[0], CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &shared[1], CU_STREAM_DEFAULT);
	CALL(cuStreamCreateWithPriority, &shared[2], CU_STREAM_NON_BLOCKING, -1);
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, share, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &result);
		wrong += (uintptr_t)result;
	}
	printf("wrong %lu\n", (unsigned long)wrong);
}

static atomic_bool enough;

static void *pump(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUstream stream = NULL;
	CUdeviceptr words;
	unsigned wrong = 0;

	CALL(cuCtxSetCurrent, primary);
	words = device_words(2);
	for (unsigned round = 1; !enough; round++) {
		const unsigned kind = (id + round / 16) % 4;
		unsigned host = 0;

		if (round % 16 == 1 && stream > CU_STREAM_PER_THREAD)
			CALL(cuStreamDestroy_v2, stream); /* with work queued */
		if (round % 16 == 1) {
			stream = kind % 2 ? CU_STREAM_PER_THREAD : NULL;
			if (kind >= 2)
				CALL(cuStreamCreate, &stream,
				     kind == 2 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
			/* A stream may not be overtaken by the one that took its place. */
			CALL(cuCtxSynchronize);
		}
		CALL(cuMemsetD32Async, words, round, 1, stream);
		spin(stream, 200, 8);
		CALL(cuMemcpyDtoDAsync_v2, words + 4, words, 4, stream);
		CALL(cuMemsetD32Async, words, 0, 1, stream);
		if (round % 4 == 0) {
			CALL(cuStreamSynchronize, stream);
			CALL(cuMemcpyDtoH_v2, &host, words + 4, 4);
			wrong += host != round;
		}
	}
	CALL(cuCtxSynchronize);
	return (void *)(uintptr_t)wrong;
}

/* Launches from several threads, on streams of all kinds, until the input ends. */
void pumping(void)
{
	enum { COUNT = 4 };
	pthread_t thread[COUNT];
	uintptr_t wrong = 0;
	void *result;
	char c;

	start();
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, pump, (void *)(uintptr_t)i);
	printf("pumping\n");
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	enough = true;
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &result);
		wrong += (uintptr_t)result;
	}
	printf("wrong %lu\n", (unsigned long)wrong);
}

static void launch_at_exit(void)
{
	printf("left %d\n", (int)spin(NULL, 10, 1));
	CALL(cuCtxSynchronize);
}

/* Exits when the input ends, while its threads launch, and launches once more on its way out. */
void leaving(void)
{
	pthread_t thread;
	char c;

	atexit(launch_at_exit); /* the first to be registered is the last to run */
	start();
	spin(NULL, 10, 1);
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&thread, NULL, pump, (void *)(uintptr_t)i);
	printf("leaving\n");
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	exit(0);
}
