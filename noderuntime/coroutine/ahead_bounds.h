/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_AHEAD_BOUNDS_H
#define DETSHARE_COROUTINE_AHEAD_BOUNDS_H

#include <stdbool.h>
#include <stdint.h>

/* What the window (ahead.h) decides: where events stand, what is remembered, for how long who waits. Pure. */

enum {
	DS_AHEAD_MAX = 32,         /* launches between two events */
	DS_AHEAD_OVERLAPPING = 64, /* the same, if each overlaps with the one before */
	DS_AHEAD_LEAST_NS = 25000, /* with less, the GPU would wait for us */
};

/* What is to be between two events, in time: half a window. */
uint64_t ds_ahead_half_ns(uint32_t window_us);

/*
 * Whether a launch that takes `ns` (0: unknown) joins `launches` that have no event behind them and take
 * `sum_ns`: the nearest to half a window, and not more than half of that more. An event between launches of
 * which one `overlaps` with the other costs more, so there may be half as much again.
 */
bool ds_ahead_joins(uint32_t window_us, uint64_t sum_ns, unsigned launches, uint64_t ns,
		    bool overlaps);

/*
 * The longest of late: of the last second at least, which has a step of most programs; and of so many. For
 * two seconds at most, if there are so many in one. All 0 at first.
 */
struct ds_longest {
	uint64_t now, before, since_ns;
	unsigned n;
};
enum { DS_LONGEST_N = 64, DS_LONGEST_NS = 1000000000 };

/* Returns the longest, with `ns` noted. */
uint64_t ds_longest_note(struct ds_longest *longest, uint64_t ns, uint64_t now_ns);

/* Of who waits for something that may wait for what is held back. All 0: something has completed. */
struct ds_patience {
	unsigned free;      /* launches that pass */
	unsigned free_next; /* the next time */
	unsigned expiries;  /* launches that were let go so */
	uint64_t stuck_ns;  /* waited */
};

/*
 * How long until a launch passes, if what is waited for should take `expected_ns`. Twice as long each time:
 * what is under way may be longer than what was before.
 */
uint64_t ds_patience_ns(const struct ds_patience *patience, uint64_t expected_ns);

/*
 * Nothing has completed for as long as a launch is held back. It passes; and if that has been so again and
 * again, the program needs what we hold back: more of them do. backlog_ns: kernels that nobody counted may
 * come first, which take so long each; 0: there are none.
 */
void ds_patience_expire(struct ds_patience *patience, uint64_t waited_ns, uint64_t backlog_ns);

/* Whether the next launch passes for that. */
bool ds_patience_passes(struct ds_patience *patience);

#endif
