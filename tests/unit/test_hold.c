/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/hold.h"

#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

enum { QUARTER = 250 };

static void what_was_not_used_can_be_used(void **state)
{
	assert_int_equal(ds_hold_may(10 * S, 10 * S, QUARTER, S), 0);
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 40 * MS, QUARTER, S), 10 * MS);
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 40 * MS, QUARTER, 3 * MS), 3 * MS);
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 40 * MS, 1000, S), 40 * MS);
	/* But not of long ago. */
	assert_int_equal(ds_hold_may(10 * S, 1000 * S, QUARTER, S), S / 4);
	/* Paid for in advance, by threads that waited side by side. */
	assert_int_equal(ds_hold_may(10 * S, 9 * S, QUARTER, S), 0);
}

static void not_for_next_to_nothing(void **state)
{
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 796000, QUARTER, S), 0);
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 800000, QUARTER, S), DS_HOLD_LEAST_NS);
	/* Unless a launch is to wait for no longer anyhow. */
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 400000, QUARTER, 100000), 100000);
	assert_int_equal(ds_hold_may(10 * S, 10 * S + 396000, QUARTER, 100000), 0);
}

static void holding_is_paid_for(void **state)
{
	assert_int_equal(ds_hold_pay(10 * S, 10 * S + 40 * MS, QUARTER, 5 * MS), 10 * S + 20 * MS);
	assert_int_equal(ds_hold_pay(10 * S, 1000 * S, QUARTER, 5 * MS), 999 * S + 20 * MS);
	assert_int_equal(ds_hold_pay(10 * S, 9 * S, QUARTER, 5 * MS), 10 * S + 20 * MS);
	assert_int_equal(ds_hold_pay(10 * S, 10 * S, 1, MS), 11 * S);
}

/* A neighbour that is in a step all the time, and launches of any length. */
static void no_more_than_its_part_of_the_time(void **state)
{
	static const uint32_t parts[] = {1, 100, QUARTER, 999, 1000};
	static const uint64_t kernels_ns[] = {1000, 70000, 3 * MS};

	for (unsigned i = 0; i < 5; i++) {
		for (unsigned k = 0; k < 3; k++) {
			uint64_t now = S, paid_ns = S, held_ns = 0;

			while (now < 31 * S) {
				uint64_t may = ds_hold_may(paid_ns, now, parts[i], 5 * MS);
				/* A nap may be longer than it was to be. */
				uint64_t ns = may ? may + 60000 : 0;

				now += ns;
				if (ns)
					paid_ns = ds_hold_pay(paid_ns, now, parts[i], ns);
				held_ns += ns;
				assert_true(held_ns <= (now - S + S) * parts[i] / 1000 + 60000);
				now += kernels_ns[k];
			}
			/* And all of it, unless kernels take the rest. */
			if (parts[i] <= QUARTER)
				assert_true(held_ns >= 30 * S / 1000 * parts[i] * 9 / 10 - 5 * MS);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_was_not_used_can_be_used),
	    cmocka_unit_test(not_for_next_to_nothing),
	    cmocka_unit_test(holding_is_paid_for),
	    cmocka_unit_test(no_more_than_its_part_of_the_time),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
