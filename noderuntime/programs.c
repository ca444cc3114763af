/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/programs.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/follow.h"
#include "noderuntime/mps.h"
#include "noderuntime/wants.h"
#include "noderuntime/mps_care.h"
#include "noderuntime/note_faults.h"
#include "noderuntime/off_gpu.h"

enum {
	PATIENCE_S = 8,    /* for a program that waits for groups; it gives up after 10 */
	USELESS_MAX = 1000 /* messages in a row that change nothing, from a program we listen to */
};

/* A program asks to be let in. */
struct admission {
	struct ds_runtime *rt;
	const struct ds_peer *peer;
	bool no_groups; /* none can be given now */
};

static int change_admit(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct admission *admission = arg;
	struct ds_runtime *rt = admission->rt;
	const struct ds_ledger_resident *self;

	admission->no_groups = false;
	if (ds_follow_settle(rt, state, true, err) < 0)
		return -1;
	self = ds_ledger_find(state, rt->allocation->name);
	if (!self)
		return ds_fail(err, "%s is not in the ledger of GPU %s", rt->allocation->name,
			       state->gpu_uuid);
	const uint32_t clients_max = ds_mps_clients_max(rt->topology->cuda);
	if (*rt->config->mps_control && state->n_programs >= clients_max &&
	    !ds_ledger_find_program(state, &admission->peer->process))
		return ds_fail(err,
			       "GPU %s serves %u programs, and MPS can serve %u: start it again "
			       "when another one has ended",
			       state->gpu_uuid, state->n_programs, clients_max);
	if (!ds_groups_has_full(&self->held, &state->shape)) {
		admission->no_groups = true;
		return ds_fail(err,
			       "the SM groups of %s on GPU %s are still used by programs that "
			       "began before it: start it again when they have ended",
			       rt->allocation->name, state->gpu_uuid);
	}
	const bool is_new = !ds_ledger_find_program(state, &admission->peer->process);
	if (ds_ledger_add_program(state, rt->allocation->name, &admission->peer->process,
				  &self->held, err) < 0)
		return -1;
	/*
	 * The page says that it is to wait, or will before a new one sees it, and goes on to say so until the
	 * ledger says otherwise.
	 */
	if (ds_ledger_is_suspended(state, self) && rt->config->move_programs &&
	    (is_new || rt->page.page->flags & DS_PAGE_SUSPENDED))
		ds_ledger_find_program(state, &admission->peer->process)->quiet = 1;
	ds_follow_saw(rt, state);
	return 0;
}

static int change_forget(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	const struct ds_process *process = arg;

	return ds_ledger_remove_program(state, process) ? 0 : 1;
}

void ds_program_ended(struct ds_runtime *rt, struct ds_watch *program)
{
	struct ds_process process = program->process;
	struct ds_watch *connection = ds_watch_find(rt, DS_WATCH_WELCOMED, &process);
	struct ds_port port;

	if (ds_port_copy(program->port_fd, &port) == 0)
		ds_note_fault(rt, program, &port, true);
	ds_unwatch(rt, program);
	if (connection)
		ds_unwatch(rt, connection);
	ds_off_gpu_await(rt, &process);
	ds_follow(rt);
}

/* Hear no more of a program but its end: it keeps what it has. */
static void stop_listening(struct ds_runtime *rt, struct ds_watch *connection)
{
	struct epoll_event quiet = {.events = 0, .data.ptr = connection};

	epoll_ctl(rt->epoll, EPOLL_CTL_MOD, connection->fd, &quiet);
	syslog(LOG_WARNING,
	       "%s: process %d sends notices that say nothing new: it is not heard any more and "
	       "keeps its groups until it ends",
	       rt->allocation->name, connection->process.pid);
}

/* True if what the program's port says takes a group from it. */
static bool has_news(struct ds_runtime *rt, struct ds_watch *ours, const struct ds_port *port)
{
	const struct ds_ledger_program *known = ds_ledger_find_program(&rt->seen, &ours->process);

	if (!known)
		return false;
	struct ds_ledger_program program = *known; /* only to see what would become of it */
	return ds_note_acknowledged(rt, ours, port, &program);
}

/*
 * True if it was to be heard: it takes a group from the program, or is another demand than before. That is
 * followed already.
 */
static bool heed(struct ds_runtime *rt, struct ds_watch *program, const struct ds_port *port,
		 uint16_t kind)
{
	if (kind == DS_PORT_ACKNOWLEDGED) {
		if (!has_news(rt, program, port))
			return false;
		ds_follow(rt);
		return true;
	}
	if (kind != DS_PORT_DEMAND) {
		program->unfit++;
		return false;
	}
	if (!ds_wants_differ(rt, program, port))
		return false;
	ds_follow(rt);
	return !ds_wants_differ(rt, program, port); /* else it is not believed yet */
}

void ds_program_said(struct ds_runtime *rt, struct ds_watch *connection)
{
	char bytes[sizeof(struct ds_port_notice) + 1];
	ssize_t n = recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	struct ds_port port;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		ds_unwatch(rt, connection); /* closed; whether the program lives, its pidfd tells */
		return;
	}
	struct ds_watch *program = ds_watch_find(rt, DS_WATCH_PROGRAM, &connection->process);
	const bool copied = program && ds_port_copy(program->port_fd, &port) == 0;
	bool useful = false;
	if (copied) {
		const uint64_t epoch = port.acknowledged_epoch;

		ds_note_fault(rt, program, &port, false);
		/* Late ones change nothing, but who sends them means well. */
		if (epoch > connection->heard_epoch && epoch <= ds_page_epoch(&rt->page)) {
			connection->heard_epoch = epoch;
			connection->useless = 0;
		}
		useful = heed(rt, program, &port, ds_port_notice_kind(bytes, (size_t)n));
	}
	if (useful)
		connection->useless = 0;
	else if (++connection->useless == USELESS_MAX)
		stop_listening(rt, connection);
}

/* Watch the program and make its port. Returns the watch, which holds both, or NULL. */
static struct ds_watch *take_on(struct ds_runtime *rt, struct ds_peer *peer, struct ds_error *err)
{
	struct ds_watch *program = ds_watch_find(rt, DS_WATCH_PROGRAM, &peer->process);

	if (program) {
		/* It connects again, as after exec(): the same port, but none of its memory is left, and
		 * what it acknowledged before is nothing any more. */
		ds_quota_reset_slot(&rt->quota, program->book_slot);
		return ds_port_renew(program->port_fd, err) == 0 ? program : NULL;
	}
	int port_fd = ds_port_create(err);
	if (port_fd < 0)
		return NULL;
	program = ds_watch_add(rt, DS_WATCH_PROGRAM, peer->pidfd, EPOLLIN);
	if (!program) {
		ds_fail(err, "cannot watch process %d: %s", peer->process.pid, strerror(errno));
		close(port_fd);
		return NULL;
	}
	peer->pidfd = -1; /* the watch's now */
	program->process = peer->process;
	program->port_fd = port_fd;
	program->book_slot = ds_quota_take_slot(&rt->quota);
	program->since_ns = ds_now_ns(CLOCK_BOOTTIME);
	rt->allocation->programs++;
	return program;
}

/* For groups, or for MPS. ds_greet_waiting() looks at it again, ds_patience_over() sends it away. */
static void let_wait(struct ds_runtime *rt, struct ds_watch *connection)
{
	const struct itimerspec patience = {.it_value = {.tv_sec = PATIENCE_S}};

	if (!connection->waits)
		timerfd_settime(rt->patience, 0, &patience, NULL);
	connection->waits = true;
}

/*
 * Let a program in: first into the ledger, then onto our page, then to the program itself. True when its
 * connection stays, false when it is to be closed.
 */
static bool admit(struct ds_runtime *rt, struct ds_watch *connection, struct ds_peer *peer)
{
	struct admission admission = {.rt = rt, .peer = peer};
	struct ds_error reason;

	if (ds_follow_change(rt, change_admit, &admission, &reason) < 0) {
		if (admission.no_groups && !connection->waits) {
			let_wait(rt, connection);
			return true;
		}
		if (!admission.no_groups) {
			connection->waits = false;
			ds_port_refuse(connection->fd, reason.text);
			ds_complain(rt, &reason);
			return false;
		}
		return true;
	}
	connection->waits = false;
	ds_publish(rt);
	struct ds_watch *program = take_on(rt, peer, &reason);
	if (!program) {
		ds_ledger_change(rt->ledger, DS_LEDGER_MS, change_forget, &peer->process, NULL);
		ds_port_refuse(connection->fd, reason.text);
		ds_complain(rt, &reason);
		return false;
	}
	const int fds[] = {program->port_fd, rt->page.readonly_fd, rt->quota.fd};
	if (ds_port_welcome(connection->fd, fds, 3, (uint32_t)program->book_slot) < 0)
		return false; /* gone: its pidfd will tell */
	/* One connection per program, however often it connects; hanging up removes the former. */
	const struct ds_watch *former = ds_watch_find(rt, DS_WATCH_WELCOMED, &program->process);
	if (former)
		shutdown(former->fd, SHUT_RDWR);
	rt->n_peers--;
	connection->kind = DS_WATCH_WELCOMED;
	connection->process = program->process;
	connection->notified_epoch = ds_page_epoch(&rt->page); /* which it reads now */
	return true;
}

bool ds_program_serve(struct ds_runtime *rt, struct ds_watch *connection)
{
	struct ds_peer peer;
	struct ds_error reason;

	if (ds_port_peer(connection->fd, &peer, &reason) < 0) {
		ds_port_refuse(connection->fd, reason.text);
		return false;
	}
	bool keep = false;
	if (peer.uid != 0 && peer.uid != rt->allocation->uid) {
		ds_fail(&reason, "%s belongs to uid %u, not to uid %u", rt->allocation->name,
			rt->allocation->uid, (unsigned)peer.uid);
		ds_port_refuse(connection->fd, reason.text);
	} else {
		switch (ds_mps_care_ask(rt, connection->waits)) {
		case DS_MPS_READY:
			keep = admit(rt, connection, &peer);
			break;
		case DS_MPS_WAIT:
			let_wait(rt, connection);
			keep = true;
			break;
		case DS_MPS_REFUSE:
			ds_port_refuse(connection->fd, rt->mps_reason);
			break;
		}
	}
	if (peer.pidfd >= 0)
		close(peer.pidfd);
	return keep;
}
