/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_AHEAD_H
#define DETSHARE_COROUTINE_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/gate.h"
#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * The window: while somebody may want groups back, a program may be ahead of the GPU only by what runs in
 * the page's window_us, or by two launches that take longer. Each stream has a ring of events, one recorded
 * behind what should take half of that; at the next one a launch waits until the one before is done. From
 * the times between them is learned how long launches take (launch_times.h); one of which nothing is known
 * has an event before and behind it.
 *
 * The window is soft, because a kernel may run until it sees what the next launch does: if nothing
 * completes for some time, a launch passes, and ever more do while still nothing completes. Copies
 * and what else is no launch are not held back. A graph counts as one kernel.
 */
struct ds_ahead; /* a stream's ring; never freed, but used again */

/* A session has begun. */
void ds_ahead_start(struct ds_session *session, CUcontext primary);

/* The primary context goes away, and with it our events. Nobody waits any more when this returns. */
void ds_ahead_drop(void);

/* The page asks for a window, or no longer. With `moving` locked. */
void ds_ahead_window(struct ds_vctx *vctx, bool on, uint32_t window_us);

/*
 * A `launch` comes on `target`, the shadow of `stream`; if it overlaps with the one before, no event comes
 * between them unless there has been none for long. Marked. Returns the ring that it has to wait for, and
 * its *user; or NULL. *alone is set if ds_ahead_launched() is to be called when it is on the stream.
 */
struct ds_ahead *ds_ahead_launch(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream target,
				 const struct ds_launch *launch, unsigned *user, bool *alone);

/* The launch is on the stream. Marked. */
void ds_ahead_launched(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream target);

/* Wait until the launch may go. Not marked, and without any lock. */
void ds_ahead_wait(struct ds_vctx *vctx, struct ds_ahead *ring, unsigned user);

/* The stream is no more. */
void ds_ahead_leave(struct ds_vstream *stream);

/*
 * Whether what was queued before the window began is done on every stream, as far as can be seen; only
 * then does the port say how long the GPU needs for the rest. With `moving` locked.
 */
bool ds_ahead_settled(struct ds_vctx *vctx);

#endif
