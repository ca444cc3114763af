/* SPDX-License-Identifier: Apache-2.0 */
/* Settling, by histories drawn at random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/advance.h"
#include "noderuntime/allocation.h"
#include "noderuntime/concern.h"
#include "noderuntime/late.h"
#include "noderuntime/ledger.h"
#include "noderuntime/terms.h"
#include "tests/unit/ledger_tests.h"

/*
 * As a runtime does when it looks (follow.c): programs that acknowledge what the page grants lose the
 * rest, then all is settled, then programs have what the page is going to grant.
 */
static void follow(struct ds_ledger_state *state, const char *name, struct ds_groups *page,
		   bool acknowledged)
{
	const struct ds_groups none = {{0, 0}};

	for (uint32_t i = 0; acknowledged && i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, name))
			ds_ledger_shrink_program(&state->programs[i], &none, page);
	}
	settle(state);
	*page = ds_ledger_find(state, name)->held;
	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_ledger_program *p = &state->programs[i];
		if (!strcmp(p->resident, name))
			p->groups = ds_groups_union(p->groups, *page);
	}
}

/* One that lends and borrows, or does not, by the bits of `pick`. */
static void let_lend(struct ds_ledger_resident *r, uint32_t pick)
{
	r->grant.policy = DS_POLICY_LEND;
	r->grant.kind = (enum ds_class_kind)(pick % 3);
	r->grant.lends = (pick & 0x30) != 0;
	r->grant.borrows = (pick & 0xc0) != 0;
	r->grant.reclaim_us = 500;
	strcpy(r->policy.name, "lend");
	r->demand.active = pick >> 8 & 1;
	r->demand.drain_us = pick & 0x200 ? 400 : 600;
	if (r->grant.kind == DS_KIND_LATENCY)
		r->grant.advance_milli = (uint16_t)(pick & 1 ? 1000 : pick >> 3);
	r->heeds_steps = pick >> 10 & 1;
}

/* Groups that others have in advance of resident `i`. */
static struct ds_groups in_advance(const struct ds_ledger_state *state, uint32_t i)
{
	struct ds_groups taken = {{0, 0}};

	for (uint32_t j = 0; j < state->n_residents; j++) {
		const struct ds_ledger_resident *r = &state->residents[j];
		if (j != i && r->demand.active && r->grant.advance_milli && (r->owing >> i & 1))
			taken = ds_groups_union(taken, r->planned);
	}
	return ds_groups_intersection(taken, state->residents[i].own);
}

/* Nothing changes any more: whom a change does not concern does not look, so nobody else would settle the rest. */
static void check_settled(struct ds_ledger_state *state)
{
	static struct ds_ledger_state before;

	before = *state;
	settle(state);
	assert_true(ds_ledger_same(&before, state));
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		assert_true(ds_groups_has_full(&r->planned, &state->shape));
		if (r->demand.active || !r->grant.lends) {
			const struct ds_groups taken = in_advance(state, i);
			const struct ds_groups all = ds_groups_union(r->planned, taken);
			assert_true(ds_groups_within(&r->own, &all));
		}
		if (!r->grant.borrows || !r->demand.active)
			assert_true(ds_groups_within(&r->planned, &r->own));
		for (uint32_t j = 0; j < i; j++) {
			struct ds_groups both =
			    ds_groups_intersection(r->planned, state->residents[j].planned);
			assert_true(ds_groups_empty(&both) || r->weight_milli < 1000);
		}
	}
}

/*
 * Whom a change by somebody else does not concern would do nothing else than before if it looked. Returns how many
 * a change of places did not concern.
 */
static uint32_t check_unconcerned(const struct ds_ledger_state *before,
				  const struct ds_ledger_state *after, const char *actor)
{
	uint32_t n = 0;

	if (ds_concerns_all(before, after))
		return 0;
	for (uint32_t i = 0; i < after->n_residents; i++) {
		const struct ds_ledger_resident *was = &before->residents[i];
		const struct ds_ledger_resident *is = &after->residents[i];
		struct ds_page_terms said = {.flags = 0}, says = {.flags = 0};

		if (!strcmp(is->name, actor) || ds_concerns(before, after, i))
			continue;
		ds_terms(before, was, &said);
		ds_terms(after, is, &says);
		assert_memory_equal(&said, &says, sizeof(says));
		assert_int_equal(ds_ledger_is_suspended(before, was),
				 ds_ledger_is_suspended(after, is));
		const struct ds_held_sms had = ds_allocation_sms(before, was);
		const struct ds_held_sms has = ds_allocation_sms(after, is);
		assert_memory_equal(&had, &has, sizeof(has));
		for (uint32_t p = 0; p < after->n_programs; p++) {
			if (strcmp(after->programs[p].resident, is->name) != 0)
				continue;
			const struct ds_groups late =
			    ds_late_groups(before, was, &before->programs[p]);
			const struct ds_groups keeps =
			    ds_late_groups(after, is, &after->programs[p]);
			assert_int_equal(ds_groups_empty(&late), ds_groups_empty(&keeps));
		}
		assert_true(!is->grant.advance_milli || !ds_advance_differs(before, after, i));
		if (is->heeds_steps)
			assert_int_equal(ds_terms_neighbour_steps(before, was),
					 ds_terms_neighbour_steps(after, is));
		n += !ds_ledger_same(before, after);
	}
	return n;
}

/*
 * A long random history, every other one with lending. At every step: a group held exclusively has no
 * program of another one on it, except where both shared it in time; what a page grants is its
 * programs' own; and when all programs end, everybody gets its plan.
 */
static void settle_histories(void **unused)
{
	uint32_t random = 5;
	int32_t next_pid = 1000;
	uint32_t n_borrowed = 0, n_unconcerned = 0, n_advanced = 0;
	static struct ds_ledger_state before;

	for (int history = 0; history < 400; history++) {
		bool lending = history % 2;
		struct ds_ledger_state *state = new_state();
		struct ds_groups pages[100] = {0}; /* by arrival */
		struct ds_error err;

		for (int step = 0; step < 90; step++) {
			random = random * 1664525 + 1013904223;
			uint32_t kind = (random >> 20) % (lending ? 8 : 6);
			uint32_t pick = (random >> 8) & 0xfff;
			char actor[DS_NAME_SIZE] = "";

			/* Of those where all stay, an advance can come. */
			if (history % 4 == 1 && kind == 1)
				kind = 6;
			before = *state;
			if (state->n_residents)
				memcpy(actor, state->residents[pick % state->n_residents].name,
				       sizeof(actor));
			if (kind == 0 || !state->n_residents) {
				struct ds_ledger_resident r = resident("", 67 + pick % 400);

				snprintf(r.name, sizeof(r.name), "job-%d", next_pid++);
				if (lending)
					let_lend(&r, pick);
				ds_ledger_join(state, &r, &err);
			} else if (kind == 1) {
				ds_ledger_leave(state,
						state->residents[pick % state->n_residents].name);
			} else if (kind == 2 && state->n_programs < DS_PROGRAMS_MAX) {
				const struct ds_ledger_resident *r =
				    &state->residents[pick % state->n_residents];
				follow(state, r->name, &pages[r->arrival], pick & 64);
				welcome(state, r->name, next_pid++);
			} else if (kind >= 6) {
				struct ds_ledger_resident *r =
				    &state->residents[pick % state->n_residents];
				r->demand.active = pick >> 8 & 1;
				r->demand.drain_us = pick & 0x200 ? 400 : 600;
				r->owing = 0;
				for (uint32_t j = 0; r->demand.active && j < state->n_residents;
				     j++)
					r->owing |= (uint64_t)(&state->residents[j] != r &&
							       (random >> (8 + j) & 3))
						    << j;
			} else if (kind >= 4) {
				const struct ds_ledger_resident *r =
				    &state->residents[pick % state->n_residents];
				follow(state, r->name, &pages[r->arrival], kind == 5);
			} else if (state->n_programs) {
				dead_pids[0] =
				    state->programs[pick % state->n_programs].process.pid;
				n_dead = 1;
			}
			settle(state);
			n_unconcerned += check_unconcerned(&before, state, actor);
			check_settled(state);
			for (uint32_t i = 0; i < state->n_residents; i++) {
				const struct ds_groups taken = in_advance(state, i);
				n_advanced +=
				    state->residents[i].demand.active && !ds_groups_empty(&taken);
			}
			for (uint32_t i = 0; i < state->n_residents; i++)
				n_borrowed += !ds_groups_within(&state->residents[i].held,
								&state->residents[i].own);
			for (uint32_t i = 0; i < state->n_programs; i++) {
				const struct ds_ledger_program *p = &state->programs[i];

				for (uint32_t j = 0; j < state->n_residents; j++) {
					const struct ds_ledger_resident *r = &state->residents[j];
					struct ds_groups both =
					    ds_groups_intersection(p->groups, r->held);

					if (strcmp(p->resident, r->name) != 0) {
						assert_true(ds_groups_empty(&both));
						continue;
					}
					struct ds_groups unknown =
					    ds_groups_difference(pages[r->arrival], p->groups);
					assert_true(ds_groups_empty(&unknown));
				}
			}
		}
		while (state->n_programs)
			ds_ledger_remove_program(state, &state->programs[0].process);
		settle(state);
		for (uint32_t j = 0; j < state->n_residents; j++)
			assert_true(ds_groups_equal(&state->residents[j].held,
						    &state->residents[j].planned));
	}
	assert_true(n_borrowed > 1000 && n_unconcerned > 1000 &&
		    n_advanced > 100); /* or it tested nothing */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(settle_histories),
	};

	alarm(60);
	return cmocka_run_group_tests_name("settle_histories", tests, NULL, NULL);
}
