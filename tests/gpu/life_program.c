/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How programs live: several devices, threads that end with work queued, resets and ends in the middle of work,
 * events shared with another process. Run with and without the coroutine library: what is printed must not tell
 * the two apart. Runs on a real GPU and on the emulated one. Usage: life_program EXPERIMENT
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "numbers.h"

enum { DEVICES = 2 };

/* One device with what is loaded there. */
struct place {
	CUdevice device;
	CUcontext context;
	struct kernels kernels;
};

static void start(void)
{
	load_driver();
	CALL(cuInit, 0);
}

static struct place enter(int number)
{
	struct place place;

	CALL(cuDeviceGet, &place.device, number);
	CALL(cuDevicePrimaryCtxRetain, &place.context, place.device);
	CALL(cuCtxSetCurrent, place.context);
	place.kernels = load_kernels();
	return place;
}

static void spin(const struct place *place, CUstream stream, unsigned us)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, place->kernels.spin_us, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

/* ---- several devices ---- */

/* Work on two devices, in turns, and from one to the other; only one of them is the allocation's. */
static void devices(void)
{
	struct place places[DEVICES];
	CUdeviceptr a[DEVICES], b[DEVICES], c[DEVICES];
	CUstream streams[DEVICES];
	int count = 0;

	start();
	CALL(cuDeviceGetCount, &count);
	if (count < DEVICES)
		exit(77);
	for (int i = 0; i < DEVICES; i++) {
		places[i] = enter(i);
		a[i] = numbers((float)i + 1);
		b[i] = numbers(0.25f);
		c[i] = numbers(0);
		CALL(cuStreamCreate, &streams[i], i ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT);
	}
	for (unsigned round = 0; round < 12; round++) {
		for (int i = 0; i < DEVICES; i++) {
			CUstream stream = round % 3 ? streams[i] : NULL;

			CALL(cuCtxSetCurrent, places[i].context);
			add(&places[i].kernels, stream, c[i], a[i], b[i]);
			add(&places[i].kernels, stream, a[i], c[i], b[i]);
			CALL(cuCtxSynchronize);
		}
		if (round == 6) {
			CALL(cuMemcpyPeerAsync, b[1], places[1].context, a[0], places[0].context,
			     N * 4, streams[1]);
			CALL(cuStreamSynchronize, streams[1]);
		}
	}
	for (int i = 0; i < DEVICES; i++) {
		CALL(cuCtxSetCurrent, places[i].context);
		printf("%d %016llx\n", i, hash(a[i]));
	}
	CALL(cuDevicePrimaryCtxReset_v2, places[1].device);
	CALL(cuCtxSetCurrent, places[0].context);
	add(&places[0].kernels, NULL, c[0], a[0], b[0]);
	printf("0 %016llx\n", hash(c[0]));
}

/* ---- threads that end ---- */

static struct place shared_place;
static CUdeviceptr shared_words[3];

/* Leaves work on its own default stream, and on one that it destroys, and is gone. */
static void *leave_work(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUstream stream;

	CALL(cuCtxSetCurrent, shared_place.context);
	CALL(cuStreamCreate, &stream, id % 2 ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT);
	spin(&shared_place, CU_STREAM_PER_THREAD, 3000);
	CALL(cuMemsetD32Async, shared_words[0] + id * 4, id + 1, 1, CU_STREAM_PER_THREAD);
	spin(&shared_place, stream, 3000);
	CALL(cuMemsetD32Async, shared_words[1] + id * 4, id + 7, 1, stream);
	CALL(cuStreamDestroy_v2, stream);
	return NULL;
}

static void threads_end(void)
{
	enum { COUNT = 8, ROUNDS = 4 };
	pthread_t thread[COUNT];

	start();
	shared_place = enter(0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < 3; i++)
			shared_words[i] = numbers(0);
		for (unsigned i = 0; i < COUNT; i++)
			pthread_create(&thread[i], NULL, leave_work, (void *)(uintptr_t)i);
		for (unsigned i = 0; i < COUNT; i++)
			pthread_join(thread[i], NULL);
		/* The legacy stream waits for what the blocking ones left. */
		CALL(cuMemcpyDtoDAsync_v2, shared_words[2], shared_words[0], COUNT * 4, NULL);
		CALL(cuStreamSynchronize, NULL);
		printf("%016llx", hash(shared_words[2]));
		CALL(cuCtxSynchronize);
		printf(" %016llx\n", hash(shared_words[1]));
	}
}

/* ---- resets ---- */

static void resets(void)
{
	start();
	for (unsigned round = 0; round < 5; round++) {
		struct place place = enter(0);
		CUdeviceptr a = numbers(2), b = numbers(3), c = numbers(0);
		CUstream streams[4] = {NULL, CU_STREAM_PER_THREAD};

		CALL(cuStreamCreate, &streams[2], CU_STREAM_DEFAULT);
		CALL(cuStreamCreate, &streams[3], CU_STREAM_NON_BLOCKING);
		for (unsigned i = 0; i < 4; i++) {
			add(&place.kernels, streams[i], c, a, b);
			CALL(cuStreamSynchronize, streams[i]);
		}
		printf("%016llx\n", hash(c));
		/* More is queued when the context goes. */
		for (unsigned i = 0; i < 12; i++)
			spin(&place, streams[i % 4], 1000);
		CALL(cuDevicePrimaryCtxReset_v2, place.device);
	}
}

/* ---- operations in memory, memory in order, callbacks ---- */

static void CUDA_CB count_up(void *data)
{
	__atomic_fetch_add((int *)data, 1, __ATOMIC_SEQ_CST);
}

static void in_order(void)
{
	struct place place;
	CUdeviceptr words, b, result;
	CUstream one, two;
	CUevent event, begin, end;
	int called = 0;
	float ms = -1;

	start();
	place = enter(0);
	words = numbers(0);
	b = numbers(1);
	result = numbers(0);
	CALL(cuMemsetD32_v2, words, 0, N);
	CALL(cuCtxSynchronize);
	CALL(cuStreamCreate, &one, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &two, CU_STREAM_NON_BLOCKING);
	CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
	CALL(cuEventCreate, &begin, CU_EVENT_DEFAULT);
	CALL(cuEventCreate, &end, CU_EVENT_DEFAULT);
	for (unsigned round = 1; round <= 20; round++) {
		CUstreamBatchMemOpParams ops[2] = {0};
		CUdeviceptr scratch;

		/* Two waits for what one writes after its kernels, by way of memory and of an event. */
		CALL(cuStreamWaitValue32_v2, two, words, round, CU_STREAM_WAIT_VALUE_GEQ);
		CALL(cuEventRecord, begin, one);
		CALL(cuMemAllocAsync, &scratch, N * 4, one);
		CALL(cuMemsetD32Async, scratch, 0x3f800000 + round, N, one);
		spin(&place, one, 20);
		add(&place.kernels, one, result, scratch, b);
		CALL(cuMemFreeAsync, scratch, one);
		CALL(cuLaunchHostFunc, one, count_up, &called);
		CALL(cuEventRecord, end, one);
		ops[0].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
		ops[0].writeValue.address = words;
		ops[0].writeValue.value = round;
		ops[1].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
		ops[1].writeValue.address = words + 4;
		ops[1].writeValue.value = round * 3;
		CALL(cuStreamBatchMemOp_v2, one, 2, ops, 0);
		CALL(cuMemcpyDtoDAsync_v2, words + 64, result, 64, two);
		CALL(cuEventRecord, event, two);
		CALL(cuStreamWaitEvent, one, event, 0);
		CALL(cuMemcpyDtoDAsync_v2, b, words + 64, 64, one);
		if (round % 5)
			continue;
		CALL(cuEventSynchronize, end);
		CALL(cuEventElapsedTime, &ms, begin, end);
		CALL(cuStreamSynchronize, one);
		printf("%016llx", hash(b));
		printf(" %016llx %d %d\n", hash(words), called, ms > 0);
	}
}

/* ---- events and memory of another process ---- */

struct shared_handles {
	CUipcEventHandle event;
	CUipcMemHandle memory;
};

static void whole(ssize_t got, size_t wanted)
{
	if (got != (ssize_t)wanted)
		die("pipe", 0);
}

/* Its kernel runs, then the event is recorded; the other process waits for that on its GPU. */
static void give(int to, int from)
{
	struct shared_handles handles;
	struct place place;
	CUdeviceptr a, b, c;
	CUstream stream;
	CUevent event;
	char ready;

	start();
	place = enter(0);
	if (!cu.do_cuIpcGetEventHandle || !cu.do_cuIpcGetMemHandle)
		exit(77);
	a = numbers(5);
	b = numbers(6);
	c = numbers(0);
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS);
	CALL(cuIpcGetEventHandle, &handles.event, event);
	CALL(cuIpcGetMemHandle, &handles.memory, c);
	for (unsigned i = 0; i < 6; i++)
		spin(&place, stream, 20000);
	add(&place.kernels, stream, c, a, b);
	CALL(cuEventRecord, event, stream);
	whole(write(to, &handles, sizeof(handles)), sizeof(handles));
	whole(read(from, &ready, 1), 1);
	CALL(cuCtxSynchronize);
}

static void take(int from, int to)
{
	struct shared_handles handles;
	struct place place;
	CUdeviceptr theirs, b, c;
	CUstream stream;
	CUevent event;

	if (read(from, &handles, sizeof(handles)) != (ssize_t)sizeof(handles))
		exit(77); /* the other one cannot */
	start();
	place = enter(0);
	b = numbers(1);
	c = numbers(0);
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	CALL(cuIpcOpenEventHandle, &event, handles.event);
	CALL(cuIpcOpenMemHandle_v2, &theirs, handles.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	spin(&place, stream, 10);
	CALL(cuStreamWaitEvent, stream, event, 0);
	add(&place.kernels, stream, c, theirs, b);
	CALL(cuStreamSynchronize, stream);
	printf("%016llx\n", hash(c));
	fflush(stdout);
	whole(write(to, "r", 1), 1);
}

static void ipc(void)
{
	int there[2], back[2], status = 0;
	pid_t pid;

	if (pipe(there) || pipe(back))
		die("pipe", 0);
	pid = fork();
	if (!pid) {
		close(there[0]);
		close(back[1]);
		give(there[1], back[0]);
		exit(0);
	}
	close(there[1]);
	close(back[0]);
	take(there[0], back[1]);
	waitpid(pid, &status, 0);
	printf("other %d\n", status);
}

static const struct experiment experiments[] = {
    {"devices", devices}, {"threads-end", threads_end}, {"resets", resets}, {"in-order", in_order},
    {"ipc", ipc},
};

int main(int argc, char **argv)
{
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = experiments,
				  .n = sizeof(experiments) / sizeof(experiments[0])});
}
