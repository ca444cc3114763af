/* SPDX-License-Identifier: Apache-2.0 */
/* What bounds a kernel, by its times alone; and when that is tried out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/bound.h"
#include "noderuntime/coroutine/trial.h"

#define US   UINT64_C(1000)
#define MANY UINT64_C(1000000) /* threads */

static struct ds_bound bound;

static enum ds_bound_by add(uint32_t sms, uint64_t ns, unsigned n)
{
	enum ds_bound_by by = bound.by;

	for (unsigned i = 0; i < n; i++)
		by = ds_bound_add(&bound, sms, MANY, ns);
	return by;
}

/* Whose time is `fixed` and, on all 132 SMs, as much as `shrinking` besides. */
static enum ds_bound_by of(uint64_t fixed_us, uint64_t shrinking_us)
{
	memset(&bound, 0, sizeof(bound));
	add(64, (fixed_us + shrinking_us * 132 / 64) * US, 20);
	return add(132, (fixed_us + shrinking_us) * US, 20);
}

static void memory_or_sms(void **state)
{
	assert_int_equal(of(100, 0), DS_BOUND_BY_MEMORY);
	assert_int_equal(bound.gain_milli, 0);
	assert_int_equal(of(100, 20), DS_BOUND_BY_MEMORY);
	assert_int_equal(of(0, 100), DS_BOUND_BY_SMS);
	assert_in_range(bound.gain_milli, 990, 1010);
	assert_int_equal(of(20, 100), DS_BOUND_BY_SMS);
	assert_int_equal(of(100, 60), DS_BOUND_UNKNOWN);
	/* It is slower with more SMs. */
	memset(&bound, 0, sizeof(bound));
	add(64, 100 * US, 20);
	assert_int_equal(add(132, 110 * US, 20), DS_BOUND_BY_MEMORY);
}

static void not_before_it_is_known(void **state)
{
	memset(&bound, 0, sizeof(bound));
	assert_int_equal(add(64, 100 * US, DS_BOUND_SAMPLES - 1), DS_BOUND_UNKNOWN);
	assert_int_equal(add(132, 100 * US, 100), DS_BOUND_UNKNOWN);
	assert_int_equal(add(64, 100 * US, 1), DS_BOUND_BY_MEMORY);
	/* Nor from sizes that are nearly the same. */
	memset(&bound, 0, sizeof(bound));
	add(96, 100 * US, 20);
	assert_int_equal(add(132, 100 * US, 20), DS_BOUND_UNKNOWN);
}

static void not_of_the_small_and_the_short(void **state)
{
	memset(&bound, 0, sizeof(bound));
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(ds_bound_add(&bound, i % 2 ? 64 : 132, 132 * 2048 - 1, 100 * US),
				 DS_BOUND_UNKNOWN);
	assert_int_equal(of(19, 0), DS_BOUND_UNKNOWN);
	assert_int_equal(of(20, 0), DS_BOUND_BY_MEMORY);
}

static void it_stays_what_it_was_in_between(void **state)
{
	of(100, 0);
	assert_int_equal(add(132, 80 * US, 100), DS_BOUND_BY_MEMORY);
	assert_in_range(bound.gain_milli, DS_BOUND_MEMORY_MILLI + 1, DS_BOUND_SMS_MILLI - 1);
	assert_int_equal(add(132, 60 * US, 100), DS_BOUND_BY_SMS);
	assert_int_equal(add(132, 80 * US, 100), DS_BOUND_BY_SMS);
	assert_int_equal(add(132, 100 * US, 100), DS_BOUND_BY_MEMORY);
}

static void what_came_between_once_changes_nothing(void **state)
{
	of(100, 0);
	assert_int_equal(add(64, 1000000 * US, 1), DS_BOUND_BY_MEMORY);
	of(0, 100);
	assert_int_equal(add(132, 1000000 * US, 1), DS_BOUND_BY_SMS);
}

static void the_extremes_of_many_sizes(void **state)
{
	memset(&bound, 0, sizeof(bound));
	for (uint32_t sms = 8; sms <= 128; sms += 8)
		add(sms, 12800 * US / sms, 20);
	assert_int_equal(add(128, 100 * US, 1), DS_BOUND_BY_SMS);
}

/* ---- trials ---- */

#define MS UINT64_C(1000000)

static void both_phases_and_longer_pauses(void **state)
{
	struct ds_trial trial = {.phase = DS_TRIAL_REST};
	uint64_t now = 1000 * MS, launches = 1, trials = 0, small = 0, began = now;
	enum ds_trial_phase is = ds_trial_look(&trial, now, true, launches);

	assert_int_equal(is, DS_TRIAL_REST);
	while (now < began + 60000 * MS) {
		enum ds_trial_phase was = is;

		now += MS;
		launches += 4;
		is = ds_trial_look(&trial, now, true, launches);
		small += is == DS_TRIAL_SMALL;
		if (is == was)
			continue;
		assert_int_equal(is, (was + 1) % 3);
		trials += is == DS_TRIAL_SMALL;
		if (trials == 1 && is == DS_TRIAL_SMALL)
			assert_true(now - began <= 70 * MS);
	}
	assert_in_range(trials, 20, 40);
	assert_in_range(small, trials * 10, trials * 11);
}

static void long_kernels_need_longer(void **state)
{
	struct ds_trial trial = {.phase = DS_TRIAL_REST};
	uint64_t now = 1000 * MS, launches = 1, began;

	ds_trial_look(&trial, now, true, launches);
	now += 100 * MS;
	assert_int_equal(ds_trial_look(&trial, began = now, true, ++launches), DS_TRIAL_LARGE);
	while (ds_trial_look(&trial, now, true, launches) == DS_TRIAL_LARGE)
		now += MS;
	assert_int_equal(now - began, DS_TRIAL_MAX_NS);
	assert_int_equal(trial.phase, DS_TRIAL_SMALL);
	began = now;
	while (ds_trial_look(&trial, now, true, launches) == DS_TRIAL_SMALL) {
		now += MS;
		launches += 2;
	}
	assert_int_equal(now - began, 20 * MS);
}

static void only_while_nothing_else_is_asked(void **state)
{
	struct ds_trial trial = {.phase = DS_TRIAL_REST};
	uint64_t now = 1000 * MS;

	ds_trial_look(&trial, now, true, 1);
	assert_int_equal(ds_trial_look(&trial, now += 100 * MS, false, 2), DS_TRIAL_REST);
	assert_int_equal(ds_trial_look(&trial, now += 100 * MS, true, 3), DS_TRIAL_LARGE);
	assert_int_equal(ds_trial_look(&trial, now += MS, false, 4), DS_TRIAL_REST);
	assert_int_equal(ds_trial_look(&trial, now += MS, true, 4), DS_TRIAL_REST);
	/* Nothing is launched. */
	assert_int_equal(ds_trial_look(&trial, now += 100 * MS, true, 4), DS_TRIAL_REST);
	assert_int_equal(ds_trial_look(&trial, now += 100 * MS, true, 6), DS_TRIAL_LARGE);
	assert_false(ds_trial_stop(&trial));
	assert_int_equal(ds_trial_look(&trial, now += MS, true, 7), DS_TRIAL_REST);
	assert_int_equal(ds_trial_look(&trial, now += 100 * MS, true, 8), DS_TRIAL_LARGE);
	assert_int_equal(ds_trial_look(&trial, now += 10 * MS, true, 50), DS_TRIAL_SMALL);
	assert_true(ds_trial_stop(&trial));
	assert_false(ds_trial_stop(&trial));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(memory_or_sms),
	    cmocka_unit_test(not_before_it_is_known),
	    cmocka_unit_test(not_of_the_small_and_the_short),
	    cmocka_unit_test(it_stays_what_it_was_in_between),
	    cmocka_unit_test(what_came_between_once_changes_nothing),
	    cmocka_unit_test(the_extremes_of_many_sizes),
	    cmocka_unit_test(both_phases_and_longer_pauses),
	    cmocka_unit_test(long_kernels_need_longer),
	    cmocka_unit_test(only_while_nothing_else_is_asked),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
