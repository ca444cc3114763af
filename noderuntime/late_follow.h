/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LATE_FOLLOW_H
#define DETSHARE_NODERUNTIME_LATE_FOLLOW_H

#include "noderuntime/watch.h"

/* What a runtime does about its programs that do not acknowledge: late.h with a clock and a hand. */

/* Enter into the ledger whether the program, which is ours, is late. Within a change of it. */
void ds_late_enter(const struct ds_ledger_state *state, const struct ds_ledger_resident *self,
		   const struct ds_watch *ours, struct ds_ledger_program *program);

/* After each look at the ledger: count on, and see to it that we hear of the next deadline. */
void ds_late_look(struct ds_runtime *rt);

/* DS_WATCH_LATE: a deadline has come. Shows the program, or ends it, as configured. */
void ds_late_over(struct ds_runtime *rt);

#endif
