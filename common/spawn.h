/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_SPAWN_H
#define DETSHARE_COMMON_SPAWN_H

#include <stddef.h>

#include "common/error.h"

/*
 * Run a program from a place that must never hang (a Slurm prolog): wait for it at most until a
 * deadline. The child gets a session and process group of its own, no descriptor but 0, 1 (both
 * /dev/null) and 2 (read by the caller), default signal handling, "/" as its directory and exactly
 * the environment given.
 */
enum ds_spawn_late {
	DS_SPAWN_KILL,  /* at the deadline, SIGKILL to the child's process group */
	DS_SPAWN_LEAVE, /* at the deadline, let it go on without us */
};

struct ds_spawn {
	const char *const *argv; /* argv[0]: the program's path; PATH is not searched */
	const char *const *envp; /* "NAME=value", ends with NULL */
	unsigned deadline_ms;    /* from the call on */
	enum ds_spawn_late late;
	const char
	    *mount_namespace; /* NULL: ours; else a file like /proc/PID/ns/mnt to enter first */
};

/*
 * Returns the exit status 0..255, or -1 with a reason when the program could not be started, was
 * killed by a signal, or is late (errno ETIMEDOUT). `said` (may be NULL) receives the last line
 * that the program wrote to stderr, without control characters and without the program's own name
 * ("NAME: ") in front; "" if none. Returns at most 100 ms
 * after the deadline, even if the child cannot die (it is then abandoned to init). Safe in a process
 * with threads, as long as nobody else reaps this child.
 */
int ds_spawn(const struct ds_spawn *spawn, char *said, size_t said_size, struct ds_error *err);

/*
 * Start a program and leave it to init at once, with stderr to /dev/null too. Returns 0, or -1 when
 * it could not be forked; that it could not be executed is not seen.
 */
int ds_spawn_background(const char *const *argv, const char *const *envp, struct ds_error *err);

#endif
