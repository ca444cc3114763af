/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/reclaim.h"

#include <string.h>

static bool may_be_lent(const struct ds_ledger_resident *r)
{
	return r->grant.kind == DS_KIND_LATENCY && ds_ledger_lends(r);
}

/* Of its own, what it is to have again and has not yet. */
static struct ds_groups wanted_back(const struct ds_ledger_resident *r)
{
	const struct ds_groups own = ds_groups_intersection(r->planned, r->own);

	return ds_groups_difference(own, r->held);
}

static bool has_programs_on(const struct ds_ledger_state *state, const char *name,
			    const struct ds_groups *groups)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_groups there =
		    ds_groups_intersection(state->programs[i].groups, *groups);

		if (!ds_groups_empty(&there) && !strcmp(state->programs[i].resident, name))
			return true;
	}
	return false;
}

enum ds_reclaim ds_reclaim_of(const struct ds_ledger_state *state,
			      const struct ds_ledger_resident *self)
{
	if (state->incomplete || state->whole.phase != DS_WHOLE_NONE ||
	    !ds_ledger_is_lending(state))
		return DS_RECLAIM_NONE;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];
		struct ds_groups wanted;

		if (!may_be_lent(r))
			continue;
		if (r == self && !r->demand.active) {
			if (!ds_groups_within(&r->own, &r->held))
				return DS_RECLAIM_LENT;
			continue;
		}
		wanted = wanted_back(r);
		if (!r->demand.active || ds_groups_empty(&wanted))
			continue;
		if (r == self)
			return DS_RECLAIM_WAITS;
		if (has_programs_on(state, self->name, &wanted))
			return DS_RECLAIM_GIVES;
	}
	return DS_RECLAIM_NONE;
}
