/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_PROCESS_H
#define DETSHARE_COMMON_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/* A process, safe against reuse of its pid: start time in clock ticks since boot (proc(5)). */
struct ds_process {
	int32_t pid;
	int32_t reserved; /* no padding: see struct ds_ledger_state */
	uint64_t start_ticks;
};

/*
 * Who `pid` is now (getpid() for oneself). Returns 0, or -1 with errno ENOENT or ESRCH when no such
 * process lives (a zombie does not: what it had on the GPU is gone), anything else when /proc could
 * not be read. Thread-safe.
 */
int ds_process_identify(pid_t pid, struct ds_process *process, struct ds_error *err);

/*
 * 1 while that very process lives, 0 when it is gone, a zombie, or its pid belongs to another one.
 * What cannot be found out (/proc unreadable) counts as alive: nobody's groups are given away on a
 * guess. Thread-safe.
 */
int ds_process_alive(const struct ds_process *process);

/* 1 while it is stopped by a signal or a debugger, as far as can be found out, else 0. Thread-safe. */
int ds_process_stopped(const struct ds_process *process);

/*
 * In a child that was just forked, with the pid that its parent had: it is killed when that ends, or ends now if that
 * has been killed before we could ask for it.
 */
void ds_process_end_with(pid_t parent);

#endif
