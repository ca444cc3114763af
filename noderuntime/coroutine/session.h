/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SESSION_H
#define DETSHARE_COROUTINE_SESSION_H

#include <stdbool.h>

#include "common/error.h"
#include "common/groups.h"
#include "noderuntime/port_protocol.h"

/*
 * The program's side of the port: one connection to the node runtime for the life of the process.
 * Knows nothing of CUDA.
 */
struct ds_session {
	int fd; /* -1: not connected */
	struct ds_port *port;
	const struct ds_page *page;
};

#define DS_SESSION_NONE ((struct ds_session){.fd = -1})

/* What the allocation's page said, copied as a whole. */
struct ds_granted {
	uint64_t epoch;
	struct ds_gpu_shape shape;
	struct ds_groups groups;
	char gpu_uuid[48];
};

/*
 * Connect to the port at `path` and take the port and the page it sends. Blocks at most some seconds.
 * The descriptor that stays open is close-on-exec and high, out of the way of the program's own.
 * Returns 0, or -1 with the reason and *session closed.
 */
int ds_session_open(struct ds_session *session, const char *path, struct ds_error *err);

/* Disconnect and unmap. Of a session in a forked child: drops the child's copy, the parent keeps its own. */
void ds_session_close(struct ds_session *session);

/*
 * Copy the page once it grants at least one full SM group; wait for that at most `timeout_ms`
 * (groups of a newcomer may still be in use by a program that ends). Returns 0 or -1 with the reason.
 */
int ds_session_granted(const struct ds_session *session, unsigned timeout_ms,
		       struct ds_granted *granted, struct ds_error *err);

/* Tell the runtime which groups this process may be using from now on. Before the first use of them. */
void ds_session_use(struct ds_session *session, const struct ds_groups *groups);

/* Tell the runtime that the process now runs in the groups of `epoch`. */
void ds_session_acknowledge(struct ds_session *session, uint64_t epoch);

#endif
