/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/glance.h"

#include <string.h>

#include "noderuntime/concern.h"
#include "noderuntime/follow.h"

/* Whether all that is held may be granted: our programs are entered for it, and for nothing that they do not do. */
static bool are_entered(const struct ds_ledger_state *state, const struct ds_ledger_resident *self)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *program = &state->programs[i];

		if (!strcmp(program->resident, self->name) &&
		    (program->quiet || !ds_groups_within(&self->held, &program->groups)))
			return false;
	}
	return true;
}

/* Neither who is there nor a window of the whole GPU has to do with it: that is followed with all care. */
static bool is_plain(const struct ds_runtime *rt, const struct ds_ledger_state *state)
{
	return rt->config->move_programs && !(rt->page.page->flags & DS_PAGE_SUSPENDED) &&
	       !state->incomplete && !rt->seen.incomplete && state->whole.phase == DS_WHOLE_NONE &&
	       rt->seen.whole.phase == DS_WHOLE_NONE && !ds_members_differ(&rt->seen, state);
}

void ds_glance(struct ds_runtime *rt)
{
	const struct ds_ledger_state *state = ds_ledger_glance(rt->ledger);
	const struct ds_ledger_resident *self = NULL;

	if (state && is_plain(rt, state))
		self = ds_ledger_find((struct ds_ledger_state *)(uintptr_t)state,
				      rt->allocation->name);
	if (!self || self->whole.opened || ds_ledger_is_suspended(state, self) ||
	    !are_entered(state, self))
		return;
	ds_follow_saw(rt, state);
	rt->unwritten = false; /* it is written */
	ds_publish(rt);
}
