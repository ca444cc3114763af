/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_MEMORY_H
#define DETSHARE_COROUTINE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/holdings.h"
#include "noderuntime/coroutine/session.h"

/*
 * The job's quota of GPU memory, as the program meets it: what it allocates is counted in the job's book,
 * what would go beyond the quota fails as on a full GPU, and what it can ask shows the quota as the GPU's
 * memory. Without a quota (no node runtime, another device) every call goes to the driver as it came.
 *
 * Counted is what takes memory of the allocation's GPU: linear memory, also managed; arrays; physical
 * memory (cuMemCreate), however often it is mapped; what pools hold, used or not; the memory of graphs that
 * run; imports of external memory. Not counted: host memory, addresses without memory, what another
 * process exported (it pays), and what the driver needs itself (contexts, code, local memory), which the
 * reserve on the node is for.
 */

/* The session is open: count from now on. */
void ds_memory_open(const struct ds_session *session);

/* In a forked child: it has none of the parent's memory. Async-signal-safe. */
void ds_memory_forked(void);

/* The device's primary context was reset: what lay in it is gone. */
void ds_memory_dropped(void);

/* What a job has of a GPU's memory. */
struct ds_memory_info {
	uint64_t quota, used;
	char gpu_uuid[48];
};

/*
 * What this job has; asked of the node runtime where this process is none of its programs (yet). False:
 * no quota.
 */
bool ds_memory_info(struct ds_memory_info *info);

/* Something that is about to be allocated. */
struct ds_payment {
	bool counted; /* on the allocation's GPU, and there is a quota */
	uint64_t wanted;
};

/* Whether the current context is on the allocation's GPU, and what it allocates is counted. */
bool ds_memory_counts(void);

/* The same of a device. */
bool ds_memory_counts_on(CUdevice device);

/*
 * Want `bytes` in the current context. False: that is beyond the quota, also after what pools do not use
 * was given back.
 */
bool ds_memory_want(struct ds_payment *payment, uint64_t bytes);

/* The same on a device, whatever context is current. */
bool ds_memory_want_on(struct ds_payment *payment, uint64_t bytes, CUdevice device);

/* The same as ds_memory_want(), without giving anything back for it. */
bool ds_memory_want_quietly(struct ds_payment *payment, uint64_t bytes);

/* The driver answered: `holding` is held if it said CUDA_SUCCESS; bytes as they came out. */
void ds_memory_have(const struct ds_payment *payment, CUresult result,
		    const struct ds_holding *holding);

/*
 * The stand-in of a call that allocates: it wants `bytes_` of what is asked, and holds them under `key_`,
 * an expression that is evaluated only when the driver has answered with success.
 */
#define DS_ALLOCATION(symbol, params, args, bytes_, kind_, key_)                  \
	CUresult ds_##symbol params                                               \
	{                                                                         \
		struct ds_holding holding = {.kind = (kind_), .bytes = (bytes_)}; \
		struct ds_payment payment;                                        \
		CUresult result;                                                  \
                                                                                  \
		if (!ds_driver_ready())                                           \
			return CUDA_ERROR_NOT_INITIALIZED;                        \
		if (!ds_memory_want(&payment, holding.bytes))                     \
			return CUDA_ERROR_OUT_OF_MEMORY;                          \
		result = ds_real.symbol args;                                     \
		if (result == CUDA_SUCCESS)                                       \
			holding.key = (uint64_t)(key_);                           \
		ds_memory_have(&payment, result, &holding);                       \
		return result;                                                    \
	}                                                                         \
	DS_EXPORT(symbol)

/* Round as the driver does: what the GPU gives for so many bytes. Pure. */
uint64_t ds_memory_rounded(uint64_t bytes);

/*
 * About to free: take it out of the books, before the driver can give the same handle to another thread.
 * Afterwards say what the driver answered.
 */
struct ds_holding ds_memory_free_begin(enum ds_holding_kind kind, uint64_t key);
void ds_memory_free_end(const struct ds_holding *holding, CUresult result);

/* Bytes become free or held without a handle of their own. */
void ds_memory_changed(uint64_t before, uint64_t after, uint64_t wanted);

/* Whether the job is beyond its quota now. */
bool ds_memory_over(void);

/* limits.c: the driver's cuCtxSetLimit, and what that takes of the GPU's memory is counted. */
CUresult ds_memory_set_limit(CUlimit limit, size_t value);

/* -- pools.c ------------------------------------------------------------------------------------ */

/* Give the driver back what pools and graphs of this process do not use. */
void ds_pools_trim(void);

/* Work may have ended whose memory pools have given back by themselves. Cheap if there are none. */
void ds_pools_synchronised(void);

/* In a forked child: it has none of them. */
void ds_pools_forget(void);

/* A DS_HOLD_FROM_POOL is free. */
void ds_pools_freed(const struct ds_holding *holding);

/* -- graph_memory.c: what memory nodes want --------------------------------------------------------- */

/* Whether an executable was made whose memory counts. */
bool ds_graph_memory_any(void);

/* An executable was made of `graph`; one is destroyed. */
void ds_graph_memory_made(CUgraphExec exec, CUgraph graph);
void ds_graph_memory_gone(CUgraphExec exec);

/*
 * About to run an executable: want what its memory nodes will. CUDA_SUCCESS, or what the launch must fail
 * with. Afterwards see what it took.
 */
CUresult ds_graph_memory_launch_begin(CUgraphExec exec, struct ds_payment *payment);
void ds_graph_memory_launch_end(const struct ds_payment *payment);

/* Give the driver back what graphs that ran do not use. In relaxed capture mode. */
void ds_graph_memory_trim(void);

/* In a forked child: it has no graphs. */
void ds_graph_memory_forget(void);

#endif
