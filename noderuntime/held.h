/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_HELD_H
#define DETSHARE_NODERUNTIME_HELD_H

#include "noderuntime/ledger.h"

/*
 * The last part of ds_ledger_settle, which says what comes of it: from what is planned for each resident, and
 * where programs may be, what each of them may use. Pure.
 */
void ds_held_set(struct ds_ledger_state *state);

/* Nothing is planned for it, so that it is to stop: only one of kind besteffort. */
bool ds_held_is_to_stop(const struct ds_ledger_resident *resident);

#endif
