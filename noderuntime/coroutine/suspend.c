/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/suspend.h"

#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "noderuntime/coroutine/gate.h"
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/op.h"

/* What threads sleep on; set before the gate's bit and cleared after it. */
static _Atomic uint32_t shut;
static atomic_bool gave_up;
static atomic_uint waiting; /* threads */

static void wake_all(void)
{
	atomic_store(&shut, 0);
	syscall(SYS_futex, &shut, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

bool ds_suspended(const struct ds_vctx *vctx)
{
	return ds_gate_asked(vctx) & DS_GATE_SUSPENDED;
}

void ds_suspend_begin(struct ds_vctx *vctx)
{
	if (atomic_load(&gave_up))
		return;
	atomic_store(&shut, 1);
	ds_gate_ask(vctx, DS_GATE_SUSPENDED);
	/* At the end of the process nobody would open it again. */
	if (atomic_load(&gave_up))
		ds_suspend_end(vctx);
}

void ds_suspend_end(struct ds_vctx *vctx)
{
	if (ds_suspended(vctx)) {
		/* With a new epoch: every stream that begins something comes by, and says so. */
		ds_remap_publish(vctx, ds_remap_target(vctx));
		ds_gate_stop_asking(vctx, DS_GATE_SUSPENDED);
	}
	wake_all();
}

void ds_suspend_give_up(void)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);

	atomic_store(&gave_up, true);
	if (vctx)
		ds_gate_stop_asking(vctx, DS_GATE_SUSPENDED);
	wake_all();
}

bool ds_suspend_passes(const struct ds_op *op)
{
	CUstream shadow;
	bool captured;

	if (ds_mark_is_nested(op->mark))
		return true;
	if (atomic_load_explicit(&op->vctx->captures, memory_order_relaxed) <= 0)
		return false;
	pthread_mutex_lock(&op->stream->lock);
	shadow = atomic_load_explicit(&op->stream->shadow, memory_order_relaxed);
	captured = shadow && ds_order_captured(shadow);
	pthread_mutex_unlock(&op->stream->lock);
	return captured;
}

void ds_suspend_wait(void)
{
	ds_measure_stall();
	atomic_fetch_add(&waiting, 1);
	while (atomic_load(&shut))
		syscall(SYS_futex, &shut, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
	atomic_fetch_sub(&waiting, 1);
}

bool ds_suspend_waits(void)
{
	return atomic_load(&waiting) > 0;
}
