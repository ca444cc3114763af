/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_FOLLOW_H
#define DETSHARE_NODERUNTIME_FOLLOW_H

#include "noderuntime/deadline.h"
#include "noderuntime/watch.h"

/* The runtime and the ledger of its GPU: join, settle, publish what we hold, watch the neighbours. */

/* For a `change` of the ledger: what it makes of that is rt->seen, and is still to be written. */
void ds_follow_saw(struct ds_runtime *rt, const struct ds_ledger_state *state);

/* ds_ledger_change() with a `change` that calls ds_follow_saw(): what could not be written is not published. */
int ds_follow_change(struct ds_runtime *rt,
		     int (*change)(struct ds_ledger_state *state, void *arg, struct ds_error *err),
		     void *arg, struct ds_error *err);

/*
 * Become a resident of the GPU. If its ledger was lost and others are not back in it, waits for them until
 * the deadline. Returns 0, or -1 with a reason.
 */
int ds_follow_join(struct ds_runtime *rt, ds_deadline deadline, struct ds_error *err);

/*
 * Settle, between two steps for our programs: before it, they lose what they have acknowledged, so that
 * others can have it; after it, they have what our page is going to grant, so that it is theirs
 * before they can see it there. What they say of their demand is entered. `newcomer`: one more program is
 * about to come, which will be active. Within a change of the ledger. Returns 0 or -1.
 */
int ds_follow_settle(struct ds_runtime *rt, struct ds_ledger_state *state, bool newcomer,
		     struct ds_error *err);

/* Follow the ledger: settle, publish, watch whom it names, let in who waits. */
void ds_follow(struct ds_runtime *rt);

/*
 * Publish what we hold as of our last look, tell the programs, account for it and save the state. Only
 * after the ledger knows of it.
 */
void ds_publish(struct ds_runtime *rt);

/* What MPS must let a client have of the GPU's memory, in MiB; `arg` is the runtime. */
uint32_t ds_hard_limit_mib(const void *arg);

/* Note for the usage record what programs have had of the GPU's memory. */
void ds_note_memory(struct ds_runtime *rt);

/*
 * Take from a program what it has acknowledged not to be on any more; one that is suspended for a window
 * keeps it, and is noted to be quiet. True if the entry is another one now.
 */
bool ds_note_acknowledged(const struct ds_runtime *rt, struct ds_watch *ours,
			  const struct ds_port *port, struct ds_ledger_program *program);

#endif
