/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/late.h"

#include <stdatomic.h>
#include <string.h>

/* The whole groups that its share is worth, at least one: without it, nothing of it runs. */
static uint32_t floor_of(const struct ds_ledger_state *state, const struct ds_ledger_resident *r)
{
	const uint32_t groups = r->grant.share_milli * state->shape.n_groups / DS_SHARE_MILLI_MAX;

	return groups ? groups : 1;
}

/* What of its own one waits for. */
static struct ds_groups missing(const struct ds_ledger_state *state,
				const struct ds_ledger_resident *self,
				const struct ds_ledger_resident *other)
{
	static const struct ds_groups none;
	struct ds_groups wanted = ds_groups_intersection(other->own, other->planned);
	struct ds_groups full = ds_groups_intersection(other->held, other->own);

	/* It holds them, but is suspended until the window's owner is off them. */
	if (state->whole.phase == DS_WHOLE_RETURNING && !strcmp(state->whole.owner, self->name))
		return wanted;
	ds_groups_remove(&full, state->shape.n_groups);
	if (ds_groups_count(&full) >= floor_of(state, other))
		return none;
	return ds_groups_difference(wanted, other->held);
}

/*
 * It is the other one's turn, or it needs none, and it has a use for that; and the program, which is to leave, is
 * what it waits for. In a window nobody's turn is.
 */
static bool is_awaited_in_turn(const struct ds_ledger_state *state,
			       const struct ds_ledger_program *program,
			       const struct ds_ledger_resident *other)
{
	return state->whole.phase == DS_WHOLE_NONE && other->demand.active &&
	       ds_turns_wait_for(state, other, program);
}

/* What the program of `self` keeps from `other`. Small ones that share a group hold it, and wait for their turns in it. */
static struct ds_groups kept_from(const struct ds_ledger_state *state,
				  const struct ds_ledger_resident *self,
				  const struct ds_ledger_program *program,
				  const struct ds_ledger_resident *other)
{
	const struct ds_groups kept = ds_groups_difference(program->groups, self->held);
	struct ds_groups wanted = {{0, 0}};

	if (other == self)
		return wanted;
	if (is_awaited_in_turn(state, program, other)) {
		wanted = ds_groups_intersection(other->held, other->own);
		return ds_groups_intersection(program->groups, wanted);
	}
	if (!(ds_ledger_is_small(state, self) && ds_ledger_is_small(state, other)) ||
	    state->whole.phase == DS_WHOLE_RETURNING)
		wanted = missing(state, self, other);
	return ds_groups_intersection(kept, wanted);
}

struct ds_groups ds_late_groups(const struct ds_ledger_state *state,
				const struct ds_ledger_resident *self,
				const struct ds_ledger_program *program)
{
	struct ds_groups late = {{0, 0}};

	if (program->quiet || state->incomplete)
		return late;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_groups more = kept_from(state, self, program, &state->residents[i]);

		late = ds_groups_union(late, more);
	}
	return late;
}

struct ds_groups ds_late_orphan_groups(const struct ds_ledger_state *state,
				       const struct ds_ledger_resident *keeper,
				       const struct ds_ledger_program *program,
				       const struct ds_ledger_resident *waiter)
{
	static const struct ds_ledger_resident nobody;

	if (program->quiet || state->incomplete ||
	    (!waiter->demand.active && ds_groups_has_full(&waiter->held, &state->shape)))
		return (struct ds_groups){{0, 0}};
	return kept_from(state, keeper ? keeper : &nobody, program, waiter);
}

void ds_late_count(struct ds_late *late, bool keeps, const struct ds_port *port, uint64_t epoch,
		   const struct ds_groups *had, int64_t now_ns)
{
	struct ds_groups in_use;
	const enum ds_port_word word = ds_port_understand(port, epoch, had, &in_use);
	const uint64_t said = word == DS_PORT_UNFIT ? 0 : atomic_load(&port->acknowledged_epoch);

	if (!keeps || word == DS_PORT_SAID ||
	    (word == DS_PORT_SILENT && atomic_load(&port->immovable) == 1))
		*late = (struct ds_late){.since_ns = 0};
	else if (!late->since_ns || said > late->epoch)
		*late = (struct ds_late){.since_ns = now_ns, .epoch = said};
}

void ds_late_count_orphan(struct ds_late *late, bool keeps, uint32_t late_s, int64_t now_ns)
{
	if (!keeps)
		*late = (struct ds_late){.since_ns = 0};
	else if (!late->since_ns || late->said_s != late_s)
		*late = (struct ds_late){.since_ns = now_ns, .said_s = late_s};
}

bool ds_late_may_act(const struct ds_late *late, uint32_t late_s, bool ends)
{
	return late->since_ns && late_s == late->said_s && (ends || !late_s);
}

int64_t ds_late_at_ns(const struct ds_late *late, uint32_t deadline_s)
{
	if (!late->since_ns || late->over || !deadline_s)
		return 0;
	return late->since_ns + (int64_t)deadline_s * 1000000000;
}
