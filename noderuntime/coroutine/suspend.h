/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SUSPEND_H
#define DETSHARE_COROUTINE_SUSPEND_H

#include <stdbool.h>

#include "noderuntime/coroutine/vctx.h"

/*
 * Suspension: no operation of the program begins, and what is under way ends. Threads that come with one
 * sleep until it is over. Whoever only waits for the GPU, or captures, goes on: nothing of that begins
 * anything.
 */

struct ds_op;

/*
 * Shut the gate; operations that did not see it are marked (mark.h). With the virtual context's `moving`
 * locked, like ds_suspend_end().
 */
void ds_suspend_begin(struct ds_vctx *vctx);

/*
 * Open it, if it is shut: everybody goes on, to the target of now. Every stream notes anew where it works,
 * since the acknowledger saw all of them at their ends.
 */
void ds_suspend_end(struct ds_vctx *vctx);

/* Whether it is shut. With `moving` locked. */
bool ds_suspended(const struct ds_vctx *vctx);

/* The process ends: let everybody go on. Any time. */
void ds_suspend_give_up(void);

/*
 * Whether the operation may pass although the gate is shut, where its stream is: it puts nothing on the
 * GPU, because the stream is captured; or it belongs to one that began before, for which the
 * acknowledger waits. Marked.
 */
bool ds_suspend_passes(const struct ds_op *op);

/* Sleep until the gate is open. Not marked, and without a lock. */
void ds_suspend_wait(void);

/* Whether somebody does. */
bool ds_suspend_waits(void);

#endif
