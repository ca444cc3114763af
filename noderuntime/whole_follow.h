/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_WHOLE_FOLLOW_H
#define DETSHARE_NODERUNTIME_WHOLE_FOLLOW_H

#include "noderuntime/watch.h"

/* A runtime's part in whole-GPU windows: whole_gpu.h with programs, a page, a clock and a log. */

/* Whether the program by this copy of its port has launches that wait for the whole GPU. Pure. */
bool ds_whole_is_wanted(const struct ds_port *port);

/* Whether that any of our programs wants it, or none does any more, is news to the ledger. */
bool ds_whole_asks_anew(const struct ds_runtime *rt, const struct ds_ledger_resident *self,
			bool wanted);

/*
 * The program has acknowledged to be suspended, and to be on `in_use` all the same. Returns whether its
 * entry is another one now.
 */
bool ds_whole_note_quiet(const struct ds_runtime *rt, const struct ds_port *port,
			 const struct ds_groups *in_use, struct ds_ledger_program *program);

/* Enter what our programs want and let the window go on. Within a change of the ledger. */
void ds_whole_look(const struct ds_runtime *rt, struct ds_ledger_state *state,
		   struct ds_ledger_resident *self, bool wanted);

/* What a window, ours or another one's, makes of our terms. */
void ds_whole_terms(const struct ds_runtime *rt, const struct ds_ledger_resident *self,
		    struct ds_page_terms *terms);

/* See to it that we look again when it is time, and write to the log what there is to tell. */
void ds_whole_arm(struct ds_runtime *rt);

#endif
