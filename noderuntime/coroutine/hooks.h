/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_HOOKS_H
#define DETSHARE_COROUTINE_HOOKS_H

#include <stdbool.h>
#include <stddef.h>

#include "noderuntime/coroutine/cuda_api.h"

/* The newest CUDA version whose driver calls the table knows. */
#define DS_TABLE_VERSION 13050 /* check_hooks.py reads it here */

/* One entry point of the driver that we stand in for. */
struct ds_hook {
	const char *symbol; /* as libcuda exports it: "cuMemcpyHtoDAsync_v2_ptsz" */
	const char *base;   /* as cuGetProcAddress knows it: "cuMemcpyHtoDAsync" */
	int since;          /* the first version for which `base` means this entry point */
	bool per_thread;    /* its default stream is the thread's own */
	void (*stand_in)(void);
	size_t real_offset; /* of the driver's own in struct ds_real */
};

extern const struct ds_hook ds_hooks[];
extern const size_t ds_n_hooks;

/* Parameter lists cannot stand in parentheses. NOLINTBEGIN(bugprone-macro-parentheses) */

/* The driver's own functions. Valid once ds_driver_ready() returned true. */
struct ds_real {
#define DS_STREAM_(use, symbol, base, since, per_thread, params, stream, args) \
	CUresult(*symbol) params;
#define DS_SYNC_(symbol, base, since, per_thread, params, args, async, wait) \
	CUresult(*symbol) params;
#define DS_SETTLE_(symbol, base, since, per_thread, params, args) CUresult(*symbol) params;
#define DS_FREE_(symbol, base, since, params, args, holding)      CUresult(*symbol) params;
#define DS_SPECIAL_(symbol, base, since, per_thread, params)      CUresult(*symbol) params;
#define DS_CALL(symbol, params)                                   CUresult(*symbol) params;
#include "noderuntime/coroutine/hooks.def"
};

/* The stand-ins, hidden; DS_EXPORT gives each the driver's name for programs linked to libcuda. */
#define DS_STREAM_(use, symbol, base, since, per_thread, params, stream, args) \
	CUresult ds_##symbol params;
#define DS_SYNC_(symbol, base, since, per_thread, params, args, async, wait) \
	CUresult ds_##symbol params;
#define DS_SETTLE_(symbol, base, since, per_thread, params, args) CUresult ds_##symbol params;
#define DS_FREE_(symbol, base, since, params, args, holding)      CUresult ds_##symbol params;
#define DS_SPECIAL_(symbol, base, since, per_thread, params)      CUresult ds_##symbol params;
#include "noderuntime/coroutine/hooks.def"

/* NOLINTEND(bugprone-macro-parentheses) */

/*
 * Export the stand-in ds_SYMBOL as SYMBOL. An alias, so that our own references never leave the
 * library: they must not be captured by another library that exports the same name. It is declared
 * under a third C name because cuda.h has declared the driver's (with the same type: see table.c).
 */
#define DS_EXPORT(symbol)                                                  \
	extern __typeof__(ds_##symbol) ds_export_##symbol __asm__(#symbol) \
	    __attribute__((alias("ds_" #symbol), visibility("default")))

/* The hook for a symbol of libcuda, or NULL. Pure. */
const struct ds_hook *ds_hook_by_symbol(const char *symbol);

/*
 * The hook for what cuGetProcAddress(base, version) means with legacy or per-thread default streams,
 * or NULL: not in the table, or newer than the table. Pure.
 */
const struct ds_hook *ds_hook_by_version(const char *base, int version, bool per_thread);

#endif
