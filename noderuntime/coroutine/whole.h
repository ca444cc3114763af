/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_WHOLE_H
#define DETSHARE_COROUTINE_WHOLE_H

#include <stdbool.h>

#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * Whole-GPU windows. A launch whose blocks must all be on the GPU at the same time may fit on the whole
 * GPU, which is what the program sees, and not in its partition. It asks the node runtime for the GPU as
 * a whole, waits until the program has it, and goes there. What fits into the partition runs there.
 * Such launches are the cooperative ones, which the driver refuses if they do not fit, and kernels
 * with a barrier of their own, which nobody knows but the site and the user: they name them.
 */

/* A launch that is asked about. */
struct ds_whole_kernel {
	CUfunction function;
	uint64_t blocks;
	unsigned threads; /* of a block */
	unsigned shared;  /* dynamic, bytes */
};

struct ds_op;

/* What launches have to look at, if not 0; all that they pay otherwise is to look at this. */
enum {
	DS_WHOLE_NAMED = 1 << 0, /* kernels are named (whole_names.h) */
	DS_WHOLE_OPEN = 1 << 1,  /* the program has the GPU as a whole now */
	DS_WHOLE_HOLD = 1 << 2,  /* kernels may have to be held back (hold.h) */
	DS_WHOLE_BEFORE = DS_WHOLE_NAMED | DS_WHOLE_HOLD, /* of the launch: ds_whole_before() */
};
extern _Atomic unsigned ds_whole_watch __attribute__((visibility("hidden")));

static inline unsigned ds_whole_watched(void)
{
	return atomic_load_explicit(&ds_whole_watch, memory_order_relaxed);
}

/* What becomes of a launch: `result` other than CUDA_SUCCESS is what it fails with. */
struct ds_whole_verdict {
	CUresult result;
	bool whole; /* it goes to the whole GPU, and ds_whole_end() is to be called */
};

/*
 * The operation, marked, is about to launch `kernel`, or was refused to: if that does not fit where it
 * would go and fits on the whole GPU, begin the operation anew there, after waiting for that. `handle`
 * and `per_thread` are what the operation began with. `refused`: the driver has said that it does not
 * fit. If the launch fails, the operation is abandoned.
 */
struct ds_whole_verdict ds_whole_begin(struct ds_op *op, CUstream handle, bool per_thread,
				       const struct ds_whole_kernel *kernel, bool refused);

/*
 * What DS_WHOLE_BEFORE asks for: the operation, marked, is about to launch `kernel`, which is held back if it is to
 * be, and then begun on the whole GPU if it is named. As ds_whole_begin().
 */
__attribute__((cold)) struct ds_whole_verdict ds_whole_before(struct ds_op *op, CUstream handle,
							      bool per_thread,
							      const struct ds_whole_kernel *kernel);

/* After the driver's answer to a launch on the whole GPU, before the operation ends. */
void ds_whole_end(const struct ds_op *op, CUresult result);

/*
 * After a cooperative launch that fitted where it went while DS_WHOLE_OPEN was set, before the operation
 * ends: the GPU, which another one asked for, is kept for this one, too.
 */
void ds_whole_note(const struct ds_op *op);

/* Once, before the first launch. */
void ds_whole_start(struct ds_session *session);

/* The program has the GPU as a whole, or no longer. */
void ds_whole_open(void);
void ds_whole_close(void);

/* To wait for it is in vain from now on; or no longer so. */
void ds_whole_refuse(bool refused);

/*
 * Whether launches are on the whole GPU whose end nobody has noticed; notices it. To be called now and
 * then by the thread that follows the page while it is open.
 */
bool ds_whole_look(void);

/* The primary context goes away, with all that was on it. */
void ds_whole_drop(void);

/* In a child after fork(). Async-signal-safe. */
void ds_whole_forget(void);

#endif
