/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the window costs a program that keeps its GPU busy: kernels a second with and without it, in turns,
 * for kernels of several lengths, also with ones that may overlap (programmatic launch), on whatever
 * libcuda.so.1 there is; plays the node runtime.
 *
 * Usage: bench_window [LIBRARY [TURNS]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * Prints one line of JSON for each: medians over all turns, how many launches were held back and how many of
 * them let go since nothing completed, and how long the library said that the GPU needs for the rest.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/fake_runtime.h"

#include "../gpu/kernels_ptx.h"

enum { TURNS = 5, TURNS_MAX = 64, WINDOW_US = 100, TURN_US = 100000 };

static const struct kind {
	const char *role;
	unsigned us;
	bool overlaps;
} kinds[] = {
    {"--turn-5", 5, false},
    {"--turn-12", 12, false},
    {"--turn-50", 50, false},
    {"--turn-190", 190, false},
    {"--turn-overlapping-5", 5, true},
    {"--turn-overlapping-50", 50, true},
};
enum { N_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* ---- one turn: a process of its own, which prints its rate ---- */

static int turn(const struct kind *kind)
{
	CUlaunchAttribute overlaps = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
				      .value.programmaticStreamSerializationAllowed = 1};
	CUlaunchConfig config = {.gridDimX = 1,
				 .gridDimY = 1,
				 .gridDimZ = 1,
				 .blockDimX = 1,
				 .blockDimY = 1,
				 .blockDimZ = 1,
				 .attrs = &overlaps,
				 .numAttrs = kind->overlaps};
	const unsigned n = TURN_US / kind->us;
	unsigned us = kind->us;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};
	CUfunction function;
	CUcontext context;
	CUmodule module;
	double begin = 0;

	CALL(cuInit, 0);
	CALL(cuDevicePrimaryCtxRetain, &context, 0);
	CALL(cuCtxSetCurrent, context);
	CALL(cuModuleLoadData, &module, kernels_ptx);
	CALL(cuModuleGetFunction, &function, module, "spin_us");
	CALL(cuStreamCreate, &config.hStream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < n + n / 4; i++) {
		if (i == n / 4) { /* warm, and the lengths of kernels are known */
			CALL(cuStreamSynchronize, config.hStream);
			begin = fake_now_ns();
		}
		CALL(cuLaunchKernelEx, &config, function, args, NULL);
	}
	CALL(cuStreamSynchronize, config.hStream);
	printf("%.1f\n", n / (fake_now_ns() - begin) * 1e9);
	return fflush(stdout) != 0;
}

/* ---- the parent ---- */

static void compare(const struct kind *kind, const char *library, int turns)
{
	static double rates[2][TURNS_MAX];
	struct ds_port port;
	char output[64];
	double without, with;

	for (int i = 0; i < turns; i++)
		for (int window = 0; window < 2; window++) {
			fake_runtime_ask(window ? DS_PAGE_WINDOW : 0, WINDOW_US);
			fake_run(kind->role, library, NULL, output, sizeof(output), &port);
			rates[window][i] = strtod(output, NULL);
		}
	without = fake_quantile(rates[0], (size_t)turns, 0.5);
	with = fake_quantile(rates[1], (size_t)turns, 0.5);
	printf("{\"bench\":\"window\",\"kernel_us\":%u,\"overlapping\":%s,\"window_us\":%d,"
	       "\"turns\":%d,\"without_per_s\":%.0f,\"with_per_s\":%.0f,\"kept\":%.4f,"
	       "\"waits\":%llu,\"expired\":%llu,\"drain_us\":%llu}\n",
	       kind->us, kind->overlaps ? "true" : "false", WINDOW_US, turns, without, with,
	       with / without, (unsigned long long)atomic_load(&port.window_waits),
	       (unsigned long long)atomic_load(&port.window_expired),
	       (unsigned long long)atomic_load(&port.drain_us));
}

int main(int argc, char **argv)
{
	const int turns = argc > 2 ? atoi(argv[2]) : TURNS;
	const char *library;

	fake_runtime_role(argc, argv);
	for (size_t k = 0; k < N_KINDS; k++)
		if (argc > 1 && !strcmp(argv[1], kinds[k].role))
			return turn(&kinds[k]);
	if (turns < 1 || turns > TURNS_MAX)
		fake_die("TURNS must be 1 to 64", turns);
	library = fake_library(argc > 1 ? argv[1] : NULL);
	fake_runtime_start();
	for (size_t k = 0; k < N_KINDS; k++)
		compare(&kinds[k], library, turns);
	fake_runtime_stop();
	return 0;
}
