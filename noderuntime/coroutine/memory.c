/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "noderuntime/coroutine/account.h"
#include "noderuntime/coroutine/own_things.h"
#include "noderuntime/coroutine/vctx.h"

#define MIB UINT64_C(1048576)

/* Written before `there_is_a_quota` is set, and by nobody after that. */
static struct ds_account account;
static char gpu_uuid[48];
static atomic_bool there_is_a_quota;

/* The number of the allocation's GPU, and of one that is not it; -1: not seen yet. */
static atomic_int our_device = -1, other_device = -1;

void ds_memory_open(const struct ds_session *session)
{
	if (!session->page->memory_quota)
		return;
	memcpy(gpu_uuid, session->page->gpu_uuid, sizeof(gpu_uuid));
	gpu_uuid[sizeof(gpu_uuid) - 1] = '\0';
	account = (struct ds_account){.book = session->book,
				      .slot = session->book_slot,
				      .limit = session->page->memory_quota,
				      .per_program = session->page->memory_per_program};
	atomic_store_explicit(&there_is_a_quota, true, memory_order_release);
}

void ds_memory_forked(void)
{
	atomic_store(&there_is_a_quota, false); /* the book is not inherited */
	account.book = NULL;
	ds_holdings_forget();
	ds_pools_forget();
	ds_graph_memory_forget();
}

static bool is_open(void)
{
	return atomic_load_explicit(&there_is_a_quota, memory_order_acquire);
}

static bool is_ours(CUdevice device)
{
	if (device == atomic_load_explicit(&our_device, memory_order_relaxed))
		return true;
	if (device == atomic_load_explicit(&other_device, memory_order_relaxed))
		return false;
	bool ours = ds_vctx_is_device(device, gpu_uuid);
	atomic_store_explicit(ours ? &our_device : &other_device, device, memory_order_relaxed);
	return ours;
}

bool ds_memory_counts(void)
{
	CUdevice device;

	return is_open() && ds_real.cuCtxGetDevice(&device) == CUDA_SUCCESS && is_ours(device);
}

bool ds_memory_counts_on(CUdevice device)
{
	return is_open() && is_ours(device);
}

bool ds_memory_info(struct ds_memory_info *info)
{
	struct ds_port_memory memory;
	const char *path = ds_vctx_port_path();

	if (is_open()) {
		*info = (struct ds_memory_info){.quota = account.limit,
						.used = ds_account_used(&account)};
		memcpy(info->gpu_uuid, gpu_uuid, sizeof(gpu_uuid));
		return true;
	}
	if (!*path || ds_session_ask_memory(path, &memory, NULL) < 0 || !memory.quota)
		return false;
	*info = (struct ds_memory_info){
	    .quota = memory.quota, .used = memory.used < memory.quota ? memory.used : memory.quota};
	memcpy(info->gpu_uuid, memory.gpu_uuid, sizeof(info->gpu_uuid));
	return true;
}

/*
 * Large pieces are of 2 MiB; small ones share such pages, so they count as they are, and the part of a page
 * that none of them uses is left to the reserve.
 */
uint64_t ds_memory_rounded(uint64_t bytes)
{
	const uint64_t to = bytes < MIB ? 512 : 2 * MIB;

	return bytes > UINT64_MAX - to ? bytes : (bytes + to - 1) / to * to;
}

static bool want(struct ds_payment *payment, uint64_t bytes, bool counted, bool trim)
{
	*payment = (struct ds_payment){.counted = counted, .wanted = bytes};
	if (!counted || ds_account_want(&account, bytes))
		return true;
	if (trim) {
		/* As the driver does on a full GPU, before it gives up. */
		ds_pools_trim();
		if (ds_account_want(&account, bytes))
			return true;
	}
	payment->counted = false;
	return false;
}

bool ds_memory_want(struct ds_payment *payment, uint64_t bytes)
{
	return want(payment, bytes, ds_memory_counts(), true);
}

bool ds_memory_want_on(struct ds_payment *payment, uint64_t bytes, CUdevice device)
{
	return want(payment, bytes, ds_memory_counts_on(device), true);
}

bool ds_memory_want_quietly(struct ds_payment *payment, uint64_t bytes)
{
	return want(payment, bytes, ds_memory_counts(), false);
}

/* It goes with the context that it was made in, if that is one of the program's own. */
static bool thing_of(enum ds_holding_kind kind, enum ds_thing *thing)
{
	switch (kind) {
	case DS_HOLD_ADDRESS:
		*thing = DS_THING_ADDRESS;
		return true;
	case DS_HOLD_ARRAY:
		*thing = DS_THING_ARRAY;
		return true;
	case DS_HOLD_MIPMAP:
		*thing = DS_THING_MIPMAP;
		return true;
	case DS_HOLD_NONE: /* host memory */
		*thing = DS_THING_HOST;
		return true;
	default:
		return false;
	}
}

static void made(CUresult result, const struct ds_holding *holding)
{
	enum ds_thing thing;

	if (result == CUDA_SUCCESS && holding->kind != DS_HOLD_NONE &&
	    thing_of(holding->kind, &thing))
		ds_own_made(thing, holding->key);
}

void ds_memory_have(const struct ds_payment *payment, CUresult result,
		    const struct ds_holding *holding)
{
	made(result, holding);
	if (!payment->counted)
		return;
	/* What cannot be noted cannot be seen to be freed either: better not counted than for ever. */
	if (result != CUDA_SUCCESS || !ds_holdings_put(holding))
		ds_account_have(&account, payment->wanted, 0);
	else
		ds_account_have(&account, payment->wanted, holding->bytes);
}

struct ds_holding ds_memory_free_begin(enum ds_holding_kind kind, uint64_t key)
{
	struct ds_holding holding;
	enum ds_thing thing;

	if (thing_of(kind, &thing))
		ds_own_unmade(thing, key);
	if (!is_open() ||
	    (!ds_holdings_take(kind, key, &holding) &&
	     (kind != DS_HOLD_ADDRESS || !ds_holdings_take(DS_HOLD_FROM_POOL, key, &holding))))
		holding = (struct ds_holding){.kind = DS_HOLD_NONE};
	return holding;
}

void ds_memory_free_end(const struct ds_holding *holding, CUresult result)
{
	if (holding->kind == DS_HOLD_NONE)
		return;
	if (result != CUDA_SUCCESS)
		ds_holdings_put(holding);
	else if (holding->kind == DS_HOLD_FROM_POOL)
		ds_pools_freed(holding);
	else
		ds_account_free(&account, holding->bytes);
}

void ds_memory_changed(uint64_t before, uint64_t after, uint64_t wanted)
{
	if (after >= before) {
		ds_account_have(&account, wanted, after - before);
	} else {
		ds_account_free(&account, before - after);
		ds_account_have(&account, wanted, 0);
	}
}

bool ds_memory_over(void)
{
	return ds_account_over(&account);
}

/* What is in the context is gone; physical and imported memory outlive it. */
void ds_memory_dropped(void)
{
	static const enum ds_holding_kind kinds[] = {DS_HOLD_ADDRESS, DS_HOLD_ARRAY,
						     DS_HOLD_MIPMAP};
	struct ds_holding gone;

	if (!is_open())
		return;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		while (ds_holdings_take_within(kinds[i], 0, UINT64_MAX, &gone))
			ds_account_free(&account, gone.bytes);
	ds_pools_synchronised();
}

/* -- linear memory --------------------------------------------------------------------------- */

DS_ALLOCATION(cuMemAlloc_v2, (CUdeviceptr * dptr, size_t bytesize), (dptr, bytesize),
	      ds_memory_rounded(bytesize), DS_HOLD_ADDRESS, *dptr);

/* No driver's pitch is known to be coarser. What it chose is what counts in the end. */
static uint64_t pitched(uint64_t pitch, uint64_t height)
{
	return height && pitch > UINT64_MAX / height ? UINT64_MAX
						     : ds_memory_rounded(pitch * height);
}

CUresult ds_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
			       size_t Height, unsigned int ElementSizeBytes)
{
	const uint64_t width = WidthInBytes > UINT64_MAX - 511
				   ? UINT64_MAX
				   : ((uint64_t)WidthInBytes + 511) / 512 * 512;
	struct ds_holding holding = {.kind = DS_HOLD_ADDRESS};
	struct ds_payment payment;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!ds_memory_want(&payment, pitched(width, Height)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
	if (result == CUDA_SUCCESS) {
		holding.key = *dptr;
		holding.bytes = pitched(*pPitch, Height);
	}
	ds_memory_have(&payment, result, &holding);
	return result;
}
DS_EXPORT(cuMemAllocPitch_v2);

/*
 * It counts from here on, though pages come and go: what may come must have its place, or the pages of
 * neighbours would go for it.
 */
DS_ALLOCATION(cuMemAllocManaged, (CUdeviceptr * dptr, size_t bytesize, unsigned int flags),
	      (dptr, bytesize, flags), ds_memory_rounded(bytesize), DS_HOLD_ADDRESS, *dptr);

/* -- what the program can ask ------------------------------------------------------------------ */

CUresult ds_cuMemGetInfo_v2(size_t *free, size_t *total)
{
	size_t real_free = 0, real_total = 0;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuMemGetInfo_v2(&real_free, &real_total);
	if (result == CUDA_SUCCESS && ds_memory_counts()) {
		const uint64_t left = account.limit - ds_account_used(&account);

		real_free = left < real_free ? left : real_free;
		real_total = account.limit < real_total ? account.limit : real_total;
	}
	if (result == CUDA_SUCCESS && free)
		*free = real_free;
	if (result == CUDA_SUCCESS && total)
		*total = real_total;
	return result;
}
DS_EXPORT(cuMemGetInfo_v2);

CUresult ds_cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
	struct ds_memory_info info;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuDeviceTotalMem_v2(bytes, dev);
	if (result == CUDA_SUCCESS && ds_memory_info(&info) &&
	    ds_vctx_is_device(dev, info.gpu_uuid) && info.quota < *bytes)
		*bytes = info.quota;
	return result;
}
DS_EXPORT(cuDeviceTotalMem_v2);
