/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_WATCHDOG_H
#define DETSHARE_COROUTINE_WATCHDOG_H

#include <stdatomic.h>
#include <stdint.h>

#include "noderuntime/coroutine/cuda_api.h"
#include "noderuntime/coroutine/session.h"

/*
 * Names kernels that run longer than the site thinks they should: their groups come back as late. Each
 * stream remembers its last launch; now and then the acknowledger records an event behind what a busy
 * stream has, and if that is not done when the time is over, what was launched last before it, or a
 * kernel before that, runs too long. Many short kernels may be queued, too: as long as all that were
 * launched since the stream was last seen to get on would take by measure, nobody is accused.
 */
struct ds_vctx;

struct ds_watched {
	_Atomic(CUfunction)
	    launched; /* last; DS_LAUNCHED_GRAPH; NULL: none since the stream was empty */
	/* Of the acknowledger: */
	CUevent event;     /* behind what is watched; NULL: not made */
	uint64_t since_ns; /* when it was recorded; 0: nothing is watched */
	uint64_t launches; /* the program's, then */
	uint64_t queued;   /* launches since the event before was done: so many may be before it */
	CUfunction function; /* last launched before it */
};

#define DS_LAUNCHED_GRAPH ((CUfunction)1)

/* A launch is about to go there: one plain store. */
static inline void ds_watchdog_note(struct ds_watched *watched, CUfunction function)
{
	atomic_store_explicit(&watched->launched, function, memory_order_relaxed);
}

/*
 * After how long `queued` launches are one of them too long, if one takes `kernel_ns` on the average (0:
 * unknown), and `overlong_ns` is too long for one. Pure.
 */
uint64_t ds_watchdog_patience_ns(uint64_t overlong_ns, uint64_t queued, uint64_t kernel_ns);

/*
 * A session has begun, with this limit (0: nobody is watched). With `moving` locked, as what follows.
 */
void ds_watchdog_start(struct ds_session *session, uint32_t overlong_ms);

/* Look, if it is time to. Returns within how many us to look again while the program is busy; 0: never. */
int64_t ds_watchdog_look(struct ds_vctx *vctx);

/* The stream is no more. Under the context's lock, or alone. */
void ds_watchdog_leave(const struct ds_watched *watched);

#endif
