/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_REMAP_H
#define DETSHARE_COROUTINE_REMAP_H

#include "noderuntime/coroutine/vctx.h"

/*
 * Moving a program between partitions. The virtual context has a target, the physical context that
 * new work goes to, and an epoch that counts the targets. A stream follows at its next operation: an
 * event recorded in the old physical context is waited for in the new one, nothing else waits.
 *
 * Who uses the target or a stream's physical context does so between ds_mark_begin and ds_mark_end:
 * it stays valid, and its groups stay the program's, that long. To keep it longer,
 *   hold it: it stays valid;
 *   pin it: it stays valid and its groups stay the program's (announced as pinned).
 */

/* Where new work goes. Marked, or with the virtual context's `moving` locked. */
static inline struct ds_pctx *ds_remap_target(const struct ds_vctx *vctx)
{
	return atomic_load_explicit(&vctx->target, memory_order_acquire);
}

/* Counts the targets: unchanged means that ds_remap_target is. Not the page's epoch. */
static inline uint64_t ds_remap_epoch(const struct ds_vctx *vctx)
{
	return atomic_load_explicit(&vctx->epoch, memory_order_acquire) >> DS_GATE_BITS;
}

/* The physical context in which the stream's next operation runs. Marked. */
static inline struct ds_pctx *ds_remap_of_stream(const struct ds_vstream *stream)
{
	return atomic_load_explicit(&stream->pctx, memory_order_acquire);
}

/* The physical context in this slot, or NULL. Only of one that is held or in use; or `moving` locked. */
static inline struct ds_pctx *ds_remap_slot(struct ds_vctx *vctx, unsigned slot)
{
	struct ds_pctx *pctx = &vctx->pctxs[slot];

	return atomic_load_explicit(&pctx->context, memory_order_acquire) ? pctx : NULL;
}

/* Whether `context` is a physical context of ours, which the program knows as its primary one. */
bool ds_remap_is_physical(const struct ds_vctx *vctx, CUcontext context);

/* Keep a physical context. Marked when called, and later when the mark is gone still valid. */
static inline void ds_remap_hold(struct ds_pctx *pctx)
{
	atomic_fetch_add_explicit(&pctx->holds, 1, memory_order_relaxed);
}

/* Any time. */
static inline void ds_remap_release(struct ds_pctx *pctx)
{
	atomic_fetch_sub_explicit(&pctx->holds, 1, memory_order_release);
}

/* Keep a physical context and its groups. Marked when called. */
static inline void ds_remap_pin(struct ds_pctx *pctx)
{
	atomic_fetch_add_explicit(&pctx->pins, 1, memory_order_relaxed);
}

/* If it was the last pin, groups that are no longer granted go back. */
void ds_remap_unpin(struct ds_pctx *pctx);

/*
 * The physical context over `groups`: the one there is, or a new one, in which case one that nobody
 * uses may go. A millisecond; with `moving` locked. NULL with the reason: the driver failed, or
 * DS_PCTX_MAX are in use.
 */
struct ds_pctx *ds_remap_make(struct ds_vctx *vctx, const struct ds_groups *groups,
			      struct ds_error *err);

/* Begin with a partition: the first physical context, which lasts as long as the virtual one. */
int ds_remap_init(struct ds_vctx *vctx, const struct ds_gpu_shape *shape,
		  const struct ds_groups *groups, struct ds_error *err);

/*
 * A green context over the first physical one's groups, whose handles can stand for something else:
 * nothing runs there. The caller destroys it. A millisecond.
 */
CUresult ds_remap_make_token(struct ds_vctx *vctx, CUgreenCtx *green, CUcontext *context);

/* Destroy all physical contexts; nobody may use them any more. */
void ds_remap_drop(struct ds_vctx *vctx);

/* New work goes to `target` from now on. */
void ds_remap_publish(struct ds_vctx *vctx, struct ds_pctx *target);

/*
 * Bring the stream to the target, unless it is captured. Marked, or with `moving` locked. Two calls of
 * the driver, or more if it has not been there. What a failure means for the operation is what the
 * driver says. On success *shadow and *epoch belong together.
 */
CUresult ds_remap_stream(struct ds_vctx *vctx, struct ds_vstream *stream, uint64_t *epoch,
			 CUstream *shadow);

/*
 * Bring the stream to the first physical context, in which it may then be captured; unless it is captured
 * already. Its next operation brings it back to the target. Marked, under the stream's lock.
 */
CUresult ds_remap_home(struct ds_vctx *vctx, struct ds_vstream *stream);

/*
 * The operation was put on `shadow` while another thread moved the stream away from there: what
 * comes after it must wait for it. Marked.
 */
void ds_remap_late(struct ds_vstream *stream, CUstream shadow);

/* Make the stream's shadow in `pctx`, if it has none there yet. */
CUresult ds_remap_prepare(struct ds_vstream *stream, struct ds_pctx *pctx);

/*
 * Give another shadow the attributes that the stream's handle was given, as far as it takes them: all
 * are about speed. Under the stream's lock.
 */
void ds_remap_copy_attributes(const struct ds_vstream *stream, CUstream to);

/*
 * For tests, a program can be made to move every few launches (vctx->chaos.every), to one of a few
 * partitions inside of what it was granted. Choose them, with `moving` locked; nothing if it is not
 * to move.
 */
void ds_chaos_choose(struct ds_vctx *vctx, struct ds_pctx *granted);

/* Stay at the target until the next choice; `moving` locked. */
void ds_chaos_rest(struct ds_vctx *vctx);

/* One more launch of a program that is to move so. */
void ds_chaos_launched(struct ds_vctx *vctx);

#endif
