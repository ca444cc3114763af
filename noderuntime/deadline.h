/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_DEADLINE_H
#define DETSHARE_NODERUNTIME_DEADLINE_H

#include <stdint.h>

#include "common/clock.h"

/*
 * An instant (CLOCK_MONOTONIC, ns) by which something must be over. Passed down, so that steps that
 * follow each other share one budget instead of adding theirs up.
 */
typedef int64_t ds_deadline;

static inline ds_deadline ds_deadline_in(int64_t ms)
{
	return ds_now_ns(CLOCK_MONOTONIC) + ms * 1000000;
}

/* Milliseconds left, rounded up so that poll() does not spin; 0 when over. */
static inline int ds_deadline_left_ms(ds_deadline deadline)
{
	int64_t left = deadline - ds_now_ns(CLOCK_MONOTONIC);
	return left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

/* The earlier of `deadline` and `ms` from now: a part of the budget for one step. */
static inline ds_deadline ds_deadline_part(ds_deadline deadline, int64_t ms)
{
	ds_deadline part = ds_deadline_in(ms);
	return part < deadline ? part : deadline;
}

#endif
