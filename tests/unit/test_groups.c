/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/groups.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};
static const struct ds_gpu_shape even = {.n_groups = 16, .group_sms = 8, .rest_sms = 0};
static const struct ds_gpu_shape largest = {.n_groups = 127, .group_sms = 2, .rest_sms = 1};

static struct ds_groups range(unsigned first, unsigned last)
{
	struct ds_groups set = {{0, 0}};

	for (unsigned g = first; g <= last; g++)
		ds_groups_add(&set, g);
	return set;
}

static void sets(void **state)
{
	struct ds_groups low = range(0, 7);
	struct ds_groups high = range(60, 70);
	struct ds_groups both = ds_groups_union(low, high);

	assert_int_equal(ds_groups_count(&low), 8);
	assert_int_equal(ds_groups_count(&high), 11);
	assert_int_equal(ds_groups_count(&both), 19);
	for (unsigned g = 0; g < DS_GROUPS_MAX; g++)
		assert_int_equal(ds_groups_has(&both, g), g <= 7 || (g >= 60 && g <= 70));
	assert_false(ds_groups_has(&both, DS_GROUPS_MAX));
	assert_false(ds_groups_has(&both, 1000));

	struct ds_groups back = ds_groups_difference(both, high);
	assert_true(ds_groups_equal(&back, &low));
	back = ds_groups_intersection(both, high);
	assert_true(ds_groups_equal(&back, &high));
	assert_false(ds_groups_equal(&low, &high));
	for (unsigned g = 60; g <= 70; g++)
		ds_groups_remove(&high, g);
	assert_true(ds_groups_empty(&high));
	assert_false(ds_groups_empty(&low));
}

static void sms(void **state)
{
	struct ds_groups set = range(8, 15);

	assert_int_equal(ds_groups_sms(&set, &h200), 7 * 8 + 12);
	assert_int_equal(ds_groups_sms(&set, &even), 8 * 8);
	set = range(0, 15);
	assert_int_equal(ds_groups_sms(&set, &h200), 132);
	set = range(0, 127);
	assert_int_equal(ds_groups_sms(&set, &largest), 255);
	set = (struct ds_groups){{0, 0}};
	assert_int_equal(ds_groups_sms(&set, &h200), 0);
}

static void formats(void **state)
{
	static const struct {
		struct ds_groups set;
		const struct ds_gpu_shape *shape;
		const char *text;
	} cases[] = {
	    {{{0, 0}}, &h200, "none"},
	    {{{0x1, 0}}, &h200, "0"},
	    {{{0xff, 0}}, &h200, "0-7"},
	    {{{0x1d, 0}}, &h200, "0,2-4"},
	    {{{0x7f00 | 1 << 15, 0}}, &h200, "8-14+rest"},
	    {{{0x7fff, 0}}, &h200, "0-14"},
	    {{{0xffff, 0}}, &h200, "0-14+rest"},
	    {{{1 << 15, 0}}, &h200, "rest"},
	    {{{0xffff, 0}}, &even, "0-15"},
	    {{{0x5555, 0}}, &even, "0,2,4,6,8,10,12,14"},
	    {{{UINT64_MAX, UINT64_MAX}}, &largest, "0-126+rest"},
	    {{{UINT64_C(3) << 62, 3}}, &largest, "62-65"},
	};

	for (size_t i = 0; i < N(cases); i++) {
		char text[64];

		assert_ptr_equal(
		    ds_groups_format(&cases[i].set, cases[i].shape, text, sizeof(text)), text);
		assert_string_equal(text, cases[i].text);
	}
}

/* Whatever the buffer's size: terminated, nothing written behind it. */
static void format_is_cut(void **state)
{
	struct ds_groups set = {{0x5555555555555555, 0x5555555555555555}};

	for (size_t size = 0; size < 400; size++) {
		char text[401];

		memset(text, '#', sizeof(text));
		ds_groups_format(&set, &largest, text, size);
		assert_int_equal(text[size], '#');
		if (size)
			assert_non_null(memchr(text, '\0', size));
	}
}

static void errors(void **state)
{
	struct ds_error err;
	char big[2000];

	errno = ENOSPC;
	assert_int_equal(ds_fail(&err, "cannot write %s", "/x"), -1);
	assert_string_equal(err.text, "cannot write /x");
	assert_int_equal(ds_fail_within(&err, "GPU %d", 3), -1);
	assert_string_equal(err.text, "GPU 3: cannot write /x");
	assert_int_equal(ds_fail(NULL, "nobody listens"), -1);
	assert_int_equal(ds_fail_within(NULL, "nobody listens"), -1);
	assert_int_equal(errno, ENOSPC);

	memset(big, 'a', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	ds_fail(&err, "%s", big);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	ds_fail_within(&err, "before");
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_memory_equal(err.text, "before: aaa", 11);
	ds_fail_within(&err, "%s", big);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sets),          cmocka_unit_test(sms),    cmocka_unit_test(formats),
	    cmocka_unit_test(format_is_cut), cmocka_unit_test(errors),
	};

	alarm(60);
	return cmocka_run_group_tests_name("groups", tests, NULL, NULL);
}
