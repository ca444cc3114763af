/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/op.h"

#include <stdlib.h>

/* Launches whose stream hides in a struct, and old ones that name none. */

bool ds_launch_overlaps(const CUlaunchConfig *config)
{
	for (unsigned i = 0; config->attrs && i < config->numAttrs; i++)
		if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION ||
		    config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT)
			return true;
	return false;
}

static inline CUresult
launch_ex(const CUlaunchConfig *config, CUfunction f, void **params, void **extra, bool per_thread,
	  CUresult (*const *real)(const CUlaunchConfig *, CUfunction, void **, void **))
{
	struct ds_sample *sample = NULL;
	CUlaunchConfig mapped;
	struct ds_op op;
	CUresult result;

	result = ds_op_begin_launch(&op, config ? config->hStream : NULL, per_thread, config);
	if (ds_unlikely(result != CUDA_SUCCESS))
		return result;
	if (ds_unlikely(!config)) {
		ds_op_abandon(&op);
		return (*real)(config, f, params, extra);
	}
	mapped = *config;
	mapped.hStream = op.target;
	if (ds_measure_due())
		sample =
		    ds_measure_look(f,
				    &(struct ds_launch_shape){
					{config->gridDimX, config->gridDimY, config->gridDimZ},
					{config->blockDimX, config->blockDimY, config->blockDimZ}},
				    op.stream && !ds_launch_overlaps(config), op.target);
	result = (*real)(&mapped, f, params, extra);
	ds_measure_launched(sample, op.target, result);
	ds_op_launched(&op, result);
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

CUresult ds_cuLaunchGrid(CUfunction f, int grid_width, int grid_height)
{
	struct ds_op op;
	CUresult result = ds_op_begin_launch(&op, NULL, false, NULL);

	if (result != CUDA_SUCCESS)
		return result;
	if (!op.stream)
		return ds_real.cuLaunchGrid(f, grid_width, grid_height);
	result = ds_real.cuLaunchGridAsync(f, grid_width, grid_height, op.target);
	ds_op_launched(&op, result);
	return result;
}
DS_EXPORT(cuLaunchGrid);

CUresult ds_cuLaunch(CUfunction f)
{
	struct ds_op op;
	CUresult result = ds_op_begin_launch(&op, NULL, false, NULL);

	if (result != CUDA_SUCCESS)
		return result;
	if (!op.stream)
		return ds_real.cuLaunch(f);
	result = ds_real.cuLaunchGridAsync(f, 1, 1, op.target);
	ds_op_launched(&op, result);
	return result;
}
DS_EXPORT(cuLaunch);

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
	for (n = 0; n < numDevices; n++)
		ds_op_launched(&ops[n], result);
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

CUresult ds_cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
					 const CUlaunchConfig *config)
{
	CUlaunchConfig mapped;
	CUresult result = CUDA_SUCCESS;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (config)
		result = whole_device(config, &mapped);
	return result == CUDA_SUCCESS ? ds_real.cuOccupancyMaxActiveClusters(
					    numClusters, func, config ? &mapped : NULL)
				      : result;
}
DS_EXPORT(cuOccupancyMaxActiveClusters);

CUresult ds_cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
					       const CUlaunchConfig *config)
{
	CUlaunchConfig mapped;
	CUresult result = CUDA_SUCCESS;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (config)
		result = whole_device(config, &mapped);
	return result == CUDA_SUCCESS ? ds_real.cuOccupancyMaxPotentialClusterSize(
					    clusterSize, func, config ? &mapped : NULL)
				      : result;
}
DS_EXPORT(cuOccupancyMaxPotentialClusterSize);
