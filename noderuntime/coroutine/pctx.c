/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/pctx.h"

#include <string.h>

const char *ds_cuda_error(CUresult result)
{
	const char *name = NULL;

	if (ds_real.cuGetErrorName(result, &name) != CUDA_SUCCESS || !name)
		return "unknown CUDA error";
	return name;
}

/*
 * All resources of one descriptor must come from one split, and only the same split numbers the
 * groups alike everywhere: so this is always the whole device by the group's size.
 */
static int choose(CUdevice device, const struct ds_gpu_shape *shape, const struct ds_groups *groups,
		  CUdevResource chosen[DS_GROUPS_MAX], unsigned *n_chosen, struct ds_error *err)
{
	CUdevResource split[DS_GROUPS_MAX];
	CUdevResource all, rest = {.type = CU_DEV_RESOURCE_TYPE_INVALID};
	unsigned n = DS_GROUPS_MAX;
	CUresult result;

	result = ds_real.cuDeviceGetDevResource(device, &all, CU_DEV_RESOURCE_TYPE_SM);
	if (result != CUDA_SUCCESS)
		return ds_fail(err, "cannot read the SMs of the device: %s", ds_cuda_error(result));
	result = ds_real.cuDevSmResourceSplitByCount(split, &n, &all, &rest, 0, shape->group_sms);
	if (result != CUDA_SUCCESS)
		return ds_fail(err, "cannot split %u SMs into groups of %u: %s", all.sm.smCount,
			       shape->group_sms, ds_cuda_error(result));
	if (n != shape->n_groups || all.sm.smCount != n * shape->group_sms + shape->rest_sms)
		return ds_fail(
		    err,
		    "the device has %u SMs in %u groups, but the node runtime counted %u "
		    "groups of %u and a rest of %u: remove its topology file and let it "
		    "look again",
		    all.sm.smCount, n, shape->n_groups, shape->group_sms, shape->rest_sms);
	*n_chosen = 0;
	for (unsigned i = 0; i < n; i++)
		if (ds_groups_has(groups, i))
			chosen[(*n_chosen)++] = split[i];
	if (shape->rest_sms && ds_groups_has(groups, n))
		chosen[(*n_chosen)++] = rest;
	return 0;
}

int ds_pctx_create(struct ds_pctx *pctx, CUdevice device, const struct ds_gpu_shape *shape,
		   const struct ds_groups *groups, struct ds_error *err)
{
	CUdevResource chosen[DS_GROUPS_MAX];
	CUdevResourceDesc description;
	unsigned n_chosen = 0;
	CUcontext context = NULL;
	CUresult result;

	if (choose(device, shape, groups, chosen, &n_chosen, err) < 0)
		return -1;
	result = ds_real.cuDevResourceGenerateDesc(&description, chosen, n_chosen);
	pctx->green = NULL;
	if (result == CUDA_SUCCESS)
		result = ds_real.cuGreenCtxCreate(&pctx->green, description, device,
						  CU_GREEN_CTX_DEFAULT_STREAM);
	if (result == CUDA_SUCCESS)
		result = ds_real.cuCtxFromGreenCtx(&context, pctx->green);
	if (result != CUDA_SUCCESS) {
		ds_pctx_destroy(pctx);
		return ds_fail(err, "cannot make a green context over %u SM groups: %s", n_chosen,
			       ds_cuda_error(result));
	}
	pctx->groups = *groups;
	atomic_store_explicit(&pctx->context, context, memory_order_release);
	return 0;
}

void ds_pctx_destroy(struct ds_pctx *pctx)
{
	if (pctx->uploads)
		ds_real.cuStreamDestroy_v2(pctx->uploads);
	pctx->uploads = NULL;
	if (pctx->green)
		ds_real.cuGreenCtxDestroy(pctx->green);
	pctx->green = NULL;
	atomic_store_explicit(&pctx->context, NULL, memory_order_release);
}
