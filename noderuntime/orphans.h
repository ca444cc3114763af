/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_ORPHANS_H
#define DETSHARE_NODERUNTIME_ORPHANS_H

#include "noderuntime/watch.h"

/*
 * Programs of other allocations whose node runtime was killed: nobody can tell them to leave what they have of
 * others, nor hear them say that they have. Whoever waits for what is guaranteed to it applies the deadline of
 * late.h to them; of several who wait, the one that enters it into the ledger first.
 */

/* Within a change of the ledger: those that keep nothing from anybody are not late any more. */
void ds_orphans_settle(struct ds_runtime *rt, struct ds_ledger_state *state);

/*
 * After each look at the ledger: count on, for what they keep from us. Returns when the first deadline comes, in ns of
 * CLOCK_BOOTTIME; 0: there is none.
 */
int64_t ds_orphans_look(struct ds_runtime *rt, int64_t now_ns);

/* A deadline may have come: show those whose it is, or end them, as configured. */
void ds_orphans_over(struct ds_runtime *rt, int64_t now_ns);

#endif
