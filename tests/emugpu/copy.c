/* SPDX-License-Identifier: Apache-2.0 */
/* Copies, of rows as well, in stream order or at once. */
#include "tests/emugpu/graph.h"
#include "tests/emugpu/ranges.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>

enum { TO_DEVICE = 1, FROM_DEVICE = 2, SYNC = 4 };

static size_t extent(const struct emu_copy *c, size_t pitch, size_t slice)
{
	return (c->depth - 1) * slice + (c->height - 1) * pitch + c->width;
}

/* The rows of a copy whose source the program may change when the call has returned. */
static bool stage(struct emu_copy *c)
{
	struct emu_copy packed = *c;

	packed.staged = malloc(c->width * c->height * c->depth);
	if (!packed.staged)
		return false;
	for (size_t z = 0; z < c->depth; z++)
		for (size_t y = 0; y < c->height; y++)
			memcpy((char *)packed.staged + (z * c->height + y) * c->width,
			       c->from + z * c->from_slice + y * c->from_pitch, c->width);
	packed.from = packed.staged;
	packed.from_pitch = c->width;
	packed.from_slice = c->width * c->height;
	*c = packed;
	return true;
}

/*
 * A copy in a stream. Memory that the driver does not know is pageable: a copy from it is staged
 * before the call returns, a copy to it returns when it is done. A captured copy does neither.
 */
static unsigned long long range_of(const void *address)
{
	struct emu_range range;

	return emu_range_find((uintptr_t)address, 1, &range) ? range.id : 0;
}

void emu_copy_find(struct emu_copy *copy)
{
	copy->to_id = range_of(copy->to);
	copy->from_id = range_of(copy->from);
}

bool emu_copy_is_there(const struct emu_copy *copy)
{
	return (!copy->to_id || copy->to_id == range_of(copy->to)) &&
	       (!copy->from_id || copy->from_id == range_of(copy->from));
}

static CUresult copy_shape(const struct emu_copy *c, CUstream handle, unsigned how)
{
	struct CUstream_st *s;
	CUresult rc = how & SYNC ? emu_begin_wait(handle, &s) : emu_begin_work(handle, &s);
	bool to_known, from_known, wait;
	struct emu_op *op;

	if (rc)
		return rc;
	if (!c->width || !c->height || !c->depth)
		goto done;
	to_known = emu_is_range(c->to, extent(c, c->to_pitch, c->to_slice), false);
	from_known = emu_is_range(c->from, extent(c, c->from_pitch, c->from_slice), false);
	rc = CUDA_ERROR_INVALID_VALUE;
	if (!c->to || !c->from || ((how & TO_DEVICE) && !to_known) ||
	    ((how & FROM_DEVICE) && !from_known))
		goto done;
	rc = CUDA_ERROR_OUT_OF_MEMORY;
	op = emu_op_new(EMU_OP_COPY, s);
	if (!op)
		goto done;
	wait = !s->capture && ((how & SYNC) || !to_known);
	op->work.u.copy = *c;
	if (s->capture)
		emu_copy_find(&op->work.u.copy);
	if (!from_known && !wait && !s->capture && !stage(&op->work.u.copy)) {
		emu_op_unref(op);
		goto done;
	}
	emu_op_ref(op);
	rc = emu_op_submit(op, s);
	if (!rc && wait)
		rc = emu_wait_op(op);
	emu_op_unref(op);
done:
	emu_exit();
	return rc;
}

static CUresult copy(void *to, const void *from, size_t bytes, CUstream handle, unsigned how)
{
	return copy_shape(
	    &(struct emu_copy){.to = to, .from = from, .width = bytes, .height = 1, .depth = 1},
	    handle, how);
}

#define PT CU_STREAM_PER_THREAD

CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t n)
{
	return copy((void *)to, (void *)from, n, NULL, SYNC);
}
EMU_TWIN(cuMemcpy_ptds, (CUdeviceptr to, CUdeviceptr from, size_t n),
	 copy((void *)to, (void *)from, n, PT, SYNC))

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t n)
{
	return copy((void *)to, from, n, NULL, TO_DEVICE | SYNC);
}
EMU_TWIN(cuMemcpyHtoD_v2_ptds, (CUdeviceptr to, const void *from, size_t n),
	 copy((void *)to, from, n, PT, TO_DEVICE | SYNC))

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t n)
{
	return copy(to, (void *)from, n, NULL, FROM_DEVICE | SYNC);
}
EMU_TWIN(cuMemcpyDtoH_v2_ptds, (void *to, CUdeviceptr from, size_t n),
	 copy(to, (void *)from, n, PT, FROM_DEVICE | SYNC))

/* Between device memories the host does not wait. */
CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t n)
{
	return copy((void *)to, (void *)from, n, NULL, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyDtoD_v2_ptds, (CUdeviceptr to, CUdeviceptr from, size_t n),
	 copy((void *)to, (void *)from, n, PT, TO_DEVICE | FROM_DEVICE))

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s)
{
	return copy((void *)to, (void *)from, n, s, 0);
}
EMU_TWIN(cuMemcpyAsync_ptsz, (CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s),
	 cuMemcpyAsync(to, from, n, emu_per_thread(s)))

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t n, CUstream s)
{
	return copy((void *)to, from, n, s, TO_DEVICE);
}
EMU_TWIN(cuMemcpyHtoDAsync_v2_ptsz, (CUdeviceptr to, const void *from, size_t n, CUstream s),
	 copy((void *)to, from, n, emu_per_thread(s), TO_DEVICE))

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t n, CUstream s)
{
	return copy(to, (void *)from, n, s, FROM_DEVICE);
}
EMU_TWIN(cuMemcpyDtoHAsync_v2_ptsz, (void *to, CUdeviceptr from, size_t n, CUstream s),
	 copy(to, (void *)from, n, emu_per_thread(s), FROM_DEVICE))

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s)
{
	return copy((void *)to, (void *)from, n, s, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyDtoDAsync_v2_ptsz, (CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s),
	 copy((void *)to, (void *)from, n, emu_per_thread(s), TO_DEVICE | FROM_DEVICE))

/* One address space: the contexts say nothing that the addresses do not. */
CUresult CUDAAPI cuMemcpyPeer(CUdeviceptr to, CUcontext to_ctx, CUdeviceptr from,
			      CUcontext from_ctx, size_t n)
{
	return copy((void *)to, (void *)from, n, NULL, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyPeer_ptds,
	 (CUdeviceptr to, CUcontext tc, CUdeviceptr from, CUcontext fc, size_t n),
	 copy((void *)to, (void *)from, n, PT, TO_DEVICE | FROM_DEVICE))

CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_ctx, CUdeviceptr from,
				   CUcontext from_ctx, size_t n, CUstream s)
{
	return copy((void *)to, (void *)from, n, s, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyPeerAsync_ptsz,
	 (CUdeviceptr to, CUcontext tc, CUdeviceptr from, CUcontext fc, size_t n, CUstream s),
	 cuMemcpyPeerAsync(to, tc, from, fc, n, emu_per_thread(s)))

static bool is_array(CUmemorytype type)
{
	return type == CU_MEMORYTYPE_ARRAY;
}

CUresult emu_copy_shape(const CUDA_MEMCPY3D *c, struct emu_copy *shape)
{
	char *to = c->dstMemoryType == CU_MEMORYTYPE_HOST ? c->dstHost : (void *)c->dstDevice;
	const char *from =
	    c->srcMemoryType == CU_MEMORYTYPE_HOST ? c->srcHost : (void *)c->srcDevice;

	if (is_array(c->srcMemoryType) || is_array(c->dstMemoryType))
		return CUDA_ERROR_NOT_SUPPORTED;
	if (!from || !to)
		return CUDA_ERROR_INVALID_VALUE;
	*shape = (struct emu_copy){.width = c->WidthInBytes,
				   .height = c->Height,
				   .depth = c->Depth,
				   .to_pitch = c->dstPitch,
				   .to_slice = c->dstPitch * c->dstHeight,
				   .from_pitch = c->srcPitch,
				   .from_slice = c->srcPitch * c->srcHeight};
	shape->to = to + c->dstZ * shape->to_slice + c->dstY * c->dstPitch + c->dstXInBytes;
	shape->from = from + c->srcZ * shape->from_slice + c->srcY * c->srcPitch + c->srcXInBytes;
	return CUDA_SUCCESS;
}

void emu_copy_describe(const struct emu_copy *shape, CUDA_MEMCPY3D *c)
{
	struct emu_range r;

	*c = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_HOST,
			     .srcHost = shape->from,
			     .srcPitch = shape->from_pitch,
			     .srcHeight =
				 shape->from_pitch ? shape->from_slice / shape->from_pitch : 0,
			     .dstMemoryType = CU_MEMORYTYPE_HOST,
			     .dstHost = shape->to,
			     .dstPitch = shape->to_pitch,
			     .dstHeight = shape->to_pitch ? shape->to_slice / shape->to_pitch : 0,
			     .WidthInBytes = shape->width,
			     .Height = shape->height,
			     .Depth = shape->depth};
	if (emu_range_find((uintptr_t)shape->from, 1, &r) && r.kind == EMU_RANGE_DEVICE) {
		c->srcMemoryType = CU_MEMORYTYPE_DEVICE;
		c->srcHost = NULL;
		c->srcDevice = (CUdeviceptr)shape->from;
	}
	if (emu_range_find((uintptr_t)shape->to, 1, &r) && r.kind == EMU_RANGE_DEVICE) {
		c->dstMemoryType = CU_MEMORYTYPE_DEVICE;
		c->dstHost = NULL;
		c->dstDevice = (CUdeviceptr)shape->to;
	}
}

static CUresult copy_3d(const CUDA_MEMCPY3D *c, CUstream stream, unsigned how)
{
	struct emu_copy shape;
	CUresult rc = c ? emu_copy_shape(c, &shape) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	how |= c->srcMemoryType == CU_MEMORYTYPE_DEVICE ? FROM_DEVICE : 0;
	how |= c->dstMemoryType == CU_MEMORYTYPE_DEVICE ? TO_DEVICE : 0;
	return copy_shape(&shape, stream, how);
}

static CUresult copy_rows(const CUDA_MEMCPY2D *c, CUstream stream, unsigned how)
{
	return c ? copy_3d(&(CUDA_MEMCPY3D){.srcXInBytes = c->srcXInBytes,
					    .srcY = c->srcY,
					    .srcMemoryType = c->srcMemoryType,
					    .srcHost = c->srcHost,
					    .srcDevice = c->srcDevice,
					    .srcPitch = c->srcPitch,
					    .dstXInBytes = c->dstXInBytes,
					    .dstY = c->dstY,
					    .dstMemoryType = c->dstMemoryType,
					    .dstHost = c->dstHost,
					    .dstDevice = c->dstDevice,
					    .dstPitch = c->dstPitch,
					    .WidthInBytes = c->WidthInBytes,
					    .Height = c->Height,
					    .Depth = 1},
			   stream, how)
		 : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D *c)
{
	return copy_rows(c, NULL, SYNC);
}
EMU_TWIN(cuMemcpy2D_v2_ptds, (const CUDA_MEMCPY2D *c), copy_rows(c, PT, SYNC))

CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *c)
{
	return copy_rows(c, NULL, SYNC);
}
EMU_TWIN(cuMemcpy2DUnaligned_v2_ptds, (const CUDA_MEMCPY2D *c), copy_rows(c, PT, SYNC))

CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D *c, CUstream s)
{
	return copy_rows(c, s, 0);
}
EMU_TWIN(cuMemcpy2DAsync_v2_ptsz, (const CUDA_MEMCPY2D *c, CUstream s),
	 copy_rows(c, emu_per_thread(s), 0))
