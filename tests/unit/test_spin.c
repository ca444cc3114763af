/* SPDX-License-Identifier: Apache-2.0 */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/spin.h"

enum { US = 1000 };
static const int64_t SECOND = 1000000000, START = 5000000000000;

static void not_allowed(void **unused)
{
	struct ds_spin spin = {0};

	assert_false(ds_spins(&spin));
	assert_false(ds_spin_goes_on(&spin, START));
	assert_false(ds_spin_begin(&spin, START, 0));
	assert_false(ds_spins(&spin));
	assert_false(ds_spin_wait(&spin));
	ds_spin_end(&spin, START);
	assert_int_equal(spin.paid_ns, 0);
}

static void as_long_as_allowed(void **unused)
{
	struct ds_spin spin = {0};

	assert_true(ds_spin_begin(&spin, START, 300));
	for (int us = 0; us < 300; us++) {
		assert_true(ds_spin_goes_on(&spin, START + us * US));
		ds_spin_paused(&spin, START + us * US + US / 2);
		assert_true(ds_spins(&spin));
	}
	assert_false(ds_spin_goes_on(&spin, START + 300 * US));
	assert_false(ds_spins(&spin));
	assert_false(ds_spin_goes_on(&spin, START + 10 * US)); /* it has ended */
}

/* Only pauses count: what is done between them may take its time. */
static void while_the_cpu_is_ours(void **unused)
{
	struct ds_spin spin = {0};

	assert_true(ds_spin_begin(&spin, START, 1000));
	assert_true(ds_spin_goes_on(&spin, START + 400 * US));
	ds_spin_paused(&spin, START + 500 * US);
	assert_true(ds_spins(&spin));
	assert_true(ds_spin_goes_on(&spin, START + 500 * US));
	ds_spin_paused(&spin, START + 601 * US);
	assert_false(ds_spins(&spin));
}

/* Spin as often as that is allowed; how long it was altogether, in ns. */
static int64_t spin_for(struct ds_spin *spin, int64_t from_ns, int64_t ns, uint32_t us)
{
	int64_t spun_ns = 0, now_ns = from_ns;

	while (now_ns < from_ns + ns) {
		if (!ds_spin_begin(spin, now_ns, us)) {
			now_ns += 50 * US;
			continue;
		}
		spun_ns += us * US;
		now_ns += us * US;
		assert_false(ds_spin_goes_on(spin, now_ns));
	}
	return spun_ns;
}

static void a_tenth_of_the_time(void **unused)
{
	struct ds_spin spin = {0};
	int64_t spun_ns = spin_for(&spin, START, 20 * SECOND, 500);

	assert_in_range(spun_ns, 2 * SECOND, 2 * SECOND + SECOND / 20);
	/* What it did not use is not saved up for more than a moment. */
	spun_ns = spin_for(&spin, START + 3600 * SECOND, SECOND, 500);
	assert_in_range(spun_ns, SECOND / 10, SECOND / 10 + SECOND / 20);
}

/* One that was stopped meanwhile has not spun all that time. */
static void late(void **unused)
{
	struct ds_spin spin = {0};

	assert_true(ds_spin_begin(&spin, START, 500));
	ds_spin_end(&spin, START + 60 * SECOND);
	assert_true(ds_spin_begin(&spin, START + 60 * SECOND, 500));
	/* Early is less. */
	ds_spin_end(&spin, START + 60 * SECOND + 10 * US);
	assert_int_equal(spin.paid_ns, START + 60 * SECOND + (5000 + 10 + 100) * US - 10 * US);
}

static void cpus(void **unused)
{
	cpu_set_t before, one;
	int first = 0;

	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	while (!CPU_ISSET(first, &before))
		first++;
	CPU_ZERO(&one);
	CPU_SET(first, &one);
	assert_true(ds_spin_has_cpus((uint32_t)CPU_COUNT(&before)));
	assert_false(ds_spin_has_cpus((uint32_t)CPU_COUNT(&before) + 1));
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_true(ds_spin_has_cpus(1));
	assert_false(ds_spin_has_cpus(2));
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(not_allowed),
	    cmocka_unit_test(as_long_as_allowed),
	    cmocka_unit_test(while_the_cpu_is_ours),
	    cmocka_unit_test(a_tenth_of_the_time),
	    cmocka_unit_test(late),
	    cmocka_unit_test(cpus),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
