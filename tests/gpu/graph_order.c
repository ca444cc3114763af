/* SPDX-License-Identifier: Apache-2.0 */
/* Launches of graphs stay in order, and whoever waits for them has waited for all. */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "graph_program.h"

void replay(void)
{
	CUstream stream = new_stream(0), side = new_stream(CU_STREAM_NON_BLOCKING), on[4];
	CUdeviceptr x = new_numbers(1.5f), y = new_numbers(0.25f), z = new_numbers(0);
	CUgraph graph = capture_turns(stream, side, x, y, z);
	CUgraphExec exec = executable(graph);

	CALL(cuGraphDestroy, graph);
	on[0] = stream;
	on[1] = NULL;
	on[2] = CU_STREAM_PER_THREAD;
	on[3] = new_stream(0);
	for (int i = 0; i < 40; i++) {
		CALL(cuGraphLaunch, exec, on[i % 4]);
		if (i % 4 == 3) {
			/* The legacy order puts them all in a row. */
			add(&kernels, NULL, z, z, y);
			CALL(cuMemcpyDtoDAsync_v2, y, z, N, NULL);
		}
		if (i % 10 == 9)
			printf("%d %016llx %016llx\n", i, hash(x), hash(y));
	}
	CALL(cuGraphExecDestroy, exec);
}

/* A child of a program whose graphs were prepared ends at once. */
void replay_and_fork(void)
{
	int status = -1;
	pid_t child;

	replay();
	fflush(stdout);
	child = fork();
	if (child == 0) {
		const struct itimerval soon = {.it_value = {.tv_usec = 800000}};

		signal(SIGALRM, SIG_DFL);
		setitimer(ITIMER_REAL, &soon, NULL);
		exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0)
		die("fork", CUDA_ERROR_UNKNOWN);
	printf("child %d\n", status);
}

void large(void)
{
	enum { NODES = 1000 };
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUdeviceptr x = new_numbers(1), y = new_numbers(0.001f);
	CUgraphNode last = NULL;
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuGraphCreate, &graph, 0);
	for (int i = 0; i < NODES; i++) {
		struct add_params p;
		CUgraphNode node;

		add_node(&p, i % 2 ? y : x, x, y);
		p.params.gridDimX = 1;
		CALL(cuGraphAddKernelNode_v2, &node, graph, last ? &last : NULL, last != NULL,
		     &p.params);
		last = node;
	}
	exec = executable(graph);
	CALL(cuGraphDestroy, graph);
	for (int i = 0; i < 6; i++) {
		CALL(cuMemsetD32Async, x, 0x3f800000, N, stream);
		CALL(cuMemsetD32Async, y, 0x3a83126f + (unsigned)i, N, stream);
		CALL(cuGraphLaunch, exec, stream);
		spin(stream, 1);
	}
	CALL(cuStreamSynchronize, stream);
	printf("%016llx %016llx\n", hash(x), hash(y));
	CALL(cuGraphExecDestroy, exec);
}

/* One executable on streams that nothing else puts in order: its launches never overlap. */
void consecutive(void)
{
	CUdeviceptr x = new_numbers(0), y = new_numbers(0), one = new_numbers(1);
	CUstream streams[4], capture = new_stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, capture, CU_STREAM_CAPTURE_MODE_RELAXED);
	/* Read, wait, write: two at once would lose one. */
	CALL(cuMemcpyDtoDAsync_v2, y, x, N * 4, capture);
	spin(capture, 100);
	add(&kernels, capture, x, y, one);
	CALL(cuStreamEndCapture, capture, &graph);
	exec = executable(graph);
	for (int i = 0; i < 4; i++)
		streams[i] = new_stream(CU_STREAM_NON_BLOCKING);
	for (int i = 0; i < 200; i++)
		CALL(cuGraphLaunch, exec, streams[i * 7 % 4]);
	CALL(cuCtxSynchronize);
	printf("%016llx\n", hash(x));
	/* Destroyed while it runs, it runs to its end. */
	for (int i = 0; i < 8; i++)
		CALL(cuGraphLaunch, exec, streams[i % 4]);
	CALL(cuGraphExecDestroy, exec);
	CALL(cuGraphDestroy, graph);
	CALL(cuCtxSynchronize);
	printf("%016llx\n", hash(x));
}

/* ---- every way to wait for graphs ---- */

enum way { CONTEXT, STREAMS, EVENTS, QUERIES, NULL_STREAM, CONTEXT_EVENT, WAYS };

static void wait_by(enum way way, CUstream streams[4], CUevent events[4])
{
	if (way == CONTEXT)
		CALL(cuCtxSynchronize);
	if (way == CONTEXT_EVENT) {
		CALL(cuCtxRecordEvent, primary, events[0]);
		CALL(cuEventSynchronize, events[0]);
	}
	for (int i = 0; i < 4 && way != CONTEXT && way != CONTEXT_EVENT; i++) {
		if (way == STREAMS)
			CALL(cuStreamSynchronize, streams[i]);
		if (way == EVENTS || way == NULL_STREAM)
			CALL(cuEventRecord, events[i], streams[i]);
		if (way == EVENTS)
			CALL(cuEventSynchronize, events[i]);
		if (way == NULL_STREAM) /* what copies the result */
			CALL(cuStreamWaitEvent, NULL, events[i], 0);
		while (way == QUERIES && cu.do_cuStreamQuery(streams[i]) == CUDA_ERROR_NOT_READY)
			;
	}
}

static CUgraphExec adding(CUdeviceptr x, CUdeviceptr y, CUdeviceptr one, bool copies)
{
	CUstream capture = new_stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, capture, CU_STREAM_CAPTURE_MODE_RELAXED);
	if (copies)
		CALL(cuMemcpyDtoDAsync_v2, y, x, N * 4, capture);
	spin(capture, 100);
	add(&kernels, capture, x, copies ? y : x, one);
	CALL(cuStreamEndCapture, capture, &graph);
	exec = executable(graph);
	CALL(cuGraphDestroy, graph);
	return exec;
}

/* When a wait is over, all that was launched before it has been done. */
void waits(void)
{
	static const char *const names[] = {"context", "streams",     "events",
					    "queries", "NULL stream", "context's event"};
	CUdeviceptr x = new_numbers(0), y = new_numbers(0), one = new_numbers(1);
	CUstream streams[4];
	CUevent events[4];

	for (int i = 0; i < 4; i++) {
		streams[i] = new_stream(CU_STREAM_NON_BLOCKING);
		CALL(cuEventCreate, &events[i], CU_EVENT_DISABLE_TIMING);
	}
	for (int copies = 0; copies < 2; copies++) {
		CUgraphExec exec = adding(x, y, one, copies);

		for (int used = 1; used <= 4; used += 3) {
			for (int way = 0; way < WAYS; way++) {
				if (way == CONTEXT_EVENT && !cu.do_cuCtxRecordEvent)
					continue;
				printf("%s, %d streams, %s:", copies ? "copies" : "kernels", used,
				       names[way]);
				for (int i = 0; i < 6; i++) {
					for (int k = 0; k < 5 + i; k++)
						CALL(cuGraphLaunch, exec, streams[k % used]);
					wait_by(way, streams, events);
					printf(" %08x", (unsigned)hash(x));
					CALL(cuStreamSynchronize, streams[0]);
				}
				printf("\n");
			}
		}
		CALL(cuGraphExecDestroy, exec);
	}
}

/* ---- several threads ---- */

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t all_here;
static CUgraphExec shared;

static void *work(void *number)
{
	const float id = (float)(uintptr_t)number;
	CUstream stream, side;
	CUdeviceptr x, y, z;
	uint64_t *result = malloc(sizeof(*result));

	CALL(cuCtxSetCurrent, primary);
	stream = new_stream(CU_STREAM_NON_BLOCKING);
	side = new_stream(CU_STREAM_NON_BLOCKING);
	x = new_numbers(1 + id);
	y = new_numbers(2);
	z = new_numbers(id);
	/* What waits for the whole context fails while any thread captures. */
	pthread_barrier_wait(&all_here);
	for (int round = 0; round < 4; round++) {
		CUgraph graph = capture_turns(stream, side, x, y, z);
		CUgraphExec exec = executable(graph);

		CALL(cuGraphDestroy, graph);
		for (int i = 0; i < 10; i++) {
			CALL(cuGraphLaunch, exec, stream);
			pthread_mutex_lock(&turn);
			CALL(cuGraphLaunch, shared, i % 2 ? stream : side);
			pthread_mutex_unlock(&turn);
		}
		CALL(cuGraphExecDestroy, exec);
	}
	CALL(cuStreamSynchronize, stream);
	pthread_barrier_wait(&all_here);
	*result = hash(y);
	return result;
}

void threads(void)
{
	CUdeviceptr x = new_numbers(0), one = new_numbers(1);
	CUstream capture = new_stream(CU_STREAM_NON_BLOCKING);
	pthread_t threads[4];
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, capture, CU_STREAM_CAPTURE_MODE_RELAXED);
	add(&kernels, capture, x, x, one);
	CALL(cuStreamEndCapture, capture, &graph);
	shared = executable(graph);
	pthread_barrier_init(&all_here, NULL, 4);
	for (uintptr_t i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i))
			die("pthread_create", CUDA_ERROR_UNKNOWN);
	for (int i = 0; i < 4; i++) {
		void *result;

		pthread_join(threads[i], &result);
		printf("%d %016llx\n", i, (unsigned long long)*(uint64_t *)result);
		free(result);
	}
	CALL(cuCtxSynchronize);
	printf("shared %016llx\n", hash(x));
}
