/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_CONVERSE_H
#define DETSHARE_NODERUNTIME_CONVERSE_H

#include <stddef.h>

#include "common/error.h"
#include "noderuntime/deadline.h"

/*
 * Talk to a program over its standard input and output, as MPS's control program wants it.
 * (common/spawn.h is for programs that are only run.)
 */
struct ds_conversation {
	char *const *argv;       /* no shell; argv[0] is looked for in PATH */
	char *const *env;        /* the whole environment; NULL: the caller's */
	const char *input;       /* written to its standard input; NULL: /dev/null */
	const char *cgroup_root; /* with `cgroup` */
	const char *cgroup;      /* sub-group of detshare's cgroup to run in; NULL: the caller's */
	ds_deadline deadline;
};

/*
 * Run it in a session of its own, with no descriptor of ours beyond 0, 1 and 2. What it writes to
 * standard output and error goes to `output` (cut at size - 1, always terminated). Its own end
 * counts, not that of daemons it leaves. A child that is not over by the deadline is killed with its
 * process group; if it cannot even be killed (a driver call that hangs in the kernel) it is left
 * behind, because waiting would hang us too.
 *
 * Returns 0 when it ended with status 0; else -1 with a reason; errno is ENOENT when there is no such
 * program, ETIMEDOUT when it was killed at the deadline. The caller must not ignore SIGCHLD.
 */
int ds_converse(const struct ds_conversation *talk, char *output, size_t size,
		struct ds_error *err);

#endif
