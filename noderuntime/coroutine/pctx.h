/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_PCTX_H
#define DETSHARE_COROUTINE_PCTX_H

#include "common/error.h"
#include "common/groups.h"
#include "noderuntime/coroutine/driver.h"

/* A physical context: a green context over some SM groups of one device. */
struct ds_pctx {
	CUgreenCtx green;
	CUcontext context; /* the same, as calls that take a CUcontext know it */
};

/*
 * Make a green context over `groups` of `device`, whose SMs must divide as `shape` says (group i is
 * the same SMs in every process only then). Costs about a millisecond and some MiB of device memory.
 * Returns 0 or -1 with the reason.
 */
int ds_pctx_create(struct ds_pctx *pctx, CUdevice device, const struct ds_gpu_shape *shape,
		   const struct ds_groups *groups, struct ds_error *err);

/* Work already on its streams runs to its end. */
void ds_pctx_destroy(struct ds_pctx *pctx);

/* "CUDA_ERROR_..." */
const char *ds_cuda_error(CUresult result);

#endif
