/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_VERDICT_H
#define DETSHARE_NODERUNTIME_VERDICT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/node_config.h"
#include "noderuntime/allocation.h"
#include "noderuntime/faults.h"

/*
 * Judge by all that the node knows by now: what the runtimes of the GPU wrote down, who is on it, and the
 * log of its MPS server, which goes with MPS. False: the allocation had no fault. Not thread-safe.
 */
bool ds_verdict(const struct ds_node_config *config, const struct ds_allocation *allocation,
		const char *gpu_dir, struct ds_fault_verdict *verdict);

/* Pure: one line about it for the allocation's user. False: nothing to say, the fault was its own. */
bool ds_verdict_text(const struct ds_fault_verdict *verdict, const char *allocation, char *text,
		     size_t size);

#endif
