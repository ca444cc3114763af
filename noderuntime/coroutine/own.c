/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/own.h"

/* Contexts of the program's own: which there are, and which is current to whom. */

enum { STACK_MAX = 64 };

/* Never shortened, so that it can be read without a lock: another thread may have a dead one current. */
static _Atomic(struct ds_own *) all;
static atomic_uint n_alive;

/*
 * The upper part of the thread's stack of contexts, from the first of the program's own on; NULL stands
 * for a context that is what the driver has there.
 */
static __thread struct {
	unsigned depth;
	struct ds_own *stack[STACK_MAX];
} here;

struct ds_own *ds_own_find(CUcontext handle)
{
	if (!handle)
		return NULL;
	for (struct ds_own *own = atomic_load_explicit(&all, memory_order_acquire); own;
	     own = own->next)
		if (own->handle == handle && atomic_load(&own->alive))
			return own;
	return NULL;
}

void ds_own_add(struct ds_own *own)
{
	atomic_store(&own->alive, true);
	atomic_fetch_add(&n_alive, 1);
	own->next = atomic_load_explicit(&all, memory_order_relaxed);
	while (!atomic_compare_exchange_weak(&all, &own->next, own))
		;
}

bool ds_own_take(struct ds_own *own)
{
	if (!atomic_exchange(&own->alive, false))
		return false;
	if (here.depth && here.stack[here.depth - 1] == own)
		ds_own_pop(NULL);
	return true;
}

void ds_own_gone(void)
{
	atomic_fetch_sub(&n_alive, 1);
}

bool ds_own_any(void)
{
	return atomic_load_explicit(&n_alive, memory_order_acquire) > 0;
}

/* What the driver has current may have been changed by one of its private tables. */
struct ds_own *ds_own_current(void)
{
	CUcontext current = NULL;
	struct ds_own *own = here.depth ? here.stack[here.depth - 1] : NULL;

	if (!own || ds_real.cuCtxGetCurrent(&current) != CUDA_SUCCESS)
		return NULL;
	return current == own->primary || current == own->handle ? own : NULL;
}

/* ---- the stack of contexts ---- */

CUresult ds_own_push(struct ds_own *own)
{
	CUresult result;

	if (here.depth == STACK_MAX)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuCtxPushCurrent_v2(own->primary);
	if (result == CUDA_SUCCESS)
		here.stack[here.depth++] = own;
	return result;
}

CUresult ds_own_pop(CUcontext *context)
{
	CUcontext popped = NULL;
	CUresult result = ds_real.cuCtxPopCurrent_v2(&popped);

	if (result != CUDA_SUCCESS)
		return result;
	if (here.depth) {
		struct ds_own *own = here.stack[--here.depth];

		if (own && popped == own->primary)
			popped = own->handle;
	}
	if (context)
		*context = popped;
	return CUDA_SUCCESS;
}

CUresult ds_cuCtxPushCurrent_v2(CUcontext ctx)
{
	struct ds_own *own = ds_own_find(ctx);
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (own)
		return ds_own_push(own);
	if (here.depth == STACK_MAX)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuCtxPushCurrent_v2(ctx);
	if (result == CUDA_SUCCESS && here.depth)
		here.stack[here.depth++] = NULL;
	return result;
}
DS_EXPORT(cuCtxPushCurrent_v2);

CUresult ds_cuCtxPushCurrent(CUcontext ctx)
{
	return ds_cuCtxPushCurrent_v2(ctx);
}
DS_EXPORT(cuCtxPushCurrent);

CUresult ds_cuCtxPopCurrent_v2(CUcontext *pctx)
{
	return ds_driver_ready() ? ds_own_pop(pctx) : CUDA_ERROR_NOT_INITIALIZED;
}
DS_EXPORT(cuCtxPopCurrent_v2);

CUresult ds_cuCtxPopCurrent(CUcontext *pctx)
{
	return ds_cuCtxPopCurrent_v2(pctx);
}
DS_EXPORT(cuCtxPopCurrent);

/* NULL takes away what is current, anything else replaces it. */
CUresult ds_cuCtxSetCurrent(CUcontext ctx)
{
	struct ds_own *own = ds_own_find(ctx);
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuCtxSetCurrent(own ? own->primary : ctx);
	if (result != CUDA_SUCCESS || (!own && !here.depth))
		return result;
	if (!ctx) {
		here.depth--;
		return CUDA_SUCCESS;
	}
	if (!here.depth)
		here.depth = 1;
	here.stack[here.depth - 1] = own;
	if (!own && here.depth == 1)
		here.depth = 0;
	return CUDA_SUCCESS;
}
DS_EXPORT(cuCtxSetCurrent);

CUresult ds_cuCtxGetCurrent(CUcontext *pctx)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuCtxGetCurrent(pctx);
	if (result == CUDA_SUCCESS && pctx && here.depth)
		*pctx = ds_own_seen(*pctx);
	return result;
}
DS_EXPORT(cuCtxGetCurrent);
