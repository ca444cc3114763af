/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_TERMS_H
#define DETSHARE_NODERUNTIME_TERMS_H

#include "noderuntime/ledger.h"
#include "noderuntime/port.h"

/* What follows from the ledger for the page of one allocation. Pure. */

/*
 * The terms of `self`, one of the residents in `state`: what it holds, whether it has to keep within a
 * window and within which, and whether anybody wants to know when it is idle.
 *
 * The window is half of the time within which others want back what they lent, since what the GPU
 * works on when they ask comes on top of it. It holds already before a latency resident lends:
 * without it nobody could tell how soon a borrower would be off its groups. Who shares a group in time has a window,
 * too, and is asked when it is idle: turns.h.
 */
void ds_terms(const struct ds_ledger_state *state, const struct ds_ledger_resident *self,
	      struct ds_page_terms *terms);

/*
 * Whether `self` is one for whom others are held back while it is in a step: of kind latency, beside others that are
 * not, while anything may be lent. Only then does the ledger say when it is active.
 */
bool ds_terms_is_held_for(const struct ds_ledger_state *state,
			  const struct ds_ledger_resident *self);

/* Whether `self` is to hold back now: one for whom it is held back is active, and not suspended. */
bool ds_terms_neighbour_steps(const struct ds_ledger_state *state,
			      const struct ds_ledger_resident *self);

#endif
