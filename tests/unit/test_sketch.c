/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/sketch.h"

#define LONGEST (UINT64_C(1) << 40)

enum { N = 5000 };

static uint64_t state_of_random = 88172645463325252;

static uint64_t draw(void)
{
	state_of_random ^= state_of_random << 13;
	state_of_random ^= state_of_random >> 7;
	state_of_random ^= state_of_random << 17;
	return state_of_random;
}

/* What the sketch promises for the exact quantile `exact`. */
static void assert_close(uint64_t found, uint64_t exact)
{
	uint64_t error = found > exact ? found - exact : exact - found;

	if (exact < 1024)
		assert_true(error <= 32);
	else
		assert_true(error * 32 <= exact);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void check(uint64_t *durations, size_t n)
{
	static const unsigned quantiles[] = {0, 1, 10, 250, 500, 900, 990, 999, 1000};
	struct ds_sketch sketch = {{0}};

	for (size_t i = 0; i < n; i++)
		ds_sketch_add(&sketch, durations[i]);
	assert_int_equal(ds_sketch_count(&sketch), n);
	qsort(durations, n, sizeof(*durations), by_size);
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		size_t rank = (n * quantiles[i] + 999) / 1000;

		assert_close(ds_sketch_quantile_ns(&sketch, quantiles[i]),
			     durations[rank ? rank - 1 : 0]);
	}
}

/* Every magnitude alike. */
static void any_magnitude(void **state)
{
	uint64_t durations[N];

	for (unsigned run = 0; run < 20; run++) {
		for (size_t i = 0; i < N; i++)
			durations[i] = draw() >> (24 + draw() % 40);
		check(durations, N);
	}
}

/* A narrow peak and a long tail, as step times are; and few of them. */
static void steps(void **state)
{
	uint64_t durations[N];

	for (size_t n = 1; n <= N; n = n * 3 + 1) {
		for (size_t i = 0; i < n; i++)
			durations[i] =
			    1700000 + draw() % 40000 + (draw() % 50 ? 0 : draw() % 30000000);
		check(durations, n);
	}
}

static void edges_of_buckets(void **state)
{
	for (uint64_t power = 1; power < LONGEST; power *= 2)
		for (int64_t off = -1; off <= 1; off++) {
			uint64_t one = power + (uint64_t)off;

			check(&one, 1);
		}
}

static void nothing_and_too_long(void **state)
{
	static const uint64_t too_long[] = {LONGEST, LONGEST * 5, UINT64_MAX};
	struct ds_sketch sketch = {{0}};

	assert_int_equal(ds_sketch_quantile_ns(&sketch, 500), 0);
	for (size_t i = 0; i < 3; i++)
		ds_sketch_add(&sketch, too_long[i]);
	assert_close(ds_sketch_quantile_ns(&sketch, 500), LONGEST);
}

static void merging_is_adding(void **state)
{
	struct ds_sketch all = {{0}}, parts[3] = {{{0}}}, merged = {{0}};

	for (unsigned i = 0; i < N; i++) {
		uint64_t duration = draw() >> (24 + draw() % 40);

		ds_sketch_add(&all, duration);
		ds_sketch_add(&parts[i % 3], duration);
	}
	for (unsigned i = 0; i < 3; i++)
		ds_sketch_merge(&merged, &parts[i]);
	assert_memory_equal(&merged, &all, sizeof(all));
}

static void a_full_bucket_stays_full(void **state)
{
	struct ds_sketch one = {{0}}, two;

	one.counts[7] = UINT32_MAX - 1;
	two = one;
	ds_sketch_add(&one, 7 * 64);
	assert_int_equal(one.counts[7], UINT32_MAX);
	ds_sketch_add(&one, 7 * 64);
	assert_int_equal(one.counts[7], UINT32_MAX);
	ds_sketch_merge(&two, &one);
	assert_int_equal(two.counts[7], UINT32_MAX);
	assert_int_equal(ds_sketch_count(&two), UINT32_MAX);
}

/* Whatever a program wrote into its port. */
static void any_counts(void **state)
{
	struct ds_sketch sketch;

	memset(&sketch, 0xff, sizeof(sketch));
	for (unsigned per_mille = 0; per_mille <= 1000; per_mille++)
		assert_true(ds_sketch_quantile_ns(&sketch, per_mille) <= LONGEST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(any_magnitude),     cmocka_unit_test(steps),
	    cmocka_unit_test(edges_of_buckets),  cmocka_unit_test(nothing_and_too_long),
	    cmocka_unit_test(merging_is_adding), cmocka_unit_test(a_full_bucket_stays_full),
	    cmocka_unit_test(any_counts),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
