/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_HOLD_H
#define DETSHARE_COROUTINE_HOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/whole.h"

/*
 * Holding back: SM partitions do not divide memory bandwidth, so a kernel that saturates it slows down
 * neighbours in partitions of their own. While one of kind latency is in a step, which the page says in a
 * word of its own, the launch of such a kernel waits: until the step is over, but no longer than the page's
 * hold_back_us, and all launches together no more than hold_back_milli of the time. That is what holding
 * back may cost a program of its rate in its partition.
 *
 * Who waits is not marked and holds no lock of ours, so whatever else is asked of the program goes on meanwhile;
 * one that does nothing but wait is idle like any other, and its groups can be lent. Soft, as the window: what needs
 * the launch waits at most so long. A program that captures is left alone.
 */

enum {
	/* What was not used of the last so many ns of the budget can be used at once. */
	DS_HOLD_EARNED_NS = 1000000000,
	/* For less than this no launch is held back. */
	DS_HOLD_LEAST_NS = 200000,
};

/*
 * The budget: `paid_ns` is the time up to which the holding so far is paid for; before any, when it began.
 * How long a launch may be held back now, at most `launch_ns`; 0: not at all. Pure.
 */
uint64_t ds_hold_may(uint64_t paid_ns, uint64_t now_ns, uint32_t most_milli, uint64_t launch_ns);

/* The new `paid_ns` after a launch was held back for `held_ns` until now. most_milli 1..1000. Pure. */
uint64_t ds_hold_pay(uint64_t paid_ns, uint64_t now_ns, uint32_t most_milli, uint64_t held_ns);

/* Once, before the first launch: sets DS_WHOLE_HOLD (whole.h) if the page says that anything is held back. */
void ds_hold_start(struct ds_session *session);

/* Whether kernels are held back in this session, and whether a neighbour is in a step. */
bool ds_hold_is_on(void);
bool ds_hold_in_step(void);

/* Nobody is held back any more: the runtime, which would say when a step is over, is gone. */
void ds_hold_stop(void);

/* In a child after fork(). Async-signal-safe. */
void ds_hold_forget(void);

/*
 * The operation, marked, is about to launch `kernel`, or a graph (NULL), which is named "(graph)". If that is to be
 * held back, waits and begins the operation anew. What that returns: if not CUDA_SUCCESS, the operation is
 * abandoned. With DS_WHOLE_HOLD.
 */
__attribute__((cold)) CUresult ds_hold_launch(struct ds_op *op, CUstream handle, bool per_thread,
					      const struct ds_whole_kernel *kernel);

#endif
