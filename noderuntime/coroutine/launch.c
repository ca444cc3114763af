/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/op.h"

#include <stdlib.h>

#include "noderuntime/coroutine/whole.h"

/* Launches whose stream hides in a struct, and old ones that name none. */

bool ds_launch_overlaps(const CUlaunchConfig *config)
{
	for (unsigned i = 0; config->attrs && i < config->numAttrs; i++)
		if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION ||
		    config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT)
			return true;
	return false;
}

static struct ds_whole_kernel kernel_of(const CUlaunchConfig *config, CUfunction f)
{
	return (struct ds_whole_kernel){
	    f, (uint64_t)config->gridDimX * config->gridDimY * config->gridDimZ,
	    config->blockDimX * config->blockDimY * config->blockDimZ, config->sharedMemBytes};
}

static bool is_cooperative(const CUlaunchConfig *config)
{
	for (unsigned i = 0; config->attrs && i < config->numAttrs; i++)
		if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
			return config->attrs[i].value.cooperative;
	return false;
}

typedef CUresult put_ex(const CUlaunchConfig *, CUfunction, void **, void **);

/* One that is about to be put, or was refused for its size: see ds_whole_begin(). */
static __attribute__((cold, noinline)) struct ds_whole_verdict
whole_ex(struct ds_op *op, CUlaunchConfig *mapped, CUstream handle, CUfunction f, bool per_thread,
	 bool refused)
{
	const struct ds_whole_kernel kernel = kernel_of(mapped, f);
	struct ds_whole_verdict verdict;

	verdict = refused ? ds_whole_begin(op, handle, per_thread, &kernel, true)
			  : ds_whole_before(op, handle, per_thread, &kernel);
	mapped->hStream = op->target;
	return verdict;
}

static inline __attribute__((always_inline)) CUresult launch_ex(const CUlaunchConfig *config,
								CUfunction f, void **params,
								void **extra, bool per_thread,
								put_ex *const *real)
{
	const unsigned watched = ds_whole_watched();
	struct ds_whole_verdict verdict = {.whole = false};
	struct ds_sample *sample = NULL;
	CUlaunchConfig mapped;
	struct ds_op op;
	CUresult result;

	result = ds_op_begin_launch(&op, config ? config->hStream : NULL, per_thread,
				    &(struct ds_launch){.what = f, .config = config});
	if (ds_unlikely(result != CUDA_SUCCESS))
		return result;
	if (ds_unlikely(!config)) {
		ds_op_abandon(&op);
		return (*real)(config, f, params, extra);
	}
	mapped = *config;
	mapped.hStream = op.target;
	if (ds_unlikely(watched & DS_WHOLE_BEFORE)) {
		struct ds_op named = op;

		verdict = whole_ex(&named, &mapped, config->hStream, f, per_thread, false);
		op = named;
		if (verdict.result != CUDA_SUCCESS)
			return verdict.result;
	}
	if (ds_measure_due())
		sample =
		    ds_measure_look(f,
				    &(struct ds_launch_shape){
					{config->gridDimX, config->gridDimY, config->gridDimZ},
					{config->blockDimX, config->blockDimY, config->blockDimZ}},
				    op.stream && !ds_launch_overlaps(config), op.target);
	result = (*real)(&mapped, f, params, extra);
	ds_measure_launched(sample, op.target, result);
	if (ds_unlikely(result == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)) {
		struct ds_op refused = op;

		if (verdict.whole)
			ds_whole_end(&refused, result);
		verdict = whole_ex(&refused, &mapped, config->hStream, f, per_thread, true);
		op = refused;
		if (verdict.result != CUDA_SUCCESS)
			return verdict.result;
		result = (*real)(&mapped, f, params, extra);
	}
	if (ds_unlikely(verdict.whole || watched & DS_WHOLE_OPEN)) {
		const struct ds_op put = op;

		if (verdict.whole)
			ds_whole_end(&put, result);
		else if (result == CUDA_SUCCESS && is_cooperative(config))
			ds_whole_note(&put);
	}
	ds_op_launched(&op, f, result);
	return result;
}

CUresult ds_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
			     void **extra)
{
	return launch_ex(config, f, kernelParams, extra, false, &ds_real.cuLaunchKernelEx);
}
DS_EXPORT(cuLaunchKernelEx);

CUresult ds_cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
				  void **extra)
{
	return launch_ex(config, f, kernelParams, extra, true, &ds_real.cuLaunchKernelEx_ptsz);
}
DS_EXPORT(cuLaunchKernelEx_ptsz);

/* On the NULL stream. What is not ours goes to the driver as the call that it was. */
static CUresult launch_grid(CUfunction f, int width, int height, bool is_grid)
{
	struct ds_op op;
	CUresult result = ds_op_begin_launch(
	    &op, NULL, false,
	    &(struct ds_launch){.what = f, .grid = {(unsigned)width, (unsigned)height, 1}});

	if (result != CUDA_SUCCESS)
		return result;
	if (!op.stream)
		return is_grid ? ds_real.cuLaunchGrid(f, width, height) : ds_real.cuLaunch(f);
	result = ds_real.cuLaunchGridAsync(f, width, height, op.target);
	ds_op_launched(&op, f, result);
	return result;
}

CUresult ds_cuLaunchGrid(CUfunction f, int grid_width, int grid_height)
{
	return launch_grid(f, grid_width, grid_height, true);
}
DS_EXPORT(cuLaunchGrid);

CUresult ds_cuLaunch(CUfunction f)
{
	return launch_grid(f, 1, 1, false);
}
DS_EXPORT(cuLaunch);

/* The driver says whether it fits; if it does not, it may on the whole GPU. */
#define COOPERATIVE(symbol, per_thread)                                                           \
	CUresult ds_##symbol(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,          \
			     unsigned int gridDimZ, unsigned int blockDimX,                       \
			     unsigned int blockDimY, unsigned int blockDimZ,                      \
			     unsigned int sharedMemBytes, CUstream hStream, void **kernelParams)  \
	{                                                                                         \
		const struct ds_whole_kernel kernel = {                                           \
		    f, (uint64_t)gridDimX * gridDimY * gridDimZ,                                  \
		    blockDimX * blockDimY * blockDimZ, sharedMemBytes};                           \
		struct ds_sample *sample;                                                         \
		struct ds_whole_verdict verdict = {.whole = false};                               \
		struct ds_op op;                                                                  \
		CUresult result =                                                                 \
		    ds_op_begin_launch(&op, hStream, per_thread,                                  \
				       &(struct ds_launch){f,                                     \
							   {gridDimX, gridDimY, gridDimZ},        \
							   {blockDimX, blockDimY, blockDimZ},     \
							   NULL});                                \
                                                                                                  \
		if (result != CUDA_SUCCESS)                                                       \
			return result;                                                            \
		sample = ds_measure_launch(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, \
					   blockDimZ, op.stream != NULL, op.target);              \
		result = ds_real.symbol(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY,    \
					blockDimZ, sharedMemBytes, op.target, kernelParams);      \
		ds_measure_launched(sample, op.target, result);                                   \
		if (result == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE) {                          \
			verdict = ds_whole_begin(&op, hStream, per_thread, &kernel, true);        \
			if (verdict.result != CUDA_SUCCESS)                                       \
				return verdict.result;                                            \
			result =                                                                  \
			    ds_real.symbol(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, \
					   blockDimZ, sharedMemBytes, op.target, kernelParams);   \
		}                                                                                 \
		if (verdict.whole)                                                                \
			ds_whole_end(&op, result);                                                \
		else if (result == CUDA_SUCCESS && ds_whole_watched() & DS_WHOLE_OPEN)            \
			ds_whole_note(&op);                                                       \
		ds_op_launched(&op, f, result);                                                   \
		return result;                                                                    \
	}                                                                                         \
	DS_EXPORT(symbol)

COOPERATIVE(cuLaunchCooperativeKernel, false);
COOPERATIVE(cuLaunchCooperativeKernel_ptsz, true);

/* At most one of the devices is the allocation's, and that one may have been too small. */
static CUresult multi_whole(const CUDA_LAUNCH_PARAMS *asked, CUDA_LAUNCH_PARAMS *mapped,
			    struct ds_op *ops, unsigned n, unsigned flags)
{
	struct ds_whole_verdict verdict;
	CUresult result;
	unsigned ours = 0;

	while (ours < n && !ops[ours].stream)
		ours++;
	for (unsigned i = ours + 1; i < n; i++)
		if (ops[i].stream)
			return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
	if (ours == n)
		return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
	const struct ds_whole_kernel kernel = {
	    asked[ours].function,
	    (uint64_t)asked[ours].gridDimX * asked[ours].gridDimY * asked[ours].gridDimZ,
	    asked[ours].blockDimX * asked[ours].blockDimY * asked[ours].blockDimZ,
	    asked[ours].sharedMemBytes};
	verdict = ds_whole_begin(&ops[ours], asked[ours].hStream, false, &kernel, true);
	if (verdict.result != CUDA_SUCCESS) {
		ops[ours].stream = NULL; /* abandoned */
		return verdict.result;
	}
	mapped[ours].hStream = ops[ours].target;
	result = ds_real.cuLaunchCooperativeKernelMultiDevice(mapped, n, flags);
	if (verdict.whole)
		ds_whole_end(&ops[ours], result);
	return result;
}

CUresult ds_cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launchParamsList,
						 unsigned int numDevices, unsigned int flags)
{
	CUDA_LAUNCH_PARAMS *mapped;
	struct ds_op *ops;
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
	unsigned n;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (!launchParamsList || !numDevices)
		return ds_real.cuLaunchCooperativeKernelMultiDevice(launchParamsList, numDevices,
								    flags);
	mapped = calloc(numDevices, sizeof(*mapped));
	ops = calloc(numDevices, sizeof(*ops));
	if (!mapped || !ops)
		goto done;
	for (n = 0; n < numDevices; n++) {
		mapped[n] = launchParamsList[n];
		result = ds_op_begin(&ops[n], mapped[n].hStream, false);
		if (result != CUDA_SUCCESS) {
			while (n--)
				ds_op_abandon(&ops[n]);
			goto done;
		}
		mapped[n].hStream = ops[n].target;
	}
	result = ds_real.cuLaunchCooperativeKernelMultiDevice(mapped, numDevices, flags);
	if (result == CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)
		result = multi_whole(launchParamsList, mapped, ops, numDevices, flags);
	for (n = 0; n < numDevices; n++)
		ds_op_launched(&ops[n], mapped[n].function, result);
done:
	free(ops);
	free(mapped);
	return result;
}
DS_EXPORT(cuLaunchCooperativeKernelMultiDevice);

/*
 * Occupancy is asked for a launch configuration, whose stream would tell of the partition: the
 * question is put for the primary context's own stream.
 */
static CUresult whole_device(const CUlaunchConfig *config, CUlaunchConfig *mapped)
{
	struct ds_op op;
	CUresult result = ds_op_map(&op, config->hStream, false);

	*mapped = *config;
	if (result == CUDA_SUCCESS && op.stream)
		mapped->hStream = NULL;
	return result;
}

static CUresult ask_clusters(int *answer, CUfunction func, const CUlaunchConfig *config,
			     CUresult (*const *real)(int *, CUfunction, const CUlaunchConfig *))
{
	CUlaunchConfig mapped;
	CUresult result = CUDA_SUCCESS;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (config)
		result = whole_device(config, &mapped);
	return result == CUDA_SUCCESS ? (*real)(answer, func, config ? &mapped : NULL) : result;
}

CUresult ds_cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
					 const CUlaunchConfig *config)
{
	return ask_clusters(numClusters, func, config, &ds_real.cuOccupancyMaxActiveClusters);
}
DS_EXPORT(cuOccupancyMaxActiveClusters);

CUresult ds_cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
					       const CUlaunchConfig *config)
{
	return ask_clusters(clusterSize, func, config, &ds_real.cuOccupancyMaxPotentialClusterSize);
}
DS_EXPORT(cuOccupancyMaxPotentialClusterSize);
