/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEAVE_H
#define DETSHARE_NODERUNTIME_LEAVE_H

#include "common/error.h"
#include "common/node_config.h"
#include "noderuntime/allocation.h"
#include "noderuntime/deadline.h"

/*
 * End an allocation: its programs, its place in the ledger, MPS if it was the last one, its usage
 * record, its directory, in this order. The one way out, for the runtime itself, for a `begin` that
 * failed and for an `end` whose runtime is dead. Every step is tried, whatever became of those before;
 * what is done already is fine. Returns 0, or -1 with the first reason: something may be left then.
 */
int ds_leave(const struct ds_node_config *config, struct ds_allocation *allocation,
	     ds_deadline deadline, struct ds_error *err);

#endif
