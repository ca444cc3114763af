/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/evict.h"

#include "noderuntime/coroutine/mark.h"
#include "noderuntime/coroutine/occupied.h"
#include "noderuntime/coroutine/vgraph.h"

static bool inside_chaos(const struct ds_vctx *vctx, const struct ds_pctx *pctx)
{
	for (unsigned i = 0; i < vctx->chaos.n_partitions; i++)
		if (vctx->chaos.partitions[i] == pctx)
			return true;
	return false;
}

/* None of the slots in `but`; `held`: graphs may hold it, and only they. */
static struct ds_pctx *least_recent(struct ds_vctx *vctx, bool held, uint32_t but)
{
	struct ds_pctx *found = NULL;

	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
		struct ds_pctx *pctx = ds_remap_slot(vctx, slot);

		if (pctx && !(but >> slot & 1) && pctx != ds_remap_target(vctx) &&
		    !inside_chaos(vctx, pctx) &&
		    (held ? slot > 0 : !atomic_load_explicit(&pctx->holds, memory_order_acquire)) &&
		    !atomic_load_explicit(&pctx->pins, memory_order_acquire) &&
		    (!found || pctx->last_target < found->last_target))
			found = pctx;
	}
	return found;
}

/* Every stream to the target, those included that have nothing to do. False: one cannot. */
static bool all_leave(struct ds_vctx *vctx, const struct ds_pctx *pctx)
{
	bool all = true;

	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next) {
		uint64_t epoch;
		CUstream shadow;

		if (ds_remap_of_stream(stream) == pctx)
			ds_remap_stream(vctx, stream, &epoch, &shadow);
		all &= ds_remap_of_stream(stream) != pctx;
	}
	pthread_mutex_unlock(&vctx->lock);
	return all;
}

static bool awaited(struct ds_vctx *vctx, unsigned slot)
{
	bool found = false;

	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next) {
		pthread_mutex_lock(&stream->lock);
		found |= stream->shadows[slot] && ds_marks_awaited(stream->shadows[slot]);
		pthread_mutex_unlock(&stream->lock);
	}
	pthread_mutex_unlock(&vctx->lock);
	return found;
}

static void take_shadows(struct ds_vctx *vctx, unsigned slot)
{
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next) {
		pthread_mutex_lock(&stream->lock);
		if (stream->shadows[slot])
			ds_real.cuStreamDestroy_v2(stream->shadows[slot]);
		stream->shadows[slot] = NULL;
		stream->worked &= ~(1U << slot);
		pthread_mutex_unlock(&stream->lock);
	}
	pthread_mutex_unlock(&vctx->lock);
}

static bool is_held(struct ds_pctx *pctx)
{
	return atomic_load_explicit(&pctx->holds, memory_order_acquire) ||
	       atomic_load_explicit(&pctx->pins, memory_order_acquire);
}

/*
 * Destroy it if nobody needs it. Work first: a move would wait for room in the queue of a stream that is
 * stuck. False: to be given up.
 */
static bool try_to_destroy(struct ds_vctx *vctx, struct ds_pctx *pctx, bool (*quiesce)(void *arg),
			   void *arg)
{
	const uint32_t slot = 1U << pctx->slot;

	if (ds_occupied_any(vctx, slot) || !all_leave(vctx, pctx))
		return true;
	if (!quiesce(arg))
		return false;
	if (ds_occupied_any(vctx, slot) || awaited(vctx, pctx->slot) || is_held(pctx))
		return true;
	take_shadows(vctx, pctx->slot);
	ds_pctx_destroy(pctx);
	return true;
}

void ds_evict(struct ds_vctx *vctx, bool (*quiesce)(void *arg), void *arg)
{
	uint32_t tried = 0;

	while (ds_occupied_count(vctx) > DS_PCTX_CACHED) {
		struct ds_pctx *pctx = least_recent(vctx, false, tried);

		if (!pctx) {
			/* Graphs hold the others; they can be made executable there again. */
			pctx = least_recent(vctx, true, tried);
			if (pctx)
				ds_vgraph_evict(pctx);
		}
		if (!pctx || !try_to_destroy(vctx, pctx, quiesce, arg))
			return;
		tried |= 1U << pctx->slot;
	}
}
