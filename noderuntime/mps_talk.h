/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_MPS_TALK_H
#define DETSHARE_NODERUNTIME_MPS_TALK_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/node_config.h"
#include "common/process.h"
#include "noderuntime/deadline.h"

/*
 * Shared by the files that make up mps.h: where the MPS of a GPU is, how to talk to its control daemon
 * (mps_talk.c), and how to find its processes without it (mps_find.c).
 */
enum {
	DS_MPS_ANSWER_SIZE = 8192,
	DS_MPS_SERVERS_MAX = 16, /* one per user, of which there is one at a time by default */
	DS_MPS_DAEMONS_MAX = 64,
};

/* Paths of one GPU's MPS. Borrows what it was made of. */
struct ds_mps {
	const struct ds_node_config *config;
	const char *uuid;
	char lock[PATH_MAX];
	char dir[PATH_MAX];
	char pipe[PATH_MAX];
	char log[PATH_MAX];
	bool site; /* the daemon is the site's: not ours to start or end */
};

/* 0, or -1: a path is too long. */
int ds_mps_locate(const struct ds_node_config *config, const char *gpu_uuid, struct ds_mps *mps,
		  struct ds_error *err);

/*
 * Run the control program for this GPU with up to two options, or, if there are none, to give it the
 * commands in `input`, one per line. As ds_converse().
 */
int ds_mps_control(const struct ds_mps *mps, const char *const options[2], const char *input,
		   char *answer, size_t size, ds_deadline deadline, struct ds_error *err);

/* Give the daemon commands; no answer within a part of the deadline is a failure. 0 or -1. */
int ds_mps_ask(const struct ds_mps *mps, const char *command, char *answer, size_t size,
	       ds_deadline deadline, struct ds_error *err);

/* The same with all of the time, for where nothing could be done if there were no answer. */
int ds_mps_ask_until(const struct ds_mps *mps, const char *command, char *answer, size_t size,
		     ds_deadline deadline, struct ds_error *err);

/* True if somebody listens on the daemon's pipe, or might. Saves asking when nobody can answer. */
bool ds_mps_has_pipes(const struct ds_mps *mps);

/* The process named by the pid file in `pipe_dir`, if that is a program of MPS. 0 or -1. */
int ds_mps_pid_file(const char *pipe_dir, struct ds_process *daemon);

/* The value of a variable in a process's environment, malloc'd; NULL: not set, or cannot be known. */
char *ds_mps_variable(pid_t pid, const char *name);

/*
 * The daemon and servers of this GPU: programs of MPS with our pipe directory in their environment.
 * From /proc, since a daemon that hangs cannot be asked, and its pid file may be stale.
 */
size_t ds_mps_find(const struct ds_mps *mps, pid_t *pids, size_t max);

/* Wait until none of them is left. False: the deadline came first. */
bool ds_mps_wait_gone(const struct ds_mps *mps, ds_deadline deadline);

/* Kill them all, and wait. */
bool ds_mps_kill(const struct ds_mps *mps, ds_deadline deadline);

#endif
