/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a move to another partition costs. A program launches an empty kernel on one stream; the library
 * moves it every fourth launch (DETSHARE_CHAOS=4), so that launches with and without a move before
 * them alternate within one process. Turns without the library and without moves stand between.
 *
 * Usage: bench_remap [LIBRARY [TURNS]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * Prints one line of JSON per experiment, medians over all turns:
 *   idle    launch, then synchronise: the host's time of the launch, and that of both
 *   busy    launches behind 50 others: the host's time of the launch
 * "moved" is the phase of four with the longest median, "stayed" that with the shortest: what a launch
 * behind a move takes, and what one that has nothing to do with moves takes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/fake_runtime.h"

enum {
	TURNS = 7,
	TURNS_MAX = 64,
	PHASES = 4,
	ROUNDS = 3000, /* of PHASES launches, per turn */
	WARM_UP = 300,
	QUEUED = 52, /* launches before a synchronisation; a multiple of PHASES */
};

enum experiment { IDLE_LAUNCH, IDLE_BOTH, BUSY, N_EXPERIMENTS };
static const char *const experiments[N_EXPERIMENTS] = {
    "idle, launch", "idle, launch and synchronise", "busy, launch"};
enum way { WITHOUT, STILL, MOVING, N_WAYS };
enum { N_QUANTILES = 2 };
static const double quantiles[N_QUANTILES] = {0.5, 0.99};

/* ---- one turn: prints the quantiles of each phase of each experiment ---- */

static void print_phases(double (*ns)[ROUNDS])
{
	for (unsigned phase = 0; phase < PHASES; phase++)
		for (unsigned q = 0; q < N_QUANTILES; q++)
			printf("%.1f\n", fake_quantile(ns[phase], ROUNDS, quantiles[q]));
}

static int turn(void)
{
	static double launch_ns[PHASES][ROUNDS], both_ns[PHASES][ROUNDS];
	__typeof__(&cuLaunchKernel) launch =
	    (__typeof__(&cuLaunchKernel))(uintptr_t)fake_driver("cuLaunchKernel");
	__typeof__(&cuStreamSynchronize) synchronize =
	    (__typeof__(&cuStreamSynchronize))(uintptr_t)fake_driver("cuStreamSynchronize");
	CUfunction function = fake_empty_kernel();
	unsigned us = 0;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};
	CUstream stream;

	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (unsigned busy = 0; busy < 2; busy++) {
		for (int i = -WARM_UP * PHASES; i < ROUNDS * PHASES; i++) {
			const double begin = fake_now_ns();
			double launched;

			if (launch(function, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL))
				fake_die("cuLaunchKernel", 0);
			launched = fake_now_ns();
			if ((!busy || (i + WARM_UP * PHASES) % QUEUED == QUEUED - 1) &&
			    synchronize(stream))
				fake_die("cuStreamSynchronize", 0);
			if (i < 0)
				continue;
			launch_ns[i % PHASES][i / PHASES] = launched - begin;
			both_ns[i % PHASES][i / PHASES] = fake_now_ns() - begin;
		}
		print_phases(launch_ns);
		if (!busy)
			print_phases(both_ns);
	}
	return fflush(stdout) != 0;
}

/* ---- the parent ---- */

static double ns[N_WAYS][N_EXPERIMENTS][PHASES][N_QUANTILES][TURNS_MAX];
static double medians[N_WAYS][PHASES][N_QUANTILES];

static void report(unsigned experiment, unsigned turns)
{
	unsigned moved = 0, stayed = 0;

	for (unsigned way = 0; way < N_WAYS; way++)
		for (unsigned phase = 0; phase < PHASES; phase++)
			for (unsigned q = 0; q < N_QUANTILES; q++)
				medians[way][phase][q] =
				    fake_quantile(ns[way][experiment][phase][q], turns, 0.5);
	for (unsigned phase = 1; phase < PHASES; phase++) {
		if (medians[MOVING][phase][0] > medians[MOVING][moved][0])
			moved = phase;
		if (medians[MOVING][phase][0] < medians[MOVING][stayed][0])
			stayed = phase;
	}
	printf("{\"bench\":\"remap\",\"what\":\"%s\",\"turns\":%u", experiments[experiment], turns);
	for (unsigned q = 0; q < N_QUANTILES; q++)
		printf(",\"p%.0f_ns\":{\"without\":%.1f,\"still\":%.1f,\"stayed\":%.1f,"
		       "\"moved\":%.1f,\"added_by_move\":%.1f}",
		       quantiles[q] * 100, medians[WITHOUT][stayed][q], medians[STILL][stayed][q],
		       medians[MOVING][stayed][q], medians[MOVING][moved][q],
		       medians[MOVING][moved][q] - medians[MOVING][stayed][q]);
	printf("}\n");
}

int main(int argc, char **argv)
{
	const unsigned turns = argc > 2 ? (unsigned)atoi(argv[2]) : TURNS;
	struct ds_port port = {.magic = 0};
	char output[4096], *end;
	const char *library;

	fake_runtime_role(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "--turn"))
		return turn();
	if (turns < 1 || turns > TURNS_MAX)
		fake_die("TURNS must be 1 to 64", (int)turns);
	library = fake_library(argc > 1 ? argv[1] : NULL);
	fake_runtime_start();
	for (unsigned i = 0; i < turns; i++)
		for (unsigned way = 0; way < N_WAYS; way++) {
			fake_run("--turn", way == WITHOUT ? NULL : library,
				 way == MOVING ? "4" : NULL, output, sizeof(output),
				 way == MOVING ? &port : NULL);
			end = output;
			for (unsigned k = 0; k < N_EXPERIMENTS * PHASES * N_QUANTILES; k++)
				ns[way][k / (PHASES * N_QUANTILES)][k / N_QUANTILES % PHASES]
				  [k % N_QUANTILES][i] = strtod(end, &end);
		}
	fake_runtime_stop();
	for (unsigned experiment = 0; experiment < N_EXPERIMENTS; experiment++)
		report(experiment, turns);
	printf("{\"bench\":\"remap\",\"launches\":%llu,\"remaps\":%llu}\n",
	       (unsigned long long)port.launches, (unsigned long long)port.remaps);
	return 0;
}
