/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/peers.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/advance_follow.h"
#include "noderuntime/follow.h"
#include "noderuntime/mps_care.h"
#include "noderuntime/notes.h"
#include "noderuntime/off_gpu.h"
#include "noderuntime/programs.h"
#include "noderuntime/strays.h"

enum { PEERS_MAX = 64 }; /* connections that have not said hello, or wait for groups */

static void serve_step(struct ds_runtime *rt, struct ds_watch *connection,
		       const struct ds_port_hello *hello)
{
	struct ucred who;
	socklen_t size = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 ||
	    (who.uid != 0 && who.uid != geteuid())) {
		ds_port_refuse(connection->fd, "only slurmstepd (root) announces steps");
		return;
	}
	if (hello->share_milli > rt->allocation->grant.share_milli) {
		ds_port_refuse(connection->fd, "a step cannot have more than its allocation");
		return;
	}
	if (hello->share_milli > rt->allocation->step_granted_max_milli)
		rt->allocation->step_granted_max_milli = hello->share_milli;
	ds_publish(rt); /* saves the state */
	ds_port_welcome(connection->fd, NULL, 0, 0);
}

static void serve_report(struct ds_runtime *rt, const struct ds_watch *connection)
{
	static struct ds_port_report report;
	struct ucred who;
	socklen_t size = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 ||
	    (who.uid != 0 && who.uid != rt->allocation->uid)) {
		ds_port_refuse(connection->fd, "what programs report is for their user and root");
		return;
	}
	report = (struct ds_port_report){.magic = DS_PORT_MAGIC,
					 .version = DS_PORT_VERSION,
					 .flags = rt->page.page->flags,
					 .epoch = ds_page_epoch(&rt->page)};
	ds_strays_report(rt, report.strays);
	for (const struct ds_watch *w = rt->watches; w; w = w->next) {
		struct ds_port port;
		if (w->kind != DS_WATCH_PROGRAM || report.n_programs == DS_PORT_REPORTED_MAX ||
		    ds_port_copy(w->port_fd, &port) < 0)
			continue;
		struct ds_port_reported *reported = &report.programs[report.n_programs++];
		ds_port_describe(&port, reported);
		reported->pid = w->process.pid;
		reported->unfit = w->unfit;
	}
	report.memory_used = ds_quota_used(&rt->quota);
	report.memory_peak = ds_quota_peak(&rt->quota);
	ds_advance_report(rt, &report);
	ds_port_answer_report(connection->fd, &report);
}

static void serve_memory(struct ds_runtime *rt, const struct ds_watch *connection)
{
	struct ds_port_memory memory = {.magic = DS_PORT_MAGIC,
					.version = DS_PORT_VERSION,
					.quota = rt->quota.limit,
					.used = ds_quota_used(&rt->quota)};
	struct ucred who;
	socklen_t size = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 ||
	    (who.uid != 0 && who.uid != rt->allocation->uid)) {
		ds_port_refuse(connection->fd, "a job's memory is for its user and root");
		return;
	}
	snprintf(memory.gpu_uuid, sizeof(memory.gpu_uuid), "%s", rt->allocation->gpu_uuid);
	send(connection->fd, &memory, sizeof(memory), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void ds_peer_said(struct ds_runtime *rt, struct ds_watch *connection)
{
	struct ds_port_hello hello;
	struct ds_error reason;
	static char bytes[sizeof(struct ds_port_end) + 1];

	ssize_t n = recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	bool keep = false;
	if (n <= 0 || connection->waits) {
		/* It went away, or talks when it should wait. */
	} else if (ds_port_check_hello(bytes, (size_t)n, &hello, &reason) < 0) {
		ds_port_refuse(connection->fd, reason.text);
	} else if (hello.kind == DS_PORT_STEP) {
		serve_step(rt, connection, &hello);
	} else if (hello.kind == DS_PORT_REPORT) {
		serve_report(rt, connection);
	} else if (hello.kind == DS_PORT_MEMORY) {
		serve_memory(rt, connection);
	} else if (hello.kind == DS_PORT_NOTES) {
		ds_notes_serve(rt, connection, bytes, (size_t)n);
	} else if (hello.kind == DS_PORT_END) {
		ds_off_gpu_serve(rt, connection, bytes, (size_t)n);
	} else {
		keep = ds_program_serve(rt, connection);
	}
	if (!keep)
		ds_unwatch(rt, connection);
}

void ds_greet_waiting(struct ds_runtime *rt)
{
	for (struct ds_watch *w = rt->watches, *next; w; w = next) {
		next = w->next;
		if (w->kind == DS_WATCH_PEER && w->waits && !ds_program_serve(rt, w))
			ds_unwatch(rt, w);
	}
}

void ds_patience_over(struct ds_runtime *rt)
{
	uint64_t times;
	char reason[200];

	if (read(rt->patience, &times, sizeof(times)) < 0)
		return;
	if (rt->mps != DS_MPS_READY)
		snprintf(reason, sizeof(reason), "MPS of GPU %s takes too long to start",
			 rt->allocation->gpu_uuid);
	else
		snprintf(
		    reason, sizeof(reason),
		    "the SM groups of %s are still used by programs that began before it: start it "
		    "again when they have ended",
		    rt->allocation->name);
	for (struct ds_watch *w = rt->watches, *next; w; w = next) {
		next = w->next;
		if (w->kind != DS_WATCH_PEER || !w->waits)
			continue;
		ds_port_refuse(w->fd, reason);
		ds_unwatch(rt, w);
	}
	syslog(LOG_WARNING, "%s: %s", rt->allocation->name, reason);
}

/* Whoever connects and says nothing must not keep others out. */
static void drop_oldest_peer(struct ds_runtime *rt)
{
	struct ds_watch *oldest = NULL;

	for (struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind == DS_WATCH_PEER)
			oldest = w;
	}
	if (oldest)
		ds_unwatch(rt, oldest);
}

void ds_peer_comes(struct ds_runtime *rt, const struct ds_watch *listener)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
		drop_oldest_peer(rt);
	if (fd < 0)
		return;
	if (rt->n_peers >= PEERS_MAX)
		drop_oldest_peer(rt);
	if (!ds_watch_add(rt, DS_WATCH_PEER, fd, EPOLLIN))
		close(fd);
}
