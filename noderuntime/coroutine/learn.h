/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_LEARN_H
#define DETSHARE_COROUTINE_LEARN_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/bound.h"
#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * Which of the program's kernels saturate memory bandwidth: what is measured of them (measure.h) goes to
 * bound.h, with the size of the partition, unless a neighbour was in a step meanwhile, who takes bandwidth, too. What comes of it
 * stands in a table that launches read without a lock, and in the port.
 */

/* Of one launch that is measured. sms 0: nothing can be learnt from it. */
struct ds_lesson {
	uint64_t key; /* of the kernel and how it is launched; never 0 */
	uint64_t blocks, threads;
	uint32_t sms;
	uint32_t step; /* the page's word */
};

/* A session in which kernels are to be held back. Once, before the first launch. */
void ds_learn_start(struct ds_session *session);

/* In a child after fork(). Async-signal-safe. */
void ds_learn_forget(void);

/* Launches are to be measured more often from now on, or no longer. */
void ds_learn_often(bool often);

/* Whether they are, and this one is drawn. */
bool ds_learn_draws(void);

/* A launch of `blocks` of `threads` each, of a kernel of this name, is about to be measured. Marked. */
struct ds_lesson ds_learn_begin(const char *name, uint64_t blocks, uint64_t threads);

/* It took `ns`. One at a time. */
void ds_learn_end(const struct ds_lesson *lesson, struct ds_bound *bound, const char *name,
		  uint64_t ns);

/*
 * The partition in which kernels are tried out, of a program that was granted these groups: one that it was in before,
 * since its runtime granted that; not less than its share, on which it can count; inside of what it has now, and
 * much smaller. The largest such, or NULL. With `moving` locked.
 */
const struct ds_pctx *ds_learn_part(struct ds_vctx *vctx, const struct ds_groups *granted);

/* Whether that kernel, launched so, is known to be bound by memory. No lock. */
bool ds_learn_saturates(const char *name, uint64_t blocks, uint64_t threads);

#endif
