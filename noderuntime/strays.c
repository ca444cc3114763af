/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/strays.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/errand.h"
#include "noderuntime/gpu_users.h"
#include "noderuntime/off_gpu.h"

enum {
	GRACE_MS = 400, /* from opening the device to having come to the port */
	LOOK_MS = 500,  /* for MPS to list its clients */
	FOUND_MAX = DS_ERRAND_BROUGHT_MAX / sizeof(struct ds_gpu_user),
};

void ds_strays_begin(struct ds_runtime *rt)
{
	struct ds_gpu_files files;

	if (ds_gpu_files_find(rt->config, rt->allocation->gpu_uuid, &files) < 0)
		return;
	rt->strays_timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	struct ds_error reason = {""};
	/* CUDA's memory device, if there is one: monitoring opens the GPU itself every second or so. */
	const char *opened = *files.uvm ? files.uvm : files.device;
	rt->device_wd = inotify_add_watch(rt->inotify, opened, IN_OPEN);
	if (rt->device_wd < 0) {
		syslog(LOG_WARNING,
		       "%s: cannot watch %s: %s; programs without a port are not found",
		       rt->allocation->name, opened, strerror(errno));
		rt->device_wd = 0;
		if (rt->strays_timer >= 0)
			close(rt->strays_timer);
		return;
	}
	if (ds_watch_or_fail(rt, DS_WATCH_STRAYS, rt->strays_timer, "a timer", &reason) < 0)
		ds_complain(rt, &reason);
}

void ds_strays_opened(struct ds_runtime *rt)
{
	const struct itimerspec soon = {.it_value = {.tv_nsec = GRACE_MS * 1000000L}};
	struct itimerspec armed;
	/* The first to open it must not wait for the last. */
	if (timerfd_gettime(rt->strays_timer, &armed) == 0 && !armed.it_value.tv_sec &&
	    !armed.it_value.tv_nsec)
		timerfd_settime(rt->strays_timer, 0, &soon, NULL);
}

/* In the child. */
static size_t find(const struct ds_runtime *rt, const void *arg,
		   char brought[DS_ERRAND_BROUGHT_MAX])
{
	struct ds_gpu_user found[FOUND_MAX];
	const struct ds_gpu_user_search search = {.config = rt->config,
						  .allocation = rt->allocation,
						  .seen = &rt->seen,
						  .deadline = ds_deadline_in(LOOK_MS)};

	size_t n = ds_gpu_users_find(&search, found, FOUND_MAX);
	memcpy(brought, found, n * sizeof(found[0]));
	return n * sizeof(found[0]);
}

/* One that waits at the port has come to it. */
static bool is_known(struct ds_runtime *rt, const struct ds_process *process)
{
	struct ucred who;

	if (ds_watch_find(rt, DS_WATCH_PROGRAM, process))
		return true;
	for (const struct ds_watch *w = rt->watches; w; w = w->next) {
		socklen_t size = sizeof(who);
		if (w->kind == DS_WATCH_PEER &&
		    getsockopt(w->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
		    who.pid == process->pid)
			return true;
	}
	return false;
}

/* In the child. */
static size_t end(const struct ds_runtime *rt, const void *arg, char brought[DS_ERRAND_BROUGHT_MAX])
{
	ds_off_gpu_end(rt, arg);
	return 0;
}

static void ended(struct ds_runtime *rt, struct ds_watch *errand, const void *brought, size_t size)
{
}

/* Remember it, so that it is named once. False: it is known of. */
static bool note(struct ds_runtime *rt, const struct ds_process *process)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < rt->n_strays; i++) {
		if (rt->strays[i].pid == process->pid &&
		    rt->strays[i].start_ticks == process->start_ticks)
			return false;
		if (ds_process_alive(&rt->strays[i]))
			rt->strays[n++] = rt->strays[i];
	}
	rt->n_strays = n;
	if (rt->n_strays == DS_STRAYS_MAX)
		return false;
	rt->strays[rt->n_strays++] = *process;
	return true;
}

static void found(struct ds_runtime *rt, struct ds_watch *errand, const void *brought, size_t size)
{
	const bool end_them = !strcmp(rt->config->program_without_port, "end");
	struct ds_gpu_user user;
	struct ds_error reason;

	for (size_t at = 0; at + sizeof(user) <= size; at += sizeof(user)) {
		memcpy(&user, (const char *)brought + at, sizeof(user));
		if (is_known(rt, &user.process) || !note(rt, &user.process))
			continue;
		syslog(LOG_WARNING,
		       "%s: process %d (%.15s) uses GPU %s without detshare's library%s: it is in "
		       "no partition%s",
		       rt->allocation->name, user.process.pid, user.command,
		       rt->allocation->gpu_uuid, user.client ? "" : " and outside MPS",
		       end_them ? ", and is ended" : "");
		if (end_them && !ds_errand_start(rt, end, &user.process, ended, -1, &reason))
			ds_complain(rt, &reason);
	}
}

void ds_strays_look(struct ds_runtime *rt)
{
	struct ds_error reason;
	uint64_t times;

	if (read(rt->strays_timer, &times, sizeof(times)) > 0 &&
	    !ds_errand_start(rt, find, NULL, found, -1, &reason))
		ds_complain(rt, &reason);
}

void ds_strays_report(const struct ds_runtime *rt, int32_t pids[DS_PORT_STRAYS_MAX])
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < rt->n_strays && n < DS_PORT_STRAYS_MAX; i++) {
		if (ds_process_alive(&rt->strays[i]))
			pids[n++] = rt->strays[i].pid;
	}
}
