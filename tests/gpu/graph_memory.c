/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs beside memory that comes and goes: in their nodes, and freed while there are captures. */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph_program.h"

/* Memory nodes: such a graph cannot be made executable twice. */
void memory(void)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), scratch;
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	CALL(cuMemAllocAsync, &scratch, N * 4, stream);
	add(&kernels, stream, scratch, x, y);
	add(&kernels, stream, x, scratch, y);
	CALL(cuMemFreeAsync, scratch, stream);
	CALL(cuStreamEndCapture, stream, &graph);
	exec = executable(graph);
	launch_some("made", exec, x, y);
	for (int i = 0; i < 20; i++) {
		CALL(cuGraphLaunch, exec, i % 2 ? NULL : stream);
		spin(stream, 1);
	}
	CALL(cuCtxSynchronize);
	printf("%016llx\n", hash(x));
	CALL(cuGraphExecDestroy, exec);
	CALL(cuGraphDestroy, graph);
}

static atomic_bool captured_enough;

/* Memory is freed while kernels may still use it: the driver waits, and ends no capture of another thread. */
static void *free_all_the_time(void *unused)
{
	CUstream stream;
	long *frees = calloc(1, sizeof(*frees));

	CALL(cuCtxSetCurrent, primary);
	stream = new_stream(CU_STREAM_NON_BLOCKING);
	do {
		CUdeviceptr words;

		CALL(cuMemAlloc_v2, &words, N * 4);
		spin(stream, 200);
		add(&kernels, stream, words, words, words);
		CALL(cuMemFree_v2, words);
		++*frees;
	} while (!atomic_load(&captured_enough));
	CALL(cuStreamSynchronize, stream);
	return frees;
}

static void *free_once(void *words)
{
	int *result = malloc(sizeof(*result));

	CALL(cuCtxSetCurrent, primary);
	*result = (int)cu.do_cuMemFree_v2((CUdeviceptr)(uintptr_t)words);
	return result;
}

/* What a free says while a stream is captured, in the same thread or in another. */
static void free_in_capture(CUstreamCaptureMode mode, bool same_thread)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUdeviceptr words = new_numbers(1);
	pthread_t thread;
	CUgraph graph;
	void *result;

	CALL(cuStreamBeginCapture_v2, stream, mode);
	add(&kernels, stream, words, words, words);
	if (same_thread)
		result = free_once((void *)(uintptr_t)words);
	else if (pthread_create(&thread, NULL, free_once, (void *)(uintptr_t)words) ||
		 pthread_join(thread, &result))
		die("pthread_create", CUDA_ERROR_UNKNOWN);
	printf("mode %d, %s thread: free %d, capture %d\n", (int)mode,
	       same_thread ? "same" : "other", *(int *)result,
	       (int)cu.do_cuStreamEndCapture(stream, &graph));
	if (*(int *)result == CUDA_SUCCESS)
		forget(words);
	free(result);
}

/*
 * A graph need not be launched again, nor destroyed, when the memory goes that it copies: whoever makes it
 * executable elsewhere meanwhile must not look for that.
 */
static CUgraphExec left_behind(CUstream stream)
{
	CUdeviceptr x = numbers(1), y = numbers(2);
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	CALL(cuMemcpyDtoDAsync_v2, y, x, N * 4, stream);
	add(&kernels, stream, x, x, y);
	CALL(cuStreamEndCapture, stream, &graph);
	exec = executable(graph);
	CALL(cuGraphDestroy, graph);
	launch_some("copies", exec, x, y);
	CALL(cuMemFree_v2, x);
	CALL(cuMemFree_v2, y);
	return exec;
}

void gone(void)
{
	CUdeviceptr a = new_numbers(0), one = new_numbers(1);
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec copies = left_behind(stream), adds;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	add(&kernels, stream, a, a, one);
	CALL(cuStreamEndCapture, stream, &graph);
	adds = executable(graph);
	for (int i = 0; i < 8; i++)
		launch_some("goes on", adds, a, one);
	CALL(cuGraphExecDestroy, copies);
	CALL(cuGraphExecDestroy, adds);
	CALL(cuGraphDestroy, graph);
}

void frees(void)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING), side = new_stream(0);
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), z = new_numbers(0);
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, free_all_the_time, NULL))
			die("pthread_create", CUDA_ERROR_UNKNOWN);
	for (int i = 0; i < 600; i++) {
		CUgraph graph = capture_turns(stream, side, x, y, z);
		CUgraphExec exec = executable(graph);

		CALL(cuGraphDestroy, graph);
		CALL(cuGraphLaunch, exec, stream);
		CALL(cuGraphExecDestroy, exec);
	}
	atomic_store(&captured_enough, true);
	for (int i = 0; i < 2; i++) {
		void *result;

		pthread_join(threads[i], &result);
		if (!*(long *)result)
			printf("nothing was freed\n");
		free(result);
	}
	CALL(cuCtxSynchronize);
	printf("%016llx %016llx\n", hash(x), hash(y));
	for (int mode = 0; mode < 3; mode++) {
		free_in_capture((CUstreamCaptureMode)mode, true);
		free_in_capture((CUstreamCaptureMode)mode, false);
	}
}

/* Launches until its input ends; says "launching" after the first one. */
static void endless(bool memory_nodes, bool leaves_one_behind)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING), side = new_stream(0);
	CUdeviceptr x = new_numbers(0), one = new_numbers(1), scratch;
	struct pollfd input = {.fd = 0, .events = POLLIN};
	unsigned long launches = 0;
	float result[N];
	CUgraphExec exec;
	CUgraph graph;

	if (leaves_one_behind)
		left_behind(stream);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	if (memory_nodes)
		CALL(cuMemAllocAsync, &scratch, N * 4, stream);
	spin_blocks(stream, 100, 24);
	add(&kernels, stream, x, x, one);
	if (memory_nodes)
		CALL(cuMemFreeAsync, scratch, stream);
	CALL(cuStreamEndCapture, stream, &graph);
	exec = executable(graph);
	do {
		for (int i = 0; i < 4; i++, launches++)
			CALL(cuGraphLaunch, exec, i % 2 ? stream : side);
		CALL(cuCtxSynchronize);
		if (launches == 4)
			printf("launching\n");
	} while (launches < 1000000 && poll(&input, 1, 0) == 0);
	CALL(cuMemcpyDtoH_v2, result, x, sizeof(result));
	for (int i = 0; i < N; i++)
		if (result[i] != (float)launches)
			launches = 0;
	printf("right %d\n", launches > 0);
}

void endless_movable(void)
{
	endless(false, false);
}

void endless_pinned(void)
{
	endless(true, false);
}

void endless_gone(void)
{
	endless(false, true);
}
