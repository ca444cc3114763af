/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_REALTIME_H
#define DETSHARE_NODERUNTIME_REALTIME_H

#include "common/error.h"

/*
 * From now on this process runs before all ordinary ones when it has something to do (SCHED_RR at the lowest
 * priority); what it starts is ordinary. If it ever computes for DS_REALTIME_MOST_MS without sleeping, it is
 * ordinary again, for good: so whatever makes it busy cannot take a CPU from the node's jobs. For a process of one
 * thread that has no use of its own for SIGXCPU. Returns 0, or -1 with a reason: it stays as it is.
 */
int ds_realtime_begin(struct ds_error *err);

/* In a child that is about to execute a program: what ds_realtime_begin() set for the parent holds no more. */
void ds_realtime_end(void);

enum { DS_REALTIME_MOST_MS = 100 };

#endif
