/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the coroutine library adds to cuLaunchKernel. Runs itself again and again, in turns without
 * and with the library, on whatever libcuda.so.1 there is; plays the node runtime for those with.
 *
 * Usage: bench_launch [LIBRARY [TURNS]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * Prints one line of JSON per number of streams, with the median over all turns of the time of one
 * launch: without the library; without it, but with what the library must do (enum way); with it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/fake_runtime.h"

#if CUDA_VERSION < 12050
CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *, CUgreenCtx, unsigned, int);
#endif

enum {
	TURNS = 11,
	TURNS_MAX = 64,
	BATCH = 100,   /* launches timed together; fewer than the driver queues without waiting */
	BATCHES = 300, /* per turn */
	WARM_UP = 20,  /* batches */
	STREAMS_MAX = 16,
};

static const unsigned stream_counts[] = {0, 1, 4, 16}; /* 0: the NULL stream */
enum { N_COUNTS = sizeof(stream_counts) / sizeof(stream_counts[0]) };

/*
 * ASKED: the driver is asked for the current context before each launch, as the library does for default
 * streams. GREEN: on streams of a green context; CURRENT: which is current, too; OWN: with a function that was
 * looked up while it was.
 */
enum way { WITHOUT, ASKED, GREEN, GREEN_CURRENT, GREEN_OWN, GREEN_OWN_CURRENT, WITH, N_WAYS };
static const struct {
	const char *role, *name;
} ways[N_WAYS] = {
    [WITHOUT] = {"--turn", "without_ns"},
    [ASKED] = {"--turn-asked", "asked_ns"},
    [GREEN] = {"--turn-green", "green_ns"},
    [GREEN_CURRENT] = {"--turn-green-current", "green_current_ns"},
    [GREEN_OWN] = {"--turn-green-own", "green_own_ns"},
    [GREEN_OWN_CURRENT] = {"--turn-green-own-current", "green_own_current_ns"},
    [WITH] = {"--turn", "with_ns"},
};

/* ---- one turn: a process of its own, which prints a median per number of streams ---- */

static double time_launches(CUfunction function, const CUstream *streams, unsigned n_streams,
			    bool asks)
{
	static double batch_ns[BATCHES];
	__typeof__(&cuLaunchKernel) launch =
	    (__typeof__(&cuLaunchKernel))(uintptr_t)fake_driver("cuLaunchKernel");
	__typeof__(&cuCtxGetCurrent) current =
	    (__typeof__(&cuCtxGetCurrent))(uintptr_t)fake_driver("cuCtxGetCurrent");
	CUcontext context;
	unsigned us = 0;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	for (int batch = -WARM_UP; batch < BATCHES; batch++) {
		const double begin = fake_now_ns();

		for (unsigned i = 0; i < BATCH; i++)
			if ((asks && current(&context)) ||
			    launch(function, 1, 1, 1, 1, 1, 1, 0, streams[i % n_streams], args,
				   NULL))
				fake_die("cuLaunchKernel", 0);
		if (batch >= 0)
			batch_ns[batch] = (fake_now_ns() - begin) / BATCH;
		CALL(cuCtxSynchronize);
	}
	return fake_quantile(batch_ns, BATCHES, 0.5);
}

/* The same streams as the library makes, made here: what green contexts cost by themselves. */
static CUcontext make_green(CUstream *streams, CUstream *null)
{
	CUdevResource rest, groups[DS_GROUPS_MAX];
	CUdevResourceDesc description;
	CUcontext context;
	CUgreenCtx green;
	unsigned n = fake_split(groups, &rest);

	CALL(cuDevResourceGenerateDesc, &description, groups, (n + 1) / 2);
	CALL(cuGreenCtxCreate, &green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM);
	CALL(cuGreenCtxStreamCreate, null, green, CU_STREAM_NON_BLOCKING, 0);
	for (unsigned i = 0; i < STREAMS_MAX; i++)
		CALL(cuGreenCtxStreamCreate, &streams[i], green, CU_STREAM_NON_BLOCKING, 0);
	CALL(cuCtxFromGreenCtx, &context, green);
	return context;
}

static int turn(enum way way)
{
	CUstream streams[STREAMS_MAX], null = NULL;
	CUfunction function = fake_empty_kernel();
	CUcontext primary, green = NULL;

	CALL(cuCtxGetCurrent, &primary);
	if (way != WITHOUT && way != ASKED)
		green = make_green(streams, &null);
	for (unsigned i = 0; !green && i < STREAMS_MAX; i++)
		CALL(cuStreamCreate, &streams[i], CU_STREAM_NON_BLOCKING);
	if (way == GREEN_OWN || way == GREEN_OWN_CURRENT)
		function = fake_empty_kernel_in(green);
	CALL(cuCtxSetCurrent, way == GREEN_CURRENT || way == GREEN_OWN_CURRENT ? green : primary);
	for (unsigned i = 0; i < N_COUNTS; i++) {
		const unsigned n = stream_counts[i];

		printf("%.1f\n",
		       time_launches(function, n ? streams : &null, n ? n : 1, way == ASKED));
	}
	return fflush(stdout) != 0;
}

/* ---- the parent ---- */

int main(int argc, char **argv)
{
	static double ns[N_WAYS][N_COUNTS][TURNS_MAX];
	const int turns = argc > 2 ? atoi(argv[2]) : TURNS;
	char output[4096], *end;
	const char *library;

	fake_runtime_role(argc, argv);
	for (unsigned way = 0; way < N_WAYS; way++)
		if (argc > 1 && !strcmp(argv[1], ways[way].role))
			return turn((enum way)way);
	if (turns < 1 || turns > TURNS_MAX)
		fake_die("TURNS must be 1 to 64", turns);
	library = fake_library(argc > 1 ? argv[1] : NULL);
	fake_runtime_start();
	for (int i = 0; i < turns; i++)
		for (unsigned way = 0; way < N_WAYS; way++) {
			fake_run(ways[way].role, way == WITH ? library : NULL, NULL, output,
				 sizeof(output), NULL);
			end = output;
			for (unsigned k = 0; k < N_COUNTS; k++)
				ns[way][k][i] = strtod(end, &end);
		}
	fake_runtime_stop();
	for (unsigned k = 0; k < N_COUNTS; k++) {
		double median[N_WAYS];

		printf("{\"bench\":\"launch\",\"streams\":%u,\"null_stream\":%s,\"turns\":%d",
		       stream_counts[k] ? stream_counts[k] : 1, stream_counts[k] ? "false" : "true",
		       turns);
		for (unsigned way = 0; way < N_WAYS; way++) {
			median[way] = fake_quantile(ns[way][k], (size_t)turns, 0.5);
			printf(",\"%s\":%.1f", ways[way].name, median[way]);
		}
		printf(",\"added_ns\":%.1f,\"added_to_green_ns\":%.1f}\n",
		       median[WITH] - median[WITHOUT], median[WITH] - median[GREEN]);
	}
	return 0;
}
