/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_PROGRAM_H
#define DETSHARE_TESTS_GPU_PROGRAM_H

/* What the test programs share: the driver's calls, found by name at run time, and their experiments. */

#define __CUDA_API_VERSION_INTERNAL /* every call by the name that libcuda exports */
#include <cuda.h>

#include "newer_cuda.h"

#define DRIVER_CALLS(X)                                         \
	X(cuCtxCreate_v2)                                       \
	X(cuCtxCreate_v3)                                       \
	X(cuCtxDestroy_v2)                                      \
	X(cuCtxFromGreenCtx)                                    \
	X(cuCtxGetApiVersion)                                   \
	X(cuCtxGetCacheConfig)                                  \
	X(cuCtxGetCurrent)                                      \
	X(cuCtxGetDevResource)                                  \
	X(cuCtxGetDevice)                                       \
	X(cuCtxGetExecAffinity)                                 \
	X(cuCtxGetFlags)                                        \
	X(cuCtxGetId)                                           \
	X(cuCtxGetLimit)                                        \
	X(cuCtxGetSharedMemConfig)                              \
	X(cuCtxGetStreamPriorityRange)                          \
	X(cuCtxPopCurrent_v2)                                   \
	X(cuCtxPushCurrent_v2)                                  \
	X(cuCtxRecordEvent)                                     \
	X(cuCtxSetCacheConfig)                                  \
	X(cuCtxSetCurrent)                                      \
	X(cuCtxSetFlags)                                        \
	X(cuCtxSetLimit)                                        \
	X(cuCtxSynchronize)                                     \
	X(cuDevResourceGenerateDesc)                            \
	X(cuDevSmResourceSplitByCount)                          \
	X(cuDeviceGet)                                          \
	X(cuDeviceGetAttribute)                                 \
	X(cuDeviceGetCount)                                     \
	X(cuDeviceGetDevResource)                               \
	X(cuDeviceGetExecAffinitySupport)                       \
	X(cuDeviceGetName)                                      \
	X(cuDeviceGetUuid_v2)                                   \
	X(cuDevicePrimaryCtxGetState)                           \
	X(cuDevicePrimaryCtxReset_v2)                           \
	X(cuDevicePrimaryCtxRetain)                             \
	X(cuDriverGetVersion)                                   \
	X(cuGetExportTable)                                     \
	X(cuGreenCtxCreate)                                     \
	X(cuGreenCtxDestroy)                                    \
	X(cuGreenCtxGetDevResource)                             \
	X(cuGreenCtxRecordEvent)                                \
	X(cuGreenCtxStreamCreate)                               \
	X(cuInit)                                               \
	X(cuFuncGetAttribute)                                   \
	X(cuFuncGetModule)                                      \
	X(cuLibraryGetKernel)                                   \
	X(cuLibraryLoadData)                                    \
	X(cuModuleGetFunction)                                  \
	X(cuModuleGetLoadingMode)                               \
	X(cuModuleLoadData)                                     \
	X(cuOccupancyAvailableDynamicSMemPerBlock)              \
	X(cuOccupancyMaxActiveBlocksPerMultiprocessor)          \
	X(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) \
	X(cuOccupancyMaxActiveClusters)                         \
	X(cuOccupancyMaxPotentialBlockSize)                     \
	X(cuOccupancyMaxPotentialClusterSize)                   \
	X(cuIpcGetEventHandle)                                  \
	X(cuIpcGetMemHandle)                                    \
	X(cuIpcOpenEventHandle)                                 \
	X(cuIpcOpenMemHandle_v2)                                \
	X(cuMemAllocAsync)                                      \
	X(cuMemAllocHost_v2)                                    \
	X(cuMemAlloc_v2)                                        \
	X(cuMemFreeAsync)                                       \
	X(cuMemFree_v2)                                         \
	X(cuMemGetAddressRange_v2)                              \
	X(cuMemGetInfo_v2)                                      \
	X(cuMemHostAlloc)                                       \
	X(cuMemHostGetDevicePointer_v2)                         \
	X(cuMemHostRegister_v2)                                 \
	X(cuMemHostUnregister)                                  \
	X(cuMemcpyDtoDAsync_v2)                                 \
	X(cuMemcpyDtoD_v2)                                      \
	X(cuMemcpyDtoD_v2_ptds)                                 \
	X(cuMemcpyDtoHAsync_v2)                                 \
	X(cuMemcpyDtoH_v2)                                      \
	X(cuMemcpyHtoD_v2)                                      \
	X(cuMemcpyPeerAsync)                                    \
	X(cuMemsetD32Async)                                     \
	X(cuMemsetD32_v2)                                       \
	X(cuPointerGetAttribute)                                \
	X(cuPointerGetAttributes)                               \
	X(cuEventCreate)                                        \
	X(cuEventDestroy_v2)                                    \
	X(cuEventElapsedTime)                                   \
	X(cuEventElapsedTime_v2)                                \
	X(cuEventQuery)                                         \
	X(cuEventRecord)                                        \
	X(cuEventSynchronize)                                   \
	X(cuStreamAddCallback)                                  \
	X(cuStreamBatchMemOp_v2)                                \
	X(cuStreamBeginCapture_v2)                              \
	X(cuStreamCopyAttributes)                               \
	X(cuStreamCreate)                                       \
	X(cuStreamCreateWithPriority)                           \
	X(cuStreamDestroy_v2)                                   \
	X(cuStreamEndCapture)                                   \
	X(cuStreamGetAttribute)                                 \
	X(cuStreamGetCaptureInfo_v2)                            \
	X(cuStreamGetCtx)                                       \
	X(cuStreamGetCtx_v2)                                    \
	X(cuStreamGetDevice)                                    \
	X(cuStreamGetFlags)                                     \
	X(cuStreamGetGreenCtx)                                  \
	X(cuStreamGetId)                                        \
	X(cuStreamGetPriority)                                  \
	X(cuStreamIsCapturing)                                  \
	X(cuStreamQuery)                                        \
	X(cuStreamSetAttribute)                                 \
	X(cuStreamSynchronize)                                  \
	X(cuStreamWaitEvent)                                    \
	X(cuStreamWaitValue32_v2)                               \
	X(cuStreamWriteValue32_v2)                              \
	X(cuLaunchCooperativeKernel)                            \
	X(cuLaunchHostFunc)                                     \
	X(cuLaunchKernel)                                       \
	X(cuLaunchKernelEx)                                     \
	X(cuLaunchKernel_ptsz)                                  \
	X(cuGraphAddChildGraphNode)                             \
	X(cuGraphAddEmptyNode)                                  \
	X(cuGraphAddKernelNode_v2)                              \
	X(cuGraphAddMemsetNode)                                 \
	X(cuGraphCreate)                                        \
	X(cuGraphDestroy)                                       \
	X(cuGraphDestroyNode)                                   \
	X(cuGraphExecChildGraphNodeSetParams)                   \
	X(cuGraphExecDestroy)                                   \
	X(cuGraphExecGetFlags)                                  \
	X(cuGraphExecKernelNodeSetParams_v2)                    \
	X(cuGraphExecMemsetNodeSetParams)                       \
	X(cuGraphExecUpdate_v2)                                 \
	X(cuGraphGetNodes)                                      \
	X(cuGraphInstantiateWithFlags)                          \
	X(cuGraphInstantiateWithParams)                         \
	X(cuGraphKernelNodeGetParams_v2)                        \
	X(cuGraphKernelNodeSetParams_v2)                        \
	X(cuGraphLaunch)                                        \
	X(cuGraphNodeGetEnabled)                                \
	X(cuGraphNodeSetEnabled)                                \
	X(cuGraphUpload)

#define DRIVER_CALL_FIELD(name) __typeof__(&name) do_##name;
struct driver_calls {
	DRIVER_CALLS(DRIVER_CALL_FIELD)
};

/* After load_driver(); NULL where the driver lacks one. */
extern struct driver_calls cu;

/* Say which call failed, and exit with 1. */
_Noreturn void die(const char *what, CUresult result);

/* A call that must succeed. */
#define CALL(name, ...)                                           \
	do {                                                      \
		CUresult call_result = cu.do_##name(__VA_ARGS__); \
		if (call_result)                                  \
			die(#name, call_result);                  \
	} while (0)

/* Find the driver, which is returned; without one, exit with 77. Nothing of it is called. */
void *load_driver(void);

struct kernels {
	CUmodule module;
	CUfunction vector_add, spin_us;
};

/* Load the kernels into the current context. */
struct kernels load_kernels(void);

struct experiment {
	const char *name;
	void (*run)(void);
};

struct experiments {
	const struct experiment *all;
	size_t n;
	void (*start)(void);     /* before all; NULL: each does it itself */
	void (*end_round)(void); /* after each round but the last; NULL: there is only one */
};

/*
 * The rest of a main() whose arguments are EXPERIMENT, and ROUNDS if there may be several: runs it so often, for
 * at most 100 s in all. Returns the exit status, which is 2 if there is no such experiment.
 */
int run_experiment(int argc, char **argv, const struct experiments *experiments);

#endif
