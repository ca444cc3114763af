/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that does what it is told, line by line, and says how far it is ahead of the GPU. Runs on a
 * real GPU and on the emulated one. Commands, each answered by one line:
 *   spin STREAM US N    N kernels of US microseconds        "ahead M": so many were not done at most
 *   graph STREAM US N   the same as graphs of one kernel    "ahead M"
 *   wide KERNEL US N    N kernels that fill the GPU, of spin_us (US each block) or copy_us, which takes US in
 *                       all; that one is on the emulated GPU only   "wide"
 *   mix STREAM US LONG N   eight kernels of US, one of LONG (of two blocks), and so on: N in all
 *                       "ahead M": so many us of them were not done at most
 *   block STREAM        the stream waits for "release"      "blocked"
 *   set STREAM          a memset, no kernel                 "set"
 *   release             from the host                       "released"
 *   sync                all streams                         "idle"
 *   reset               of the primary context              "reset"
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "program.h"

enum { STREAMS = 64, EVENTS = 4096 };

static const char copy_ptx[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
			       ".visible .entry copy_us(.param .u32 us)\n{\n ret;\n}\n";

static CUfunction spin_us, copy_us;
static CUstream streams[STREAMS]; /* number 0 is the NULL stream */
static CUevent events[EVENTS];
static CUdeviceptr word;
static _Atomic unsigned *released;
static CUdeviceptr released_word;
static unsigned blocked;

static void start(void)
{
	CUcontext primary;
	CUmodule module;
	void *host;

	CALL(cuInit, 0);
	CALL(cuDevicePrimaryCtxRetain, &primary, 0);
	CALL(cuCtxSetCurrent, primary);
	spin_us = load_kernels().spin_us;
	CALL(cuModuleLoadData, &module, copy_ptx);
	CALL(cuModuleGetFunction, &copy_us, module, "copy_us");
	CALL(cuMemAlloc_v2, &word, 4);
	CALL(cuMemHostAlloc, &host, 4, CU_MEMHOSTALLOC_DEVICEMAP);
	CALL(cuMemHostGetDevicePointer_v2, &released_word, host, 0);
	released = host;
	blocked = 0;
	atomic_store(released, 0);
	for (unsigned i = 1; i < STREAMS; i++)
		CALL(cuStreamCreate, &streams[i], CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < EVENTS; i++)
		CALL(cuEventCreate, &events[i], CU_EVENT_DISABLE_TIMING);
}

static void launch(CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, spin_us, blocks, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

/* As many threads as an emulated GPU of 44 SMs holds. */
static void launch_wide(CUfunction kernel, unsigned us)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, kernel, 88, 1, 1, 1024, 1, 1, 0, streams[1], args, NULL);
}

static CUgraphExec graph_of(CUstream stream, unsigned us)
{
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
	launch(stream, us, 1);
	CALL(cuStreamEndCapture, stream, &graph);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	return exec;
}

/* How many launches were not done at most, after each of them. */
static unsigned ahead(CUstream stream, unsigned us, unsigned n, CUgraphExec exec)
{
	unsigned done = 0, most = 0;

	n = n < EVENTS ? n : EVENTS;
	for (unsigned i = 0; i < n; i++) {
		if (exec)
			CALL(cuGraphLaunch, exec, stream);
		else
			launch(stream, us, 1);
		CALL(cuEventRecord, events[i], stream);
		while (done <= i && cu.do_cuEventQuery(events[done]) == CUDA_SUCCESS)
			done++;
		most = i + 1 - done > most ? i + 1 - done : most;
	}
	return most;
}

/* The same in time, of kernels of two lengths. */
static unsigned mix(CUstream stream, unsigned us, unsigned long_us, unsigned n)
{
	unsigned done = 0, ahead_us = 0, most = 0;

	n = n < EVENTS ? n : EVENTS;
	for (unsigned i = 0; i < n; i++) {
		const bool is_long = i % 9 == 8;

		launch(stream, is_long ? long_us : us, is_long ? 2 : 1);
		CALL(cuEventRecord, events[i], stream);
		ahead_us += is_long ? long_us : us;
		for (; done <= i && cu.do_cuEventQuery(events[done]) == CUDA_SUCCESS; done++)
			ahead_us -= done % 9 == 8 ? long_us : us;
		most = ahead_us > most ? ahead_us : most;
	}
	return most;
}

int main(void)
{
	unsigned stream, us, long_us, n;
	char line[64];

	load_driver();
	start();
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "spin %u %u %u", &stream, &us, &n) == 3 && stream < STREAMS) {
			printf("ahead %u\n", ahead(streams[stream], us, n, NULL));
		} else if (sscanf(line, "graph %u %u %u", &stream, &us, &n) == 3 && stream &&
			   stream < STREAMS) {
			printf("ahead %u\n",
			       ahead(streams[stream], us, n, graph_of(streams[stream], us)));
		} else if (sscanf(line, "wide spin_us %u %u", &us, &n) == 2 ||
			   sscanf(line, "wide copy_us %u %u", &us, &n) == 2) {
			for (unsigned i = 0; i < n; i++)
				launch_wide(line[5] == 's' ? spin_us : copy_us, us);
			CALL(cuStreamSynchronize, streams[1]);
			printf("wide\n");
		} else if (sscanf(line, "mix %u %u %u %u", &stream, &us, &long_us, &n) == 4 &&
			   stream < STREAMS) {
			printf("ahead %u\n", mix(streams[stream], us, long_us, n));
		} else if (sscanf(line, "block %u", &stream) == 1 && stream < STREAMS) {
			CALL(cuStreamWaitValue32_v2, streams[stream], released_word, ++blocked,
			     CU_STREAM_WAIT_VALUE_GEQ);
			printf("blocked\n");
		} else if (sscanf(line, "set %u", &stream) == 1 && stream < STREAMS) {
			CALL(cuMemsetD32Async, word, 1, 1, streams[stream]);
			printf("set\n");
		} else if (!strcmp(line, "release\n")) {
			atomic_store(released, blocked);
			printf("released\n");
		} else if (!strcmp(line, "sync\n")) {
			CALL(cuCtxSynchronize);
			printf("idle\n");
		} else if (!strcmp(line, "reset\n")) {
			CALL(cuDevicePrimaryCtxReset_v2, 0);
			start();
			printf("reset\n");
		} else {
			fprintf(stderr, "ahead_program: what is that: %s", line);
			return 2;
		}
	}
	return 0;
}
