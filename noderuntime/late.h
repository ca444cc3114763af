/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LATE_H
#define DETSHARE_NODERUNTIME_LATE_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/ledger.h"
#include "noderuntime/port.h"

/*
 * Programs that do not acknowledge: stopped by a signal or a debugger, hung, or writing nonsense. What they
 * were told to leave stays theirs, since they may be there; but not for ever, if it is what was
 * guaranteed to somebody else. Pure.
 */

/*
 * The groups that `program` of `self` keeps from others although they are guaranteed to them: owned by one
 * who wants to be there and has less than what its share is worth in whole groups. What is only lent on to
 * a third is nobody's guarantee, nor is the one group more that rounding gives.
 */
struct ds_groups ds_late_groups(const struct ds_ledger_state *state,
				const struct ds_ledger_resident *self,
				const struct ds_ledger_program *program);

/*
 * The same for a program whose node runtime is dead, so that nobody can tell it to leave: what it keeps from
 * `waiter`, whose runtime judges this, and who has to be active or to have nothing to run on. `keeper` is whose
 * program it is, or NULL: its allocation is gone.
 */
struct ds_groups ds_late_orphan_groups(const struct ds_ledger_state *state,
				       const struct ds_ledger_resident *keeper,
				       const struct ds_ledger_program *program,
				       const struct ds_ledger_resident *waiter);

/* How long a program has been awaited. All zero: it is not. */
struct ds_late {
	int64_t since_ns; /* CLOCK_BOOTTIME; 0: nobody waits */
	uint64_t epoch;   /* what it had acknowledged by then */
	uint32_t said_s;  /* of an orphan: the ledger's late_s by then */
	bool over;        /* the deadline came, and was acted on */
};

/*
 * Go on counting: `keeps` says whether it keeps anything of ds_late_groups(), `port` is what it says of
 * itself, `epoch` the page's, `had` what it has in the ledger. Who has acknowledged the present epoch, or
 * says that it cannot be moved, is not late; who acknowledges an older one is on its way, and counted anew.
 */
void ds_late_count(struct ds_late *late, bool keeps, const struct ds_port *port, uint64_t epoch,
		   const struct ds_groups *had, int64_t now_ns);

/*
 * Go on counting for a program whose runtime is dead: what it says, nobody can read any more. `late_s` is what
 * the ledger says of it: who changes that acts on the deadline for all who wait, who then count anew.
 */
void ds_late_count_orphan(struct ds_late *late, bool keeps, uint32_t late_s, int64_t now_ns);

/*
 * Whether an orphan's deadline is ours to act on, within a change of the ledger, which says `late_s`: nobody else did
 * since we began to count; and one that is not to be ended (`ends`) is shown once.
 */
bool ds_late_may_act(const struct ds_late *late, uint32_t late_s, bool ends);

/* When the deadline comes, in ns of CLOCK_BOOTTIME; 0: there is none, or it was acted on. */
int64_t ds_late_at_ns(const struct ds_late *late, uint32_t deadline_s);

#endif
