/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/turns_follow.h"

#include <stdatomic.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/follow.h"

static const struct ds_ledger_resident *self_of(const struct ds_runtime *rt)
{
	return ds_ledger_find((struct ds_ledger_state *)(uintptr_t)&rt->seen, rt->allocation->name);
}

static bool set_stays(struct ds_ledger_program *program, uint32_t stays)
{
	const uint32_t was = program->stays;

	program->stays = stays;
	return was != stays;
}

bool ds_turns_note_said(const struct ds_runtime *rt, const struct ds_groups *in_use,
			struct ds_ledger_program *program)
{
	const struct ds_ledger_resident *self = self_of(rt);
	uint32_t stays = program->stays & (DS_STAYS_BUSY | DS_STAYS_LONG);
	struct ds_groups beyond;

	if (!self || !ds_ledger_is_small(&rt->seen, self))
		return set_stays(program, 0);
	beyond = ds_groups_difference(program->groups, self->held);
	if (!ds_groups_empty(&beyond))
		stays |= DS_STAYS_PINNED;
	/* Once told to stop, it is known for as long as nobody tells it again. */
	if (rt->page.page->flags & DS_PAGE_SUSPENDED) {
		stays &= ~(uint32_t)DS_STAYS_BUSY;
		stays |= ds_groups_empty(in_use) ? 0 : DS_STAYS_BUSY;
	}
	return set_stays(program, stays);
}

bool ds_turns_note_silent(const struct ds_runtime *rt, const struct ds_port *port,
			  struct ds_ledger_program *program)
{
	const struct ds_ledger_resident *self = self_of(rt);
	uint32_t stays = program->stays & (DS_STAYS_BUSY | DS_STAYS_PINNED | DS_STAYS_LONG);

	if (!self || !ds_ledger_is_small(&rt->seen, self))
		return set_stays(program, 0);
	/* All are, until they have acknowledged something; but those have begun nothing. */
	if (atomic_load(&port->immovable) == 1 && atomic_load(&port->acknowledged_epoch) &&
	    !program->quiet)
		stays |= DS_STAYS_IMMOVABLE;
	return set_stays(program, stays);
}

void ds_turns_wake(const struct ds_ledger_state *state, const struct ds_ledger_resident *self,
		   const struct ds_watch *ours, struct ds_ledger_program *program)
{
	struct ds_port port;

	if (program->quiet && ds_ledger_is_small(state, self) &&
	    ds_port_copy(ours->port_fd, &port) == 0)
		ds_ledger_shrink_program(program, &port.pinned, &self->held);
	program->quiet = 0;
}

void ds_turns_arm(struct ds_runtime *rt)
{
	const struct ds_ledger_resident *self = self_of(rt);
	uint64_t at_ns = 0;

	if (self)
		at_ns = ds_turns_next_ns(&rt->seen, self, (uint64_t)ds_now_ns(CLOCK_BOOTTIME));
	if (at_ns != rt->turn_at_ns)
		ds_watch_at(rt->turn, at_ns);
	rt->turn_at_ns = at_ns;
}

void ds_turns_over(struct ds_runtime *rt)
{
	uint64_t times;

	if (read(rt->turn, &times, sizeof(times)) < 0)
		return;
	rt->turn_at_ns = 0; /* it is not set any more */
	ds_follow(rt);
}
