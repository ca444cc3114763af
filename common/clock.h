/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_CLOCK_H
#define DETSHARE_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

/* What this clock says, in nanoseconds. Thread-safe. */
static inline int64_t ds_now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The same in whole milliseconds. */
static inline int64_t ds_now_ms(clockid_t clock)
{
	return ds_now_ns(clock) / 1000000;
}

#endif
