/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMANDS_H
#define DETSHARE_NODERUNTIME_COMMANDS_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/node_config.h"
#include "gres/grant.h"
#include "noderuntime/deadline.h"

/* What `detshare-noderuntime begin` was told. */
struct ds_begin {
	const struct ds_node_config *config;
	const char *allocation;
	const char *gpu; /* minor number or UUID */
	struct ds_grant grant;
	uint32_t uid;
	uint32_t job_id;
	uint32_t restart;
	pid_t owner; /* 0: none */
	ds_deadline deadline;
};

/*
 * Begin an allocation: returns 0 when its runtime is ready, as a daemon of its own, or -1 with a reason
 * when everything is undone. Over by the deadline, whatever hangs. An allocation that runs here
 * already, for the same user and grant, is left as it is.
 */
int ds_begin(const struct ds_begin *begin, struct ds_error *err);

/*
 * End an allocation, in whatever state its runtime is: well, stopped, hung, killed, never begun.
 * Returns 0 when nothing of it is left, or -1 with what is.
 */
int ds_end(const struct ds_node_config *config, const char *allocation, ds_deadline deadline,
	   struct ds_error *err);

#endif
