/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_PCTX_H
#define DETSHARE_COROUTINE_PCTX_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/error.h"
#include "common/groups.h"
#include "noderuntime/coroutine/driver.h"

enum {
	DS_PCTX_MAX = 16,   /* that may exist at once, held and pinned ones included */
	DS_PCTX_CACHED = 8, /* kept while nobody holds them */
};

/*
 * A physical context: a green context over some SM groups of one device. While it exists its fields do
 * not change, except the counts, which remap.h explains.
 */
struct ds_pctx {
	CUgreenCtx green;
	/* The same, as calls that take a CUcontext know it. NULL: none here. */
	_Atomic(CUcontext) context;
	struct ds_groups groups;
	_Atomic(CUstream) uploads; /* for graphs (graph_upload.c); NULL: none yet */
	unsigned slot;             /* its number among the virtual context's, below DS_PCTX_MAX */
	atomic_uint holds;
	atomic_uint pins;
	uint64_t last_target; /* the epoch in which it was last the target */
};

/*
 * Make a green context over `groups` of `device`, whose SMs must divide as `shape` says (group i is
 * the same SMs in every process only then). Costs about a millisecond and some MiB of device memory.
 * Sets green, context and groups. Returns 0 or -1 with the reason.
 */
int ds_pctx_create(struct ds_pctx *pctx, CUdevice device, const struct ds_gpu_shape *shape,
		   const struct ds_groups *groups, struct ds_error *err);

/* Work already on its streams runs to its end. The slot number stays. */
void ds_pctx_destroy(struct ds_pctx *pctx);

/* "CUDA_ERROR_..." */
const char *ds_cuda_error(CUresult result);

#endif
