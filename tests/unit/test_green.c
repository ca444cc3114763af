/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/green.h"

static const struct ds_gpu_shape shape = {.n_groups = 5, .group_sms = 8, .rest_sms = 4};

static struct ds_groups set(unsigned bits)
{
	return (struct ds_groups){{bits, 0}};
}

static void groups_are_chosen(void **state)
{
	static const struct {
		unsigned granted;
		unsigned uses[6];
		unsigned sms, most, chosen;
	} cases[] = {
	    /* as many as are asked for, from the first on */
	    {0x1f, {0}, 8, UINT_MAX, 0x01},
	    {0x1f, {0}, 9, UINT_MAX, 0x03},
	    {0x1f, {0}, 24, UINT_MAX, 0x07},
	    {0x1a, {0}, 16, UINT_MAX, 0x0a},
	    /* where the others are not */
	    {0x1f, {1}, 8, UINT_MAX, 0x02},
	    {0x1f, {1, 1, 0, 0, 2}, 24, UINT_MAX, 0x0d},
	    {0x03, {1, 2}, 8, UINT_MAX, 0x01},
	    {0x03, {2, 1}, 8, UINT_MAX, 0x02},
	    /* as far as there are any, and at least one */
	    {0x03, {0}, 132, UINT_MAX, 0x03},
	    {0x08, {7, 7, 7, 7, 7}, 8, UINT_MAX, 0x08},
	    {0x1f, {0}, 0, UINT_MAX, 0x01},
	    /* the rest comes last and never alone */
	    {0x3f, {0}, 40, UINT_MAX, 0x1f},
	    {0x3f, {0}, 44, UINT_MAX, 0x3f},
	    {0x30, {0}, 4, UINT_MAX, 0x10},
	    {0x30, {0}, 12, UINT_MAX, 0x30},
	    /* no more than may be pinned */
	    {0x3f, {0}, 44, 2, 0x03},
	    {0x3f, {1}, 44, 1, 0x02},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned uses[DS_GROUPS_MAX] = {0};
		struct ds_groups granted = set(cases[i].granted), chosen;

		for (unsigned group = 0; group < 6; group++)
			uses[group] = cases[i].uses[group];
		chosen = ds_green_choose(&shape, &granted, uses, cases[i].sms, cases[i].most);
		assert_int_equal(chosen.bits[0], cases[i].chosen);
		assert_int_equal(chosen.bits[1], 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(groups_are_chosen),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
