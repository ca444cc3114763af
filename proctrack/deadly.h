/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_PROCTRACK_DEADLY_H
#define DETSHARE_PROCTRACK_DEADLY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Whom a signal will kill. A program that handles SIGTERM, to write a checkpoint for example, needs its
 * GPU until it has done so: only those that will die by the signal itself may lose it before.
 */

/* What /proc/PID/status says about signals: bit N-1 stands for signal N. */
struct ds_signal_state {
	pid_t parent;
	bool is_init;     /* of a PID namespace: ignores what it does not handle */
	uint64_t blocked; /* by this thread */
	uint64_t ignored;
	uint64_t caught;
};

/* False for signals that by default do not end a process, and for those that are none. Pure. */
bool ds_signal_can_kill(int signal_number);

/* Pure: false if something is missing in `text`. */
bool ds_signal_state_parse(const char *text, struct ds_signal_state *state);

/* Pure: a thread in that state does not keep its process from dying of the signal. */
bool ds_signal_kills(const struct ds_signal_state *state, int signal_number);

/* Which processes of a step a plugin of Slurm signals, other than with SIGKILL. */
enum ds_reach {
	DS_REACH_CHILDREN, /* those that slurmstepd started: proctrack/cgroup */
	DS_REACH_ALL,
};

/*
 * Keep of the `n` processes those that signal will kill, in place, without `self`. Returns how many.
 * Those that cannot be looked at are not among them, unless the signal is SIGKILL. Thread-safe.
 */
int ds_doomed(pid_t *pids, int n, pid_t self, int signal_number, enum ds_reach reach);

#endif
