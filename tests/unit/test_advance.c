/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/advance.h"
#include "noderuntime/squeeze.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))
#define MS       INT64_C(1000000)

/* Groups `from` to `to`; of the GPU's 15 and a rest. */
#define G(from, to) ((UINT64_C(2) << (to)) - (UINT64_C(1) << (from)))

static const int64_t BOUND_MS = DS_ADVANCE_BOUND_MS;

/* A latency job with half of the GPU, and an advance, beside one or two of throughput. Both active. */
static struct ds_ledger_state *new_state(void)
{
	static struct ds_ledger_state state;
	static const struct ds_groups own[] = {{{G(0, 6), 0}}, {{G(7, 12), 0}}, {{G(13, 15), 0}}};

	memset(&state, 0, sizeof(state));
	state.shape = (struct ds_gpu_shape){15, 8, 12};
	state.n_residents = 3;
	for (uint32_t i = 0; i < 3; i++) {
		struct ds_ledger_resident *r = &state.residents[i];

		snprintf(r->name, sizeof(r->name), "job-%u", i);
		r->runtime = (struct ds_process){.pid = 10 + (int)i, .start_ticks = 5};
		r->own = r->planned = r->held = own[i];
		r->grant.share_milli = i ? 250 : 500;
		r->grant.kind = i ? DS_KIND_THROUGHPUT : DS_KIND_LATENCY;
		r->grant.lends = r->grant.borrows = 1;
		r->demand.active = 1;
	}
	state.residents[0].grant.advance_milli = 250;
	return &state;
}

static void an_account_rises_and_falls(void **unused)
{
	static const struct {
		int64_t owed_ns;
		uint32_t lent, taken, own;
		int64_t passed_ns, next_ns;
	} rows[] = {
	    {0, 0, 0, 7, MS, 0},
	    {0, 7, 0, 7, MS, 7 * MS},
	    {10 * MS, 0, 3, 7, 2 * MS, 4 * MS},
	    {10 * MS, 3, 3, 7, 2 * MS, 10 * MS},
	    {10 * MS, 0, 3, 7, 5 * MS, -5 * MS},
	    {10 * MS, 1, 0, 7, -5 * MS, 10 * MS},                     /* no clock goes back */
	    {0, 7, 0, 7, 1000 * MS, 7 * 250 * MS},                    /* the bound */
	    {1000 * MS, 0, 0, 2, 0, 500 * MS},                        /* it owns less than it did */
	    {INT64_MIN / 4 + 1, 0, 127, 7, INT64_MAX, INT64_MIN / 4}, /* what is never paid back */
	    {INT64_MIN / 4, 0, 1, 7, 1000 * MS, INT64_MIN / 4},       /* does not become less */
	};

	for (size_t i = 0; i < N(rows); i++) {
		const struct ds_advance_flow flow = {rows[i].lent, rows[i].taken};

		if (ds_advance_pass(rows[i].owed_ns, &flow, rows[i].own, rows[i].passed_ns) !=
		    rows[i].next_ns)
			fail_msg("row %zu", i);
	}
}

static void what_flows(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_ledger_resident *r = state->residents;
	struct ds_advance_flow flow = ds_advance_flow(state, 0, 1);

	assert_int_equal(flow.lent + flow.taken, 0);
	/* Lent is what the other one holds, not what is planned for it. */
	r[1].planned.bits[0] |= G(1, 6);
	assert_int_equal(ds_advance_flow(state, 0, 1).lent, 0);
	r[1].held.bits[0] |= G(3, 6);
	assert_int_equal(ds_advance_flow(state, 0, 1).lent, 4);
	assert_int_equal(ds_advance_flow(state, 0, 2).lent, 0);
	state->whole.phase = DS_WHOLE_GATHERING;
	assert_int_equal(ds_advance_flow(state, 0, 1).lent, 0);
	state->whole.phase = DS_WHOLE_NONE;
	/* Taken is what it is planned, holds, or its programs are on, and the owner does not hold any more. */
	state = new_state();
	r[0].planned.bits[0] |= G(8, 9);
	assert_int_equal(ds_advance_flow(state, 0, 1).taken, 0);
	r[1].held.bits[0] = G(7, 7) | G(11, 12);
	assert_int_equal(ds_advance_flow(state, 0, 1).taken, 2);
	state->n_programs = 1;
	strcpy(state->programs[0].resident, "job-0");
	state->programs[0].groups.bits[0] = G(10, 10);
	assert_int_equal(ds_advance_flow(state, 0, 1).taken, 3);
	strcpy(state->programs[0].resident, "job-2");
	assert_int_equal(ds_advance_flow(state, 0, 1).taken, 2);
	/* One that is idle misses nothing. */
	r[1].demand.active = 0;
	assert_int_equal(ds_advance_flow(state, 0, 1).taken, 0);
	/* The remainder counts for nothing. */
	r[0].planned.bits[0] |= G(15, 15);
	r[2].held.bits[0] = G(13, 14);
	assert_int_equal(ds_advance_flow(state, 0, 2).taken, 0);
}

/* Its own seven groups are lent for so long, to the second one. */
static void lend(struct ds_advance *advance, struct ds_ledger_state *state, int64_t ns)
{
	const uint64_t held = state->residents[1].held.bits[0];

	state->residents[0].demand.active = 0;
	ds_advance_look(advance, state, 0, advance->looked_ns);
	state->residents[1].held.bits[0] = G(0, 12);
	ds_advance_note(advance, state, 0);
	ds_advance_look(advance, state, 0, advance->looked_ns + ns);
	state->residents[1].held.bits[0] = held;
	ds_advance_look(advance, state, 0, advance->looked_ns);
}

static void who_owes_enough_gives_while_it_does(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_ledger_resident *r = state->residents;
	struct ds_advance advance = {.n = 0};

	/* 11 of 15 groups are share and advance together, so four may be taken. */
	const int64_t least_ns = 4 * DS_ADVANCE_LEAST_MS * MS;

	ds_advance_look(&advance, state, 0, 5000 * MS);
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 0);
	lend(&advance, state, least_ns / 7);
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 0); /* it is idle */
	r[0].demand.active = 1;
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 0);
	lend(&advance, state, 10);
	r[0].demand.active = 1;
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 2);
	/* While it is active nobody comes to be among them. */
	assert_int_equal(ds_advance_owing(&advance, state, 0, true), 0);
	r[0].owing = 2;
	assert_int_equal(ds_advance_owing(&advance, state, 0, true), 2);
	assert_int_equal(ds_advance_ends_ns(&advance, state, 0), 0);
	r[0].planned.bits[0] |= G(8, 11);
	r[1].held.bits[0] = G(7, 7) | G(12, 12);
	ds_advance_note(&advance, state, 0);
	const int64_t ends_ns = ds_advance_ends_ns(&advance, state, 0);
	assert_in_range(ends_ns - advance.looked_ns, 50 * MS, 50 * MS + 100);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 1, ends_ns) <= 0, 1);
	/* It begins to give back earlier by the time that its programs may be on a group. */
	r[0].demand.drain_us = 2000;
	assert_in_range(ends_ns - ds_advance_ends_ns(&advance, state, 0), 2 * MS, 2 * MS);
	r[0].demand.drain_us = 0;
	ds_advance_look(&advance, state, 0, ends_ns - 1);
	assert_int_equal(ds_advance_owing(&advance, state, 0, true), 2);
	ds_advance_look(&advance, state, 0, ends_ns);
	assert_int_equal(ds_advance_owing(&advance, state, 0, true), 0);
	/* It gave back late, which it has to make up for. */
	ds_advance_look(&advance, state, 0, ends_ns + 1000 * MS);
	assert_in_range(-ds_advance_owed_ns(&advance, state, 1, ends_ns + 1000 * MS), 4000 * MS,
			4000 * MS + 10);
	r[0].planned.bits[0] = r[0].own.bits[0];
	r[1].held.bits[0] = r[1].own.bits[0];
	lend(&advance, state, 4000 * MS / 7);
	r[0].demand.active = 1;
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 0);
	lend(&advance, state, least_ns / 7 + 10);
	r[0].demand.active = 1;
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 2);
	/* A class of another kind never has any. */
	r[0].grant.kind = DS_KIND_THROUGHPUT;
	assert_int_equal(ds_advance_owing(&advance, state, 0, false), 0);
}

/* Accounts are neighbours', whatever their place; who comes owes nothing, and who went is forgotten. */
static void neighbours_come_and_go(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_advance advance = {.n = 0};

	ds_advance_look(&advance, state, 0, 5000 * MS);
	lend(&advance, state, 100 * MS);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 1, advance.looked_ns), 700 * MS);
	state->residents[2] = state->residents[1];
	state->residents[1].runtime.pid = 99;
	ds_advance_look(&advance, state, 0, advance.looked_ns);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 1, advance.looked_ns), 0);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 2, advance.looked_ns), 700 * MS);
	/* The same pid, another process. */
	state->residents[2].runtime.start_ticks++;
	ds_advance_look(&advance, state, 0, advance.looked_ns);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 2, advance.looked_ns), 0);
	state->n_residents = 1;
	ds_advance_look(&advance, state, 0, advance.looked_ns);
	assert_int_equal(advance.n, 0);
}

/* What was changed behind our back counts as what is less for us. */
static void what_nobody_saw_counts_against_us(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_ledger_resident *r = state->residents;
	struct ds_advance advance = {.n = 0};

	ds_advance_look(&advance, state, 0, 5000 * MS);
	r[1].held.bits[0] = G(0, 12);
	ds_advance_look(&advance, state, 0, 5100 * MS);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 1, 5100 * MS), 0);
	ds_advance_note(&advance, state, 0);
	r[1].held.bits[0] = G(5, 12);
	ds_advance_look(&advance, state, 0, 5200 * MS);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 1, 5200 * MS), 200 * MS);
	ds_advance_note(&advance, state, 0);
	r[1].held.bits[0] = G(9, 12);
	r[0].planned.bits[0] = G(0, 8);
	ds_advance_look(&advance, state, 0, 5300 * MS);
	assert_int_equal(ds_advance_owed_ns(&advance, state, 1, 5300 * MS), 0);
}

static void who_goes_leaves_no_gap(void **unused)
{
	assert_int_equal(ds_advance_without(0x15, 0), 0xa);
	assert_int_equal(ds_advance_without(0x15, 1), 0xb);
	assert_int_equal(ds_advance_without(0x15, 2), 0x9);
	assert_int_equal(ds_advance_without(0x15, 4), 0x5);
	assert_int_equal(ds_advance_without(0x15, 5), 0x15);
	assert_int_equal(ds_advance_without(UINT64_MAX, 63), INT64_MAX);
	assert_int_equal(ds_advance_without(UINT64_MAX, 0), INT64_MAX);
}

/* What programs say in less than their own is not what is entered. */
static void how_soon_it_is_off_is_of_all_its_own(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_ledger_resident *r = &state->residents[1];
	struct ds_squeeze squeeze = {.until_ns = 0};
	const int64_t memory_ns = DS_SQUEEZE_MS * MS;

	r->demand.drain_us = 4000;
	ds_squeeze_note(&squeeze, state, r, MS);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 6000, MS), 6000);
	/* Of six groups it has two for a while. */
	r->planned.bits[0] = r->held.bits[0] = G(7, 8);
	ds_squeeze_note(&squeeze, state, r, 100 * MS);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 12000, 100 * MS), 4000);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 18000, 100 * MS),
			 6000); /* longer ones came */
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 5000, 100 * MS),
			 4000); /* few SMs are enough */
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 300, 100 * MS), 300);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 0, 100 * MS), 0);
	r->demand.drain_us = 6000; /* is another matter */
	r->planned.bits[0] = r->held.bits[0] = G(7, 9);
	ds_squeeze_note(&squeeze, state, r, 200 * MS);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 12000, 200 * MS), 4000);
	/* And for as long as they remember that. */
	r->planned = r->held = r->own;
	ds_squeeze_note(&squeeze, state, r, 300 * MS);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 12000, 200 * MS + memory_ns - 1), 4000);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 12000, 200 * MS + memory_ns), 12000);
	/* Who is idle lends, and that is nothing of the kind; nor is waiting for what is planned. */
	r->planned.bits[0] = r->held.bits[0] = G(7, 7);
	r->demand.active = 0;
	ds_squeeze_note(&squeeze, state, r, 9000 * MS);
	r->demand.active = 1;
	r->planned = r->own;
	ds_squeeze_note(&squeeze, state, r, 9000 * MS);
	assert_int_equal(ds_squeeze_drain_us(&squeeze, 12000, 9000 * MS), 12000);
}

static uint32_t seed = 1;

static uint32_t below(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

/* What the second one had more or less than its own, in group-ns, from the beginning on: `had` at each time. */
enum { STEPS = 400 };

struct history {
	int64_t had_ns[STEPS + 1];
	uint32_t n;
	int64_t taken_ns;
};

static void pass(struct history *h, const struct ds_ledger_state *state, int64_t ns)
{
	const struct ds_groups *own = &state->residents[1].own;
	const struct ds_groups had = state->residents[1].held;
	const struct ds_groups lost = ds_groups_difference(*own, had);
	const struct ds_groups more = ds_groups_difference(had, *own);
	const int64_t taken =
	    state->residents[1].demand.active ? (int64_t)ds_groups_count(&lost) * ns : 0;

	h->had_ns[h->n + 1] = h->had_ns[h->n] + ds_groups_count(&more) * ns - taken;
	h->taken_ns += taken;
	h->n++;
}

/*
 * Random histories of an allocation that is active and idle, whose neighbour is, too, and acknowledges
 * sooner or later; the runtime is woken when an advance ends, sometimes late. In every interval the neighbour had
 * its own groups, but for the bound and that lateness.
 */
static void over_any_time_a_neighbour_had_its_share(void **unused)
{
	int64_t taken_ns = 0;

	for (int round = 0; round < 300; round++) {
		struct ds_ledger_state *state = new_state();
		struct ds_ledger_resident *r = state->residents;
		struct ds_advance advance = {.n = 0};
		struct history h = {.n = 0};
		int64_t now_ns = 1000 * MS, late_ns = 0;

		ds_advance_look(&advance, state, 0, now_ns);
		while (h.n < STEPS) {
			const bool was_active = r[0].demand.active;
			const int64_t ends_ns = ds_advance_ends_ns(&advance, state, 0);
			int64_t passed_ns = (int64_t)below(8 * 1000 * 1000) * (below(8) ? 5 : 100);
			const bool is_timer = ends_ns && ends_ns < now_ns + passed_ns;

			if (is_timer) {
				const int64_t late = below(4) ? 0 : (int64_t)below(5 * 1000 * 1000);

				passed_ns = (ends_ns > now_ns ? ends_ns - now_ns : 0) + late;
				late_ns = late > late_ns ? late : late_ns;
			}
			pass(&h, state, passed_ns);
			if (!is_timer && below(2))
				r[0].demand.active = below(2);
			else if (!is_timer && !below(4))
				r[1].demand.active = !r[1].demand.active;
			now_ns += passed_ns;
			ds_advance_look(&advance, state, 0, now_ns);
			r[0].owing = ds_advance_owing(&advance, state, 0, was_active);
			/* The plan, and all have acknowledged: where two changes are needed it is sooner. */
			r[0].planned = r[0].held = r[0].own;
			r[1].planned = r[1].held = r[1].own;
			if (!r[0].demand.active) {
				r[0].planned.bits[0] = r[0].held.bits[0] = G(0, 0);
				r[1].planned.bits[0] = r[1].held.bits[0] = G(1, 12);
			} else if (r[0].owing) {
				r[0].planned.bits[0] = r[0].held.bits[0] = G(0, 6) | G(8, 11);
				r[1].planned.bits[0] = r[1].held.bits[0] = G(7, 7) | G(12, 12);
			}
			ds_advance_note(&advance, state, 0);
		}
		taken_ns += h.taken_ns;
		for (uint32_t from = 0; from < h.n; from++) {
			for (uint32_t to = from; to <= h.n; to++)
				assert_true(h.had_ns[to] - h.had_ns[from] >=
					    -(6 * BOUND_MS * MS + 4 * (late_ns + 1)));
		}
	}
	assert_true(taken_ns > 1000 * 1000 * MS); /* or it tested nothing */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_account_rises_and_falls),
	    cmocka_unit_test(what_flows),
	    cmocka_unit_test(who_owes_enough_gives_while_it_does),
	    cmocka_unit_test(neighbours_come_and_go),
	    cmocka_unit_test(what_nobody_saw_counts_against_us),
	    cmocka_unit_test(who_goes_leaves_no_gap),
	    cmocka_unit_test(how_soon_it_is_off_is_of_all_its_own),
	    cmocka_unit_test(over_any_time_a_neighbour_had_its_share),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
