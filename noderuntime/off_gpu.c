/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/off_gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/errand.h"
#include "noderuntime/follow.h"
#include "noderuntime/mps.h"

/* In the child. */
static size_t take_off(const struct ds_runtime *rt, const void *arg,
		       char brought[DS_ERRAND_BROUGHT_MAX])
{
	const struct ds_port_end *end = arg;
	pid_t pids[DS_PORT_END_MAX];

	for (uint32_t i = 0; i < end->n_pids; i++)
		pids[i] = end->pids[i];
	size_t left = ds_mps_terminate(rt->config, rt->allocation->gpu_uuid, pids, end->n_pids,
				       ds_deadline_in(DS_PORT_END_MS));
	memcpy(brought, &left, sizeof(left));
	return sizeof(left);
}

static void taken_off(struct ds_runtime *rt, struct ds_watch *errand, const void *brought,
		      size_t size)
{
	size_t left = 0;

	if (size == sizeof(left))
		memcpy(&left, brought, sizeof(left));
	if (!size || left) {
		syslog(LOG_WARNING,
		       "%s: MPS could not end %zu of its clients before they were killed: "
		       "neighbours on the GPU may fail",
		       rt->allocation->name, left);
		ds_port_refuse(errand->answer_fd, "MPS could not end all of them in time");
		return;
	}
	ds_port_welcome(errand->answer_fd, NULL, 0, 0);
}

void ds_off_gpu_serve(struct ds_runtime *rt, const struct ds_watch *connection, const void *bytes,
		      size_t size)
{
	static struct ds_port_end end;
	struct ds_error reason = {""};
	struct ucred who;
	socklen_t length = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0 ||
	    (who.uid != 0 && who.uid != geteuid())) {
		ds_port_refuse(connection->fd, "only slurmstepd (root) ends programs");
		return;
	}
	int n = ds_port_check_end(bytes, size, &end, &reason);
	if (n < 0) {
		ds_port_refuse(connection->fd, reason.text);
		return;
	}
	if (!n || !*rt->config->mps_control) {
		ds_port_welcome(connection->fd, NULL, 0, 0);
		return;
	}
	int answer = fcntl(connection->fd, F_DUPFD_CLOEXEC, 0);
	if (answer < 0)
		ds_fail(&reason, "no descriptor: %s", strerror(errno));
	if (answer < 0 || !ds_errand_start(rt, take_off, &end, taken_off, answer, &reason)) {
		ds_port_refuse(connection->fd, reason.text);
		ds_complain(rt, &reason);
		if (answer >= 0)
			close(answer);
	}
}

enum {
	CLIENTS_MAX = 512,
	PAUSE_MS = 50,
	/* Nobody waits for it, and a program may be ended for want of an answer. */
	ASK_MS = 5000,
};

bool ds_off_gpu_is(const struct ds_runtime *rt, pid_t pid)
{
	const ds_deadline until = ds_deadline_in(ASK_MS);
	pid_t clients[CLIENTS_MAX];
	int n;

	if (!*rt->config->mps_control)
		return false;
	/* MPS that does not answer at once, on a busy machine, may do so a moment later. */
	while ((n = ds_mps_clients(rt->config, rt->allocation->gpu_uuid, clients, CLIENTS_MAX,
				   until)) < 0 &&
	       ds_deadline_left_ms(until) > 0)
		poll(NULL, 0, PAUSE_MS);
	for (int i = 0; i < n; i++) {
		if (clients[i] == pid)
			return false;
	}
	return n >= 0;
}

enum { END_MS = 5000 }; /* nobody waits for it, and to kill it sooner may harm its neighbours */

void ds_off_gpu_end(const struct ds_runtime *rt, const struct ds_process *process)
{
	const ds_deadline until = ds_deadline_in(END_MS);
	const pid_t pid = process->pid;
	int fd = pidfd_open(pid, 0);

	while (fd >= 0 && ds_process_alive(process) &&
	       ds_mps_terminate(rt->config, rt->allocation->gpu_uuid, &pid, 1, until) &&
	       ds_deadline_left_ms(until) > 0)
		poll(NULL, 0, PAUSE_MS);
	if (fd >= 0 && ds_process_alive(process))
		pidfd_send_signal(fd, SIGKILL, NULL, 0);
	if (fd >= 0)
		close(fd);
}

/* -- programs that have ended ---------------------------------------------------------------- */

enum {
	LOOK_MS = 1000, /* one errand's time, when MPS does not let go of a client at once */
	GIVE_UP_S = 30, /* a client that MPS lists for so long after its end is MPS's mistake */
};

/* What an errand was sent for, and brings: those that are still listed. */
struct listed {
	uint32_t n;
	pid_t pids[DS_PROGRAMS_MAX];
};

_Static_assert(sizeof(struct listed) <= DS_ERRAND_BROUGHT_MAX, "an answer comes in one piece");

static size_t await_gone(const struct ds_runtime *rt, const void *arg,
			 char brought[DS_ERRAND_BROUGHT_MAX])
{
	struct listed listed = *(const struct listed *)arg;

	listed.n = (uint32_t)ds_mps_await_gone(rt->config, rt->allocation->gpu_uuid, listed.pids,
					       listed.n, ds_deadline_in(LOOK_MS));
	memcpy(brought, &listed, sizeof(listed));
	return sizeof(listed);
}

static void look(struct ds_runtime *rt);

/* Remove those from the ledger that are off the GPU. */
static int change_forget(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	const struct ds_process *process = arg;

	return ds_ledger_remove_program(state, process) ? 0 : 1;
}

void ds_off_gpu_forget(struct ds_runtime *rt, const struct ds_process *process)
{
	struct ds_process copy = *process;
	struct ds_error reason;

	syslog(
	    LOG_NOTICE,
	    "%s: process %d is not on the GPU any more: it is left alone, and its groups go back",
	    rt->allocation->name, (int)process->pid);
	if (ds_ledger_change(rt->ledger, DS_LEDGER_MS, change_forget, &copy, &reason) < 0)
		ds_complain(rt, &reason);
}

static void forget(struct ds_runtime *rt, uint32_t index)
{
	struct ds_process process = rt->gone[index].process;
	struct ds_error reason;

	rt->gone[index] = rt->gone[--rt->n_gone];
	if (ds_ledger_change(rt->ledger, DS_LEDGER_MS, change_forget, &process, &reason) < 0)
		ds_complain(rt, &reason); /* the next settlement removes it */
}

static bool is_listed(const struct listed *listed, pid_t pid)
{
	for (uint32_t i = 0; i < listed->n; i++) {
		if (listed->pids[i] == pid)
			return true;
	}
	return false;
}

static void looked(struct ds_runtime *rt, struct ds_watch *errand, const void *brought, size_t size)
{
	const int64_t now_ns = ds_now_ns(CLOCK_BOOTTIME);
	struct listed listed = {.n = 0};

	rt->gone_asked = false;
	if (size == sizeof(listed))
		memcpy(&listed, brought, sizeof(listed));
	/* Those that ended while it was out are younger than it, and not in its answer. */
	for (uint32_t i = rt->n_gone; i-- > 0;) {
		const int64_t age_ns = now_ns - rt->gone[i].since_ns;
		const pid_t pid = rt->gone[i].process.pid;
		if (rt->gone[i].since_ns > errand->since_ns)
			continue;
		if (is_listed(&listed, pid) && age_ns < GIVE_UP_S * INT64_C(1000000000))
			continue;
		if (is_listed(&listed, pid))
			syslog(LOG_ERR,
			       "%s: process %d has ended, and MPS still lists it: its groups go "
			       "back all the same",
			       rt->allocation->name, (int)pid);
		forget(rt, i);
	}
	look(rt);
	ds_follow(rt);
}

static void look(struct ds_runtime *rt)
{
	struct listed listed = {.n = 0};
	struct ds_error reason;

	if (rt->gone_asked || !rt->n_gone)
		return;
	for (uint32_t i = 0; i < rt->n_gone; i++)
		listed.pids[listed.n++] = rt->gone[i].process.pid;
	const int64_t now_ns = ds_now_ns(CLOCK_BOOTTIME);
	struct ds_watch *errand = ds_errand_start(rt, await_gone, &listed, looked, -1, &reason);
	if (!errand) {
		/* Nobody can be asked: as if MPS had let go of them. */
		ds_complain(rt, &reason);
		while (rt->n_gone)
			forget(rt, rt->n_gone - 1);
		return;
	}
	errand->since_ns = now_ns;
	rt->gone_asked = true;
}

void ds_off_gpu_await(struct ds_runtime *rt, const struct ds_process *process)
{
	if (rt->n_gone == DS_PROGRAMS_MAX)
		forget(rt, 0);
	rt->gone[rt->n_gone].process = *process;
	rt->gone[rt->n_gone++].since_ns = ds_now_ns(CLOCK_BOOTTIME);
	if (*rt->config->mps_control)
		look(rt);
	else
		forget(rt, rt->n_gone - 1);
}

bool ds_off_gpu_awaits(const struct ds_runtime *rt, const struct ds_process *process)
{
	for (uint32_t i = 0; i < rt->n_gone; i++) {
		if (rt->gone[i].process.pid == process->pid &&
		    rt->gone[i].process.start_ticks == process->start_ticks)
			return true;
	}
	return false;
}
