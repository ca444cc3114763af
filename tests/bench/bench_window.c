/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the window costs a program that keeps its GPU busy: kernels a second with and without it, in turns,
 * for kernels of several lengths, also mixed ones, and ones that may overlap (programmatic launch), on
 * whatever libcuda.so.1 there is; plays the node runtime.
 *
 * Usage: bench_window [LIBRARY [TURNS [WINDOW_US]]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * WINDOW_US: 250, as with the default budget of kind latency, unless given.
 * Prints one line of JSON for each: medians over all turns, how many launches were held back and how many of
 * them let go since nothing completed, and how long the library said that the GPU needs for the rest.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/fake_runtime.h"

#include "../gpu/kernels_ptx.h"

enum { TURNS = 5, TURNS_MAX = 64, WINDOW_US = 250, TURN_US = 100000, MIXED = 9 };

static const struct kind {
	const char *role;
	unsigned us;
	bool overlaps;
	unsigned long_us; /* every ninth; 0: all are the same */
} kinds[] = {
    {"--turn-5", 5, false, 0},
    {"--turn-12", 12, false, 0},
    {"--turn-50", 50, false, 0},
    {"--turn-190", 190, false, 0},
    {"--turn-overlapping-5", 5, true, 0},
    {"--turn-overlapping-50", 50, true, 0},
    {"--turn-mixed-10-1000", 10, false, 1000},
    {"--turn-mixed-4-2400", 4, false, 2400},
    {"--turn-overlapping-mixed-10-1000", 10, true, 1000},
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
	const unsigned period_us = kind->long_us + (MIXED - 1) * kind->us;
	const unsigned n = kind->long_us ? TURN_US / period_us * MIXED : TURN_US / kind->us;
	const unsigned warm = n > 4 * MIXED ? n / 4 : MIXED;
	unsigned us;
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
	for (unsigned i = 0; i < n + warm; i++) {
		const bool is_long = kind->long_us && i % MIXED == MIXED - 1;

		if (i == warm) { /* warm, and the lengths of kernels are known */
			CALL(cuStreamSynchronize, config.hStream);
			begin = fake_now_ns();
		}
		/* Two blocks, for the library to tell them apart, as with other sizes of anything. */
		us = is_long ? kind->long_us : kind->us;
		config.gridDimX = is_long ? 2 : 1;
		CALL(cuLaunchKernelEx, &config, function, args, NULL);
	}
	CALL(cuStreamSynchronize, config.hStream);
	printf("%.1f\n", n / (fake_now_ns() - begin) * 1e9);
	return fflush(stdout) != 0;
}

/* ---- the parent ---- */

static void compare(const struct kind *kind, const char *library, int turns, unsigned window_us)
{
	static double rates[2][TURNS_MAX];
	struct ds_port port;
	char output[64];
	double without, with;

	for (int i = 0; i < turns; i++)
		for (int window = 0; window < 2; window++) {
			fake_runtime_ask(window ? DS_PAGE_WINDOW : 0, window_us);
			fake_run(kind->role, library, NULL, output, sizeof(output), &port);
			rates[window][i] = strtod(output, NULL);
		}
	without = fake_quantile(rates[0], (size_t)turns, 0.5);
	with = fake_quantile(rates[1], (size_t)turns, 0.5);
	printf("{\"bench\":\"window\",\"kernel_us\":%u,\"every_ninth_us\":%u,\"overlapping\":%s,"
	       "\"window_us\":%u,"
	       "\"turns\":%d,\"without_per_s\":%.0f,\"with_per_s\":%.0f,\"kept\":%.4f,"
	       "\"waits\":%llu,\"expired\":%llu,\"drain_us\":%llu}\n",
	       kind->us, kind->long_us ? kind->long_us : kind->us,
	       kind->overlaps ? "true" : "false", window_us, turns, without, with, with / without,
	       (unsigned long long)atomic_load(&port.window_waits),
	       (unsigned long long)atomic_load(&port.window_expired),
	       (unsigned long long)atomic_load(&port.drain_us));
}

int main(int argc, char **argv)
{
	const int turns = argc > 2 ? atoi(argv[2]) : TURNS;
	const int window_us = argc > 3 ? atoi(argv[3]) : WINDOW_US;
	const char *library;

	fake_runtime_role(argc, argv);
	for (size_t k = 0; k < N_KINDS; k++)
		if (argc > 1 && !strcmp(argv[1], kinds[k].role))
			return turn(&kinds[k]);
	if (turns < 1 || turns > TURNS_MAX)
		fake_die("TURNS must be 1 to 64", turns);
	if (window_us < 1)
		fake_die("WINDOW_US must be 1 or more", window_us);
	library = fake_library(argc > 1 ? argv[1] : NULL);
	fake_runtime_start();
	for (size_t k = 0; k < N_KINDS; k++)
		compare(&kinds[k], library, turns, (unsigned)window_us);
	fake_runtime_stop();
	return 0;
}
