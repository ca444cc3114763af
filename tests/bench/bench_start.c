/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the coroutine library adds to a program's start and to its memory. Runs itself again and again, in
 * turns without the library, with it, and with it in 8 partitions among which it moves, on whatever
 * libcuda.so.1 there is; plays the node runtime for those with.
 *
 * Usage: bench_start [LIBRARY [TURNS [STREAMS]]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * Prints one line of JSON with medians over all turns: the time to a first kernel's end, and then, with STREAMS
 * streams (32 if not given) that each ran something, memory of the process that nobody shares, and memory of the GPU.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/fake_runtime.h"

enum { TURNS = 11, TURNS_MAX = 64, STREAMS_MAX = 32, ROUNDS = 20 };

/* In the environment of a turn. */
static const char streams_name[] = "BENCH_START_STREAMS";

enum way { WITHOUT, WITH, MOVED, N_WAYS };
enum figure { START_MS, HOST_KIB, GPU_KIB, N_FIGURES };

/* ---- one turn: a process of its own, which prints its figures ---- */

static void launch(CUfunction function, CUstream stream)
{
	unsigned us = 0;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, function, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

static unsigned long own_kib(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "re");
	unsigned long kib, sum = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Private_Clean: %lu", &kib) == 1 ||
		    sscanf(line, "Private_Dirty: %lu", &kib) == 1)
			sum += kib;
	if (file)
		fclose(file);
	return sum;
}

static void *sleeps(void *unused)
{
	for (;;)
		pause();
	return unused;
}

/* A driver of a GPU starts threads, and programs have some before; some system calls take longer then. */
static void have_threads(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, sleeps, NULL) != 0)
		fake_die("no thread could be started", 0);
}

static int turn(void)
{
	have_threads();
	const double begin = fake_now_ns();
	CUfunction function = fake_empty_kernel();
	CUstream streams[STREAMS_MAX];
	const int n = atoi(getenv(streams_name));
	size_t free_bytes, total;
	double start_ms;

	launch(function, NULL);
	CALL(cuCtxSynchronize);
	start_ms = (fake_now_ns() - begin) / 1e6;
	for (int i = 0; i < n; i++)
		CALL(cuStreamCreate, &streams[i], CU_STREAM_NON_BLOCKING);
	for (int i = 0; i < ROUNDS * STREAMS_MAX; i++)
		launch(function, streams[i % n]);
	CALL(cuCtxSynchronize);
	CALL(cuMemGetInfo_v2, &free_bytes, &total);
	printf("%.3f %lu %.0f\n", start_ms, own_kib(), (double)(total - free_bytes) / 1024);
	return fflush(stdout) != 0;
}

/* ---- the parent ---- */

int main(int argc, char **argv)
{
	static double figures[N_WAYS][N_FIGURES][TURNS_MAX];
	const int turns = argc > 2 ? atoi(argv[2]) : TURNS;
	const char *streams = argc > 3 ? argv[3] : "32";
	double median[N_WAYS][N_FIGURES];
	char output[256], *end;
	const char *library;

	fake_runtime_role(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "--turn"))
		return turn();
	if (turns < 1 || turns > TURNS_MAX)
		fake_die("TURNS must be 1 to 64", turns);
	if (atoi(streams) < 1 || atoi(streams) > STREAMS_MAX)
		fake_die("STREAMS must be 1 to 32", atoi(streams));
	setenv(streams_name, streams, 1);
	library = fake_library(argc > 1 ? argv[1] : NULL);
	fake_runtime_start();
	for (int i = 0; i < turns; i++)
		for (unsigned way = 0; way < N_WAYS; way++) {
			fake_run("--turn", way == WITHOUT ? NULL : library,
				 way == MOVED ? "1:1" : NULL, output, sizeof(output), NULL);
			end = output;
			for (unsigned k = 0; k < N_FIGURES; k++)
				figures[way][k][i] = strtod(end, &end);
		}
	fake_runtime_stop();
	for (unsigned way = 0; way < N_WAYS; way++)
		for (unsigned k = 0; k < N_FIGURES; k++)
			median[way][k] = fake_quantile(figures[way][k], (size_t)turns, 0.5);
	printf("{\"bench\":\"start\",\"turns\":%d,\"without_ms\":%.2f,\"with_ms\":%.2f,"
	       "\"added_ms\":%.2f,\"streams\":%s,\"without_host_kib\":%.0f,"
	       "\"added_host_kib\":%.0f,\"added_host_kib_8_partitions\":%.0f,"
	       "\"added_gpu_kib\":%.0f,\"gpu_kib_per_further_partition\":%.0f}\n",
	       turns, median[WITHOUT][START_MS], median[WITH][START_MS],
	       median[WITH][START_MS] - median[WITHOUT][START_MS], streams,
	       median[WITHOUT][HOST_KIB], median[WITH][HOST_KIB] - median[WITHOUT][HOST_KIB],
	       median[MOVED][HOST_KIB] - median[WITHOUT][HOST_KIB],
	       median[WITH][GPU_KIB] - median[WITHOUT][GPU_KIB],
	       (median[MOVED][GPU_KIB] - median[WITH][GPU_KIB]) / 7);
	return 0;
}
