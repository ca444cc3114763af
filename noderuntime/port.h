/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PORT_H
#define DETSHARE_NODERUNTIME_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/groups.h"
#include "common/process.h"
#include "noderuntime/port_protocol.h"

/*
 * The runtime's side of port_protocol.h: what comes from programs is checked here, what goes to
 * them is made here. Nothing in this file knows the ledger.
 */

/* The allocation's page: written by us, mapped read-only by its programs. */
struct ds_published {
	struct ds_page *page; /* our writable mapping */
	int readonly_fd;      /* what programs get */
};

/*
 * Make the page of an allocation, with nothing granted. The kernel refuses any new writable mapping
 * of it, whoever opens it how. Returns 0 or -1. Free with ds_page_destroy().
 */
int ds_page_create(struct ds_published *published, const struct ds_gpu_shape *shape,
		   const char *gpu_uuid, const char *class_name, uint32_t share_milli,
		   struct ds_error *err);
void ds_page_destroy(struct ds_published *published);

/*
 * False if that process has no page mapped, so that the library is not in it, or not any more; true if it has,
 * or if that cannot be found out. Takes milliseconds.
 */
bool ds_page_may_be_in(pid_t pid);

/* What the page says that may change: the fields of struct ds_page of the same names. */
struct ds_page_terms {
	struct ds_groups granted;
	uint32_t flags; /* enum ds_page_flags */
	uint32_t window_us;
	uint32_t unawaited;
	uint32_t spin_us;
};

/* Publish these terms. Raises the epoch only if they differ from what was published. */
void ds_page_publish(struct ds_published *published, const struct ds_page_terms *terms);

/* Say on the page whether a neighbour is in a step, for which others hold back. Programs see it at once. */
void ds_page_step(struct ds_published *published, bool in_step);

/* A program's port: a descriptor of DS_PORT_SIZE zero bytes that cannot change its size, or -1. */
int ds_port_create(struct ds_error *err);

enum ds_port_word {
	DS_PORT_SILENT, /* the program has not acknowledged the present epoch */
	DS_PORT_SAID,   /* it has */
	DS_PORT_UNFIT,  /* it says what cannot be: as if it were silent */
};

/*
 * Pure: what the copy of a port says about `epoch`, the page's present one, when the program had
 * `had` so far. DS_PORT_SAID: its work is in `*in_use`, a part of `had`, and in what is granted. A
 * claim to groups that it was not given or to an epoch that is still to come is unfit.
 */
enum ds_port_word ds_port_understand(const struct ds_port *port, uint64_t epoch,
				     const struct ds_groups *had, struct ds_groups *in_use);

/* The port's program begins anew: it has acknowledged nothing. 0, or -1 with the reason. */
int ds_port_renew(int port_fd, struct ds_error *err);

/* Copy the port once, whatever is written there meanwhile. 0 or -1. */
int ds_port_copy(int port_fd, struct ds_port *port);

/* The page's present epoch. */
uint64_t ds_page_epoch(const struct ds_published *published);

/*
 * Tell a program of `epoch`. Never blocks: if nothing fits any more, notices wait there already, which
 * is enough. Returns 0, or -1: it was not told.
 */
int ds_port_notify(int connection, uint64_t epoch);

/* Pure: the kind of the notice that `size` bytes on a welcomed connection are; 0: of none. */
uint16_t ds_port_notice_kind(const void *bytes, size_t size);

/* What a program says of itself, for a report. Pure. */
void ds_port_describe(const struct ds_port *port, struct ds_port_reported *reported);

/*
 * Pure: the whole of a DS_PORT_NOTES, of which ds_port_check_hello() has seen the head. Returns 0, or -1 with
 * a reason that can be sent back.
 */
int ds_port_check_ask(const void *bytes, size_t size, struct ds_port_ask *ask,
		      struct ds_error *err);

/* Answer it. Never blocks. 0, or -1: the peer is gone. */
int ds_port_answer_notes(int connection, const struct ds_port_notes *notes);

/* Answer DS_PORT_REPORT. Never blocks. 0, or -1: the peer is gone. */
int ds_port_answer_report(int connection, const struct ds_port_report *report);

/* Pure: a hello of `size` bytes, or the head of a longer message. Returns 0, or -1 with a reason that can be sent back. */
int ds_port_check_hello(const void *bytes, size_t size, struct ds_port_hello *hello,
			struct ds_error *err);

/*
 * Pure: the whole of a DS_PORT_END, of which ds_port_check_hello() has seen the head. Returns how many
 * pids it names, or -1 with a reason that can be sent back.
 */
int ds_port_check_end(const void *bytes, size_t size, struct ds_port_end *end,
		      struct ds_error *err);

/* Listen on `path` (made 0666; peers are checked by ds_port_peer). A descriptor, or -1. */
int ds_port_listen(const char *path, struct ds_error *err);

/* Who is connected: taken from the kernel, with a pidfd that cannot be another process's. */
struct ds_peer {
	struct ds_process process;
	uid_t uid;
	int pidfd; /* the caller closes it */
};
int ds_port_peer(int connection, struct ds_peer *peer, struct ds_error *err);

/*
 * Answer; `fds` are n_fds descriptors to pass, `book_slot` the program's. Never blocks. Returns 0 or -1:
 * the peer is gone.
 */
int ds_port_welcome(int connection, const int *fds, size_t n_fds, uint32_t book_slot);
int ds_port_refuse(int connection, const char *reason);

#endif
