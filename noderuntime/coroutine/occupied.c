/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/occupied.h"

struct ds_groups ds_occupied_pinned(struct ds_vctx *vctx)
{
	struct ds_groups pinned = vctx->green_pinned;

	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
		struct ds_pctx *pctx = ds_remap_slot(vctx, slot);

		if (pctx && atomic_load_explicit(&pctx->pins, memory_order_acquire))
			pinned = ds_groups_union(pinned, pctx->groups);
	}
	return pinned;
}

uint32_t ds_occupied_outside(struct ds_vctx *vctx, const struct ds_groups *allowed)
{
	uint32_t slots = 0;

	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
		struct ds_pctx *pctx = ds_remap_slot(vctx, slot);

		if (pctx && !ds_groups_within(&pctx->groups, allowed))
			slots |= 1U << slot;
	}
	return slots;
}

/*
 * Whether the stream's shadow in this slot has work left. No new work comes there. Any answer but "not
 * ready" means none: after a fault nothing runs any more. Under the stream's lock.
 */
static bool has_work(struct ds_vstream *stream, unsigned slot)
{
	CUstream shadow = stream->shadows[slot];

	if (shadow == atomic_load_explicit(&stream->shadow, memory_order_relaxed) &&
	    ds_order_captured(shadow))
		return !stream->uncaptured ||
		       ds_real.cuEventQuery(stream->uncaptured) == CUDA_ERROR_NOT_READY;
	return ds_real.cuStreamQuery(shadow) == CUDA_ERROR_NOT_READY;
}

bool ds_occupied_any(struct ds_vctx *vctx, uint32_t slots)
{
	bool any = false;

	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next) {
		pthread_mutex_lock(&stream->lock);
		for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
			if (!(stream->worked & slots & 1U << slot))
				continue;
			if (has_work(stream, slot))
				any = true;
			else
				stream->worked &= ~(1U << slot);
		}
		pthread_mutex_unlock(&stream->lock);
	}
	for (struct ds_vstream *stream = vctx->destroyed; stream && !any; stream = stream->all_next)
		any = stream->worked & slots && stream->moved_recorded &&
		      ds_real.cuEventQuery(stream->moved) == CUDA_ERROR_NOT_READY;
	pthread_mutex_unlock(&vctx->lock);
	for (unsigned slot = 0; slot < DS_PCTX_MAX && !any; slot++) {
		CUstream uploads =
		    atomic_load_explicit(&vctx->pctxs[slot].uploads, memory_order_acquire);

		any = slots & 1U << slot && uploads &&
		      ds_real.cuStreamQuery(uploads) == CUDA_ERROR_NOT_READY;
	}
	return any;
}

unsigned ds_occupied_count(struct ds_vctx *vctx)
{
	unsigned n = 0;

	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
		n += ds_remap_slot(vctx, slot) != NULL;
	return n;
}
