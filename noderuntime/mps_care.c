/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps_care.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/errand.h"
#include "noderuntime/follow.h"
#include "noderuntime/mps.h"
#include "noderuntime/peers.h"

enum {
	START_MS = 4000,
	STARTS_MAX = 3, /* in a row, before only a new program is a reason to try again */
	STEADY_S = 60,  /* so long up, it counts as well again */
};

/* In the child. Brings what was wrong, or one byte. */
static size_t start(const struct ds_runtime *rt, const void *arg,
		    char brought[DS_ERRAND_BROUGHT_MAX])
{
	const struct ds_mps_need *need = arg;
	struct ds_error reason = {""};
	struct ds_process daemon;

	/* Another runtime was quicker. Not even asked: a slow answer must not be taken for none. */
	if (ds_mps_daemon(rt->config, rt->allocation->gpu_uuid, &daemon) == 0 ||
	    ds_mps_ensure(rt->config, rt->allocation->gpu_uuid, need, ds_deadline_in(START_MS),
			  &reason) == 0)
		reason.text[0] = '\0';
	size_t length = strlen(reason.text);
	memcpy(brought, reason.text, length + 1);
	return length + 1;
}

/* False: there is none to watch. */
static bool watch_daemon(struct ds_runtime *rt)
{
	struct ds_process daemon;

	if (ds_mps_daemon(rt->config, rt->allocation->gpu_uuid, &daemon) < 0)
		return false;
	int fd = pidfd_open(daemon.pid, 0);
	if (fd < 0)
		return false;
	struct ds_watch *w = ds_watch_add(rt, DS_WATCH_MPS, fd, EPOLLIN);
	if (!w) {
		close(fd);
		return false;
	}
	w->process = daemon;
	w->since_ns = ds_now_ns(CLOCK_BOOTTIME);
	return true;
}

static void restart(struct ds_runtime *rt);

static void started(struct ds_runtime *rt, struct ds_watch *errand, const void *brought,
		    size_t size)
{
	const char *reason = brought;

	if (size && !*reason) {
		rt->mps = DS_MPS_READY;
		/* It has ended already, unseen: nobody would hear of the next end either. */
		if (!watch_daemon(rt) && rt->mps_starts < STARTS_MAX) {
			rt->mps_starts++;
			restart(rt);
			return;
		}
		syslog(LOG_NOTICE, "%s: MPS of GPU %s runs again", rt->allocation->name,
		       rt->allocation->gpu_uuid);
	} else {
		rt->mps = DS_MPS_REFUSE;
		snprintf(rt->mps_reason, sizeof(rt->mps_reason), "%.*s", (int)(size ? size : 24),
			 size ? reason : "MPS could not be started");
		syslog(LOG_ERR, "%s: %s", rt->allocation->name, rt->mps_reason);
		/* It may have been the machine, too busy to start it in time. */
		if (rt->mps_starts < STARTS_MAX) {
			rt->mps_starts++;
			restart(rt);
			return;
		}
	}
	ds_greet_waiting(rt);
}

static void restart(struct ds_runtime *rt)
{
	const struct ds_mps_need need = {.alone = rt->seen.n_programs == 0,
					 .multiuser =
					     rt->allocation->grant.isolation == DS_ISOLATION_NONE,
					 .memory_mib = ds_hard_limit_mib,
					 .arg = rt};
	struct ds_error reason = {""};

	if (rt->mps == DS_MPS_WAIT)
		return;
	rt->mps = DS_MPS_WAIT;
	if (!ds_errand_start(rt, start, &need, started, -1, &reason)) {
		rt->mps = DS_MPS_REFUSE;
		snprintf(rt->mps_reason, sizeof(rt->mps_reason), "MPS cannot be started: %.200s",
			 reason.text);
		ds_complain(rt, &reason);
	}
}

void ds_mps_care_begin(struct ds_runtime *rt)
{
	rt->mps = DS_MPS_READY;
	watch_daemon(rt);
}

void ds_mps_care_lost(struct ds_runtime *rt, struct ds_watch *daemon)
{
	const int64_t up_ns = ds_now_ns(CLOCK_BOOTTIME) - daemon->since_ns;

	syslog(LOG_ERR,
	       "%s: the MPS daemon %d of GPU %s has ended; programs that were its clients "
	       "may have lost their work",
	       rt->allocation->name, daemon->process.pid, rt->allocation->gpu_uuid);
	ds_unwatch(rt, daemon);
	rt->mps_starts = up_ns < STEADY_S * INT64_C(1000000000) ? rt->mps_starts + 1 : 1;
	if (rt->mps_starts <= STARTS_MAX) {
		restart(rt);
		return;
	}
	rt->mps = DS_MPS_REFUSE;
	snprintf(rt->mps_reason, sizeof(rt->mps_reason),
		 "the MPS daemon of GPU %s ends as soon as it is started; its log is in the GPU's "
		 "mps/log",
		 rt->allocation->gpu_uuid);
}

enum ds_mps_answer ds_mps_care_ask(struct ds_runtime *rt, bool again)
{
	if (rt->mps == DS_MPS_REFUSE && !again)
		restart(rt);
	return rt->mps;
}
