/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <syslog.h>
#include <unistd.h>

#include "common/process.h"
#include "noderuntime/cgroup.h"
#include "noderuntime/leave.h"
#include "noderuntime/ledger.h"
#include "noderuntime/mps.h"
#include "noderuntime/port.h"

enum {
	LEDGER_MS = 1000,   /* other runtimes hold the ledger for microseconds */
	LEAVE_MS = 1500,    /* `end` waits longer before it does it itself */
	PEERS_MAX = 64,     /* connections that have not said hello, or wait for groups */
	PATIENCE_S = 8,     /* for a program that waits for groups; it gives up after 10 */
	RETRY_MS = 500,     /* to look at a ledger again that somebody else held too long */
	USELESS_MAX = 1000, /* messages in a row that change nothing, from a program we listen to */
	SETTLE_ROUNDS_MAX = 8 /* neighbours that die while we look at them */
};

/* What epoll watches: every descriptor belongs to one of these. */
enum watch_kind {
	WATCH_SIGNALS,
	WATCH_LEDGER,
	WATCH_LISTENER,
	WATCH_OWNER,
	WATCH_PATIENCE,
	WATCH_RETRY,
	WATCH_PEER,      /* a connection before its welcome */
	WATCH_PROGRAM,   /* a program's pidfd */
	WATCH_WELCOMED,  /* a program's connection: notices, and so that it notices our death */
	WATCH_NEIGHBOUR, /* pidfd of another runtime, or of a program that has none any more */
};

struct watch {
	enum watch_kind kind;
	int fd;
	struct watch *next;
	struct ds_process process; /* PROGRAM, WELCOMED, NEIGHBOUR */
	int port_fd;               /* PROGRAM */
	int64_t since_ns;          /* PROGRAM: its welcome, CLOCK_BOOTTIME */
	uint32_t unfit;            /* PROGRAM: how often it said what cannot be */
	uint32_t useless;          /* WELCOMED: messages since the last that changed something */
	uint64_t notified_epoch;   /* WELCOMED: what it was told last */
	uint64_t heard_epoch;      /* WELCOMED: what it acknowledged last, of any age */
	bool waits;                /* PEER: said hello, and there were no groups to give */
	bool wanted;               /* NEIGHBOUR: mark while the list is compared */
};

struct runtime {
	const struct ds_node_config *config;
	struct ds_allocation *allocation;
	const struct ds_topology *topology;
	char gpu_dir[PATH_MAX];
	struct ds_ledger *ledger;
	struct ds_ledger_state seen; /* the ledger as of our last look */
	struct ds_published page;
	struct watch *watches;
	unsigned n_peers;
	int epoll;
	int patience; /* timer, armed only while a program waits for groups */
	int retry;    /* timer, armed only while the ledger could not be had */
	int state_fd;
	bool stop;
};

static struct watch *watch(struct runtime *rt, enum watch_kind kind, int fd, uint32_t events)
{
	struct watch *new = calloc(1, sizeof(*new));
	struct epoll_event event = {.events = events, .data.ptr = new};

	if (!new || epoll_ctl(rt->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		free(new);
		return NULL;
	}
	*new = (struct watch){.kind = kind, .fd = fd, .next = rt->watches, .port_fd = -1};
	rt->watches = new;
	rt->n_peers += kind == WATCH_PEER;
	return new;
}

/* What a program says that it measured goes with its port, so it is kept when the port goes. */
static void note_measured(struct runtime *rt, const struct watch *program)
{
	double lifetime_s = (double)(ds_now_ns(CLOCK_BOOTTIME) - program->since_ns) / 1e9;
	char copy[DS_PORT_SIZE];
	ssize_t n = pread(program->port_fd, copy, sizeof(copy), 0);

	if (n > 0)
		ds_measured_add(&rt->allocation->measured, copy, (size_t)n, lifetime_s);
}

static void unwatch(struct runtime *rt, struct watch *old)
{
	struct watch **link = &rt->watches;

	while (*link && *link != old)
		link = &(*link)->next;
	if (*link)
		*link = old->next;
	rt->n_peers -= old->kind == WATCH_PEER;
	close(old->fd);
	if (old->port_fd >= 0) {
		note_measured(rt, old);
		close(old->port_fd);
	}
	free(old);
}

static bool same_process(const struct ds_process *a, const struct ds_process *b)
{
	return a->pid == b->pid && a->start_ticks == b->start_ticks;
}

static struct watch *find_watch(struct runtime *rt, enum watch_kind kind,
				const struct ds_process *process)
{
	for (struct watch *w = rt->watches; w; w = w->next) {
		if (w->kind == kind && same_process(&w->process, process))
			return w;
	}
	return NULL;
}

/* -- the ledger ---------------------------------------------------------------------------- */

static void complain(const struct runtime *rt, const struct ds_error *reason)
{
	syslog(LOG_ERR, "%s: %s", rt->allocation->name, reason->text);
}

static struct ds_ledger_resident as_resident(const struct runtime *rt)
{
	struct ds_ledger_resident resident = {.job_id = rt->allocation->job_id,
					      .uid = rt->allocation->uid,
					      .grant = rt->allocation->grant,
					      .runtime = rt->allocation->runtime,
					      .joined_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME)};

	memcpy(resident.name, rt->allocation->name, sizeof(resident.name));
	return resident;
}

/*
 * Who may be here: one user's jobs, unless the site said otherwise to all of them. MPS serves one user
 * at a time then, and another one's programs would wait in cuInit without an end or a word.
 */
static int check_isolation(const struct ds_ledger_state *state,
			   const struct ds_ledger_resident *newcomer, struct ds_error *err)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *other = &state->residents[i];
		if (other->uid == newcomer->uid || (other->grant.isolation == DS_ISOLATION_NONE &&
						    newcomer->grant.isolation == DS_ISOLATION_NONE))
			continue;
		return ds_fail(err,
			       "%s of uid %u cannot be on GPU %s beside %s of uid %u: "
			       "isolation = user in detshare.conf keeps users apart",
			       newcomer->name, newcomer->uid, state->gpu_uuid, other->name,
			       other->uid);
	}
	return 0;
}

/* Join, first removing what is dead, whose room we may need. */
static int change_join(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct runtime *rt = arg;
	struct ds_ledger_resident resident = as_resident(rt);

	if (ds_ledger_settle(state, ds_process_alive, err) < 0 ||
	    check_isolation(state, &resident, err) < 0 ||
	    ds_ledger_join(state, &resident, err) < 0 ||
	    ds_ledger_settle(state, ds_process_alive, err) < 0)
		return -1;
	rt->seen = *state;
	return 0;
}

/* Our program's watch; NULL for another's, or one of a runtime before us, which keeps what it has. */
static struct watch *find_ours(struct runtime *rt, const struct ds_ledger_program *program)
{
	if (strcmp(program->resident, rt->allocation->name) != 0)
		return NULL;
	return find_watch(rt, WATCH_PROGRAM, &program->process);
}

/* Take from a program what it has acknowledged not to be on any more. True if it lost a group. */
static bool note_acknowledged(const struct runtime *rt, struct watch *ours,
			      const struct ds_port *port, struct ds_ledger_program *program)
{
	struct ds_groups in_use;

	switch (ds_port_understand(port, ds_page_epoch(&rt->page), &program->groups, &in_use)) {
	case DS_PORT_SAID:
		return ds_ledger_shrink_program(program, &in_use, &rt->page.page->granted);
	case DS_PORT_UNFIT:
		ours->unfit++;
		return false;
	case DS_PORT_SILENT:
		return false;
	}
	return false;
}

/*
 * Settle, between two steps for our programs: before it, they lose what they have acknowledged, so that
 * others can have it; after it, they have what our page is going to grant, so that it is theirs
 * before they can see it there.
 */
static int settle(struct runtime *rt, struct ds_ledger_state *state, struct ds_error *err)
{
	struct ds_port port;

	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct watch *ours = find_ours(rt, &state->programs[i]);
		if (ours && ds_port_copy(ours->port_fd, &port) == 0)
			note_acknowledged(rt, ours, &port, &state->programs[i]);
	}
	if (ds_ledger_settle(state, ds_process_alive, err) < 0)
		return -1;
	const struct ds_ledger_resident *self = ds_ledger_find(state, rt->allocation->name);
	for (uint32_t i = 0; self && i < state->n_programs; i++) {
		struct ds_ledger_program *program = &state->programs[i];
		if (find_ours(rt, program))
			program->groups = ds_groups_union(program->groups, self->held);
	}
	return 0;
}

/*
 * The ledger was set aside as broken, or we were taken for dead: come back, with our programs,
 * rather than let others have the groups they run on.
 */
static int rejoin(struct runtime *rt, struct ds_ledger_state *state, struct ds_error *err)
{
	struct ds_ledger_resident resident = as_resident(rt);
	const struct ds_ledger_state *old = &rt->seen;

	syslog(LOG_WARNING, "%s: is not in the ledger of GPU %s any more; joining again",
	       rt->allocation->name, rt->allocation->gpu_uuid);
	if (ds_ledger_join(state, &resident, err) < 0)
		return -1;
	struct ds_ledger_resident *self = ds_ledger_find(state, rt->allocation->name);
	if (rt->page.page)
		self->held = rt->page.page->granted; /* so that the plan leaves us there */
	for (uint32_t i = 0; i < state->n_programs; i++)
		self->held = ds_groups_difference(self->held, state->programs[i].groups);
	for (uint32_t i = 0; i < old->n_programs && state->n_programs < DS_PROGRAMS_MAX; i++) {
		const struct ds_ledger_program *program = &old->programs[i];
		if (!strcmp(program->resident, rt->allocation->name) &&
		    !ds_ledger_find_program(state, &program->process))
			state->programs[state->n_programs++] = *program;
	}
	return 0;
}

/* Look, and settle what has changed. Commits only what really differs, so that nobody is woken. */
static int change_settle(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct runtime *rt = arg;
	static struct ds_ledger_state before;

	before = *state;
	if (!ds_ledger_find(state, rt->allocation->name) && rejoin(rt, state, err) < 0)
		return -1;
	if (settle(rt, state, err) < 0)
		return -1;
	rt->seen = *state;
	return memcmp(&before, state, sizeof(before)) ? 0 : 1;
}

static bool has_programs(const struct runtime *rt)
{
	for (const struct watch *w = rt->watches; w; w = w->next) {
		if (w->kind == WATCH_PROGRAM)
			return true;
	}
	return false;
}

/* Tell every program of a new epoch; what it is, it reads on the page. Waits for none of them. */
static void notify_programs(struct runtime *rt)
{
	const uint64_t epoch = ds_page_epoch(&rt->page);

	for (struct watch *w = rt->watches; w; w = w->next) {
		if (w->kind == WATCH_WELCOMED && w->notified_epoch != epoch &&
		    ds_port_notify(w->fd, epoch) == 0)
			w->notified_epoch = epoch;
	}
}

/* Publish what we hold now, and account for it. In this order: the ledger knows of it already. */
static void publish(struct runtime *rt)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&rt->seen, rt->allocation->name);
	struct ds_groups held = self ? self->held : (struct ds_groups){{0, 0}};
	uint32_t sms = ds_groups_sms(&held, &rt->seen.shape);

	/* A program is never told to be nowhere: as long as there is nothing else, it keeps what it has. */
	if (ds_groups_has_full(&held, &rt->seen.shape) || !has_programs(rt))
		ds_page_publish(&rt->page, &held);
	notify_programs(rt);
	if (sms != rt->allocation->held_sms || !rt->allocation->ready)
		ds_allocation_count(rt->allocation, ds_now_ns(CLOCK_BOOTTIME), sms);
	if (rt->state_fd >= 0 && ds_allocation_save(rt->state_fd, rt->allocation) < 0)
		syslog(LOG_ERR, "%s: cannot write its state: %s", rt->allocation->name,
		       strerror(errno));
}

/* Watch one more process. False: it is dead, so that the ledger must be settled again. */
static bool watch_neighbour(struct runtime *rt, const struct ds_process *process)
{
	struct watch *known = find_watch(rt, WATCH_NEIGHBOUR, process);

	if (known) {
		known->wanted = true;
		return true;
	}
	int fd = pidfd_open(process->pid, 0);
	if (fd < 0)
		return errno != ESRCH;
	if (!ds_process_alive(process)) {
		close(fd);
		return false;
	}
	known = watch(rt, WATCH_NEIGHBOUR, fd, EPOLLIN);
	if (!known) {
		close(fd);
		return true;
	}
	known->process = *process;
	known->wanted = true;
	return true;
}

/* True if a runtime other than ours looks after the programs of that allocation. */
static bool is_looked_after(const struct ds_ledger_state *state, const char *name)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (!strcmp(state->residents[i].name, name))
			return ds_process_alive(&state->residents[i].runtime);
	}
	return false;
}

/*
 * Watch the other runtimes, and the programs that have lost theirs: their ends nobody else would tell
 * us. False: one is dead already.
 */
static bool watch_neighbours(struct runtime *rt)
{
	const struct ds_ledger_state *state = &rt->seen;
	bool all_live = true;

	for (struct watch *w = rt->watches; w; w = w->next)
		w->wanted = false;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *resident = &state->residents[i];
		if (strcmp(resident->name, rt->allocation->name) != 0 &&
		    ds_process_alive(&resident->runtime))
			all_live &= watch_neighbour(rt, &resident->runtime);
	}
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *program = &state->programs[i];
		if (strcmp(program->resident, rt->allocation->name) != 0 &&
		    !is_looked_after(state, program->resident))
			all_live &= watch_neighbour(rt, &program->process);
	}
	for (struct watch *w = rt->watches, *next; w; w = next) {
		next = w->next;
		if (w->kind == WATCH_NEIGHBOUR && !w->wanted)
			unwatch(rt, w);
	}
	return all_live;
}

static void greet_waiting(struct runtime *rt);

/* Follow the ledger: settle, publish, watch whom it names. */
static void follow(struct runtime *rt)
{
	struct ds_error reason;
	bool all_live = false;

	for (int round = 0; round < SETTLE_ROUNDS_MAX && !all_live; round++) {
		if (ds_ledger_change(rt->ledger, LEDGER_MS, change_settle, rt, &reason) < 0) {
			const struct itimerspec again = {
			    .it_value = {.tv_nsec = RETRY_MS * 1000000L}};
			timerfd_settime(rt->retry, 0, &again, NULL);
			complain(rt, &reason);
			return;
		}
		publish(rt);
		all_live = watch_neighbours(rt);
	}
	greet_waiting(rt);
}

/* -- programs ------------------------------------------------------------------------------ */

/* A program asks to be let in. */
struct admission {
	struct runtime *rt;
	const struct ds_peer *peer;
	bool no_groups; /* none can be given now */
};

static int change_admit(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct admission *admission = arg;
	struct runtime *rt = admission->rt;
	const struct ds_ledger_resident *self;

	admission->no_groups = false;
	if (settle(rt, state, err) < 0)
		return -1;
	self = ds_ledger_find(state, rt->allocation->name);
	if (!self)
		return ds_fail(err, "%s is not in the ledger of GPU %s", rt->allocation->name,
			       state->gpu_uuid);
	if (*rt->config->mps_control && state->n_programs >= DS_MPS_CLIENTS_MAX &&
	    !ds_ledger_find_program(state, &admission->peer->process))
		return ds_fail(err,
			       "GPU %s serves %u programs, and MPS can serve %d: start it again "
			       "when another one has ended",
			       state->gpu_uuid, state->n_programs, DS_MPS_CLIENTS_MAX);
	if (!ds_groups_has_full(&self->held, &state->shape)) {
		admission->no_groups = true;
		return ds_fail(err,
			       "the SM groups of %s on GPU %s are still used by programs that "
			       "began before it: start it again when they have ended",
			       rt->allocation->name, state->gpu_uuid);
	}
	if (ds_ledger_add_program(state, rt->allocation->name, &admission->peer->process,
				  &self->held, err) < 0)
		return -1;
	rt->seen = *state;
	return 0;
}

static int change_forget(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	const struct ds_process *process = arg;

	return ds_ledger_remove_program(state, process) ? 0 : 1;
}

/* It has ended: its groups are free, for us and for others. */
static void on_program_end(struct runtime *rt, struct watch *program)
{
	struct ds_process process = program->process;
	struct ds_error reason;
	struct watch *connection = find_watch(rt, WATCH_WELCOMED, &process);

	unwatch(rt, program);
	if (connection)
		unwatch(rt, connection);
	if (ds_ledger_change(rt->ledger, LEDGER_MS, change_forget, &process, &reason) < 0)
		complain(rt, &reason);
	follow(rt);
}

/* Hear no more of a program but its end: it keeps what it has. */
static void stop_listening(struct runtime *rt, struct watch *connection)
{
	struct epoll_event quiet = {.events = 0, .data.ptr = connection};

	epoll_ctl(rt->epoll, EPOLL_CTL_MOD, connection->fd, &quiet);
	syslog(LOG_WARNING,
	       "%s: process %d sends notices that say nothing new: it is not heard any more and "
	       "keeps its groups until it ends",
	       rt->allocation->name, connection->process.pid);
}

/* True if what the program's port says now takes a group from it. */
static bool has_news(struct runtime *rt, struct watch *connection)
{
	struct watch *ours = find_watch(rt, WATCH_PROGRAM, &connection->process);
	const struct ds_ledger_program *known =
	    ds_ledger_find_program(&rt->seen, &connection->process);
	struct ds_port port;

	if (!ours || !known || ds_port_copy(ours->port_fd, &port) < 0)
		return false;
	/* Late ones change nothing, but who sends them means well. */
	uint64_t epoch = port.acknowledged_epoch;
	if (epoch > connection->heard_epoch && epoch <= ds_page_epoch(&rt->page)) {
		connection->heard_epoch = epoch;
		connection->useless = 0;
	}
	struct ds_ledger_program program = *known; /* only to see what would become of it */
	return note_acknowledged(rt, ours, &port, &program);
}

/* A program says that it has acknowledged. The message only says where to look. */
static void on_welcomed(struct runtime *rt, struct watch *connection)
{
	char bytes[sizeof(struct ds_port_notice) + 1];
	ssize_t n = recv(connection->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		unwatch(rt, connection); /* closed; whether the program lives, its pidfd tells */
		return;
	}
	if (!ds_port_is_acknowledgement(bytes, (size_t)n)) {
		struct watch *ours = find_watch(rt, WATCH_PROGRAM, &connection->process);
		if (ours)
			ours->unfit++;
	} else if (has_news(rt, connection)) {
		connection->useless = 0;
		follow(rt);
		return;
	}
	if (++connection->useless == USELESS_MAX)
		stop_listening(rt, connection);
}

/* Watch the program and make its port. Returns the watch, which holds both, or NULL. */
static struct watch *take_on(struct runtime *rt, struct ds_peer *peer, struct ds_error *err)
{
	struct watch *program = find_watch(rt, WATCH_PROGRAM, &peer->process);

	if (program)
		return program; /* it connects again: the same port */
	int port_fd = ds_port_create(err);
	if (port_fd < 0)
		return NULL;
	program = watch(rt, WATCH_PROGRAM, peer->pidfd, EPOLLIN);
	if (!program) {
		ds_fail(err, "cannot watch process %d: %s", peer->process.pid, strerror(errno));
		close(port_fd);
		return NULL;
	}
	peer->pidfd = -1; /* the watch's now */
	program->process = peer->process;
	program->port_fd = port_fd;
	program->since_ns = ds_now_ns(CLOCK_BOOTTIME);
	rt->allocation->programs++;
	return program;
}

/*
 * Let a program in: first into the ledger, then onto our page, then to the program itself. True when its
 * connection stays, false when it is to be closed.
 */
static bool admit(struct runtime *rt, struct watch *connection, struct ds_peer *peer)
{
	struct admission admission = {.rt = rt, .peer = peer};
	struct ds_error reason;

	if (ds_ledger_change(rt->ledger, LEDGER_MS, change_admit, &admission, &reason) < 0) {
		if (admission.no_groups && !connection->waits) {
			struct itimerspec patience = {.it_value = {.tv_sec = PATIENCE_S}};
			timerfd_settime(rt->patience, 0, &patience, NULL);
			connection->waits = true;
			return true;
		}
		if (!admission.no_groups) {
			connection->waits = false;
			ds_port_refuse(connection->fd, reason.text);
			complain(rt, &reason);
			return false;
		}
		return true;
	}
	connection->waits = false;
	publish(rt);
	struct watch *program = take_on(rt, peer, &reason);
	if (!program) {
		ds_ledger_change(rt->ledger, LEDGER_MS, change_forget, &peer->process, NULL);
		ds_port_refuse(connection->fd, reason.text);
		complain(rt, &reason);
		return false;
	}
	const int fds[] = {program->port_fd, rt->page.readonly_fd};
	if (ds_port_welcome(connection->fd, fds, 2) < 0)
		return false; /* gone: its pidfd will tell */
	/* One connection per program, however often it connects; hanging up removes the former. */
	const struct watch *former = find_watch(rt, WATCH_WELCOMED, &program->process);
	if (former)
		shutdown(former->fd, SHUT_RDWR);
	rt->n_peers--;
	connection->kind = WATCH_WELCOMED;
	connection->process = program->process;
	connection->notified_epoch = ds_page_epoch(&rt->page); /* which it reads now */
	return true;
}

static bool serve_program(struct runtime *rt, struct watch *connection)
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
		keep = admit(rt, connection, &peer);
	}
	if (peer.pidfd >= 0)
		close(peer.pidfd);
	return keep;
}

static void serve_step(struct runtime *rt, struct watch *connection,
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
	publish(rt); /* saves the state */
	ds_port_welcome(connection->fd, NULL, 0);
}

static void serve_report(struct runtime *rt, const struct watch *connection)
{
	static struct ds_port_report report;
	struct ucred who;
	socklen_t size = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 ||
	    (who.uid != 0 && who.uid != rt->allocation->uid)) {
		ds_port_refuse(connection->fd, "what programs report is for their user and root");
		return;
	}
	report = (struct ds_port_report){
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .epoch = ds_page_epoch(&rt->page)};
	for (const struct watch *w = rt->watches; w; w = w->next) {
		struct ds_port port;
		if (w->kind != WATCH_PROGRAM || report.n_programs == DS_PORT_REPORTED_MAX ||
		    ds_port_copy(w->port_fd, &port) < 0)
			continue;
		struct ds_port_reported *reported = &report.programs[report.n_programs++];
		ds_port_describe(&port, reported);
		reported->pid = w->process.pid;
		reported->unfit = w->unfit;
	}
	ds_port_answer_report(connection->fd, &report);
}

static void on_peer(struct runtime *rt, struct watch *connection)
{
	struct ds_port_hello hello;
	struct ds_error reason;
	char bytes[sizeof(hello) + 1];

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
	} else {
		keep = serve_program(rt, connection);
	}
	if (!keep)
		unwatch(rt, connection);
}

/* Groups may have come free: let those in who wait for them. */
static void greet_waiting(struct runtime *rt)
{
	for (struct watch *w = rt->watches, *next; w; w = next) {
		next = w->next;
		if (w->kind == WATCH_PEER && w->waits && !serve_program(rt, w))
			unwatch(rt, w);
	}
}

static void on_retry(struct runtime *rt)
{
	uint64_t times;

	if (read(rt->retry, &times, sizeof(times)) > 0)
		follow(rt);
}

static void on_patience_over(struct runtime *rt)
{
	uint64_t times;
	char reason[200];

	if (read(rt->patience, &times, sizeof(times)) < 0)
		return;
	snprintf(reason, sizeof(reason),
		 "the SM groups of %s are still used by programs that began before it: start it "
		 "again when they have ended",
		 rt->allocation->name);
	for (struct watch *w = rt->watches, *next; w; w = next) {
		next = w->next;
		if (w->kind != WATCH_PEER || !w->waits)
			continue;
		ds_port_refuse(w->fd, reason);
		unwatch(rt, w);
	}
	syslog(LOG_WARNING, "%s: %s", rt->allocation->name, reason);
}

/* Whoever connects and says nothing must not keep others out. */
static void drop_oldest_peer(struct runtime *rt)
{
	struct watch *oldest = NULL;

	for (struct watch *w = rt->watches; w; w = w->next) {
		if (w->kind == WATCH_PEER)
			oldest = w;
	}
	if (oldest)
		unwatch(rt, oldest);
}

static void on_listener(struct runtime *rt, const struct watch *listener)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
		drop_oldest_peer(rt);
	if (fd < 0)
		return;
	if (rt->n_peers >= PEERS_MAX)
		drop_oldest_peer(rt);
	if (!watch(rt, WATCH_PEER, fd, EPOLLIN))
		close(fd);
}

/* -- the loop ------------------------------------------------------------------------------ */

/* True if the file that changed is the ledger; mps.lock and topology are in the same directory. */
static bool ledger_changed(int fd)
{
	union {
		struct inotify_event event; /* for its alignment */
		char bytes[4096];
	} buffer;
	bool changed = false;
	ssize_t n;

	while ((n = read(fd, buffer.bytes, sizeof(buffer.bytes))) > 0) {
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *event =
			    (const struct inotify_event *)(const void *)(buffer.bytes + at);
			changed |= (event->mask & IN_Q_OVERFLOW) ||
				   (event->len && !strcmp(event->name, "ledger"));
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	}
	return changed;
}

static void dispatch(struct runtime *rt, struct watch *w)
{
	struct signalfd_siginfo info;

	switch (w->kind) {
	case WATCH_SIGNALS:
		rt->stop = read(w->fd, &info, sizeof(info)) > 0;
		break;
	case WATCH_LEDGER:
		if (ledger_changed(w->fd))
			follow(rt);
		break;
	case WATCH_LISTENER:
		on_listener(rt, w);
		break;
	case WATCH_OWNER:
		syslog(LOG_NOTICE, "%s: its owner is gone", rt->allocation->name);
		rt->stop = true;
		break;
	case WATCH_PATIENCE:
		on_patience_over(rt);
		break;
	case WATCH_RETRY:
		on_retry(rt);
		break;
	case WATCH_PEER:
		on_peer(rt, w);
		break;
	case WATCH_PROGRAM:
		on_program_end(rt, w);
		break;
	case WATCH_WELCOMED:
		on_welcomed(rt, w);
		break;
	case WATCH_NEIGHBOUR:
		unwatch(rt, w);
		follow(rt);
		break;
	}
}

static void loop(struct runtime *rt)
{
	while (!rt->stop) {
		struct epoll_event event;
		/* One at a time: handling it may remove the watch of the next. */
		int n = epoll_wait(rt->epoll, &event, 1, -1);
		if (n == 1)
			dispatch(rt, event.data.ptr);
		else if (n < 0 && errno != EINTR)
			return;
	}
}

/* -- start and end ------------------------------------------------------------------------- */

static int watch_or_fail(struct runtime *rt, enum watch_kind kind, int fd, const char *what,
			 struct ds_error *err)
{
	if (fd < 0)
		return ds_fail(err, "cannot watch %s: %s", what, strerror(errno));
	if (!watch(rt, kind, fd, EPOLLIN)) {
		ds_fail(err, "cannot watch %s: %s", what, strerror(errno));
		close(fd);
		return -1;
	}
	return 0;
}

static int watch_ledger(struct runtime *rt, struct ds_error *err)
{
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	/* The directory, not the file, so that a ledger made anew is noticed, too. */
	if (fd >= 0 && inotify_add_watch(fd, rt->gpu_dir,
					 IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) < 0) {
		int reason = errno;
		close(fd);
		fd = -1;
		errno = reason;
	}
	return watch_or_fail(rt, WATCH_LEDGER, fd, rt->gpu_dir, err);
}

static int watch_signals(struct runtime *rt, struct ds_error *err)
{
	sigset_t end;

	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigaddset(&end, SIGINT);
	sigprocmask(SIG_BLOCK, &end, NULL);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	return watch_or_fail(rt, WATCH_SIGNALS, signalfd(-1, &end, SFD_CLOEXEC), "signals", err);
}

/* A connection, a pidfd and a port per program, and a pidfd per neighbour. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int write_task_env(const struct runtime *rt, const char *port, struct ds_error *err)
{
	const struct ds_allocation *allocation = rt->allocation;
	char text[4 * PATH_MAX], pipe[PATH_MAX];
	int used = snprintf(text, sizeof(text),
			    "DETSHARE_PORT=%s\nDETSHARE_CLASS=%s\nCUDA_VISIBLE_DEVICES=%s\n"
			    "LD_PRELOAD=%s\n",
			    port, allocation->grant.class_name, allocation->gpu_uuid,
			    rt->config->coroutine_library);

	if (*rt->config->mps_control) {
		if (ds_mps_pipe_dir(rt->config, allocation->gpu_uuid, pipe) < 0)
			return ds_fail(err, "runtime_dir is too long");
		/* 100 is as if unset; anything less that a user sets would change results. */
		snprintf(text + used, sizeof(text) - (size_t)used,
			 "CUDA_MPS_PIPE_DIRECTORY=%s\nCUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100\n",
			 pipe);
	}
	return ds_allocation_write(rt->config, allocation->name, "task.env", 0644, text, err);
}

static int write_pid(const struct runtime *rt, struct ds_error *err)
{
	const struct ds_process *self = &rt->allocation->runtime;
	char text[64];

	snprintf(text, sizeof(text), "%d %llu\n", self->pid, (unsigned long long)self->start_ticks);
	return ds_allocation_write(rt->config, rt->allocation->name, "runtime.pid", 0644, text,
				   err);
}

/* True if nobody else is on this GPU, so that a hung MPS may be killed. */
static bool is_alone(const struct runtime *rt)
{
	return rt->seen.n_residents == 1 && rt->seen.n_programs == 0;
}

static int set_up(struct runtime *rt, const struct ds_runtime_start *start, struct ds_error *err)
{
	struct ds_allocation *allocation = start->allocation;
	struct ds_error note = {""};
	char port[PATH_MAX];

	if (ds_process_identify(getpid(), &allocation->runtime, err) < 0)
		return -1;
	rt->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (rt->epoll < 0)
		return ds_fail(err, "cannot make an epoll descriptor: %s", strerror(errno));
	/* From here on `end` finds us, whatever becomes of us. */
	rt->state_fd = ds_allocation_open(rt->config, allocation, err);
	if (rt->state_fd < 0 || watch_signals(rt, err) < 0 || write_pid(rt, err) < 0)
		return -1;
	if (start->owner &&
	    watch_or_fail(rt, WATCH_OWNER, pidfd_open(start->owner, 0), "the owner", err) < 0)
		return -1;
	rt->patience = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (watch_or_fail(rt, WATCH_PATIENCE, rt->patience, "a timer", err) < 0)
		return -1;
	rt->retry = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (watch_or_fail(rt, WATCH_RETRY, rt->retry, "a timer", err) < 0)
		return -1;
	if (ds_gpu_dir(rt->config->runtime_dir, allocation->gpu_uuid, rt->gpu_dir,
		       sizeof(rt->gpu_dir)) < 0)
		return ds_fail(err, "runtime_dir %s is too long", rt->config->runtime_dir);
	if (ds_ledger_open(rt->gpu_dir, allocation->gpu_uuid, &rt->topology->shape, &rt->ledger,
			   &note) < 0)
		return ds_fail(err, "%s", note.text);
	if (note.text[0])
		complain(rt, &note);
	/* Before joining, so that no change after it is missed. */
	if (watch_ledger(rt, err) < 0 ||
	    ds_ledger_change(rt->ledger, LEDGER_MS, change_join, rt, err) < 0)
		return -1;
	const struct ds_mps_need need = {
	    .alone = is_alone(rt), .multiuser = allocation->grant.isolation == DS_ISOLATION_NONE};
	if (ds_mps_ensure(rt->config, allocation->gpu_uuid, &need, start->deadline, err) < 0 ||
	    ds_page_create(&rt->page, &rt->seen.shape, allocation->gpu_uuid,
			   allocation->grant.class_name, allocation->grant.share_milli, err) < 0)
		return -1;
	if (ds_allocation_path(rt->config, allocation->name, "port", port, err) < 0)
		return -1;
	int listener = ds_port_listen(port, err);
	if (listener < 0 || watch_or_fail(rt, WATCH_LISTENER, listener, port, err) < 0 ||
	    write_task_env(rt, port, err) < 0)
		return -1;
	follow(rt);
	allocation->begin_unix_s = (double)ds_now_ns(CLOCK_REALTIME) / 1e9;
	allocation->ready = true;
	publish(rt);
	return 0;
}

static void tear_down(struct runtime *rt)
{
	while (rt->watches)
		unwatch(rt, rt->watches);
	ds_ledger_close(rt->ledger);
	ds_page_destroy(&rt->page);
	if (rt->state_fd >= 0)
		close(rt->state_fd);
	if (rt->epoll >= 0)
		close(rt->epoll);
}

int ds_runtime_run(const struct ds_runtime_start *start,
		   bool (*ready)(void *arg, const char *failure), void *arg)
{
	static struct runtime runtime; /* two ledgers' worth of state: not for the stack */
	struct runtime *rt = &runtime;
	struct ds_error reason = {""}, leave_reason;

	rt->config = start->config;
	rt->allocation = start->allocation;
	rt->topology = start->topology;
	rt->page.readonly_fd = rt->epoll = rt->state_fd = -1;
	raise_descriptor_limit();
	ds_bind_near(rt->topology->cpus);
	int rc = set_up(rt, start, &reason);
	if (rc == 0 && !ready(arg, NULL))
		rt->stop = true; /* whoever began this is gone */
	if (rc == 0 && !rt->stop) {
		/* After `ready`, because the kernel may take tens of milliseconds for this. */
		if (geteuid() == 0 &&
		    ds_cgroup_join(rt->config->cgroup_root, NULL, &leave_reason) < 0)
			syslog(LOG_WARNING, "%s: %s; going on where it is", rt->allocation->name,
			       leave_reason.text);
		loop(rt);
	}
	tear_down(rt);
	if (ds_leave(rt->config, rt->allocation, ds_deadline_in(LEAVE_MS), &leave_reason) < 0) {
		complain(rt, &leave_reason);
		if (rc == 0)
			rc = 1;
	}
	/* Only now: who hears of the failure may rely on all being undone. */
	if (rc < 0)
		ready(arg, reason.text);
	return rc ? 1 : 0;
}
