/* SPDX-License-Identifier: Apache-2.0 */
/* Memory is set in stream order; the host does not wait. */
#include "tests/emugpu/graph.h"
#include "tests/emugpu/ranges.h"
#include "tests/emugpu/twins.h"

#define PT CU_STREAM_PER_THREAD

CUresult emu_set_work(struct emu_work *work, const CUDA_MEMSET_NODE_PARAMS *p)
{
	unsigned size = p->elementSize;

	if ((size != 1 && size != 2 && size != 4) || p->dst % size || !p->width || !p->height ||
	    !emu_is_range((void *)p->dst, (p->height - 1) * p->pitch + p->width * size, false))
		return CUDA_ERROR_INVALID_VALUE;
	*work = (struct emu_work){.kind = EMU_OP_SET};
	work->u.set.to = (void *)p->dst;
	work->u.set.pitch = p->pitch;
	work->u.set.width = p->width;
	work->u.set.height = p->height;
	work->u.set.value = p->value;
	work->u.set.size = size;
	return CUDA_SUCCESS;
}

static CUresult set(CUdeviceptr to, size_t pitch, unsigned value, unsigned size, size_t width,
		    size_t height, CUstream handle)
{
	CUDA_MEMSET_NODE_PARAMS params = {.dst = to,
					  .pitch = pitch,
					  .value = value,
					  .elementSize = size,
					  .width = width,
					  .height = height};
	struct CUstream_st *s;
	CUresult rc = to % size ? CUDA_ERROR_INVALID_VALUE : emu_begin_work(handle, &s);
	struct emu_op *op;

	if (rc)
		return rc;
	if (!width || !height) {
		emu_exit();
		return CUDA_SUCCESS;
	}
	op = emu_op_new(EMU_OP_NOP, s);
	rc = op ? emu_set_work(&op->work, &params) : CUDA_ERROR_OUT_OF_MEMORY;
	if (rc)
		emu_op_unref(op);
	else
		rc = emu_op_submit(op, s);
	emu_exit();
	return rc;
}

#define MEMSETS(name, type)                                                        \
	CUresult CUDAAPI name##_v2(CUdeviceptr to, type v, size_t n)               \
	{                                                                          \
		return set(to, 0, v, sizeof(type), n, 1, NULL);                    \
	}                                                                          \
	EMU_TWIN(name##_v2_ptds, (CUdeviceptr to, type v, size_t n),               \
		 set(to, 0, v, sizeof(type), n, 1, PT))                            \
	CUresult CUDAAPI name##Async(CUdeviceptr to, type v, size_t n, CUstream s) \
	{                                                                          \
		return set(to, 0, v, sizeof(type), n, 1, s);                       \
	}                                                                          \
	EMU_TWIN(name##Async_ptsz, (CUdeviceptr to, type v, size_t n, CUstream s), \
		 set(to, 0, v, sizeof(type), n, 1, emu_per_thread(s)))

#define MEMSETS_2D(name, type)                                                                 \
	CUresult CUDAAPI name##_v2(CUdeviceptr to, size_t pitch, type v, size_t w, size_t h)   \
	{                                                                                      \
		return set(to, pitch, v, sizeof(type), w, h, NULL);                            \
	}                                                                                      \
	EMU_TWIN(name##_v2_ptds, (CUdeviceptr to, size_t pitch, type v, size_t w, size_t h),   \
		 set(to, pitch, v, sizeof(type), w, h, PT))                                    \
	CUresult CUDAAPI name##Async(CUdeviceptr to, size_t pitch, type v, size_t w, size_t h, \
				     CUstream s)                                               \
	{                                                                                      \
		return set(to, pitch, v, sizeof(type), w, h, s);                               \
	}                                                                                      \
	EMU_TWIN(name##Async_ptsz,                                                             \
		 (CUdeviceptr to, size_t pitch, type v, size_t w, size_t h, CUstream s),       \
		 set(to, pitch, v, sizeof(type), w, h, emu_per_thread(s)))

MEMSETS(cuMemsetD8, unsigned char)
MEMSETS(cuMemsetD16, unsigned short)
MEMSETS(cuMemsetD32, unsigned)
MEMSETS_2D(cuMemsetD2D8, unsigned char)
MEMSETS_2D(cuMemsetD2D16, unsigned short)
MEMSETS_2D(cuMemsetD2D32, unsigned)
