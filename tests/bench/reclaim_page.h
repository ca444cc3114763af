/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_BENCH_RECLAIM_PAGE_H
#define DETSHARE_TESTS_BENCH_RECLAIM_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/port_protocol.h"

/*
 * The page of the program's allocation, as the coroutine library has it mapped into this process; NULL: there is no
 * library, or it has not come to the port yet.
 */
const struct ds_page *page_find(void);

/* What the page grants now. */
struct ds_groups page_granted(const struct ds_page *page, uint32_t *flags);

/*
 * A thread that looks at the page for the first time at which it grants all of `groups`: without a pause, or every
 * `pause_ns`. It sleeps until it is told to watch. Ends the program if it cannot be made.
 */
void page_watch_start(const struct ds_page *page, const struct ds_groups *groups,
		      unsigned pause_ns);

/* It watches when this returns. Only while it does not. */
void page_watch(void);

/*
 * When the page was seen to grant them all, and when it was last seen before that, both on CLOCK_MONOTONIC. False: it
 * did not yet.
 */
bool page_watched(int64_t *seen_ns, int64_t *before_ns);

/* Watch no more, whatever the page says. */
void page_watch_stop(void);

#endif
