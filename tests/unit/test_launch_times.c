/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/launch_times.h"

static int set_up(void **state)
{
	ds_launch_times_forget();
	return 0;
}

static uint64_t key_of(uintptr_t what)
{
	return ds_launch_key((const void *)(what << 4), 256);
}

static uint64_t known_ns(uint64_t key)
{
	return ds_launch_times_get(key).ns;
}

static void what_makes_a_key(void **state)
{
	const void *what = (const void *)0x7f1234567890;

	assert_true(ds_launch_key(what, 1024) == ds_launch_key(what, 1024));
	assert_true(ds_launch_key(what, 1024) == ds_launch_key(what, 1100));
	assert_true(ds_launch_key(what, 1024) != ds_launch_key(what, 1280));
	assert_true(ds_launch_key(what, 1024) != ds_launch_key(what, 2048));
	assert_true(ds_launch_key(what, 1) != ds_launch_key(what, 2));
	assert_true(ds_launch_key(what, 0) != ds_launch_key(what, 1));
	assert_true(ds_launch_key(what, UINT64_MAX) != ds_launch_key(what, 1));
	assert_true(ds_launch_key((const char *)what + 16, 1024) != ds_launch_key(what, 1024));
}

static void longer_at_once_and_shorter_by_and_by(void **state)
{
	static const struct {
		struct ds_launch_time known;
		uint64_t ns;
		bool exact;
		struct ds_launch_time next;
	} rows[] = {
	    {{0, false}, 500, true, {500, true}},
	    {{0, false}, 500, false, {500, false}},
	    {{0, false}, 0, true, {1, true}},
	    {{100, true}, 500, true, {500, true}},
	    {{500, true}, 100, true, {400, true}},
	    {{2, true}, 1, true, {1, true}},
	    {{500, true}, 500, true, {500, true}},
	    /* No longer than that: nothing new, unless it is less. */
	    {{100, true}, 500, false, {100, true}},
	    {{500, true}, 100, false, {400, true}},
	    {{100, false}, 500, false, {100, false}},
	    {{500, false}, 100, false, {100, false}},
	    /* What is measured counts more than a bound. */
	    {{100000, false}, 100, true, {100, true}},
	    {{100, false}, 500, true, {500, true}},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct ds_launch_time next =
		    ds_launch_time_next(rows[i].known, rows[i].ns, rows[i].exact);

		assert_int_equal(next.ns, rows[i].next.ns);
		assert_int_equal(next.exact, rows[i].next.exact);
	}
}

static void what_is_learned_is_known(void **state)
{
	const uint64_t key = key_of(1);

	assert_int_equal(known_ns(key), 0);
	ds_launch_times_learn(&key, 1, 1600000, true);
	assert_int_equal(known_ns(key), 1600000);
	assert_true(ds_launch_times_get(key).exact);
	ds_launch_times_learn(&key, 1, UINT64_MAX, true);
	assert_int_equal(known_ns(key), UINT32_MAX * UINT64_C(16));
	ds_launch_times_forget();
	assert_int_equal(known_ns(key), 0);
}

static void each_has_its_part(void **state)
{
	const uint64_t keys[] = {key_of(1), key_of(2), key_of(1)};

	ds_launch_times_learn(&keys[0], 1, 16000, true);
	ds_launch_times_learn(&keys[1], 1, 160000, true);
	assert_int_equal(ds_launch_times_sum(keys, 3), 192000);
	/* Half as long again, and as often as it is there it is learned once. */
	ds_launch_times_learn(keys, 3, 288000, true);
	assert_int_equal(known_ns(keys[0]), 24000);
	assert_int_equal(known_ns(keys[1]), 240000);
	/* Of several it is not known which was so long. */
	ds_launch_times_learn(keys, 3, 288000000, true);
	assert_int_equal(known_ns(keys[0]), 96000);
	/* As short as they were before, at last. */
	for (unsigned i = 0; i < 40; i++)
		ds_launch_times_learn(keys, 3, 192000, true);
	assert_in_range(ds_launch_times_sum(keys, 3), 191000, 193000);
}

static void many_of_one_are_as_good_as_one(void **state)
{
	uint64_t keys[10];

	for (unsigned i = 0; i < 10; i++)
		keys[i] = key_of(7);
	ds_launch_times_learn(keys, 10, 50000, true);
	assert_in_range(known_ns(keys[0]), 4900, 5100);
	ds_launch_times_learn(keys, 0, 50000, true);
}

/* Some may be forgotten when there are too many, none is taken for another. */
static void hundreds_have_room(void **state)
{
	unsigned kept = 0;

	for (unsigned i = 1; i <= 500; i++) {
		const uint64_t key = key_of(i);

		ds_launch_times_learn(&key, 1, i * UINT64_C(1600), true);
	}
	for (unsigned i = 1; i <= 500; i++) {
		const uint64_t ns = known_ns(key_of(i));

		assert_true(!ns || ns == i * UINT64_C(1600));
		kept += ns > 0;
	}
	assert_true(kept >= 480);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_makes_a_key),
	    cmocka_unit_test(longer_at_once_and_shorter_by_and_by),
	    cmocka_unit_test_setup(what_is_learned_is_known, set_up),
	    cmocka_unit_test_setup(each_has_its_part, set_up),
	    cmocka_unit_test_setup(many_of_one_are_as_good_as_one, set_up),
	    cmocka_unit_test_setup(hundreds_have_room, set_up),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
