/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_GRAPH_REFERS_H
#define DETSHARE_COROUTINE_GRAPH_REFERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "noderuntime/coroutine/driver.h"

/*
 * What the nodes of a graph refer to, and whether it is still there. The driver finds the memory, arrays,
 * events, semaphores and modules of a node when the node is made, and uses what it found when the graph is
 * made executable: if one has been destroyed meanwhile, the process dies of a segmentation fault (measured:
 * driver 580; memory that is only set gives an error). Alone a program cannot get there, for it makes a graph
 * executable while all is there. Here graphs are made executable again when they move.
 *
 * Collecting and renewing call the driver; marking does not. Not thread-safe.
 */

enum ds_refers_kind {
	DS_REFERS_MEMORY, /* by where its allocation, mapping or registration begins */
	DS_REFERS_ARRAY,
	DS_REFERS_EVENT,
	DS_REFERS_SEMAPHORE,
	DS_REFERS_MODULE, /* and libraries */
	DS_REFERS_KINDS,
};

struct ds_reference {
	CUgraphNode node; /* NULL: of any, for modules */
	uint64_t handle;
	enum ds_refers_kind kind;
	bool gone;
};

/* Start with {0}. */
struct ds_refers {
	struct ds_reference *all;
	size_t n, room;
};

/* All that the nodes of `graph` and of its child graphs refer to. False: no memory; free it all the same. */
bool ds_refers_collect(struct ds_refers *refers, CUgraph graph);

/* A node has new parameters. False: no memory. */
bool ds_refers_renew(struct ds_refers *refers, CUgraphNode node);

/*
 * What has handles from `first` to `first` + `n` - 1 is about to go. Returns whether it was referred to, and
 * had not gone before. Pure.
 */
bool ds_refers_lose(struct ds_refers *refers, enum ds_refers_kind kind, uint64_t first, uint64_t n);

/* Whether something has gone. Pure. */
bool ds_refers_lost(const struct ds_refers *refers);

void ds_refers_free(struct ds_refers *refers);

#endif
