/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_RUN_H
#define DETSHARE_NODERUNTIME_COMMAND_RUN_H

#include <signal.h>
#include <stdint.h>

#include "common/error.h"
#include "common/node_config.h"
#include "common/task_env.h"
#include "gres/grant.h"
#include "noderuntime/gpu.h"

/*
 * Choose a GPU with room for the grant, its share and its memory: the one that `selector` names, or, if that is NULL, the
 * first that has it. Returns 0; 1 when there is no room (`err` says who has what); -1 when the GPUs
 * or a ledger cannot be read, or no GPU has so much memory.
 */
int ds_run_choose(const struct ds_node_config *config, const char *selector,
		  const struct ds_grant *grant, struct ds_gpu *gpu, struct ds_error *err);

/* Signals that `detshare run` passes on: blocked while it runs, taken by sigwaitinfo. */
void ds_run_signals(sigset_t *signals);

/*
 * Run the command with `edits` applied to its environment and the signal mask `mask`, pass signals
 * on to it, and wait for its end. `signals` are blocked by the caller. Returns its exit status (128 +
 * signal if one ended it; 127 or 126 when it could not be run), or -1 with a reason.
 */
int ds_run_command(char **argv, const struct ds_env_edits *edits, const sigset_t *signals,
		   const sigset_t *mask, struct ds_error *err);

#endif
