/* SPDX-License-Identifier: Apache-2.0 */
/* Functions, occupancy, launches. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>

/* ---- functions ---- */

static CUresult begin_function(const void *handle, struct emu_function **f)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	*f = (struct emu_function *)(uintptr_t)handle;
	if (emu_handle_is(handle, EMU_HANDLE_FUNCTION))
		return CUDA_SUCCESS;
	emu_exit();
	return CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction handle)
{
	struct emu_function *f;
	CUresult rc = value ? begin_function(handle, &f) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*value = 0;
	if (attribute < 0 || attribute >= CU_FUNC_ATTRIBUTE_MAX)
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
		*value = 1024;
	else if (attribute == CU_FUNC_ATTRIBUTE_NUM_REGS)
		*value = 32;
	else if (attribute == CU_FUNC_ATTRIBUTE_PTX_VERSION ||
		 attribute == CU_FUNC_ATTRIBUTE_BINARY_VERSION)
		*value = 90;
	else if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
		*value = 49152;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value)
{
	struct emu_function *f;
	CUresult rc = begin_function(handle, &f);

	if (rc)
		return rc;
	if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES &&
	    (value < 0 || value > 232448))
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config)
{
	struct emu_function *f;
	CUresult rc = begin_function(handle, &f);

	if (!rc)
		emu_exit();
	return rc;
}

CUresult CUDAAPI cuFuncGetName(const char **name, CUfunction handle)
{
	struct emu_function *f;
	CUresult rc = name ? begin_function(handle, &f) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*name = f->name;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuKernelGetName(const char **name, CUkernel handle)
{
	return cuFuncGetName(name, (CUfunction)handle);
}

CUresult CUDAAPI cuFuncGetModule(CUmodule *module, CUfunction handle)
{
	struct emu_function *f;
	CUresult rc = module ? begin_function(handle, &f) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*module = f->module;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetParamInfo(CUfunction handle, size_t index, size_t *offset, size_t *size)
{
	struct emu_function *f;
	CUresult rc = offset ? begin_function(handle, &f) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (index < f->n_params) {
		*offset = f->param_offset[index];
		if (size)
			*size = f->param_size[index];
	} else {
		rc = CUDA_ERROR_INVALID_VALUE;
	}
	emu_exit();
	return rc;
}

/* One block at a time per SM: that is how the emulation runs them. */
CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, CUfunction handle,
								      int block, size_t shared,
								      unsigned flags)
{
	struct emu_function *f;
	CUresult rc = n && block > 0 ? begin_function(handle, &f) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*n = block <= 1024 && shared <= 232448;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction handle, int block,
							     size_t shared)
{
	return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n, handle, block, shared, 0);
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction handle,
						  CUoccupancyB2DSize shared_of, size_t shared,
						  int limit)
{
	struct emu_function *f;
	CUresult rc = grid && block ? begin_function(handle, &f) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*block = limit > 0 && limit < 1024 ? limit : 1024;
	*grid = (int)f->module->dev->n_visible_sms;
	emu_exit();
	return CUDA_SUCCESS;
}

/* ---- launches ---- */

/* CU_LAUNCH_PARAM_BUFFER_POINTER … END: all parameters in one buffer. */
static const void *buffer_of(void **extra, size_t *size)
{
	const void *buffer = NULL;

	*size = 0;
	for (unsigned i = 0; extra && extra[i] != CU_LAUNCH_PARAM_END && i < 8; i += 2) {
		if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
			buffer = extra[i + 1];
		else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
			*size = *(const size_t *)extra[i + 1];
	}
	return buffer;
}

static CUresult copy_parameters(struct emu_work *work, const struct emu_function *f, void **params,
				void **extra)
{
	size_t size, need = f->n_params
				? f->param_offset[f->n_params - 1] + f->param_size[f->n_params - 1]
				: 0;
	const char *buffer = buffer_of(extra, &size);

	if (!need)
		return CUDA_SUCCESS;
	if (!params && (!buffer || size < need))
		return CUDA_ERROR_INVALID_VALUE;
	work->u.launch.buffer = malloc(need);
	if (!work->u.launch.buffer)
		return CUDA_ERROR_OUT_OF_MEMORY;
	work->u.launch.buffer_size = need;
	for (unsigned i = 0; i < f->n_params; i++) {
		char *to = (char *)work->u.launch.buffer + f->param_offset[i];
		memcpy(to, params ? params[i] : buffer + f->param_offset[i], f->param_size[i]);
		work->u.launch.run.params[i] = to;
	}
	return CUDA_SUCCESS;
}

static CUresult check_shape(const unsigned grid[3], const unsigned block[3], unsigned shared)
{
	uint64_t threads = (uint64_t)block[0] * block[1] * block[2];

	for (unsigned i = 0; i < 3; i++)
		if (!grid[i] || !block[i])
			return CUDA_ERROR_INVALID_VALUE;
	return grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535 || threads > 1024 ||
		       block[2] > 64 || shared > 232448
		   ? CUDA_ERROR_INVALID_VALUE
		   : CUDA_SUCCESS;
}

CUresult emu_launch_work(struct emu_work *work, const struct CUctx_st *ctx,
			 const struct emu_launch *l)
{
	const struct emu_function *f = l->function;
	uint64_t n_blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
	CUresult rc = check_shape(l->grid, l->block, l->shared);

	if (rc)
		return rc;
	/* A function belongs to the root of its context: green contexts belong to the primary one. */
	if (!emu_handle_is(f, EMU_HANDLE_FUNCTION) ||
	    (f->module->ctx_id && f->module->ctx_id != ctx->root->id))
		return CUDA_ERROR_INVALID_HANDLE;
	if (!f->kernel) {
		emu_say("kernel %s: the emulated GPU has no host function of this name", f->name);
		return CUDA_ERROR_NOT_SUPPORTED;
	}
	if (l->cooperative && n_blocks > emu_sms_count(&ctx->sms))
		return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
	*work = (struct emu_work){.kind = EMU_OP_KERNEL};
	work->u.launch.function = f;
	work->u.launch.kernel = f->kernel;
	work->u.launch.n_blocks = n_blocks;
	work->u.launch.shared = l->shared;
	work->u.launch.cooperative = l->cooperative;
	memcpy(work->u.launch.run.grid, l->grid, sizeof(l->grid));
	memcpy(work->u.launch.run.block, l->block, sizeof(l->block));
	return copy_parameters(work, f, l->params, l->extra);
}

/* Takes the op. */
static CUresult submit(struct emu_op *op, struct CUstream_st *s, const struct emu_launch *l)
{
	/* A kernel that waits for the results of the one before waits with all that it does here. */
	const bool beside = l->overlaps && !l->function->waits;
	CUresult rc;

	emu_op_ref(op);
	rc = beside ? emu_op_submit_beside(op, s) : emu_op_submit(op, s);
	if (!rc && l->overlaps && s->capture && !emu_node_overlaps(s->after.all[0]))
		rc = CUDA_ERROR_OUT_OF_MEMORY;
	if (!rc && l->event)
		rc = s->capture ? emu_capture_record(s, l->event, 0) : CUDA_SUCCESS;
	if (!rc && l->event && !s->capture) {
		emu_capture_forget_event(l->event);
		emu_op_unref(l->event->op);
		emu_op_ref(op);
		l->event->op = op;
	}
	emu_op_unref(op);
	return rc;
}

static CUresult launch(CUstream stream, const struct emu_launch *l)
{
	struct CUstream_st *s;
	CUresult rc = check_shape(l->grid, l->block, l->shared);
	struct emu_op *op;

	rc = rc ? rc : emu_begin_work(stream, &s);
	if (rc)
		return rc;
	op = emu_op_new(EMU_OP_NOP, s);
	rc = op ? emu_launch_work(&op->work, s->ctx, l) : CUDA_ERROR_OUT_OF_MEMORY;
	if (!rc && l->event && !emu_handle_is(l->event, EMU_HANDLE_EVENT))
		rc = CUDA_ERROR_INVALID_HANDLE;
	if (rc)
		emu_op_unref(op);
	else
		rc = submit(op, s, l);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
				unsigned by, unsigned bz, unsigned shared, CUstream stream,
				void **params, void **extra)
{
	return launch(stream, &(struct emu_launch){.function = (struct emu_function *)f,
						   .grid = {gx, gy, gz},
						   .block = {bx, by, bz},
						   .shared = shared,
						   .params = params,
						   .extra = extra});
}
EMU_TWIN(cuLaunchKernel_ptsz,
	 (CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
	  unsigned bz, unsigned sh, CUstream s, void **p, void **e),
	 cuLaunchKernel(f, gx, gy, gz, bx, by, bz, sh, emu_per_thread(s), p, e))

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz,
					   unsigned bx, unsigned by, unsigned bz, unsigned shared,
					   CUstream stream, void **params)
{
	return launch(stream, &(struct emu_launch){.function = (struct emu_function *)f,
						   .grid = {gx, gy, gz},
						   .block = {bx, by, bz},
						   .shared = shared,
						   .cooperative = true,
						   .params = params});
}
EMU_TWIN(cuLaunchCooperativeKernel_ptsz,
	 (CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
	  unsigned bz, unsigned sh, CUstream s, void **p),
	 cuLaunchCooperativeKernel(f, gx, gy, gz, bx, by, bz, sh, emu_per_thread(s), p))

static CUresult launch_ex(const CUlaunchConfig *c, CUstream stream, CUfunction f, void **params,
			  void **extra)
{
	struct emu_launch l = {.function = (struct emu_function *)f,
			       .grid = {c->gridDimX, c->gridDimY, c->gridDimZ},
			       .block = {c->blockDimX, c->blockDimY, c->blockDimZ},
			       .shared = c->sharedMemBytes,
			       .params = params,
			       .extra = extra};

	/* Attributes that order or group blocks would be a lie if ignored; hints are not. */
	for (unsigned i = 0; i < c->numAttrs; i++)
		switch (c->attrs[i].id) {
		case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
			l.cooperative = c->attrs[i].value.cooperative;
			break;
		case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
			l.overlaps = c->attrs[i].value.programmaticStreamSerializationAllowed;
			break;
		case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
			l.event = c->attrs[i].value.programmaticEvent.event;
			break;
		case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
			l.event = c->attrs[i].value.launchCompletionEvent.event;
			break;
		default:
			break;
		}
	return launch(stream, &l);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params,
				  void **extra)
{
	return config ? launch_ex(config, config->hStream, f, params, extra)
		      : CUDA_ERROR_INVALID_VALUE;
}
EMU_TWIN(cuLaunchKernelEx_ptsz, (const CUlaunchConfig *c, CUfunction f, void **p, void **e),
	 c ? launch_ex(c, emu_per_thread(c->hStream), f, p, e) : CUDA_ERROR_INVALID_VALUE)
