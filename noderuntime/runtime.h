/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_RUNTIME_H
#define DETSHARE_NODERUNTIME_RUNTIME_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/node_config.h"
#include "noderuntime/allocation.h"
#include "noderuntime/deadline.h"
#include "noderuntime/gpu.h"

/*
 * The node runtime of one allocation, as a daemon: joins the ledger, makes sure MPS runs, publishes the
 * partition, answers at the port, follows what others change, and leaves when told. It sleeps
 * in epoll_wait() until something happens; nothing in it is periodic.
 */
struct ds_runtime_start {
	const struct ds_node_config *config;
	struct ds_allocation *allocation; /* filled in as far as begin knows it */
	const struct ds_topology *topology;
	pid_t owner;          /* 0, or a process whose end is the allocation's end */
	ds_deadline deadline; /* to be ready */
};

/*
 * Become the runtime: call in the daemon's process, whose signals this takes over. `ready` is called once,
 * with NULL when the allocation can be used (false: nobody wants it any more) or, all being undone,
 * with the reason why not. Returns the exit status when all is over: 0, or 1 when it could not start or
 * leaves something behind.
 */
int ds_runtime_run(const struct ds_runtime_start *start,
		   bool (*ready)(void *arg, const char *failure), void *arg);

#endif
