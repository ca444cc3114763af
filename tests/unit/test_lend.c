/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/detshare_policy.h"
#include "noderuntime/lend.h"
#include "noderuntime/plan.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};

/* A line a resident; planned is what comes out. */
struct row {
	const char *own; /* as ds_groups_format writes it */
	uint32_t share_milli;
	uint32_t wish_milli;
	enum ds_lend_kind kind;
	bool active;
	bool lends;
	bool borrows;
	uint32_t reclaim_us;
	uint32_t drain_us;
	const char *planned;
};

static struct ds_groups parse(const char *text, const struct ds_gpu_shape *shape)
{
	struct ds_groups set = {{0, 0}};
	unsigned from, to;
	int used;

	if (!strcmp(text, "none"))
		return set;
	while (*text) {
		if (!strncmp(text, "rest", 4)) {
			ds_groups_add(&set, shape->n_groups);
			text += 4;
		} else if (sscanf(text, "%u-%u%n", &from, &to, &used) == 2) {
			text += used;
			for (unsigned g = from; g <= to; g++)
				ds_groups_add(&set, g);
		} else {
			assert_int_equal(sscanf(text, "%u%n", &from, &used), 1);
			text += used;
			ds_groups_add(&set, from);
		}
		text += *text == ',' || *text == '+';
	}
	return set;
}

#define L DS_LEND_LATENCY
#define T DS_LEND_THROUGHPUT
#define B DS_LEND_BESTEFFORT

static const struct {
	const char *what;
	struct row rows[5];
} examples[] = {
    {"both active: each its own",
     {{"0-7", 500, 1000, L, 1, 1, 1, 500, 100, "0-7"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 100, "8-14+rest"}}},
    {"the idle one keeps its lowest group",
     {{"0-7", 500, 500, L, 0, 1, 1, 500, 100, "0"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 100, "1-14+rest"}}},
    {"its remainder is lent, too",
     {{"0-7", 500, 1000, L, 1, 1, 1, 500, 100, "0-7,9-14+rest"},
      {"8-14+rest", 500, 500, T, 0, 1, 1, 5000, 100, "8"}}},
    {"nobody to borrow: nothing is taken",
     {{"0-7", 500, 500, L, 0, 1, 1, 500, 0, "0-7"},
      {"8-14+rest", 500, 500, T, 0, 1, 1, 5000, 0, "8-14+rest"}}},
    {"it does not lend",
     {{"0-7", 500, 500, L, 0, 0, 1, 500, 0, "0-7"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 100, "8-14+rest"}}},
    {"it does not borrow",
     {{"0-7", 500, 500, L, 0, 1, 1, 500, 0, "0-7"},
      {"8-14+rest", 500, 1000, T, 1, 1, 0, 5000, 100, "8-14+rest"}}},
    {"a drain that is not known fits no budget",
     {{"0-7", 500, 500, L, 0, 1, 1, 500, 0, "0-7"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 0, "8-14+rest"}}},
    {"nor does one that is too long",
     {{"0-7", 500, 500, L, 0, 1, 1, 500, 0, "0-7"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 501, "8-14+rest"}}},
    {"one that is just as long does",
     {{"0-7", 500, 500, L, 0, 1, 1, 500, 0, "0"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 500, "1-14+rest"}}},
    {"only latency has a budget that must fit",
     {{"0-7", 500, 500, T, 0, 1, 1, 500, 0, "0"},
      {"8-14+rest", 500, 1000, T, 1, 1, 1, 5000, 0, "1-14+rest"}}},
    {"what nobody owns is lent whatever the drain",
     {{"0-7", 500, 1000, T, 1, 1, 1, 500, 0, "0-14+rest"}}},
    {"not beyond the wish, which is rounded up to a group; the remainder is for who borrows at all",
     {{"0-7", 500, 700, T, 1, 1, 1, 500, 0, "0-10+rest"}}},
    {"a wish of no more than the share", {{"0-7", 500, 500, T, 1, 1, 1, 500, 0, "0-7"}}},
    {"latency before throughput before besteffort",
     {{"0-2", 200, 1000, B, 1, 1, 1, 500, 9, "0-2"},
      {"3-5", 200, 600, T, 1, 1, 1, 500, 9, "3-5,9-14"},
      {"6", 67, 200, L, 1, 1, 1, 500, 9, "6-8+rest"}}},
    {"in proportion to what is wished beyond the share",
     {{"0-2", 200, 1000, T, 1, 1, 1, 500, 9, "0-2,5-12+rest"},
      {"3-4", 134, 334, T, 1, 1, 1, 500, 9, "3-4,13-14"}}},
    {"groups that few may have are for those, so that none is left over",
     {{"0-4", 333, 333, L, 0, 1, 1, 500, 0, "0"},
      {"5-9", 333, 600, T, 1, 1, 1, 5000, 400, "1-9+rest"},
      {"10-14", 333, 1000, T, 1, 1, 1, 5000, 4000, "10-14"}}},
};

static uint32_t rows_of(const struct row *rows, struct ds_lend_resident *residents)
{
	uint32_t n = 0;

	for (; n < 5 && rows[n].own; n++)
		residents[n] = (struct ds_lend_resident){
		    .own = parse(rows[n].own, &h200),
		    .share_milli = rows[n].share_milli,
		    .wish_milli = rows[n].wish_milli,
		    .kind = rows[n].kind,
		    .active = rows[n].active,
		    .lends = rows[n].lends,
		    .borrows = rows[n].borrows,
		    .reclaim_us = rows[n].reclaim_us,
		    .drain_us = rows[n].drain_us,
		};
	return n;
}

static void tables(void **state)
{
	for (size_t e = 0; e < N(examples); e++) {
		struct ds_lend_resident residents[5];
		struct ds_groups planned[5];
		uint32_t n = rows_of(examples[e].rows, residents);
		char text[128];

		ds_lend(&h200, residents, n, planned);
		for (uint32_t i = 0; i < n; i++) {
			ds_groups_format(&planned[i], &h200, text, sizeof(text));
			if (strcmp(text, examples[e].rows[i].planned) != 0)
				fail_msg("%s: resident %u has %s, not %s", examples[e].what, i,
					 text, examples[e].rows[i].planned);
		}
	}
}

static void what_was_planned_stays(void **state)
{
	struct ds_lend_resident residents[3];
	struct ds_groups planned[3];
	char text[128];
	static const struct row rows[5] = {{"0-4", 333, 333, T, 0, 1, 1, 500, 0, ""},
					   {"5-9", 333, 1000, T, 1, 1, 1, 500, 9, ""},
					   {"10-14", 333, 1000, T, 1, 1, 1, 500, 9, ""}};

	rows_of(rows, residents);
	residents[1].planned = parse("3,5-9", &h200);
	residents[2].planned = parse("1,10-14", &h200);
	residents[2].held = parse("1,4,10-14", &h200);
	ds_lend(&h200, residents, 3, planned);
	assert_string_equal(ds_groups_format(&planned[1], &h200, text, sizeof(text)),
			    "2-3,5-9+rest");
	assert_string_equal(ds_groups_format(&planned[2], &h200, text, sizeof(text)), "1,4,10-14");
}

static uint32_t seed = 1;

static uint32_t below(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

/* Residents of random shares, placed by the plan. */
struct scene {
	struct ds_gpu_shape shape;
	uint32_t n;
	struct ds_lend_resident residents[DS_RESIDENTS_MAX];
	struct ds_groups planned[DS_RESIDENTS_MAX];
};

static void change_mind(struct ds_lend_resident *r)
{
	static const uint32_t times_us[] = {0, 1, 200, 500, 501, 5000};

	r->active = below(2);
	r->wish_milli = below(2) ? 1000 : below(1001);
	r->drain_us = times_us[below(N(times_us))];
	r->owing = (uint64_t)below(1 << 24) << 40 ^ (uint64_t)below(1 << 24) << 20 ^ below(1 << 24);
}

static void make_scene(struct scene *s)
{
	struct ds_plan_resident asked[DS_RESIDENTS_MAX] = {{0}};
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
	uint32_t left = 1000;
	struct ds_error err;

	memset(s, 0, sizeof(*s));
	s->shape = (struct ds_gpu_shape){1 + below(below(4) ? 20 : 100), 8, below(2) ? 12 : 0};
	while (s->n < 1 + below(below(4) ? 6 : DS_RESIDENTS_MAX) && left) {
		uint32_t share = 1 + below(left < 400 ? left : 400);
		asked[s->n].share_milli = asked[s->n].wish_milli = share;
		left -= share;
		s->n++;
	}
	if (ds_plan(&s->shape, asked, s->n, partitions, &err))
		fail_msg("%s", err.text);
	for (uint32_t i = 0; i < s->n; i++) {
		struct ds_lend_resident *r = &s->residents[i];

		*r = (struct ds_lend_resident){.own = partitions[i].groups,
					       .planned = partitions[i].groups,
					       .held = partitions[i].groups,
					       .share_milli = asked[i].share_milli,
					       .kind = (enum ds_lend_kind)below(3),
					       .lends = below(4) != 0,
					       .borrows = below(4) != 0,
					       .in_time = partitions[i].weight_milli < 1000,
					       .reclaim_us = below(8) ? 500 : 1 + below(1000),
					       .advance_milli = below(2) ? below(1001) : 0};
		change_mind(r);
	}
}

static uint32_t wished(const struct scene *s, const struct ds_lend_resident *r)
{
	return (r->wish_milli * s->shape.n_groups + 999) / 1000;
}

static uint32_t full(const struct scene *s, struct ds_groups set)
{
	ds_groups_remove(&set, s->shape.n_groups);
	return ds_groups_count(&set);
}

static bool can_borrow(const struct scene *s, uint32_t i)
{
	const struct ds_lend_resident *r = &s->residents[i];

	return r->active && r->borrows && !r->in_time && r->wish_milli > r->share_milli;
}

/* Whose own a group is; NULL: nobody's. */
static const struct ds_lend_resident *owner_of(const struct scene *s, unsigned group)
{
	for (uint32_t i = 0; i < s->n; i++) {
		if (ds_groups_has(&s->residents[i].own, group))
			return &s->residents[i];
	}
	return NULL;
}

/* Whether `i` may have groups of `owner`, which works, in advance. */
static bool may_have_in_advance(const struct scene *s, uint32_t i, uint32_t owner)
{
	const struct ds_lend_resident *r = &s->residents[i], *other = &s->residents[owner];

	return i != owner && can_borrow(s, i) && r->lends && r->kind == DS_LEND_LATENCY &&
	       r->advance_milli && (r->owing >> owner & 1) && other->active && other->lends &&
	       other->borrows && !other->in_time && other->kind != DS_LEND_LATENCY &&
	       ds_lend_fits(r, other->drain_us);
}

/* What others have of what `owner`, which works, owns. */
static struct ds_groups taken_of(const struct scene *s, uint32_t owner)
{
	struct ds_groups taken = {{0, 0}};

	for (uint32_t i = 0; i < s->n && s->residents[owner].active; i++) {
		if (i != owner && !s->residents[owner].in_time)
			taken = ds_groups_union(taken, s->planned[i]);
	}
	return ds_groups_intersection(taken, s->residents[owner].own);
}

/* Only of whom may be taken; not the last full group, nor the remainder; as much as may be, and no more. */
static uint32_t check_advance(const struct scene *s, uint32_t i)
{
	const struct ds_lend_resident *r = &s->residents[i];
	const uint32_t most = (r->share_milli + r->advance_milli) * s->shape.n_groups / 1000;
	uint32_t n = 0;

	for (uint32_t j = 0; j < s->n; j++) {
		const struct ds_lend_resident *other = &s->residents[j];
		const struct ds_groups left = ds_groups_intersection(s->planned[j], other->own);
		struct ds_groups taken = ds_groups_intersection(s->planned[i], other->own);

		if (j == i || !other->active || other->in_time)
			continue;
		if (!ds_groups_empty(&taken)) {
			assert_true(may_have_in_advance(s, i, j));
			assert_false(ds_groups_has(&taken, s->shape.n_groups));
			assert_true(full(s, s->planned[i]) <= most);
			n += ds_groups_count(&taken);
		}
		assert_true(ds_groups_has_full(&left, &s->shape));
		if (may_have_in_advance(s, i, j) && full(s, s->planned[i]) < most &&
		    full(s, s->planned[i]) < wished(s, r))
			assert_int_equal(full(s, left), 1);
	}
	return n;
}

static void check_resident(const struct scene *s, uint32_t i)
{
	const struct ds_lend_resident *r = &s->residents[i];
	struct ds_groups planned = s->planned[i];
	struct ds_groups foreign = ds_groups_difference(planned, r->own);

	/* Nobody is left without a full group; who is active has its own, all of it, but what it owes. */
	assert_true(ds_groups_has_full(&planned, &s->shape));
	if (r->active || !r->lends || r->in_time) {
		const struct ds_groups all = ds_groups_union(planned, taken_of(s, i));

		assert_true(ds_groups_within(&r->own, &all));
	}
	if (ds_groups_empty(&foreign))
		return;
	assert_true(can_borrow(s, i));
	assert_true(full(s, planned) <= wished(s, r) || !full(s, foreign));
	for (unsigned g = 0; g <= s->shape.n_groups; g++) {
		const struct ds_lend_resident *owner = owner_of(s, g);

		if (!ds_groups_has(&foreign, g) || !owner)
			continue;
		if (owner->active && may_have_in_advance(s, i, (uint32_t)(owner - s->residents)))
			continue;
		/* The owner is idle and lends; a latency resident's budget is kept. */
		assert_false(owner->active || !owner->lends || owner->in_time);
		if (owner->kind == DS_LEND_LATENCY)
			assert_true(r->drain_us && r->drain_us <= owner->reclaim_us);
		assert_true(ds_lend_fits(owner, r->drain_us));
	}
}

/* No group has two users, but for those who share in time. */
static void check_exclusive(const struct scene *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		for (uint32_t j = 0; j < i; j++) {
			struct ds_groups both =
			    ds_groups_intersection(s->planned[i], s->planned[j]);
			if (ds_groups_empty(&both))
				continue;
			assert_true(s->residents[i].in_time && s->residents[j].in_time);
			assert_true(ds_groups_equal(&both, &s->residents[i].own));
		}
	}
}

/* Work conservation: who could use one more group found none that it may have. */
static void check_nothing_wasted(const struct scene *s)
{
	struct ds_groups lowest_used = {{0, 0}};

	for (uint32_t i = 0; i < s->n; i++) {
		const struct ds_lend_resident *r = &s->residents[i];
		struct ds_groups used = s->planned[i];

		if (!r->active && r->lends && !r->in_time) {
			/* Of what an idle one has, all but the lowest could be lent. */
			for (unsigned g = 0; g < s->shape.n_groups; g++) {
				if (!ds_groups_has(&used, g))
					continue;
				used = (struct ds_groups){{0, 0}};
				ds_groups_add(&used, g);
			}
		}
		lowest_used = ds_groups_union(lowest_used, used);
	}
	for (uint32_t i = 0; i < s->n; i++) {
		const struct ds_lend_resident *r = &s->residents[i];

		if (!can_borrow(s, i) || full(s, s->planned[i]) >= wished(s, r))
			continue;
		for (unsigned g = 0; g < s->shape.n_groups; g++) {
			const struct ds_lend_resident *owner = owner_of(s, g);
			bool is_used = false;

			for (uint32_t j = 0; j < s->n; j++)
				is_used |=
				    ds_groups_has(&s->planned[j], g) && &s->residents[j] != owner;
			if (is_used ||
			    (owner && (owner->active || !owner->lends || owner->in_time ||
				       !ds_lend_fits(owner, r->drain_us))))
				continue;
			/* What is left of an idle owner's is its lowest. */
			assert_true(owner != NULL);
			for (unsigned lower = 0; lower < g; lower++)
				assert_false(ds_groups_has(&owner->own, lower));
		}
	}
}

/* besteffort borrows nothing that throughput could use, nor that anything that latency could. */
static void check_who_yields(const struct scene *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		struct ds_groups lent = ds_groups_difference(s->planned[i], s->residents[i].own);

		for (uint32_t j = 0; j < s->n; j++) {
			const struct ds_lend_resident *first = &s->residents[j];

			if (first->kind >= s->residents[i].kind || !can_borrow(s, j) ||
			    full(s, s->planned[j]) >= wished(s, first))
				continue;
			for (unsigned g = 0; g < s->shape.n_groups; g++) {
				const struct ds_lend_resident *owner = owner_of(s, g);
				if (ds_groups_has(&lent, g))
					assert_false(!owner ||
						     ds_lend_fits(owner, first->drain_us));
			}
		}
	}
}

static void properties(void **state)
{
	static struct scene s;
	struct ds_groups again[DS_RESIDENTS_MAX];
	uint32_t borrowed = 0, in_advance = 0;

	for (int round = 0; round < 20000; round++) {
		if (round % 8 == 0)
			make_scene(&s);
		else
			change_mind(&s.residents[below(s.n)]);
		ds_lend(&s.shape, s.residents, s.n, s.planned);
		for (uint32_t i = 0; i < s.n; i++) {
			check_resident(&s, i);
			in_advance += check_advance(&s, i);
			borrowed += !ds_groups_within(&s.planned[i], &s.residents[i].own);
		}
		check_exclusive(&s);
		check_nothing_wasted(&s);
		check_who_yields(&s);
		/* The same again, and nothing moves when it is the case already. */
		ds_lend(&s.shape, s.residents, s.n, again);
		assert_memory_equal(again, s.planned, s.n * sizeof(again[0]));
		for (uint32_t i = 0; i < s.n; i++)
			s.residents[i].planned = s.planned[i];
		ds_lend(&s.shape, s.residents, s.n, again);
		assert_memory_equal(again, s.planned, s.n * sizeof(again[0]));
		for (uint32_t i = 0; i < s.n; i++)
			s.residents[i].held = below(2) ? s.planned[i] : s.residents[i].own;
		ds_lend(&s.shape, s.residents, s.n, again);
		assert_memory_equal(again, s.planned, s.n * sizeof(again[0]));
	}
	assert_true(borrowed > 1000 && in_advance > 500); /* or it tested nothing */
}

/* One that becomes idle or active moves groups of its own, and no others between two of its kind. */
static void few_moves(void **state)
{
	static const struct row rows[5] = {{"0-3", 266, 266, T, 0, 1, 1, 500, 9, ""},
					   {"4-7", 266, 1000, T, 1, 1, 1, 500, 9, ""},
					   {"8-11", 266, 1000, T, 1, 1, 1, 500, 9, ""},
					   {"12-14+rest", 200, 200, T, 0, 1, 1, 500, 9, ""}};
	struct ds_lend_resident residents[5];
	struct ds_groups before[4], after[4];

	rows_of(rows, residents);
	ds_lend(&h200, residents, 4, before);
	for (int i = 0; i < 4; i++)
		residents[i].planned = residents[i].held = before[i];
	residents[3].active = true;
	ds_lend(&h200, residents, 4, after);
	for (int i = 1; i < 3; i++) {
		struct ds_groups gained = ds_groups_difference(after[i], before[i]);
		struct ds_groups lost = ds_groups_difference(before[i], after[i]);

		assert_true(ds_groups_empty(&gained) || ds_groups_count(&gained) <= 1);
		lost = ds_groups_difference(lost, residents[3].own);
		assert_true(ds_groups_count(&lost) <= 1);
	}
	assert_true(ds_groups_equal(&after[3], &residents[3].own));
}

static void policies(void **state)
{
	const struct detshare_policy_gpu gpu = {.n_groups = 15, .group_sms = 8};
	const struct detshare_policy_resident residents[] = {{.share_milli = 500, .active = 1},
							     {.share_milli = 250},
							     {.share_milli = 1, .active = 1}};
	uint32_t wishes[3];

	assert_int_equal(detshare_policy_static.version, DETSHARE_POLICY_VERSION);
	assert_string_equal(detshare_policy_static.name, "static");
	detshare_policy_static.wishes(&gpu, residents, 3, wishes);
	for (int i = 0; i < 3; i++)
		assert_int_equal(wishes[i], residents[i].share_milli);
	assert_string_equal(detshare_policy_lend.name, "lend");
	detshare_policy_lend.wishes(&gpu, residents, 3, wishes);
	assert_int_equal(wishes[0], 1000);
	assert_int_equal(wishes[1], 250);
	assert_int_equal(wishes[2], 1000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tables),     cmocka_unit_test(what_was_planned_stays),
	    cmocka_unit_test(properties), cmocka_unit_test(few_moves),
	    cmocka_unit_test(policies),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
