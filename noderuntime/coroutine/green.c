/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/green.h"

#include <limits.h>
#include <stdlib.h>

#include "noderuntime/coroutine/acknowledger.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/own.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/say.h"
#include "noderuntime/coroutine/suspend.h"

struct ds_green {
	CUgreenCtx handle;
	CUcontext context;
	CUdevResource seen; /* what the program asked for, and is told that it has */
	struct ds_groups groups;
	unsigned n_streams; /* that live */
	bool gone;          /* destroyed; may still have work */
	CUevent done;       /* then: behind its last work; NULL: nobody knows */
	struct ds_green *next;
};

/* With `moving` locked. */
static struct ds_green *all;
/* Once there was one; so that programs without pay nothing. */
static atomic_bool any;

/* With `moving` locked. */
static void pin(struct ds_vctx *vctx)
{
	struct ds_groups pinned = {{0}};

	for (const struct ds_green *green = all; green; green = green->next)
		pinned = ds_groups_union(pinned, green->groups);
	vctx->green_pinned = pinned;
}

/*
 * What the program would have alone: the driver makes it, and says what is wrong with the request. It lives
 * for a moment, and nothing runs in it.
 */
static CUresult look(CUdevResourceDesc desc, CUdevice device, unsigned flags, CUdevResource *seen)
{
	CUgreenCtx alone;
	CUresult result = ds_real.cuGreenCtxCreate(&alone, desc, device, flags);

	if (result != CUDA_SUCCESS)
		return result;
	result = ds_real.cuGreenCtxGetDevResource(alone, seen, CU_DEV_RESOURCE_TYPE_SM);
	ds_real.cuGreenCtxDestroy(alone);
	return result;
}

static void say_less(const struct ds_gpu_shape *shape, const struct ds_groups *groups,
		     const unsigned uses[DS_GROUPS_MAX], unsigned asked)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;
	const unsigned got = ds_groups_sms(groups, shape);
	bool shared = false;

	for (unsigned group = 0; group <= shape->n_groups; group++)
		shared |= ds_groups_has(groups, group) && uses[group];
	if (got < asked || shared)
		ds_say_once(&said,
			    "cuGreenCtxCreate: this program's partition is too small for its green "
			    "contexts: one for %u SMs runs on %u%s; ask for a larger share",
			    asked, got, shared ? ", which it shares with another one" : "");
}

/* With `moving` locked. */
static CUresult nest(struct ds_vctx *vctx, struct ds_green *green)
{
	const unsigned most = ds_vctx_may_pin();
	unsigned uses[DS_GROUPS_MAX] = {0};
	struct ds_pctx made = {.slot = DS_PCTX_MAX};
	const struct ds_groups granted = ds_acknowledger_own();
	struct ds_error err = {""};

	ds_green_reap(vctx);
	for (const struct ds_green *other = all; other; other = other->next)
		for (unsigned group = 0; group < DS_GROUPS_MAX; group++)
			uses[group] += ds_groups_has(&other->groups, group);
	green->groups = ds_green_choose(&vctx->shape, &granted, uses, green->seen.sm.smCount, most);
	if (ds_pctx_create(&made, vctx->device, &vctx->shape, &green->groups, &err) < 0)
		return CUDA_ERROR_OUT_OF_MEMORY;
	green->handle = made.green;
	green->context = made.context;
	say_less(&vctx->shape, &green->groups, uses, green->seen.sm.smCount);
	green->next = all;
	all = green;
	atomic_store(&any, true);
	pin(vctx);
	return CUDA_SUCCESS;
}

/* A suspended program has no groups that could be pinned. */
static void lock_unsuspended(struct ds_vctx *vctx)
{
	pthread_mutex_lock(&vctx->moving);
	while (ds_suspended(vctx)) {
		pthread_mutex_unlock(&vctx->moving);
		ds_suspend_wait();
		pthread_mutex_lock(&vctx->moving);
	}
}

static CUresult create(struct ds_vctx *vctx, CUgreenCtx *handle, CUdevResourceDesc desc,
		       unsigned flags)
{
	struct ds_green *green = calloc(1, sizeof(*green));
	CUresult result;

	if (!green)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = look(desc, vctx->device, flags, &green->seen);
	if (result == CUDA_SUCCESS) {
		lock_unsuspended(vctx);
		result = nest(vctx, green);
		pthread_mutex_unlock(&vctx->moving);
	}
	if (result != CUDA_SUCCESS) {
		free(green);
		return result;
	}
	ds_vctx_count_own();
	/* So that the runtime learns what is pinned. */
	ds_acknowledger_look();
	*handle = green->handle;
	return CUDA_SUCCESS;
}

CUresult ds_cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev,
			     unsigned int flags)
{
	struct ds_vctx *vctx;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_vctx_enter_device(dev, &vctx);
	if (result != CUDA_SUCCESS)
		return result;
	return vctx && phCtx ? create(vctx, phCtx, desc, flags)
			     : ds_real.cuGreenCtxCreate(phCtx, desc, dev, flags);
}
DS_EXPORT(cuGreenCtxCreate);

/* ---- their end ---- */

/* With `moving` locked. */
static struct ds_green *find(CUgreenCtx handle)
{
	for (struct ds_green *green = all; green; green = green->next)
		if (green->handle == handle && !green->gone)
			return green;
	return NULL;
}

/*
 * The driver lets a green context go while its streams live on. An event tells when its work is done; that of
 * streams that are left is not known of, so their groups stay pinned.
 */
static void let_go(struct ds_vctx *vctx, struct ds_green *green)
{
	CUcontext popped;

	green->gone = true;
	if (green->n_streams || ds_real.cuCtxPushCurrent_v2(vctx->primary) != CUDA_SUCCESS)
		return;
	if (ds_real.cuEventCreate(&green->done, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS &&
	    ds_real.cuGreenCtxRecordEvent(green->handle, green->done) != CUDA_SUCCESS) {
		ds_real.cuEventDestroy_v2(green->done);
		green->done = NULL;
	}
	ds_real.cuCtxPopCurrent_v2(&popped);
}

bool ds_green_reap(struct ds_vctx *vctx)
{
	bool all_gone = true;

	for (struct ds_green **link = &all; *link;) {
		struct ds_green *green = *link;

		if (!green->gone || !green->done) {
			link = &green->next;
		} else if (ds_real.cuEventQuery(green->done) == CUDA_ERROR_NOT_READY) {
			all_gone = false;
			link = &green->next;
		} else {
			ds_real.cuEventDestroy_v2(green->done);
			*link = green->next;
			free(green);
		}
	}
	pin(vctx);
	return all_gone;
}

CUresult ds_cuGreenCtxDestroy(CUgreenCtx hCtx)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	struct ds_green *green;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!vctx)
		return ds_real.cuGreenCtxDestroy(hCtx);
	pthread_mutex_lock(&vctx->moving);
	green = find(hCtx);
	if (green)
		let_go(vctx, green);
	result = ds_real.cuGreenCtxDestroy(hCtx);
	pthread_mutex_unlock(&vctx->moving);
	if (green)
		ds_acknowledger_look();
	return result;
}
DS_EXPORT(cuGreenCtxDestroy);

/* ---- their streams ---- */

/* Streams of a program's green context are the driver's, and counted. */
static void count_streams(CUgreenCtx handle, int change)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	struct ds_green *green;

	if (!vctx || !handle)
		return;
	pthread_mutex_lock(&vctx->moving);
	green = find(handle);
	if (green)
		green->n_streams += (unsigned)change;
	pthread_mutex_unlock(&vctx->moving);
}

CUresult ds_cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags,
				   int priority)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGreenCtxStreamCreate(phStream, greenCtx, flags, priority);
	if (result == CUDA_SUCCESS)
		count_streams(greenCtx, 1);
	return result;
}
DS_EXPORT(cuGreenCtxStreamCreate);

static CUgreenCtx of_stream(CUstream stream)
{
	CUgreenCtx green = NULL;

	return any && ds_real.cuStreamGetGreenCtx(stream, &green) == CUDA_SUCCESS ? green : NULL;
}

CUresult ds_green_create_stream(CUstream *stream, unsigned flags, int priority)
{
	CUresult result = ds_real.cuStreamCreateWithPriority(stream, flags, priority);

	if (result == CUDA_SUCCESS)
		count_streams(of_stream(*stream), 1);
	return result;
}

CUresult ds_green_destroy_stream(CUstream stream)
{
	CUgreenCtx green = of_stream(stream);
	CUresult result = ds_real.cuStreamDestroy_v2(stream);

	if (result == CUDA_SUCCESS)
		count_streams(green, -1);
	return result;
}

/* ---- questions ---- */

/* What the program was told about one of its green contexts; false: it is none. */
static bool was_told(CUgreenCtx handle, CUcontext context, CUdevResource *resource)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	const struct ds_green *green;

	if (!vctx || !any)
		return false;
	pthread_mutex_lock(&vctx->moving);
	for (green = all; green; green = green->next)
		if (!green->gone && (handle ? green->handle == handle : green->context == context))
			break;
	if (green)
		*resource = green->seen;
	pthread_mutex_unlock(&vctx->moving);
	return green != NULL;
}

bool ds_green_was_told(CUstream stream, CUdevResource *resource)
{
	CUcontext current = NULL;
	CUgreenCtx green = NULL;

	if (!any)
		return false;
	if (ds_is_default(stream))
		ds_real.cuCtxGetCurrent(&current);
	else
		green = of_stream(stream);
	return (green || current) && was_told(green, current, resource);
}

CUresult ds_cuGreenCtxGetDevResource(CUgreenCtx hCtx, CUdevResource *resource,
				     CUdevResourceType type)
{
	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (hCtx && resource && type == CU_DEV_RESOURCE_TYPE_SM && was_told(hCtx, NULL, resource))
		return CUDA_SUCCESS;
	return ds_real.cuGreenCtxGetDevResource(hCtx, resource, type);
}
DS_EXPORT(cuGreenCtxGetDevResource);

CUresult ds_cuCtxGetDevResource(CUcontext hCtx, CUdevResource *resource, CUdevResourceType type)
{
	CUcontext asked = ds_own_real(hCtx);

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!asked)
		ds_real.cuCtxGetCurrent(&asked);
	if (asked && resource && type == CU_DEV_RESOURCE_TYPE_SM && was_told(NULL, asked, resource))
		return CUDA_SUCCESS;
	return ds_real.cuCtxGetDevResource(ds_own_real(hCtx), resource, type);
}
DS_EXPORT(cuCtxGetDevResource);
