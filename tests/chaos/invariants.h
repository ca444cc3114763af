/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_CHAOS_INVARIANTS_H
#define DETSHARE_TESTS_CHAOS_INVARIANTS_H

#include "noderuntime/ledger.h"

/*
 * What must hold in every state of a GPU's ledger. `wrong` gets a line of text for each thing that
 * does not. Allocations of less than a group, which share one in time, are remembered by their names,
 * since programs outlive them. Returns how much is wrong.
 */
unsigned invariants_check(const struct ds_ledger_state *state,
			  void (*wrong)(const struct ds_ledger_state *state, const char *text));

/* True if the allocation of that name has less than a group. */
bool invariants_in_time(const char *name);

#endif
