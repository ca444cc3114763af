/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/advance_follow.h"
#include "noderuntime/bell.h"
#include "noderuntime/cgroup.h"
#include "noderuntime/errand.h"
#include "noderuntime/follow.h"
#include "noderuntime/glance.h"
#include "noderuntime/late_follow.h"
#include "noderuntime/leave.h"
#include "noderuntime/mps.h"
#include "noderuntime/mps_care.h"
#include "noderuntime/neighbours.h"
#include "noderuntime/peers.h"
#include "noderuntime/programs.h"
#include "noderuntime/realtime.h"
#include "noderuntime/strays.h"
#include "noderuntime/turns_follow.h"

enum {
	LEAVE_MS = 1500, /* `end` waits longer before it does it itself */
	PATIENCE_MARGIN_MS =
	    5000, /* a launch is told no by us, and gives up by itself without us */
	ORPHAN_DEADLINES = 2,
};

/* -- the loop ------------------------------------------------------------------------------ */

static void on_timer(struct ds_runtime *rt, int timer)
{
	uint64_t times;

	if (read(timer, &times, sizeof(times)) > 0)
		ds_follow(rt);
}

static bool is_news(const struct ds_runtime *rt)
{
	uint64_t generation;

	return ds_ledger_peek(rt->ledger, &generation) < 0 || generation != rt->followed;
}

/*
 * True if the ledger is another than we followed last: mps.lock and topology are in the same directory, and
 * our own changes are among those that concern all.
 */
static bool ledger_changed(struct ds_runtime *rt, int fd)
{
	union {
		struct inotify_event event; /* for its alignment */
		char bytes[4096];
	} buffer;
	bool replaced = false, written = false, opened = false;
	ssize_t n;

	while ((n = read(fd, buffer.bytes, sizeof(buffer.bytes))) > 0) {
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *event =
			    (const struct inotify_event *)(const void *)(buffer.bytes + at);
			bool ledger = event->len && !strcmp(event->name, "ledger");
			replaced |= (event->mask & IN_Q_OVERFLOW) ||
				    (ledger && !(event->mask & (IN_ATTRIB | IN_CLOSE_WRITE)));
			written |= ledger;
			opened |= rt->device_wd &&
				  ((event->mask & IN_Q_OVERFLOW) || event->wd == rt->device_wd);
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	}
	if (opened)
		ds_strays_opened(rt);
	if (replaced || written)
		ds_ledger_doubt(rt->ledger); /* whoever it was */
	return replaced || (written && is_news(rt));
}

static void dispatch(struct ds_runtime *rt, struct ds_watch *w)
{
	struct signalfd_siginfo info;

	switch (w->kind) {
	case DS_WATCH_SIGNALS:
		rt->stop = read(w->fd, &info, sizeof(info)) > 0;
		break;
	case DS_WATCH_LEDGER:
		if (ledger_changed(rt, w->fd))
			ds_follow(rt);
		break;
	case DS_WATCH_BELL:
		ds_bell_hear(w->fd);
		ds_glance(rt);
		ds_follow(rt);
		break;
	case DS_WATCH_LISTENER:
		ds_peer_comes(rt, w);
		break;
	case DS_WATCH_OWNER:
		syslog(LOG_NOTICE, "%s: its owner is gone", rt->allocation->name);
		rt->stop = true;
		break;
	case DS_WATCH_PATIENCE:
		ds_patience_over(rt);
		break;
	case DS_WATCH_RETRY:
		on_timer(rt, rt->retry);
		break;
	case DS_WATCH_WHOLE:
		on_timer(rt, rt->whole);
		break;
	case DS_WATCH_TURN:
		ds_turns_over(rt);
		break;
	case DS_WATCH_LATE:
		ds_late_over(rt);
		break;
	case DS_WATCH_ADVANCE:
		ds_advance_over(rt);
		break;
	case DS_WATCH_PEER:
		ds_peer_said(rt, w);
		break;
	case DS_WATCH_PROGRAM:
		ds_program_ended(rt, w);
		break;
	case DS_WATCH_WELCOMED:
		ds_program_said(rt, w);
		break;
	case DS_WATCH_STRAYS:
		ds_strays_look(rt);
		break;
	case DS_WATCH_MPS:
		ds_mps_care_lost(rt, w);
		break;
	case DS_WATCH_ERRAND:
		ds_errand_back(rt, w);
		break;
	case DS_WATCH_NEIGHBOUR:
		ds_unwatch(rt, w);
		ds_follow(rt);
		break;
	}
}

/*
 * One at a time: handling it may remove the watch of the next. Who spins asks the kernel, not the memory of what it
 * waits for: whatever comes is seen as soon, and who tells us wakes nobody, which is what takes long.
 */
static int wait_for_event(struct ds_runtime *rt, struct epoll_event *event)
{
	while (ds_spins(&rt->spin)) {
		const int n = epoll_wait(rt->epoll, event, 1, 0);

		if (n != 0)
			return n;
		ds_spin_wait(&rt->spin);
	}
	return epoll_wait(rt->epoll, event, 1, -1);
}

static void loop(struct ds_runtime *rt)
{
	while (!rt->stop) {
		struct epoll_event event;
		int n = wait_for_event(rt, &event);

		if (n == 1)
			dispatch(rt, event.data.ptr);
		else if (n < 0 && errno != EINTR)
			return;
	}
}

/* -- start and end ------------------------------------------------------------------------- */

static int watch_ledger(struct ds_runtime *rt, struct ds_error *err)
{
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	if (fd < 0 && errno == EMFILE)
		return ds_fail(err,
			       "cannot watch %s: no inotify instance is left, of which each node "
			       "runtime needs one: raise fs.inotify.max_user_instances (sysctl)",
			       rt->gpu_dir);
	rt->inotify = fd;
	/*
	 * The directory, not the file, so that a ledger that is lost or made anew is noticed, too. Changes that
	 * concern all end with IN_ATTRIB; IN_MODIFY would come with every one. Whoever cuts it or
	 * writes over it closes it.
	 */
	if (fd >= 0 && inotify_add_watch(fd, rt->gpu_dir,
					 IN_ATTRIB | IN_CLOSE_WRITE | IN_CREATE | IN_DELETE |
					     IN_MOVE | IN_ONLYDIR) < 0) {
		int reason = errno;
		close(fd);
		rt->inotify = fd = -1;
		errno = reason;
	}
	return ds_watch_or_fail(rt, DS_WATCH_LEDGER, fd, rt->gpu_dir, err);
}

static int watch_bell(struct ds_runtime *rt, struct ds_error *err)
{
	char path[PATH_MAX];

	if (ds_allocation_path(rt->config, rt->allocation->name, "bell", path, err) < 0)
		return -1;
	int fd = ds_bell_make(path, err);
	return fd < 0 ? -1 : ds_watch_or_fail(rt, DS_WATCH_BELL, fd, path, err);
}

static int watch_signals(struct ds_runtime *rt, struct ds_error *err)
{
	sigset_t end;

	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigaddset(&end, SIGINT);
	sigprocmask(SIG_BLOCK, &end, NULL);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ,
	       SIG_IGN); /* a limit of whoever began us: writing fails, and is tried again */
	return ds_watch_or_fail(rt, DS_WATCH_SIGNALS, signalfd(-1, &end, SFD_CLOEXEC), "signals",
				err);
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

static int write_task_env(const struct ds_runtime *rt, const char *port, struct ds_error *err)
{
	const struct ds_allocation *allocation = rt->allocation;
	char text[4 * PATH_MAX], pipe[PATH_MAX];
	int used = snprintf(text, sizeof(text),
			    "DETSHARE_PORT=%s\nDETSHARE_CLASS=%s\nCUDA_VISIBLE_DEVICES=%s\n"
			    "DETSHARE_REQUIRED=%d\nLD_PRELOAD=%s\n",
			    port, allocation->grant.class_name, allocation->gpu_uuid,
			    strcmp(rt->config->without_partition, "run") != 0,
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

static int write_pid(const struct ds_runtime *rt, struct ds_error *err)
{
	const struct ds_process *self = &rt->allocation->runtime;
	char text[64];

	snprintf(text, sizeof(text), "%d %llu\n", self->pid, (unsigned long long)self->start_ticks);
	return ds_allocation_write(rt->config, rt->allocation->name, "runtime.pid", 0644, text,
				   err);
}

/* True if nobody else is on this GPU, so that a hung MPS may be killed. */
static bool is_alone(const struct ds_runtime *rt)
{
	return rt->seen.n_residents == 1 && rt->seen.n_programs == 0;
}

/* What our resident says of it in the ledger. A site's own policy that is unusable is as if it were static. */
static void choose_policy(struct ds_runtime *rt)
{
	const struct ds_allocation *allocation = rt->allocation;
	const char *path = rt->config->policy_library;
	/* What programs that are not moved borrowed could not be had back before they end. */
	const enum ds_site_policy policy =
	    rt->config->move_programs ? allocation->grant.policy : DS_POLICY_STATIC;
	struct ds_error reason;

	snprintf(rt->policy.name, sizeof(rt->policy.name), "%s", ds_site_policy_name(policy));
	if (policy != DS_POLICY_LEND || !*path)
		return;
	if (ds_policy_load(path, &rt->site, &reason) == 0) {
		rt->policy = rt->site.id;
		return;
	}
	rt->policy.failed = 1;
	ds_fail_within(&reason, "policy_library cannot be used, nothing is lent");
	ds_complain(rt, &reason);
}

static int set_up(struct ds_runtime *rt, const struct ds_runtime_start *start, struct ds_error *err)
{
	struct ds_allocation *allocation = start->allocation;
	struct ds_error note = {""};
	char port[PATH_MAX], copy_dir[PATH_MAX];

	if (ds_process_identify(getpid(), &allocation->runtime, err) < 0)
		return -1;
	allocation->begun_ns = ds_now_ns(CLOCK_BOOTTIME);
	rt->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (rt->epoll < 0)
		return ds_fail(err, "cannot make an epoll descriptor: %s", strerror(errno));
	/* From here on `end` finds us, whatever becomes of us. */
	rt->state_fd = ds_allocation_open(rt->config, allocation, err);
	if (rt->state_fd < 0 || watch_signals(rt, err) < 0 || write_pid(rt, err) < 0)
		return -1;
	if (start->owner &&
	    ds_watch_or_fail(rt, DS_WATCH_OWNER, pidfd_open(start->owner, 0), "the owner", err) < 0)
		return -1;
	rt->patience = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ds_watch_or_fail(rt, DS_WATCH_PATIENCE, rt->patience, "a timer", err) < 0)
		return -1;
	rt->retry = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ds_watch_or_fail(rt, DS_WATCH_RETRY, rt->retry, "a timer", err) < 0)
		return -1;
	rt->whole = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ds_watch_or_fail(rt, DS_WATCH_WHOLE, rt->whole, "a timer", err) < 0)
		return -1;
	rt->turn = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ds_watch_or_fail(rt, DS_WATCH_TURN, rt->turn, "a timer", err) < 0)
		return -1;
	rt->late = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ds_watch_or_fail(rt, DS_WATCH_LATE, rt->late, "a timer", err) < 0)
		return -1;
	rt->advance_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ds_watch_or_fail(rt, DS_WATCH_ADVANCE, rt->advance_timer, "a timer", err) < 0)
		return -1;
	if (ds_quota_of_grant(rt->config, rt->topology->memory_mib, &allocation->grant,
			      &allocation->quota_mib, err) < 0 ||
	    ds_quota_create(&rt->quota, rt->config, allocation->quota_mib, err) < 0)
		return -1;
	if (ds_gpu_dir(rt->config->runtime_dir, allocation->gpu_uuid, rt->gpu_dir,
		       sizeof(rt->gpu_dir)) < 0)
		return ds_fail(err, "runtime_dir %s is too long", rt->config->runtime_dir);
	ds_recall_init(&rt->recall, rt->config);
	if (ds_ledger_open_with(rt->gpu_dir, allocation->gpu_uuid, &rt->topology->shape,
				&rt->recall.past, &rt->ledger, &note) < 0)
		return ds_fail(err, "%s", note.text);
	if (note.text[0])
		ds_complain(rt, &note);
	if (ds_allocation_path(rt->config, allocation->name, NULL, copy_dir, err) < 0 ||
	    ds_ledger_keep_copy(rt->ledger, copy_dir, err) < 0)
		return -1;
	ds_neighbours_tell(rt);
	choose_policy(rt);
	/* Before joining, so that no change after it is missed. */
	if (watch_bell(rt, err) < 0 || watch_ledger(rt, err) < 0 ||
	    ds_follow_join(rt, start->deadline, err) < 0)
		return -1;
	const struct ds_mps_need need = {.alone = is_alone(rt),
					 .multiuser =
					     allocation->grant.isolation == DS_ISOLATION_NONE,
					 .memory_mib = ds_hard_limit_mib,
					 .arg = rt};
	if (ds_mps_ensure(rt->config, allocation->gpu_uuid, &need, start->deadline, err) < 0 ||
	    ds_page_create(&rt->page, &rt->seen.shape, allocation->gpu_uuid,
			   allocation->grant.class_name, allocation->grant.share_milli, err) < 0)
		return -1;
	ds_mps_care_begin(rt);
	ds_strays_begin(rt);
	rt->page.page->spin_cpus = rt->config->reclaim_spin_cpus;
	rt->page.page->sample_launches = rt->config->sample_launches;
	rt->page.page->overlong_ms = rt->config->overlong_kernel_s * 1000;
	/* The owner of a window may be in a kernel as long as that, which it has to end. */
	rt->page.page->orphan_ms = ORPHAN_DEADLINES * rt->config->whole_gpu_deadline_ms;
	rt->page.page->whole_patience_ms = rt->config->whole_gpu_patience_ms + PATIENCE_MARGIN_MS;
	snprintf(rt->page.page->whole_gpu_kernels, sizeof(rt->page.page->whole_gpu_kernels), "%s",
		 rt->config->whole_gpu_kernels);
	/* Of programs that stay where they are nothing is measured, nor do they keep within anything. */
	if (rt->config->hold_back && rt->config->move_programs &&
	    allocation->grant.kind != DS_KIND_LATENCY) {
		rt->page.page->hold_back_milli = rt->config->hold_back_milli;
		rt->page.page->hold_back_us = rt->config->hold_back_us;
		snprintf(rt->page.page->hold_back_kernels, sizeof(rt->page.page->hold_back_kernels),
			 "%s", rt->config->hold_back_kernels);
	}
	rt->page.page->memory_quota = rt->quota.limit;
	rt->page.page->memory_per_program = rt->quota.per_program;
	if (ds_allocation_path(rt->config, allocation->name, "port", port, err) < 0)
		return -1;
	int listener = ds_port_listen(port, err);
	if (listener < 0 || ds_watch_or_fail(rt, DS_WATCH_LISTENER, listener, port, err) < 0 ||
	    ds_allocation_write(rt->config, allocation->name, DS_PORT_LAST_NOTES, 0644, "", err) <
		0 ||
	    write_task_env(rt, port, err) < 0)
		return -1;
	ds_follow(rt);
	allocation->begin_unix_s = (double)ds_now_ns(CLOCK_REALTIME) / 1e9;
	allocation->ready = true;
	ds_publish(rt);
	return 0;
}

static void tear_down(struct ds_runtime *rt)
{
	ds_note_memory(rt);
	while (rt->watches)
		ds_unwatch(rt, rt->watches);
	ds_quota_destroy(&rt->quota);
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
	static struct ds_runtime runtime; /* two ledgers' worth of state: not for the stack */
	struct ds_runtime *rt = &runtime;
	struct ds_error reason = {""}, leave_reason;

	rt->config = start->config;
	rt->allocation = start->allocation;
	rt->topology = start->topology;
	rt->page.readonly_fd = rt->quota.fd = rt->epoll = rt->state_fd = -1;
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
		/* Where it is now: some kernels allow it in the root group only. */
		if (rt->config->realtime && ds_realtime_begin(&leave_reason) < 0)
			syslog(LOG_WARNING, "%s: %s", rt->allocation->name, leave_reason.text);
		loop(rt);
	}
	tear_down(rt);
	if (ds_leave(rt->config, rt->allocation, ds_deadline_in(LEAVE_MS), &leave_reason) < 0) {
		ds_complain(rt, &leave_reason);
		if (rc == 0)
			rc = 1;
	}
	/* Only now: who hears of the failure may rely on all being undone. */
	if (rc < 0)
		ready(arg, reason.text);
	return rc ? 1 : 0;
}
