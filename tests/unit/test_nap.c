/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/nap.h"

/* Of something that takes so long: how late it is found out about, and how often it is asked for. */
static void found_soon_and_asked_seldom(void **state)
{
	static const struct {
		uint64_t takes_us, late_us;
		unsigned asked;
	} cases[] = {{1, 5, 2},       {100, 25, 20},     {1000, 25, 60},
		     {5000, 25, 220}, {20000, 125, 600}, {10000000, 500, 21000}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t waited_us = 0;
		unsigned asked = 1;

		for (; waited_us < cases[i].takes_us; asked++)
			waited_us += ds_nap_us(waited_us);
		assert_in_range(waited_us - cases[i].takes_us, 0, cases[i].late_us);
		assert_in_range(asked, 1, cases[i].asked);
	}
}

static void never_shorter(void **state)
{
	unsigned before = 1;

	for (uint64_t waited_us = 0; waited_us < 300000; waited_us++) {
		assert_in_range(ds_nap_us(waited_us), before, 500);
		before = ds_nap_us(waited_us);
	}
	assert_int_equal(ds_nap_us(UINT64_MAX), 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(found_soon_and_asked_seldom),
	    cmocka_unit_test(never_shorter),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
