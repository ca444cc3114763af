/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_LAUNCH_TIMES_H
#define DETSHARE_COROUTINE_LAUNCH_TIMES_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How long launches take, by what is launched: learned from the time between two events, told before the
 * next launch of the same. A table of the process, of fixed size: what two threads write into it at the
 * same time, or what finds no room, is learned again. Thread-safe.
 */
struct ds_launch_time {
	uint64_t ns; /* 0: not known */
	bool exact;  /* else it took no longer than that, but may have been over long before */
};

/*
 * The key of `threads` threads of a function, or of a graph (0). Numbers that differ by less than a quarter
 * are the same: shapes may change a little with every step. Pure.
 */
uint64_t ds_launch_key(const void *what, uint64_t threads);

/*
 * What to think of a launch that took `ns`, or (not `exact`) no longer than that, after what was `known`:
 * longer is believed at once, shorter by and by, for its arguments may make it the one or the other. Pure.
 */
struct ds_launch_time ds_launch_time_next(struct ds_launch_time known, uint64_t ns, bool exact);

struct ds_launch_time ds_launch_times_get(uint64_t key);

/*
 * The `n` launches took `ns` together, one after the other; or, if the GPU was not `busy` all the time, no
 * longer. Each had its part of it as had been expected; one alone, all.
 */
void ds_launch_times_learn(const uint64_t *keys, unsigned n, uint64_t ns, bool busy);

/* How long they take together; what is not known takes some microseconds. */
uint64_t ds_launch_times_sum(const uint64_t *keys, unsigned n);

/* Handles of functions may be used again. */
void ds_launch_times_forget(void);

#endif
