/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/realtime.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>

static rlim_t before; /* RLIM_INFINITY: as for nearly everybody */
static bool begun;

/* Two system calls and nothing else: it comes at any instant. */
static void go_back(int signal_number)
{
	const struct sched_param ordinary = {0};
	const int kept = errno;

	(void)signal_number;
	sched_setscheduler(0, SCHED_OTHER, &ordinary);
	ds_realtime_end(); /* else the signal comes again, and kills at the hard limit */
	errno = kept;
}

int ds_realtime_begin(struct ds_error *err)
{
	const struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_RR)};
	const struct sigaction action = {.sa_handler = go_back, .sa_flags = SA_RESTART};
	struct rlimit limit;

	if (getrlimit(RLIMIT_RTTIME, &limit) < 0)
		return ds_fail(err, "cannot learn the limit on real-time scheduling: %s",
			       strerror(errno));
	before = limit.rlim_cur;
	if (limit.rlim_cur > DS_REALTIME_MOST_MS * 1000)
		limit.rlim_cur = DS_REALTIME_MOST_MS * 1000;
	/* The handler first, and the limit before what it limits. */
	if (sigaction(SIGXCPU, &action, NULL) < 0 || setrlimit(RLIMIT_RTTIME, &limit) < 0)
		return ds_fail(err, "cannot limit real-time scheduling: %s", strerror(errno));
	begun = true;
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &lowest) < 0) {
		ds_fail(err,
			"cannot be scheduled in real time: %s: it may be slow while the node's "
			"CPUs are busy",
			strerror(errno));
		ds_realtime_end();
		return -1;
	}
	return 0;
}

void ds_realtime_end(void)
{
	struct rlimit limit;

	if (!begun || getrlimit(RLIMIT_RTTIME, &limit) < 0)
		return;
	limit.rlim_cur = before;
	setrlimit(RLIMIT_RTTIME, &limit);
}
