/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_ADVANCE_FOLLOW_H
#define DETSHARE_NODERUNTIME_ADVANCE_FOLLOW_H

#include "noderuntime/watch.h"

/*
 * What the runtime of an allocation of kind latency does about what it has in advance: advance.h with a clock
 * and a timer. Nothing of it is done for allocations whose class has no advance.
 */

/*
 * Enter who owes us enough into our entry `self`, whose demand is entered already. `was_active`: what it said
 * of that before. Within a change of the ledger, before that is settled.
 */
void ds_advance_enter(struct ds_runtime *rt, const struct ds_ledger_state *state,
		      struct ds_ledger_resident *self, bool was_active);

/* Our part of a change is made, and settled: count from here. */
void ds_advance_saw(struct ds_runtime *rt);

/* After a change: see to it that we look when somebody owes us nothing any more. Else no timer runs. */
void ds_advance_arm(struct ds_runtime *rt);

/* DS_WATCH_ADVANCE: that is now. */
void ds_advance_over(struct ds_runtime *rt);

/* What neighbours owe us, for a report. */
void ds_advance_report(const struct ds_runtime *rt, struct ds_port_report *report);

#endif
