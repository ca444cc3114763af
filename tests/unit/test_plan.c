/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/plan.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};
static const struct ds_gpu_shape even = {.n_groups = 16, .group_sms = 8, .rest_sms = 0};
static const struct ds_gpu_shape one_group = {.n_groups = 1, .group_sms = 2, .rest_sms = 1};
static const struct ds_gpu_shape largest = {.n_groups = 127, .group_sms = 2, .rest_sms = 1};

enum { ROW = 6 };

/* Shares in, partitions out, nobody held anything. "w400" behind a set: shared in time. */
static void examples(void **state)
{
	static const struct {
		const struct ds_gpu_shape *shape;
		uint32_t shares[ROW];
		const char *sets[ROW];
		uint32_t weights[ROW]; /* 0 stands for 1000 */
	} cases[] = {
	    {&h200, {500}, {"0-7"}, {0}},
	    {&h200, {500, 500}, {"0-7", "8-14+rest"}, {0}},
	    {&h200, {1000}, {"0-14+rest"}, {0}},
	    {&h200, {600, 400}, {"0-8+rest", "9-14"}, {0}},
	    {&h200, {400, 600}, {"0-5+rest", "6-14"}, {0}},
	    {&h200, {250, 250, 250, 250}, {"0-3", "4-7", "8-11", "12-14+rest"}, {0}},
	    {&h200, {334, 333, 333}, {"0-4+rest", "5-9", "10-14"}, {0}},
	    {&h200, {333, 333, 333}, {"0-4", "5-9", "10-14"}, {0}},
	    {&h200, {67}, {"0-1"}, {0}},
	    {&h200, {66}, {"0"}, {0}},
	    {&h200, {1}, {"0"}, {0}},
	    {&h200, {20, 20, 20}, {"0", "0", "0"}, {300, 300, 300}},
	    {&h200, {20, 20, 20, 20}, {"0", "0", "0", "1"}, {300, 300, 300, 0}},
	    {&h200, {980, 20}, {"0-13+rest", "14"}, {0}},
	    {&h200, {20, 980}, {"0", "1-14+rest"}, {0}},
	    {&h200, {500, 40, 40}, {"0-6+rest", "7", "8"}, {0}},
	    /* Three of 0.6 groups do not fit into two groups: two of them get less. */
	    {&h200, {40, 40, 40}, {"0", "1", "0"}, {500, 0, 500}},
	    {&h200, {933, 33, 33}, {"0-13", "14", "14"}, {0, 495, 495}},
	    {&even, {500, 500}, {"0-7", "8-15"}, {0}},
	    {&even, {1000}, {"0-15"}, {0}},
	    {&one_group, {1000}, {"0+rest"}, {0}},
	    {&one_group, {500, 500}, {"0", "0"}, {500, 500}},
	    {&one_group, {999, 1}, {"0", "0"}, {999, 1}},
	    {&largest, {500, 500}, {"0-63", "64-126+rest"}, {0}},
	};

	for (size_t c = 0; c < N(cases); c++) {
		struct ds_plan_resident residents[ROW] = {0};
		struct ds_plan_partition partitions[ROW];
		struct ds_error err = {""};
		uint32_t n = 0;

		for (; n < ROW && cases[c].shares[n]; n++)
			residents[n].share_milli = residents[n].wish_milli = cases[c].shares[n];
		assert_int_equal(ds_plan(cases[c].shape, residents, n, partitions, &err), 0);
		for (uint32_t i = 0; i < n; i++) {
			char text[256];

			ds_groups_format(&partitions[i].groups, cases[c].shape, text, sizeof(text));
			assert_string_equal(text, cases[c].sets[i]);
			assert_int_equal(partitions[i].weight_milli,
					 cases[c].weights[i] ? cases[c].weights[i] : 1000);
		}
	}
}

/* What they hold goes in too: as sets of groups. */
static void examples_with_held(void **state)
{
	static const struct {
		uint32_t shares[ROW];
		uint64_t held[ROW];
		const char *sets[ROW];
	} cases[] = {
	    {{500, 500}, {0xff, 0}, {"0-7", "8-14+rest"}},
	    {{500, 500}, {0, 0xff}, {"7-14", "0-6+rest"}},
	    /* The first leaves: the second keeps all it has, but for what is above its quota. */
	    {{500}, {0xff00}, {"0,8-14"}},
	    /* 6 groups become 5; the newcomer takes none that may still be in use. */
	    {{350, 250}, {0x3f, 0}, {"0-4+rest", "6-9"}},
	    /* It does when there is no other. */
	    {{350, 650}, {0x3f, 0}, {"0-4+rest", "5-14"}},
	    /* Two who hold the same: the first keeps it. */
	    {{200, 200}, {0x7, 0x7}, {"0-2+rest", "3-5"}},
	    {{200, 200}, {0x70, 0x70}, {"4-6+rest", "0-2"}},
	    /* Held beyond the GPU, and its remainder alone. */
	    {{200}, {UINT64_C(1) << 40 | 1 << 15}, {"0-2+rest"}},
	};

	for (size_t c = 0; c < N(cases); c++) {
		struct ds_plan_resident residents[ROW] = {0};
		struct ds_plan_partition partitions[ROW];
		uint32_t n = 0;

		for (; n < ROW && cases[c].shares[n]; n++)
			residents[n] = (struct ds_plan_resident){.share_milli = cases[c].shares[n],
								 .wish_milli = cases[c].shares[n],
								 .held = {{cases[c].held[n], 0}}};
		assert_int_equal(ds_plan(&h200, residents, n, partitions, NULL), 0);
		for (uint32_t i = 0; i < n; i++) {
			char text[256];

			ds_groups_format(&partitions[i].groups, &h200, text, sizeof(text));
			assert_string_equal(text, cases[c].sets[i]);
		}
	}
}

static void refusals(void **state)
{
	static struct ds_plan_resident many[DS_RESIDENTS_MAX + 1];
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX + 1];
	struct ds_gpu_shape shape = h200;
	struct ds_error err = {""};

	for (size_t i = 0; i < N(many); i++)
		many[i].share_milli = many[i].wish_milli = 10;
	assert_int_equal(ds_plan(&h200, many, DS_RESIDENTS_MAX, partitions, &err), 0);
	assert_int_equal(ds_plan(&h200, many, DS_RESIDENTS_MAX + 1, partitions, &err), -1);
	assert_string_equal(err.text, "cannot plan for 65 residents of one GPU: at most 64");
	shape.n_groups = 0;
	assert_int_equal(ds_plan(&shape, many, 1, partitions, &err), -1);
	assert_string_equal(err.text, "cannot plan a GPU of 0 SM groups: 1 to 127 are possible");
	shape.n_groups = DS_GROUPS_MAX;
	assert_int_equal(ds_plan(&shape, many, 1, partitions, &err), -1);
	many[1].share_milli = 990;
	assert_int_equal(ds_plan(&h200, many, 2, partitions, &err), 0);
	many[1].share_milli = 991;
	assert_int_equal(ds_plan(&h200, many, 2, partitions, &err), -1);
	assert_string_equal(err.text,
			    "resident 1 does not fit: it is granted 991 thousandths of the "
			    "GPU and 990 are left");
	many[0].share_milli = 0;
	assert_int_equal(ds_plan(&h200, many, 1, partitions, &err), -1);
	many[0].share_milli = 1001;
	assert_int_equal(ds_plan(&h200, many, 1, partitions, &err), -1);
	many[0].share_milli = 1;
	many[0].wish_milli = 1001;
	assert_int_equal(ds_plan(&h200, many, 1, partitions, &err), -1);
	assert_int_equal(ds_plan(&h200, many, 0, partitions, &err), 0);
}

/* The generator: always the same numbers on every machine. */
static uint64_t seed;

static uint32_t below(uint32_t limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 11) % limit);
}

struct scene {
	struct ds_gpu_shape shape;
	struct ds_plan_resident residents[DS_RESIDENTS_MAX];
	uint32_t n;
};

/* Few big ones, many small ones, or a mix; full GPUs and empty ones. */
static void make_scene(struct scene *s, bool borrowing)
{
	uint32_t left_milli = below(4) ? 1000 : 1 + below(1000);
	uint32_t largest_milli = (uint32_t[]){20, 70, 200, 700, 1000}[below(5)];
	uint32_t n_max = 1 + below(DS_RESIDENTS_MAX);

	memset(s, 0, sizeof(*s));
	s->shape = (struct ds_gpu_shape[]){h200, h200, even, one_group, largest}[below(5)];
	if (!below(3)) {
		s->shape.n_groups = 1 + below(DS_GROUPS_MAX - 1);
		s->shape.rest_sms = below(2) * 6;
	}
	while (s->n < n_max && left_milli) {
		struct ds_plan_resident *r = &s->residents[s->n++];

		r->share_milli = 1 + below(largest_milli < left_milli ? largest_milli : left_milli);
		r->wish_milli = borrowing ? below(1001) : r->share_milli;
		left_milli -= r->share_milli;
	}
}

/* Any sets at all: overlapping, beyond the shape. */
static void hold_anything(struct scene *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		for (unsigned word = 0; word < 2; word++)
			s->residents[i].held.bits[word] =
			    (uint64_t)below(UINT32_MAX) << 32 | below(UINT32_MAX);
		if (!below(3))
			s->residents[i].held = (struct ds_groups){{0, 0}};
	}
}

static void plan(const struct scene *s, struct ds_plan_partition *partitions)
{
	struct ds_error err = {""};

	/* What is not written must not look as if it was. */
	memset(partitions, 0xa5, DS_RESIDENTS_MAX * sizeof(*partitions));
	if (ds_plan(&s->shape, s->residents, s->n, partitions, &err))
		fail_msg("%s", err.text);
}

static uint32_t whole_groups(const struct scene *s, const struct ds_plan_partition *p)
{
	struct ds_groups set = p->groups;

	ds_groups_remove(&set, s->shape.n_groups);
	return ds_groups_count(&set);
}

static bool has_rest(const struct scene *s, const struct ds_plan_partition *p)
{
	return ds_groups_has(&p->groups, s->shape.n_groups);
}

static uint32_t guaranteed_groups(const struct scene *s, uint32_t i)
{
	return s->residents[i].share_milli * s->shape.n_groups / 1000;
}

static void check_guarantees(const struct scene *s, const struct ds_plan_partition *partitions)
{
	uint32_t weight_of[DS_GROUPS_MAX] = {0};
	uint32_t users_of[DS_GROUPS_MAX] = {0};
	uint32_t last = s->shape.n_groups - (s->shape.rest_sms ? 0 : 1);

	for (uint32_t i = 0; i < s->n; i++) {
		const struct ds_plan_partition *p = &partitions[i];
		uint32_t guaranteed = guaranteed_groups(s, i);

		assert_true(whole_groups(s, p) >= 1);
		assert_true(whole_groups(s, p) >= guaranteed);
		assert_true(p->weight_milli >= 1 && p->weight_milli <= 1000);
		if (guaranteed >= 1)
			assert_int_equal(p->weight_milli, 1000);
		if (p->weight_milli < 1000)
			assert_int_equal(ds_groups_count(&p->groups), 1);
		for (unsigned g = 0; g < DS_GROUPS_MAX; g++) {
			if (!ds_groups_has(&p->groups, g))
				continue;
			assert_true(g <= last);
			weight_of[g] += p->weight_milli;
			users_of[g]++;
		}
	}
	for (unsigned g = 0; g < DS_GROUPS_MAX; g++)
		assert_true(weight_of[g] <= 1000);
	assert_true(users_of[s->shape.n_groups] <= 1);
}

/* With every share its own wish: seats as the sum of the quotas, rounded up. */
static void check_seats(const struct scene *s, const struct ds_plan_partition *partitions)
{
	struct ds_groups used = {{0, 0}};
	uint32_t share_sum = 0;

	for (uint32_t i = 0; i < s->n; i++) {
		used = ds_groups_union(used, partitions[i].groups);
		share_sum += s->residents[i].share_milli;

		uint32_t quota_milli = s->residents[i].share_milli * s->shape.n_groups;
		if (guaranteed_groups(s, i) >= 1)
			assert_true(whole_groups(s, &partitions[i]) * 1000 < quota_milli + 1000);
		if (has_rest(s, &partitions[i]))
			assert_true(whole_groups(s, &partitions[i]) * 1000 <= quota_milli);
	}
	bool rest = ds_groups_has(&used, s->shape.n_groups);
	ds_groups_remove(&used, s->shape.n_groups);
	assert_int_equal(ds_groups_count(&used), (share_sum * s->shape.n_groups + 999) / 1000);
	/* A GPU that is granted as a whole is used as a whole, unless only small ones are there. */
	for (uint32_t i = 0; share_sum == 1000 && s->shape.rest_sms && i < s->n; i++) {
		uint32_t quota_milli = s->residents[i].share_milli * s->shape.n_groups;
		if (guaranteed_groups(s, i) &&
		    whole_groups(s, &partitions[i]) * 1000 <= quota_milli)
			assert_true(rest);
	}
}

static bool same(const struct scene *s, const struct ds_plan_partition *a,
		 const struct ds_plan_partition *b)
{
	for (uint32_t i = 0; i < s->n; i++) {
		if (!ds_groups_equal(&a[i].groups, &b[i].groups) ||
		    a[i].weight_milli != b[i].weight_milli)
			return false;
	}
	return true;
}

static void guarantees_hold(void **state)
{
	seed = 20261120;
	for (int round = 0; round < 20000; round++) {
		struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
		struct scene s;

		make_scene(&s, round % 2);
		if (below(2))
			hold_anything(&s);
		plan(&s, partitions);
		check_guarantees(&s, partitions);
		if (round % 2 == 0)
			check_seats(&s, partitions);
	}
}

static void same_input_same_output(void **state)
{
	seed = 7;
	for (int round = 0; round < 2000; round++) {
		struct ds_plan_partition first[DS_RESIDENTS_MAX];
		struct ds_plan_partition second[DS_RESIDENTS_MAX];
		struct scene s;

		make_scene(&s, below(2));
		hold_anything(&s);
		plan(&s, first);
		plan(&s, second);
		assert_true(same(&s, first, second));
	}
}

static void counts_do_not_depend_on_held(void **state)
{
	seed = 8;
	for (int round = 0; round < 5000; round++) {
		struct ds_plan_partition fresh[DS_RESIDENTS_MAX];
		struct ds_plan_partition held[DS_RESIDENTS_MAX];
		struct scene s;

		make_scene(&s, below(2));
		plan(&s, fresh);
		hold_anything(&s);
		plan(&s, held);
		for (uint32_t i = 0; i < s.n; i++) {
			assert_int_equal(whole_groups(&s, &fresh[i]), whole_groups(&s, &held[i]));
			assert_int_equal(has_rest(&s, &fresh[i]), has_rest(&s, &held[i]));
		}
	}
}

static void hold(struct scene *s, const struct ds_plan_partition *partitions)
{
	for (uint32_t i = 0; i < s->n; i++)
		s->residents[i].held = partitions[i].groups;
}

/*
 * A plan stays where it is: planned again with what it gave, nothing moves. (Out of any other
 * history, groups shared by more than fit may take one more round.)
 */
static void plan_is_stable(void **state)
{
	seed = 9;
	for (int round = 0; round < 5000; round++) {
		struct ds_plan_partition first[DS_RESIDENTS_MAX];
		struct ds_plan_partition second[DS_RESIDENTS_MAX];
		struct scene s;

		make_scene(&s, below(2));
		if (below(2)) {
			hold_anything(&s);
			plan(&s, first);
			hold(&s, first);
		}
		plan(&s, first);
		hold(&s, first);
		plan(&s, second);
		assert_true(same(&s, first, second));
	}
}

/*
 * After a join or a leave a stayer with whole groups has lost exactly as many as its count fell,
 * and gained exactly as many as it rose.
 */
static void check_moves(const struct scene *s, const struct ds_plan_partition *before,
			const struct ds_plan_partition *after)
{
	for (uint32_t i = 0; i < s->n; i++) {
		uint32_t n_before = whole_groups(s, &before[i]);
		uint32_t n_after = whole_groups(s, &after[i]);
		struct ds_groups kept = ds_groups_intersection(before[i].groups, after[i].groups);

		if (!guaranteed_groups(s, i))
			continue;
		ds_groups_remove(&kept, s->shape.n_groups);
		assert_int_equal(ds_groups_count(&kept), n_before < n_after ? n_before : n_after);
	}
}

/* Groups that small residents use, all together. */
static struct ds_groups pool_of(const struct scene *s, const struct ds_plan_partition *partitions)
{
	struct ds_groups pool = {{0, 0}};

	for (uint32_t i = 0; i < s->n; i++) {
		if (!guaranteed_groups(s, i))
			pool = ds_groups_union(pool, partitions[i].groups);
	}
	return pool;
}

/* While no group is shared by more than fit, a small one moves only if its group is not shared on. */
static void check_small_moves(const struct scene *s, const struct ds_plan_partition *before,
			      const struct ds_plan_partition *after)
{
	struct ds_groups pool = pool_of(s, after);
	uint32_t load_milli[DS_GROUPS_MAX] = {0};

	for (uint32_t i = 0; i < s->n; i++) {
		for (unsigned g = 0; !guaranteed_groups(s, i) && g < s->shape.n_groups; g++) {
			if (!ds_groups_has(&before[i].groups, g))
				continue;
			load_milli[g] += s->residents[i].share_milli * s->shape.n_groups;
			if (load_milli[g] > 1000)
				return;
		}
	}
	for (uint32_t i = 0; i < s->n; i++) {
		struct ds_groups lost = ds_groups_difference(before[i].groups, pool);

		if (!guaranteed_groups(s, i) && ds_groups_empty(&lost))
			assert_true(ds_groups_equal(&before[i].groups, &after[i].groups));
	}
}

/* Who comes last finds all whole groups of its quota where nobody was. */
static void check_newcomer(const struct scene *s, const struct ds_plan_partition *before,
			   const struct ds_plan_partition *newcomer)
{
	struct ds_groups unheld = newcomer->groups;

	for (uint32_t i = 0; i < s->n; i++)
		unheld = ds_groups_difference(unheld, before[i].groups);
	ds_groups_remove(&unheld, s->shape.n_groups);
	assert_true(ds_groups_count(&unheld) >= guaranteed_groups(s, s->n));
}

static void a_join_moves_no_more_than_it_must(void **state)
{
	seed = 10;
	for (int round = 0; round < 5000; round++) {
		struct ds_plan_partition before[DS_RESIDENTS_MAX];
		struct ds_plan_partition after[DS_RESIDENTS_MAX];
		struct scene s;

		make_scene(&s, false);
		uint32_t n = s.n;
		uint32_t n_before = below(n);
		s.n = n_before;
		plan(&s, before);
		hold(&s, before);
		struct ds_groups pool_before = pool_of(&s, before);
		s.n = n_before + 1;
		plan(&s, after);
		struct ds_groups pool_after = pool_of(&s, after);
		s.n = n_before;
		check_moves(&s, before, after);
		struct ds_groups lost = ds_groups_difference(pool_before, pool_after);
		assert_true(ds_groups_empty(&lost));
		check_small_moves(&s, before, after);
		check_newcomer(&s, before, &after[n_before]);
	}
}

static void a_leave_moves_nobody_who_can_stay(void **state)
{
	seed = 11;
	for (int round = 0; round < 5000; round++) {
		struct ds_plan_partition before[DS_RESIDENTS_MAX];
		struct ds_plan_partition after[DS_RESIDENTS_MAX];
		struct scene s;

		make_scene(&s, false);
		plan(&s, before);
		hold(&s, before);
		uint32_t left = below(s.n);
		s.n--;
		memmove(&s.residents[left], &s.residents[left + 1],
			(s.n - left) * sizeof(s.residents[0]));
		memmove(&before[left], &before[left + 1], (s.n - left) * sizeof(before[0]));
		plan(&s, after);
		check_moves(&s, before, after);
		check_small_moves(&s, before, after);
	}
}

/*
 * 48 programs, the most that MPS takes on one GPU, each with a fiftieth: 0.3 groups. Three go into
 * each of the 15 groups; the last three find no room and become the fourth of a group each.
 */
static void many_small_ones(void **state)
{
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
	struct scene s = {.shape = h200, .n = 48};

	for (uint32_t i = 0; i < s.n; i++)
		s.residents[i].share_milli = s.residents[i].wish_milli = 20;
	plan(&s, partitions);
	check_guarantees(&s, partitions);
	for (uint32_t i = 0; i < s.n; i++) {
		uint32_t group = i < 45 ? i / 3 : i - 45;
		struct ds_groups home = {{UINT64_C(1) << group, 0}};

		assert_true(ds_groups_equal(&partitions[i].groups, &home));
		assert_int_equal(partitions[i].weight_milli, group < 3 ? 250 : 300);
	}
}

static void wishes_beyond_the_gpu(void **state)
{
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
	struct scene s = {.shape = even, .n = 2};
	char text[64];

	/* Half of the GPU is nobody's: both want it all, the second wants more beyond its share. */
	s.residents[0] = (struct ds_plan_resident){.share_milli = 375, .wish_milli = 1000};
	s.residents[1] = (struct ds_plan_resident){.share_milli = 125, .wish_milli = 1000};
	plan(&s, partitions);
	assert_string_equal(ds_groups_format(&partitions[0].groups, &even, text, sizeof(text)),
			    "0-8");
	assert_string_equal(ds_groups_format(&partitions[1].groups, &even, text, sizeof(text)),
			    "9-15");
	/* A wish below the share takes nothing from its owner. */
	s.residents[0].wish_milli = 0;
	plan(&s, partitions);
	assert_string_equal(ds_groups_format(&partitions[0].groups, &even, text, sizeof(text)),
			    "0-5");
	assert_string_equal(ds_groups_format(&partitions[1].groups, &even, text, sizeof(text)),
			    "6-15");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(examples),
	    cmocka_unit_test(examples_with_held),
	    cmocka_unit_test(refusals),
	    cmocka_unit_test(guarantees_hold),
	    cmocka_unit_test(same_input_same_output),
	    cmocka_unit_test(counts_do_not_depend_on_held),
	    cmocka_unit_test(plan_is_stable),
	    cmocka_unit_test(a_join_moves_no_more_than_it_must),
	    cmocka_unit_test(a_leave_moves_nobody_who_can_stay),
	    cmocka_unit_test(many_small_ones),
	    cmocka_unit_test(wishes_beyond_the_gpu),
	};

	alarm(60);
	return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
