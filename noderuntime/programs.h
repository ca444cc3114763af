/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PROGRAMS_H
#define DETSHARE_NODERUNTIME_PROGRAMS_H

#include "noderuntime/watch.h"

/* The programs of the allocation: they are let in, acknowledge, and end. */

/*
 * Let the program at the other end in, unless it may not, or there are no groups for it now: then it
 * waits. True if the connection stays, false if it is to be closed.
 */
bool ds_program_serve(struct ds_runtime *rt, struct ds_watch *connection);

/* It sent something. The message only says where to look. */
void ds_program_said(struct ds_runtime *rt, struct ds_watch *connection);

/* It has ended: its groups are free, for us and for others. */
void ds_program_ended(struct ds_runtime *rt, struct ds_watch *program);

#endif
