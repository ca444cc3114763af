/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_GATE_H
#define DETSHARE_COROUTINE_GATE_H

#include "noderuntime/coroutine/vctx.h"

/*
 * What an operation of the program has to do before it goes to the driver, beside following the
 * target. It is asked for by bits of the virtual context's epoch, which no stream's epoch has: so every
 * operation finds the two epochs different and comes here, and while nothing is asked for it costs
 * nothing. Who asks, and wants to be sure that operations which did not see it are in the driver,
 * uses the marks (mark.h).
 */
enum ds_gate {
	/* Launches keep within a bound of the GPU (ahead.h). */
	DS_GATE_WINDOW = 1 << 0,
	/* Somebody waits to hear that the program does something again (demand.h). */
	DS_GATE_ASLEEP = 1 << 1,
	/* Nothing may begin (suspend.h). */
	DS_GATE_SUSPENDED = 1 << 2,
};

struct ds_op;

/* What is launched, as far as it says how long that may take, and whether it may be held back. */
struct ds_launch {
	const void *what; /* function or graph */
	unsigned grid[3], block[3];
	const CUlaunchConfig *config; /* if it has one: then the dimensions are in there */
};

/*
 * No error: the gate was shut, and is open again. The operation is no longer marked, and whatever it
 * looked at may be gone: it begins anew.
 */
#define DS_GATE_AGAIN ((CUresult)0x7fffff01)

static inline void ds_gate_ask(struct ds_vctx *vctx, uint64_t bits)
{
	atomic_fetch_or(&vctx->epoch, bits);
}

/* Returns which of them had been asked for: one caller alone is told of each. */
static inline uint64_t ds_gate_stop_asking(struct ds_vctx *vctx, uint64_t bits)
{
	return atomic_fetch_and(&vctx->epoch, ~bits) & bits;
}

static inline uint64_t ds_gate_asked(const struct ds_vctx *vctx)
{
	return atomic_load(&vctx->epoch) & DS_GATE_MASK;
}

/*
 * The rare part of ds_op_follow(). `launch`: NULL if it is none. Marked once, but maybe not all the time;
 * with DS_GATE_AGAIN not any more.
 */
__attribute__((cold)) CUresult ds_gate_pass(struct ds_op *op, const struct ds_launch *launch);

/*
 * The rare part of ds_op_end(): the stream moved meanwhile, or (DS_GATE_WINDOW in the operation's epoch) the
 * gate wants to know when the launch is over.
 */
__attribute__((cold)) void ds_gate_left(const struct ds_op *op);

/*
 * An event of ours between a kernel and the one that it may overlap with, as its attributes allow it to,
 * would keep them apart.
 */
bool ds_launch_overlaps(const CUlaunchConfig *config);

#endif
