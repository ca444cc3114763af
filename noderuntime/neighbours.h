/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_NEIGHBOURS_H
#define DETSHARE_NODERUNTIME_NEIGHBOURS_H

#include "noderuntime/watch.h"

/* The other runtimes of the GPU, and programs that have lost theirs: hear of their ends, tell them of changes. */

/* True if that process is this runtime. */
bool ds_is_self(const struct ds_runtime *rt, const struct ds_process *process);

/*
 * 1 while that process lives, as far as we have heard: to ask /proc takes longer than all the rest of a
 * change, and of those that we watch we hear when they end.
 */
int ds_lives(struct ds_runtime *rt, const struct ds_process *process);

/*
 * Watch the other runtimes, and the programs that have lost theirs: their ends nobody else would tell
 * us. False: one is dead already. Sets all_watched.
 */
bool ds_neighbours_watch(struct ds_runtime *rt);

/* From now on tell the neighbours of our changes, each of those only that concern it. */
void ds_neighbours_tell(struct ds_runtime *rt);

#endif
