/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SESSION_H
#define DETSHARE_COROUTINE_SESSION_H

#include <stdbool.h>

#include "common/error.h"
#include "common/groups.h"
#include "noderuntime/book.h"
#include "noderuntime/port_protocol.h"

/*
 * The program's side of the port: one connection to the node runtime for the life of the process.
 * Knows nothing of CUDA.
 */
struct ds_session {
	int fd; /* -1: not connected */
	struct ds_port *port;
	const struct ds_page *page;
	struct ds_book *book;
	unsigned book_slot;
	struct ds_groups in_use; /* as the port says */
};

#define DS_SESSION_NONE ((struct ds_session){.fd = -1})

/* What the allocation's page said, copied as a whole. */
struct ds_granted {
	uint64_t epoch;
	struct ds_gpu_shape shape;
	struct ds_groups groups;
	char gpu_uuid[48];
	uint32_t flags; /* enum ds_page_flags */
	uint32_t window_us;
	uint32_t sample_launches;
	uint32_t overlong_ms;
	bool unawaited;
	uint32_t spin_us;
};

/*
 * Connect to the port at `path` and take the port, the page and the book it sends. Blocks at most some seconds.
 * The descriptor that stays open is close-on-exec and high, out of the way of the program's own.
 * Returns 0, or -1 with the reason and *session closed.
 */
int ds_session_open(struct ds_session *session, const char *path, struct ds_error *err);

/*
 * Ask at `path` what the job has of the GPU's memory, without becoming one of its programs. Blocks at most
 * some seconds. Returns 0, or -1 with the reason.
 */
int ds_session_ask_memory(const char *path, struct ds_port_memory *memory, struct ds_error *err);

/* Disconnect and unmap. Of a session in a forked child: drops the child's copy, the parent keeps its own. */
void ds_session_close(struct ds_session *session);

/*
 * Copy the page once it grants at least one full SM group; wait for that at most `timeout_ms`
 * (groups of a newcomer may still be in use by a program that ends), not counting the time that the
 * allocation is suspended, or has the GPU as a whole: that is no partition to begin in. Returns 0 or -1 with the reason.
 */
int ds_session_granted(const struct ds_session *session, unsigned timeout_ms,
		       struct ds_granted *granted, struct ds_error *err);

/* Whether the runtime has hung up. */
bool ds_session_is_over(const struct ds_session *session);

/* Copy the page as it is now. False: it is being written, all the time. */
bool ds_session_look(const struct ds_session *session, struct ds_granted *granted);

/* The page's epoch. */
uint64_t ds_session_epoch(const struct ds_session *session);

/* Whether work can run there: the rest alone is nobody's partition. Pure. */
bool ds_session_has_full_group(const struct ds_granted *granted);

/* Whether what is granted is a partition to begin in: not the whole GPU for a while, nor nothing. Pure. */
bool ds_session_may_begin(const struct ds_granted *granted);

/* Tell the runtime which groups this process may be using from now on. Before the first use of them. */
void ds_session_use(struct ds_session *session, const struct ds_groups *groups);

/* Tell the runtime which of them are in use by work that cannot be moved. */
void ds_session_pinned(struct ds_session *session, const struct ds_groups *groups);

/* Tell the runtime that the program cannot leave any group at present, or that it can again. */
void ds_session_immovable(struct ds_session *session, bool immovable);

/*
 * Tell the runtime that all work is in the groups last given to ds_session_use, and that new work goes
 * where the page says of which this is a copy. Does not block, and wakes the runtime only if it waits for that.
 */
void ds_session_acknowledge(struct ds_session *session, const struct ds_granted *granted);

/* Tell the runtime that the port says something new of what the program needs. Does not block; any thread. */
void ds_session_notify_demand(const struct ds_session *session);

/* Read the notices that are there. Returns -1 if the runtime is gone. Does not block. */
int ds_session_hear(struct ds_session *session);

/* Move a descriptor out of the way of the program's own. Takes and returns -1 as such. */
int ds_session_move_high(int fd);

/*
 * Have the process's table of descriptors made as large as ds_session_move_high() needs it. With several threads
 * that waits for all CPUs in the kernel (expand_fdtable() in Linux's fs/file.c), 5 to 20 ms, so it is to be
 * called first while there is one.
 */
void ds_session_make_room(void);

#endif
