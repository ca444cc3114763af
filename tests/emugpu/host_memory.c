/* SPDX-License-Identifier: Apache-2.0 */
/* Host memory that the driver gives, or is told of. */
#include "tests/emugpu/graph.h"
#include "tests/emugpu/ranges.h"

#include <sys/mman.h>

CUresult CUDAAPI cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = out && !(flags & ~7u) ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = emu_memory_allocate(ctx, bytes, EMU_RANGE_HOST, flags, out);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAllocHost(void **out, size_t bytes)
{
	return cuMemHostAlloc(out, bytes, 0);
}

CUresult CUDAAPI cuMemFreeHost(void *p)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_unsafe(&ctx);
	struct emu_range r;

	if (rc)
		return rc;
	emu_wait_context(ctx->root);
	if (emu_range_take((uintptr_t)p, EMU_RANGE_HOST, &r))
		munmap((void *)r.base, r.mapped);
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = p && bytes ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct emu_range r;

	if (rc)
		return rc;
	if (emu_range_find((uintptr_t)p, 1, &r))
		rc = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	else if (!emu_range_add((struct emu_range){.base = (uintptr_t)p,
						   .bytes = bytes,
						   .kind = EMU_RANGE_REGISTERED,
						   .dev = ctx->dev,
						   .root = ctx->root,
						   .flags = flags}))
		rc = CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostUnregister(void *p)
{
	struct CUctx_st *ctx;
	CUresult rc = p ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct emu_range r;

	if (rc)
		return rc;
	emu_wait_context(ctx->root);
	if (!emu_range_take((uintptr_t)p, EMU_RANGE_REGISTERED, &r))
		rc = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *out, void *p, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = out && !flags ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct emu_range r;

	if (rc)
		return rc;
	if (emu_range_find((uintptr_t)p, 1, &r) && r.kind != EMU_RANGE_DEVICE)
		*out = (CUdeviceptr)p;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostGetFlags(unsigned *flags, void *p)
{
	struct CUctx_st *ctx;
	CUresult rc = flags ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct emu_range r;

	if (rc)
		return rc;
	if (emu_range_find((uintptr_t)p, 1, &r) && r.kind != EMU_RANGE_DEVICE)
		*flags = r.flags;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}
