/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/gate.h"

#include "noderuntime/coroutine/ahead.h"
#include "noderuntime/coroutine/demand.h"
#include "noderuntime/coroutine/hurry.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/suspend.h"

/* To where new work goes, unless the stream is there. */
static CUresult follow(struct ds_op *op, uint64_t epoch)
{
	struct ds_vstream *stream = op->stream;

	if (atomic_load_explicit(&stream->epoch, memory_order_acquire) != epoch)
		return ds_remap_stream(op->vctx, stream, &op->epoch, &op->target);
	op->epoch = epoch;
	op->target = atomic_load_explicit(&stream->shadow, memory_order_acquire);
	return CUDA_SUCCESS;
}

/* Where the stream is, whatever the target. */
static CUresult stay(struct ds_op *op)
{
	pthread_mutex_lock(&op->stream->lock);
	op->epoch = atomic_load_explicit(&op->stream->epoch, memory_order_relaxed);
	op->target = atomic_load_explicit(&op->stream->shadow, memory_order_relaxed);
	pthread_mutex_unlock(&op->stream->lock);
	return op->target ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult wait_outside(const struct ds_op *op)
{
	ds_mark_end(op->mark);
	ds_suspend_wait();
	return DS_GATE_AGAIN;
}

CUresult ds_gate_pass(struct ds_op *op, const struct ds_launch *launch)
{
	bool waited = false, alone = false;

	for (;;) {
		const uint64_t epoch = atomic_load_explicit(&op->vctx->epoch, memory_order_acquire);
		struct ds_ahead *ring;
		CUresult result;
		unsigned user;

		/* Also of one that has to wait: it is what the program wants to go on with. */
		if (epoch & DS_GATE_ASLEEP)
			ds_demand_woken(op->vctx);
		if (epoch & DS_GATE_SUSPENDED)
			return ds_suspend_passes(op) ? stay(op) : wait_outside(op);
		if (launch && epoch & DS_GATE_WINDOW && !ds_mark_is_nested(op->mark) &&
		    ds_hurry_is_asked()) {
			ds_mark_end(op->mark);
			ds_hurry_wait();
			ds_mark_begin(op->mark);
			continue;
		}
		result = follow(op, epoch & ~DS_GATE_MASK);
		if (result != CUDA_SUCCESS || !launch)
			return result;
		ring = NULL;
		if (!waited && epoch & DS_GATE_WINDOW)
			ring = ds_ahead_launch(op->vctx, op->stream, op->target, launch, &user,
					       &alone);
		if (!ring) {
			if (alone && op->epoch != DS_EPOCH_NONE)
				op->epoch |= DS_GATE_WINDOW;
			return result;
		}
		ds_mark_end(op->mark);
		ds_ahead_wait(op->vctx, ring, user);
		ds_mark_begin(op->mark);
		waited = true;
	}
}

void ds_gate_left(const struct ds_op *op)
{
	if (op->epoch != DS_EPOCH_NONE && op->epoch & DS_GATE_WINDOW)
		ds_ahead_launched(op->vctx, op->stream, op->target);
	if (atomic_load_explicit(&op->stream->epoch, memory_order_acquire) !=
	    (op->epoch & ~DS_GATE_MASK))
		ds_remap_late(op->stream, op->target);
}
