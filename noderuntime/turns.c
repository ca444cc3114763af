/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/turns.h"

#include <string.h>

#include "noderuntime/ledger.h"

/* After the end of a turn, should whoever is to end it not do so. */
enum { LOOK_MS = 500 };

static bool is_beside(const struct ds_ledger_resident *a, const struct ds_ledger_resident *b)
{
	return a->turn.state == DS_TURN_BESIDE && b->turn.state == DS_TURN_BESIDE &&
	       a->turn.set == b->turn.set;
}

bool ds_turns_wait_for(const struct ds_ledger_state *state,
		       const struct ds_ledger_resident *resident,
		       const struct ds_ledger_program *program)
{
	const struct ds_ledger_resident *owner;
	struct ds_groups met = ds_groups_intersection(program->groups, resident->held);

	if (program->quiet || ds_groups_empty(&met) || resident->turn.state == DS_TURN_WAITS ||
	    !ds_ledger_is_small(state, resident))
		return false;
	owner = ds_ledger_find((struct ds_ledger_state *)(uintptr_t)state, program->resident);
	/* For programs of others than these nobody comes to hold a group; see held.c. */
	if (!owner || owner == resident || !ds_ledger_is_small(state, owner) ||
	    is_beside(owner, resident))
		return false;
	if (program->stays & DS_STAYS_PINNED)
		met = ds_groups_intersection(met, owner->held);
	return !ds_groups_empty(&met) && !(program->stays & ~(uint32_t)DS_STAYS_PINNED);
}

bool ds_turns_suspend(const struct ds_ledger_state *state,
		      const struct ds_ledger_resident *resident)
{
	if (!ds_ledger_is_small(state, resident))
		return false;
	if (resident->turn.state == DS_TURN_WAITS)
		return true;
	for (uint32_t i = 0; i < state->n_programs; i++)
		if (ds_turns_wait_for(state, resident, &state->programs[i]))
			return true;
	return false;
}

const struct ds_ledger_resident *ds_turns_whose(const struct ds_ledger_state *state,
						const struct ds_ledger_resident *resident)
{
	for (uint32_t i = 0; i < state->n_residents; i++)
		if (resident->turn.set && state->residents[i].turn.set == resident->turn.set &&
		    state->residents[i].turn.state == DS_TURN_HAS)
			return &state->residents[i];
	return NULL;
}

uint64_t ds_turns_next_ns(const struct ds_ledger_state *state,
			  const struct ds_ledger_resident *resident, uint64_t now_ns)
{
	const struct ds_ledger_resident *has = ds_turns_whose(state, resident);
	uint64_t at_ns = resident->turn.until_ns;

	if (resident->turn.state == DS_TURN_WAITS && has && resident->turn.active)
		at_ns = (has->turn.until_ns > now_ns ? has->turn.until_ns : now_ns) +
			LOOK_MS * UINT64_C(1000000);
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *p = &state->programs[i];

		if (p->stays & DS_STAYS_LONG && !strcmp(p->resident, resident->name) &&
		    (!at_ns || p->long_s * UINT64_C(1000000000) < at_ns))
			at_ns = p->long_s * UINT64_C(1000000000);
	}
	return at_ns;
}

const char *ds_turns_why(const struct ds_ledger_resident *resident)
{
	static const char *const whys[DS_TURN_WHYS] = {
	    [DS_TURN_WHY_FIXED] = "programs are not moved (move_programs = no)",
	    [DS_TURN_WHY_BUSY] = "a program has work on the GPU that cannot be stopped",
	    [DS_TURN_WHY_IMMOVABLE] = "a program cannot be moved",
	    [DS_TURN_WHY_ORPHAN] = "a program's node runtime is dead",
	    [DS_TURN_WHY_LONG] =
		"a program did not leave the group in time, and is asked again later",
	};

	return resident->turn.why < DS_TURN_WHYS ? whys[resident->turn.why] : NULL;
}
