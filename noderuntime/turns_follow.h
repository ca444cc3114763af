/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_TURNS_FOLLOW_H
#define DETSHARE_NODERUNTIME_TURNS_FOLLOW_H

#include "noderuntime/watch.h"

/* A runtime's part in turns: turns.h with programs and a timer. */

/*
 * What follows for `stays` of a program's entry from what it said of the present page, being on `in_use`; or
 * from its silence. Returns whether the entry is another one now.
 */
bool ds_turns_note_said(const struct ds_runtime *rt, const struct ds_groups *in_use,
			struct ds_ledger_program *program);
bool ds_turns_note_silent(const struct ds_runtime *rt, const struct ds_port *port,
			  struct ds_ledger_program *program);

/*
 * The page is about to let the program begin again, after a turn of somebody else or a window: it is quiet no more, and
 * of what it was on, only what it holds or is pinned to is its.
 */
void ds_turns_wake(const struct ds_ledger_state *state, const struct ds_ledger_resident *self,
		   const struct ds_watch *ours, struct ds_ledger_program *program);

/* See to it that we look again when a turn ends that we are to end, or to take over from. */
void ds_turns_arm(struct ds_runtime *rt);

/* The timer: that time has come. */
void ds_turns_over(struct ds_runtime *rt);

#endif
