/* SPDX-License-Identifier: Apache-2.0 */
/* What a program asks of its context, and prefers for it. */
#include "tests/emugpu/context.h"

/* What a context is asked or told, and nothing else comes of it. */
#define CONTEXT_CALL(name, params, begin, work) \
	CUresult CUDAAPI name params            \
	{                                       \
		struct CUctx_st *ctx;           \
		CUresult rc = begin;            \
                                                \
		if (rc)                         \
			return rc;              \
		work;                           \
		emu_exit();                     \
		return CUDA_SUCCESS;            \
	}

#define GET(name, type, value)                                                                     \
	CONTEXT_CALL(name, (type * out), out ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE, \
		     *out = (value))
#define GET_OF(name, type, value)                                                    \
	CONTEXT_CALL(name, (CUcontext handle, type * out),                           \
		     out ? emu_begin_named(handle, &ctx) : CUDA_ERROR_INVALID_VALUE, \
		     *out = (value))

GET(cuCtxGetFlags, unsigned, ctx->flags)
GET(cuCtxGetCacheConfig, CUfunc_cache, ctx->root->cache)
GET(cuCtxGetSharedMemConfig, CUsharedconfig, ctx->root->shared)
GET_OF(cuCtxGetId, unsigned long long, ctx->id)
GET_OF(cuCtxGetApiVersion, unsigned, 3020)
CONTEXT_CALL(cuCtxSetFlags, (unsigned flags),
	     emu_are_context_flags(flags) ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE,
	     ctx->flags = flags)
CONTEXT_CALL(cuCtxSetCacheConfig, (CUfunc_cache config), emu_begin_context(&ctx),
	     ctx->root->cache = config)
/* Without an effect since Maxwell. */
CONTEXT_CALL(cuCtxSetSharedMemConfig, (CUsharedconfig config), emu_begin_context(&ctx),
	     (void)config)

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device)
{
	struct CUctx_st *ctx;
	CUresult rc = device ? emu_begin() : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = emu_current_or_destroyed(&ctx);
	if (!rc)
		*device = emu_device_number(ctx->dev);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	if (least)
		*least = 0;
	if (greatest)
		*greatest = -5;
	emu_exit();
	return CUDA_SUCCESS;
}

/* Limits and preferences are those of a context and its green ones, and mean nothing here. */
CUresult CUDAAPI cuCtxSetLimit(CUlimit limit, size_t value)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	if ((unsigned)limit < CU_LIMIT_MAX)
		ctx->root->limits[limit] = (value + 15) / 16 * 16;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuCtxGetLimit(size_t *value, CUlimit limit)
{
	struct CUctx_st *ctx;
	CUresult rc = value ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if ((unsigned)limit < CU_LIMIT_MAX)
		*value = ctx->root->limits[limit];
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

/* Under MPS only. */
CUresult CUDAAPI cuDeviceGetExecAffinitySupport(int *supported, CUexecAffinityType type,
						CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = supported && type == CU_EXEC_AFFINITY_TYPE_SM_COUNT
			  ? emu_begin_device(number, &dev)
			  : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*supported = emu.server_pid != 0;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetExecAffinity(CUexecAffinityParam *affinity, CUexecAffinityType type)
{
	struct CUctx_st *ctx;
	CUresult rc = affinity && type == CU_EXEC_AFFINITY_TYPE_SM_COUNT ? emu_begin_context(&ctx)
									 : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	affinity->type = type;
	affinity->param.smCount.val =
	    ctx->affinity_sms ? ctx->affinity_sms : ctx->dev->n_visible_sms;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevResource(CUcontext handle, CUdevResource *resource,
				     CUdevResourceType type)
{
	struct CUctx_st *ctx;
	CUresult rc = resource ? emu_begin_named(handle, &ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (type == CU_DEV_RESOURCE_TYPE_SM)
		*resource = ctx->resource;
	else
		rc = CUDA_ERROR_INVALID_RESOURCE_TYPE;
	emu_exit();
	return rc;
}
