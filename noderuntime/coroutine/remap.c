/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/remap.h"

#include <string.h>

#include "noderuntime/coroutine/acknowledger.h"
#include "noderuntime/coroutine/measure.h"

/*
 * How a stream moves while several threads use it, without a lock on the way of a launch:
 *
 * A thread that puts an operation on a stream reads the stream's epoch, then its shadow, and reads the
 * epoch again when the driver has the operation. Who moves the stream sets its epoch to MOVING, then
 * records the event in the old place. So an operation that came to lie behind that event in the old
 * place finds the epoch changed, and its thread has the new place wait for it (ds_remap_late) before
 * its call returns. Until then nothing in the program can count on it being in order.
 */
static const uint64_t MOVING = 0;

void ds_remap_copy_attributes(const struct ds_vstream *stream, CUstream to)
{
	CUstreamAttrValue value;

	for (unsigned id = 0; id < DS_ATTRIBUTES_MAX; id++)
		if (stream->attributes >> id & 1 &&
		    ds_real.cuStreamGetAttribute(stream->handle, (CUstreamAttrID)id, &value) ==
			CUDA_SUCCESS)
			ds_real.cuStreamSetAttribute(to, (CUstreamAttrID)id, &value);
}

/* Under the stream's lock. */
static CUresult make_shadow(struct ds_vstream *stream, struct ds_pctx *pctx)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	CUstream shadow = NULL;
	CUresult result;

	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	result = ds_real.cuGreenCtxStreamCreate(&shadow, pctx->green, CU_STREAM_NON_BLOCKING,
						stream->priority);
	if (result == CUDA_SUCCESS) {
		ds_remap_copy_attributes(stream, shadow);
		stream->shadows[pctx->slot] = shadow;
	}
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	return result;
}

CUresult ds_remap_prepare(struct ds_vstream *stream, struct ds_pctx *pctx)
{
	CUresult result = CUDA_SUCCESS;

	pthread_mutex_lock(&stream->lock);
	if (atomic_load_explicit(&stream->shadow, memory_order_relaxed) &&
	    !stream->shadows[pctx->slot])
		result = make_shadow(stream, pctx);
	pthread_mutex_unlock(&stream->lock);
	return result;
}

/* Under the stream's lock. */
static CUresult move(struct ds_vctx *vctx, struct ds_vstream *stream, struct ds_pctx *target,
		     uint64_t epoch)
{
	const uint64_t before = atomic_load_explicit(&stream->epoch, memory_order_relaxed);
	CUstream old = atomic_load_explicit(&stream->shadow, memory_order_relaxed), new;
	CUresult result = CUDA_SUCCESS;

	if (!stream->shadows[target->slot]) {
		/* The acknowledger has not come to this stream yet. */
		ds_measure_stall();
		result = make_shadow(stream, target);
	}
	if (result != CUDA_SUCCESS)
		return result;
	new = stream->shadows[target->slot];
	atomic_store(&stream->epoch, MOVING);
	result = ds_real.cuEventRecord(stream->moved, old);
	if (result == CUDA_SUCCESS)
		result = ds_real.cuStreamWaitEvent(new, stream->moved, 0);
	if (result != CUDA_SUCCESS) {
		atomic_store_explicit(&stream->epoch, before, memory_order_release);
		return result;
	}
	stream->worked |= 1U << target->slot;
	atomic_store_explicit(&stream->pctx, target, memory_order_release);
	atomic_store_explicit(&stream->shadow, new, memory_order_release);
	atomic_store_explicit(&stream->epoch, epoch, memory_order_release);
	atomic_fetch_add_explicit(vctx->remaps, 1, memory_order_relaxed);
	return CUDA_SUCCESS;
}

/* Under the stream's lock. */
static void stay(struct ds_vstream *stream, const struct ds_pctx *target, uint64_t epoch)
{
	stream->worked |= 1U << target->slot;
	atomic_store_explicit(&stream->epoch, epoch, memory_order_release);
}

CUresult ds_remap_stream(struct ds_vctx *vctx, struct ds_vstream *stream, uint64_t *epoch,
			 CUstream *shadow)
{
	CUresult result = CUDA_SUCCESS;
	struct ds_pctx *target;
	uint64_t now;

	pthread_mutex_lock(&stream->lock);
	*shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);
	/* If a target is newer than the epoch read before it, the stream looks once more next time. */
	now = atomic_load_explicit(&vctx->epoch, memory_order_acquire) & ~DS_GATE_MASK;
	target = ds_remap_target(vctx);
	if (!*shadow)
		result = CUDA_ERROR_INVALID_HANDLE; /* destroyed by another thread just now */
	else if (atomic_load_explicit(&stream->pctx, memory_order_relaxed) == target)
		stay(stream, target, now);
	else if (!ds_order_captured(*shadow))
		result = move(vctx, stream, target, now);
	*shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);
	*epoch = atomic_load_explicit(&stream->epoch, memory_order_relaxed);
	pthread_mutex_unlock(&stream->lock);
	return result;
}

CUresult ds_remap_home(struct ds_vctx *vctx, struct ds_vstream *stream)
{
	struct ds_pctx *home = ds_remap_slot(vctx, 0);
	CUstream shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);

	if (!shadow || !home) /* destroyed by another thread just now */
		return CUDA_ERROR_INVALID_HANDLE;
	if (atomic_load_explicit(&stream->pctx, memory_order_relaxed) == home ||
	    ds_order_captured(shadow))
		return CUDA_SUCCESS;
	return move(vctx, stream, home, DS_EPOCH_NONE);
}

void ds_remap_late(struct ds_vstream *stream, CUstream shadow)
{
	CUstream now;

	pthread_mutex_lock(&stream->lock);
	now = atomic_load_explicit(&stream->shadow, memory_order_relaxed);
	/* A capture that another thread has begun meanwhile cannot wait; nor could it alone. */
	if (now && now != shadow && !ds_order_captured(now) &&
	    ds_real.cuEventRecord(stream->moved, shadow) == CUDA_SUCCESS)
		ds_real.cuStreamWaitEvent(now, stream->moved, 0);
	pthread_mutex_unlock(&stream->lock);
}

bool ds_remap_is_physical(const struct ds_vctx *vctx, CUcontext context)
{
	for (unsigned slot = 0; context && slot < DS_PCTX_MAX; slot++)
		if (atomic_load_explicit(&vctx->pctxs[slot].context, memory_order_acquire) ==
		    context)
			return true;
	return false;
}

/* Under `publishing`. */
static void publish(struct ds_vctx *vctx, struct ds_pctx *target)
{
	/* The target first: who sees the epoch sees it. */
	atomic_store_explicit(&vctx->target, target, memory_order_release);
	target->last_target =
	    (atomic_fetch_add(&vctx->epoch, 1U << DS_GATE_BITS) >> DS_GATE_BITS) + 1;
}

void ds_remap_publish(struct ds_vctx *vctx, struct ds_pctx *target)
{
	pthread_mutex_lock(&vctx->publishing);
	publish(vctx, target);
	pthread_mutex_unlock(&vctx->publishing);
}

void ds_remap_unpin(struct ds_pctx *pctx)
{
	if (atomic_fetch_sub_explicit(&pctx->pins, 1, memory_order_acq_rel) == 1)
		ds_acknowledger_look();
}

static struct ds_pctx *find(struct ds_vctx *vctx, const struct ds_groups *groups)
{
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
		struct ds_pctx *pctx = ds_remap_slot(vctx, slot);

		if (pctx && ds_groups_equal(&pctx->groups, groups))
			return pctx;
	}
	return NULL;
}

struct ds_pctx *ds_remap_make(struct ds_vctx *vctx, const struct ds_groups *groups,
			      struct ds_error *err)
{
	struct ds_pctx *pctx = find(vctx, groups);

	if (pctx)
		return pctx;
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
		if (ds_remap_slot(vctx, slot))
			continue;
		pctx = &vctx->pctxs[slot];
		pctx->slot = slot;
		return ds_pctx_create(pctx, vctx->device, &vctx->shape, groups, err) == 0 ? pctx
											  : NULL;
	}
	ds_fail(err, "%d partitions are in use already", DS_PCTX_MAX);
	return NULL;
}

CUresult ds_remap_make_token(struct ds_vctx *vctx, CUgreenCtx *green, CUcontext *context)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	struct ds_pctx token = {.slot = DS_PCTX_MAX};
	struct ds_error err = {""};
	int rc;

	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	rc = ds_pctx_create(&token, vctx->device, &vctx->shape, &ds_remap_slot(vctx, 0)->groups,
			    &err);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	*green = token.green;
	*context = token.context;
	return rc == 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

int ds_remap_init(struct ds_vctx *vctx, const struct ds_gpu_shape *shape,
		  const struct ds_groups *groups, struct ds_error *err)
{
	struct ds_pctx *first;

	vctx->shape = *shape;
	memset(vctx->pctxs, 0, sizeof(vctx->pctxs));
	first = ds_remap_make(vctx, groups, err);
	if (!first)
		return -1;
	ds_remap_hold(first);
	ds_remap_publish(vctx, first);
	return 0;
}

void ds_remap_drop(struct ds_vctx *vctx)
{
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
		ds_pctx_destroy(&vctx->pctxs[slot]);
	vctx->chaos.n_partitions = 0;
}

/* ---- chaos ---- */

/* Marsaglia's xorshift: any quality will do, the same everywhere. */
static uint64_t draw(struct ds_chaos *chaos)
{
	chaos->random ^= chaos->random << 13;
	chaos->random ^= chaos->random >> 7;
	chaos->random ^= chaos->random << 17;
	return chaos->random;
}

static struct ds_groups some_of(struct ds_vctx *vctx, const struct ds_groups *granted)
{
	struct ds_groups some = {
	    {granted->bits[0] & draw(&vctx->chaos), granted->bits[1] & draw(&vctx->chaos)}};
	unsigned start = (unsigned)(draw(&vctx->chaos) % vctx->shape.n_groups);

	/* At least one full group. */
	for (unsigned i = 0; i < vctx->shape.n_groups; i++) {
		const unsigned group = (start + i) % vctx->shape.n_groups;

		if (ds_groups_has(granted, group)) {
			ds_groups_add(&some, group);
			break;
		}
	}
	return some;
}

void ds_chaos_choose(struct ds_vctx *vctx, struct ds_pctx *granted)
{
	struct ds_pctx *chosen[DS_PCTX_CACHED] = {granted};
	struct ds_error err;
	unsigned n = 1;

	if (!vctx->chaos.every)
		return;
	for (unsigned tries = 0; n < DS_PCTX_CACHED && tries < 4 * DS_PCTX_CACHED; tries++) {
		struct ds_groups some;
		struct ds_pctx *pctx;
		bool known;

		/* Launches draw, too. */
		pthread_mutex_lock(&vctx->publishing);
		some = some_of(vctx, &granted->groups);
		pthread_mutex_unlock(&vctx->publishing);
		pctx = ds_remap_make(vctx, &some, &err);
		known = !pctx;

		for (unsigned i = 0; i < n; i++)
			known |= chosen[i] == pctx;
		if (!known)
			chosen[n++] = pctx;
	}
	pthread_mutex_lock(&vctx->publishing);
	memcpy(vctx->chaos.partitions, chosen, sizeof(chosen));
	vctx->chaos.n_partitions = n;
	pthread_mutex_unlock(&vctx->publishing);
}

void ds_chaos_rest(struct ds_vctx *vctx)
{
	pthread_mutex_lock(&vctx->publishing);
	vctx->chaos.n_partitions = 0;
	pthread_mutex_unlock(&vctx->publishing);
}

void ds_chaos_launched(struct ds_vctx *vctx)
{
	struct ds_chaos *chaos = &vctx->chaos;
	struct ds_pctx *target;

	if ((atomic_fetch_add_explicit(&chaos->launches, 1, memory_order_relaxed) + 1) %
	    chaos->every)
		return;
	pthread_mutex_lock(&vctx->publishing);
	if (chaos->n_partitions > 1) {
		target = chaos->partitions[draw(chaos) % chaos->n_partitions];
		if (target == ds_remap_target(vctx))
			target = chaos->partitions[target == chaos->partitions[0]];
		publish(vctx, target);
	}
	pthread_mutex_unlock(&vctx->publishing);
}
