/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a plan takes, and how long to lend takes: median and 99th percentile over many calls, each timed
 * alone, the clock's own cost included. Both are made whenever the ledger is settled, under its lock.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "noderuntime/lend.h"
#include "noderuntime/plan.h"

enum { ROUNDS = 20000 };

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void report(const char *bench, const char *name, const struct ds_gpu_shape *shape,
		   uint32_t n, uint64_t *times_ns)
{
	qsort(times_ns, ROUNDS, sizeof(times_ns[0]), compare);
	printf("{\"bench\":\"%s\",\"case\":\"%s\",\"residents\":%" PRIu32 ",\"groups\":%" PRIu32
	       ",\"rounds\":%d,\"median_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 "}\n",
	       bench, name, n, shape->n_groups, ROUNDS, times_ns[ROUNDS / 2],
	       times_ns[ROUNDS / 100 * 99]);
}

static int measure(const char *name, const struct ds_gpu_shape *shape, uint32_t n,
		   uint32_t share_milli)
{
	static uint64_t times_ns[ROUNDS];
	struct ds_plan_resident residents[DS_RESIDENTS_MAX] = {0};
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
	struct ds_error err;

	for (uint32_t i = 0; i < n; i++)
		residents[i].share_milli = residents[i].wish_milli = share_milli;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t begin_ns = now_ns();

		if (ds_plan(shape, residents, n, partitions, &err)) {
			fprintf(stderr, "bench_plan: %s\n", err.text);
			return 1;
		}
		times_ns[round] = now_ns() - begin_ns;
		for (uint32_t i = 0; i < n; i++)
			residents[i].held = partitions[i].groups;
	}
	report("plan", name, shape, n, times_ns);
	return 0;
}

/* Every other one is idle, and which ones it is changes from round to round. */
static int measure_lending(const char *name, const struct ds_gpu_shape *shape, uint32_t n,
			   uint32_t share_milli)
{
	static uint64_t times_ns[ROUNDS];
	struct ds_plan_resident asked[DS_RESIDENTS_MAX] = {0};
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
	struct ds_lend_resident residents[DS_RESIDENTS_MAX];
	struct ds_groups planned[DS_RESIDENTS_MAX];
	struct ds_error err;

	for (uint32_t i = 0; i < n; i++)
		asked[i].share_milli = asked[i].wish_milli = share_milli;
	if (ds_plan(shape, asked, n, partitions, &err)) {
		fprintf(stderr, "bench_plan: %s\n", err.text);
		return 1;
	}
	for (uint32_t i = 0; i < n; i++)
		residents[i] =
		    (struct ds_lend_resident){.own = partitions[i].groups,
					      .planned = partitions[i].groups,
					      .held = partitions[i].groups,
					      .share_milli = share_milli,
					      .wish_milli = 1000,
					      .kind = (enum ds_lend_kind)(i % 3),
					      .lends = true,
					      .borrows = true,
					      .in_time = partitions[i].weight_milli < 1000,
					      .reclaim_us = 500,
					      .drain_us = 100};
	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < n; i++)
			residents[i].active = (i + round / 7) % 2;
		uint64_t begin_ns = now_ns();
		ds_lend(shape, residents, n, planned);
		times_ns[round] = now_ns() - begin_ns;
		for (uint32_t i = 0; i < n; i++)
			residents[i].planned = residents[i].held = planned[i];
	}
	report("lend", name, shape, n, times_ns);
	return 0;
}
int main(void)
{
	static const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};
	static const struct ds_gpu_shape largest = {.n_groups = 127, .group_sms = 2, .rest_sms = 1};

	return measure("two halves", &h200, 2, 500) || measure("48 of 0.02", &h200, 48, 20) ||
	       measure("48 of 0.02, finest GPU", &largest, 48, 20) ||
	       measure("64 of 0.015, finest GPU", &largest, 64, 15) ||
	       measure_lending("two halves", &h200, 2, 500) ||
	       measure_lending("14 of 0.07", &h200, 14, 70) ||
	       measure_lending("48 of 0.02", &h200, 48, 20) ||
	       measure_lending("48 of 0.02, finest GPU", &largest, 48, 20);
}
