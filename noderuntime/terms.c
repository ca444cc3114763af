/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/terms.h"

/* For groups that nobody owns: somebody may come who is to own them. */
enum { UNOWNED_RECLAIM_US = 5000 };

/* More in flight would not make a program faster, but its groups come back later. */
enum { WINDOW_MOST_US = 250 };

/* Of one that shares its group in time: a tenth of a turn is what the others may wait for beyond its end. */
enum { TURN_WINDOW_US = 2000 };

static bool has_to_lend(const struct ds_ledger_resident *r)
{
	return ds_ledger_lends(r) && ds_groups_count(&r->own) > 1;
}

void ds_terms(const struct ds_ledger_state *state, const struct ds_ledger_resident *self,
	      struct ds_page_terms *terms)
{
	struct ds_groups foreign = ds_groups_difference(self->held, self->own);
	uint32_t reclaim_us = UNOWNED_RECLAIM_US;
	bool lending = ds_ledger_is_lending(state);
	bool window = lending && !ds_groups_empty(&foreign);
	bool shares = self->turn.state != DS_TURN_ALONE, told = shares;

	for (uint32_t i = 0; i < state->n_residents && lending; i++) {
		const struct ds_ledger_resident *other = &state->residents[i];
		struct ds_groups theirs = ds_groups_intersection(foreign, other->own);
		bool may_get = has_to_lend(other) && ds_ledger_borrows(self) &&
			       other->grant.kind == DS_KIND_LATENCY;

		if (other == self)
			continue;
		told |= ds_ledger_borrows(other) && has_to_lend(self);
		window |= may_get;
		if ((may_get || !ds_groups_empty(&theirs)) && other->grant.reclaim_us &&
		    other->grant.reclaim_us < reclaim_us)
			reclaim_us = other->grant.reclaim_us;
	}
	*terms = (struct ds_page_terms){.granted = self->held};
	if (told)
		terms->flags |= DS_PAGE_TELL_IDLE;
	if (window) {
		terms->flags |= DS_PAGE_WINDOW;
		terms->window_us = reclaim_us / 2 > WINDOW_MOST_US ? WINDOW_MOST_US
				   : reclaim_us > 1                ? reclaim_us / 2
								   : 1;
	} else if (shares) {
		terms->flags |= DS_PAGE_WINDOW;
		terms->window_us = TURN_WINDOW_US;
	}
}

bool ds_terms_is_held_for(const struct ds_ledger_state *state,
			  const struct ds_ledger_resident *self)
{
	if (self->grant.kind != DS_KIND_LATENCY || !ds_ledger_is_lending(state))
		return false;
	for (uint32_t i = 0; i < state->n_residents; i++)
		if (state->residents[i].grant.kind != DS_KIND_LATENCY)
			return true;
	return false;
}

bool ds_terms_neighbour_steps(const struct ds_ledger_state *state,
			      const struct ds_ledger_resident *self)
{
	if (self->grant.kind == DS_KIND_LATENCY)
		return false;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *other = &state->residents[i];

		if (other->demand.active && ds_terms_is_held_for(state, other) &&
		    !ds_ledger_is_suspended(state, other))
			return true;
	}
	return false;
}
