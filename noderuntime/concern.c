/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/concern.h"

#include <string.h>

#include "noderuntime/advance.h"
#include "noderuntime/late.h"
#include "noderuntime/terms.h"

static bool is_other_process(const struct ds_process *a, const struct ds_process *b)
{
	return a->pid != b->pid || a->start_ticks != b->start_ticks;
}

bool ds_members_differ(const struct ds_ledger_state *a, const struct ds_ledger_state *b)
{
	if (a->n_residents != b->n_residents || a->n_programs != b->n_programs)
		return true;
	for (uint32_t i = 0; i < a->n_residents; i++) {
		if (a->residents[i].arrival != b->residents[i].arrival ||
		    strcmp(a->residents[i].name, b->residents[i].name) != 0 ||
		    is_other_process(&a->residents[i].runtime, &b->residents[i].runtime))
			return true;
	}
	for (uint32_t i = 0; i < a->n_programs; i++) {
		if (strcmp(a->programs[i].resident, b->programs[i].resident) != 0 ||
		    is_other_process(&a->programs[i].process, &b->programs[i].process))
			return true;
	}
	return false;
}

/* All but what lending and turns move: where each is to work, what it holds, what it says of its demand. */
static bool is_other_resident(const struct ds_ledger_resident *a,
			      const struct ds_ledger_resident *b)
{
	struct ds_ledger_resident c = *b;

	c.planned = a->planned;
	c.held = a->held;
	c.wish_milli = a->wish_milli;
	c.demand = a->demand;
	c.owing = a->owing;
	c.turn = a->turn;
	return memcmp(a, &c, sizeof(c)) != 0;
}

bool ds_concerns_all(const struct ds_ledger_state *before, const struct ds_ledger_state *after)
{
	if (ds_members_differ(before, after) || before->incomplete || after->incomplete ||
	    before->whole.phase != DS_WHOLE_NONE ||
	    memcmp(&before->whole, &after->whole, sizeof(after->whole)) != 0)
		return true;
	for (uint32_t i = 0; i < after->n_residents; i++) {
		if (is_other_resident(&before->residents[i], &after->residents[i]))
			return true;
	}
	return after->n_residents && after->residents[0].policy.digest;
}

static bool is_late(const struct ds_ledger_state *state, const struct ds_ledger_resident *r,
		    const struct ds_ledger_program *program)
{
	const struct ds_groups late = ds_late_groups(state, r, program);

	return !ds_groups_empty(&late);
}

/*
 * Whether another program of it than before keeps others from what is guaranteed to those, which is for its
 * runtime to end.
 */
static bool others_are_late(const struct ds_ledger_state *before,
			    const struct ds_ledger_state *after, uint32_t i)
{
	for (uint32_t p = 0; p < after->n_programs; p++) {
		if (!strcmp(after->programs[p].resident, after->residents[i].name) &&
		    is_late(before, &before->residents[i], &before->programs[p]) !=
			is_late(after, &after->residents[i], &after->programs[p]))
			return true;
	}
	return false;
}

/* Whether others have lost their patience with a program of it, or are about to have it again: see turns.h. */
static bool others_wait_otherwise(const struct ds_ledger_state *before,
				  const struct ds_ledger_state *after, uint32_t i)
{
	for (uint32_t p = 0; p < after->n_programs; p++) {
		if (before->programs[p].stays != after->programs[p].stays &&
		    !strcmp(after->programs[p].resident, after->residents[i].name))
			return true;
	}
	return false;
}

bool ds_concerns(const struct ds_ledger_state *before, const struct ds_ledger_state *after,
		 uint32_t i)
{
	const struct ds_ledger_resident *was = &before->residents[i];
	const struct ds_ledger_resident *is = &after->residents[i];
	const struct ds_groups kept = ds_groups_intersection(was->planned, was->own);
	const struct ds_groups keeps = ds_groups_intersection(is->planned, is->own);

	return !ds_groups_equal(&was->held, &is->held) || !ds_groups_equal(&kept, &keeps) ||
	       ds_ledger_is_suspended(before, was) != ds_ledger_is_suspended(after, is) ||
	       (was->turn.state == DS_TURN_ALONE) != (is->turn.state == DS_TURN_ALONE) ||
	       was->turn.until_ns != is->turn.until_ns ||
	       ds_groups_empty(&was->planned) != ds_groups_empty(&is->planned) ||
	       memcmp(&was->demand, &is->demand, sizeof(is->demand)) != 0 ||
	       others_are_late(before, after, i) || others_wait_otherwise(before, after, i) ||
	       (is->grant.advance_milli && ds_advance_differs(before, after, i)) ||
	       (is->heeds_steps &&
		ds_terms_neighbour_steps(before, was) != ds_terms_neighbour_steps(after, is));
}
