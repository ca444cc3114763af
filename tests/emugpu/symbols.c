/* SPDX-License-Identifier: Apache-2.0 */
/* cuGetProcAddress, and names of errors. */
#include "tests/emugpu/driver.h"

#include <string.h>

#include "tests/emugpu/newer.h"
#include "tests/emugpu/twins.h"

/*
 * What cuGetProcAddress finds: the newest function of a name that is not newer than the CUDA version
 * asked for.
 */
static const struct symbol {
	const char *name;
	int since; /* CUDA version */
	void *function;
	void *twin; /* with the per-thread default stream; NULL: the same function */
} symbols[] = {
    {"cuArray3DCreate", 3020, (void *)cuArray3DCreate_v2, NULL},
    {"cuArrayCreate", 3020, (void *)cuArrayCreate_v2, NULL},
    {"cuArrayDestroy", 2000, (void *)cuArrayDestroy, NULL},
    {"cuCtxCreate", 3020, (void *)cuCtxCreate_v2, NULL},
    {"cuCtxCreate", 11040, (void *)cuCtxCreate_v3, NULL},
#if CUDA_VERSION >= 12050
    {"cuCtxCreate", 12050, (void *)cuCtxCreate_v4, NULL},
#endif
    {"cuCtxDestroy", 4000, (void *)cuCtxDestroy_v2, NULL},
    {"cuCtxFromGreenCtx", 12040, (void *)cuCtxFromGreenCtx, NULL},
    {"cuCtxGetApiVersion", 3020, (void *)cuCtxGetApiVersion, NULL},
    {"cuCtxGetCacheConfig", 3020, (void *)cuCtxGetCacheConfig, NULL},
    {"cuCtxGetCurrent", 4000, (void *)cuCtxGetCurrent, NULL},
    {"cuCtxGetDevResource", 12040, (void *)cuCtxGetDevResource, NULL},
    {"cuCtxGetDevice", 2000, (void *)cuCtxGetDevice, NULL},
    {"cuCtxGetExecAffinity", 11040, (void *)cuCtxGetExecAffinity, NULL},
    {"cuCtxGetFlags", 7000, (void *)cuCtxGetFlags, NULL},
    {"cuCtxGetId", 12000, (void *)cuCtxGetId, NULL},
    {"cuCtxGetLimit", 3010, (void *)cuCtxGetLimit, NULL},
    {"cuCtxGetSharedMemConfig", 4020, (void *)cuCtxGetSharedMemConfig, NULL},
    {"cuCtxGetStreamPriorityRange", 5050, (void *)cuCtxGetStreamPriorityRange, NULL},
    {"cuCtxPopCurrent", 4000, (void *)cuCtxPopCurrent_v2, NULL},
    {"cuCtxPushCurrent", 4000, (void *)cuCtxPushCurrent_v2, NULL},
    {"cuCtxRecordEvent", 12050, (void *)cuCtxRecordEvent, NULL},
    {"cuCtxSetCacheConfig", 3020, (void *)cuCtxSetCacheConfig, NULL},
    {"cuCtxSetCurrent", 4000, (void *)cuCtxSetCurrent, NULL},
    {"cuCtxSetFlags", 12010, (void *)cuCtxSetFlags, NULL},
    {"cuCtxSetLimit", 3010, (void *)cuCtxSetLimit, NULL},
    {"cuCtxSetSharedMemConfig", 4020, (void *)cuCtxSetSharedMemConfig, NULL},
    {"cuCtxSynchronize", 2000, (void *)cuCtxSynchronize, NULL},
    {"cuCtxWaitEvent", 12050, (void *)cuCtxWaitEvent, NULL},
    {"cuDestroyExternalMemory", 10000, (void *)cuDestroyExternalMemory, NULL},
    {"cuDevResourceGenerateDesc", 12040, (void *)cuDevResourceGenerateDesc, NULL},
    {"cuDevSmResourceSplitByCount", 12040, (void *)cuDevSmResourceSplitByCount, NULL},
    {"cuDeviceComputeCapability", 2000, (void *)cuDeviceComputeCapability, NULL},
    {"cuDeviceGet", 2000, (void *)cuDeviceGet, NULL},
    {"cuDeviceGetAttribute", 2000, (void *)cuDeviceGetAttribute, NULL},
    {"cuDeviceGetByPCIBusId", 4010, (void *)cuDeviceGetByPCIBusId, NULL},
    {"cuDeviceGetCount", 2000, (void *)cuDeviceGetCount, NULL},
    {"cuDeviceGetDefaultMemPool", 11020, (void *)cuDeviceGetDefaultMemPool, NULL},
    {"cuDeviceGetDevResource", 12040, (void *)cuDeviceGetDevResource, NULL},
    {"cuDeviceGetExecAffinitySupport", 11040, (void *)cuDeviceGetExecAffinitySupport, NULL},
    {"cuDeviceGetGraphMemAttribute", 11040, (void *)cuDeviceGetGraphMemAttribute, NULL},
    {"cuDeviceGetMemPool", 11020, (void *)cuDeviceGetMemPool, NULL},
    {"cuDeviceGetName", 2000, (void *)cuDeviceGetName, NULL},
    {"cuDeviceGetPCIBusId", 4010, (void *)cuDeviceGetPCIBusId, NULL},
    {"cuDeviceGetUuid", 9020, (void *)cuDeviceGetUuid, NULL},
    {"cuDeviceGetUuid", 11040, (void *)cuDeviceGetUuid_v2, NULL},
    {"cuDeviceGraphMemTrim", 11040, (void *)cuDeviceGraphMemTrim, NULL},
    {"cuDevicePrimaryCtxGetState", 7000, (void *)cuDevicePrimaryCtxGetState, NULL},
    {"cuDevicePrimaryCtxRelease", 7000, (void *)cuDevicePrimaryCtxRelease, NULL},
    {"cuDevicePrimaryCtxRelease", 11000, (void *)cuDevicePrimaryCtxRelease_v2, NULL},
    {"cuDevicePrimaryCtxReset", 7000, (void *)cuDevicePrimaryCtxReset, NULL},
    {"cuDevicePrimaryCtxReset", 11000, (void *)cuDevicePrimaryCtxReset_v2, NULL},
    {"cuDevicePrimaryCtxRetain", 7000, (void *)cuDevicePrimaryCtxRetain, NULL},
    {"cuDevicePrimaryCtxSetFlags", 7000, (void *)cuDevicePrimaryCtxSetFlags, NULL},
    {"cuDevicePrimaryCtxSetFlags", 11000, (void *)cuDevicePrimaryCtxSetFlags_v2, NULL},
    {"cuDeviceSetMemPool", 11020, (void *)cuDeviceSetMemPool, NULL},
    {"cuDeviceTotalMem", 3020, (void *)cuDeviceTotalMem_v2, NULL},
    {"cuDriverGetVersion", 2000, (void *)cuDriverGetVersion, NULL},
    {"cuEventCreate", 2000, (void *)cuEventCreate, NULL},
    {"cuEventDestroy", 4000, (void *)cuEventDestroy_v2, NULL},
    {"cuEventElapsedTime", 2000, (void *)cuEventElapsedTime, NULL},
    {"cuEventElapsedTime", 12080, (void *)cuEventElapsedTime_v2, NULL},
    {"cuEventQuery", 2000, (void *)cuEventQuery, NULL},
    {"cuEventRecord", 2000, (void *)cuEventRecord, (void *)cuEventRecord_ptsz},
    {"cuEventRecordWithFlags", 11010, (void *)cuEventRecordWithFlags,
     (void *)cuEventRecordWithFlags_ptsz},
    {"cuEventSynchronize", 2000, (void *)cuEventSynchronize, NULL},
    {"cuFuncGetAttribute", 2000, (void *)cuFuncGetAttribute, NULL},
    {"cuFuncGetModule", 11000, (void *)cuFuncGetModule, NULL},
    {"cuFuncGetName", 12030, (void *)cuFuncGetName, NULL},
    {"cuFuncGetParamInfo", 12040, (void *)cuFuncGetParamInfo, NULL},
    {"cuFuncSetAttribute", 9000, (void *)cuFuncSetAttribute, NULL},
    {"cuFuncSetCacheConfig", 3000, (void *)cuFuncSetCacheConfig, NULL},
    {"cuGetErrorName", 6000, (void *)cuGetErrorName, NULL},
    {"cuGetErrorString", 6000, (void *)cuGetErrorString, NULL},
    {"cuGetExportTable", 3000, (void *)cuGetExportTable, NULL},
    {"cuGetProcAddress", 11030, (void *)cuGetProcAddress, NULL},
    {"cuGetProcAddress", 12000, (void *)cuGetProcAddress_v2, NULL},
    {"cuGraphAddBatchMemOpNode", 11070, (void *)cuGraphAddBatchMemOpNode, NULL},
    {"cuGraphAddChildGraphNode", 10000, (void *)cuGraphAddChildGraphNode, NULL},
    {"cuGraphAddDependencies", 10000, (void *)cuGraphAddDependencies, NULL},
    {"cuGraphAddDependencies", 12030, (void *)cuGraphAddDependencies_v2, NULL},
    {"cuGraphAddEmptyNode", 10000, (void *)cuGraphAddEmptyNode, NULL},
    {"cuGraphAddEventRecordNode", 11010, (void *)cuGraphAddEventRecordNode, NULL},
    {"cuGraphAddEventWaitNode", 11010, (void *)cuGraphAddEventWaitNode, NULL},
    {"cuGraphAddHostNode", 10000, (void *)cuGraphAddHostNode, NULL},
    {"cuGraphAddKernelNode", 10000, (void *)cuGraphAddKernelNode, NULL},
    {"cuGraphAddKernelNode", 12000, (void *)cuGraphAddKernelNode_v2, NULL},
    {"cuGraphAddMemAllocNode", 11040, (void *)cuGraphAddMemAllocNode, NULL},
    {"cuGraphAddMemFreeNode", 11040, (void *)cuGraphAddMemFreeNode, NULL},
    {"cuGraphAddMemcpyNode", 10000, (void *)cuGraphAddMemcpyNode, NULL},
    {"cuGraphAddMemsetNode", 10000, (void *)cuGraphAddMemsetNode, NULL},
    {"cuGraphAddNode", 12020, (void *)cuGraphAddNode, NULL},
    {"cuGraphAddNode", 12030, (void *)cuGraphAddNode_v2, NULL},
    {"cuGraphAddNode", 13040, (void *)cuGraphAddNode_v3, NULL},
    {"cuGraphBatchMemOpNodeGetParams", 11070, (void *)cuGraphBatchMemOpNodeGetParams, NULL},
    {"cuGraphBatchMemOpNodeSetParams", 11070, (void *)cuGraphBatchMemOpNodeSetParams, NULL},
    {"cuGraphChildGraphNodeGetGraph", 10000, (void *)cuGraphChildGraphNodeGetGraph, NULL},
    {"cuGraphClone", 10000, (void *)cuGraphClone, NULL},
    {"cuGraphCreate", 10000, (void *)cuGraphCreate, NULL},
    {"cuGraphDestroy", 10000, (void *)cuGraphDestroy, NULL},
    {"cuGraphDestroyNode", 10000, (void *)cuGraphDestroyNode, NULL},
    {"cuGraphEventRecordNodeGetEvent", 11010, (void *)cuGraphEventRecordNodeGetEvent, NULL},
    {"cuGraphEventRecordNodeSetEvent", 11010, (void *)cuGraphEventRecordNodeSetEvent, NULL},
    {"cuGraphEventWaitNodeGetEvent", 11010, (void *)cuGraphEventWaitNodeGetEvent, NULL},
    {"cuGraphEventWaitNodeSetEvent", 11010, (void *)cuGraphEventWaitNodeSetEvent, NULL},
    {"cuGraphExecBatchMemOpNodeSetParams", 11070, (void *)cuGraphExecBatchMemOpNodeSetParams, NULL},
    {"cuGraphExecChildGraphNodeSetParams", 11010, (void *)cuGraphExecChildGraphNodeSetParams, NULL},
    {"cuGraphExecDestroy", 10000, (void *)cuGraphExecDestroy, NULL},
    {"cuGraphExecEventRecordNodeSetEvent", 11010, (void *)cuGraphExecEventRecordNodeSetEvent, NULL},
    {"cuGraphExecEventWaitNodeSetEvent", 11010, (void *)cuGraphExecEventWaitNodeSetEvent, NULL},
    {"cuGraphExecGetFlags", 12000, (void *)cuGraphExecGetFlags, NULL},
    {"cuGraphExecHostNodeSetParams", 10020, (void *)cuGraphExecHostNodeSetParams, NULL},
    {"cuGraphExecKernelNodeSetParams", 10010, (void *)cuGraphExecKernelNodeSetParams, NULL},
    {"cuGraphExecKernelNodeSetParams", 12000, (void *)cuGraphExecKernelNodeSetParams_v2, NULL},
    {"cuGraphExecMemcpyNodeSetParams", 10020, (void *)cuGraphExecMemcpyNodeSetParams, NULL},
    {"cuGraphExecMemsetNodeSetParams", 10020, (void *)cuGraphExecMemsetNodeSetParams, NULL},
    {"cuGraphExecNodeSetParams", 12020, (void *)cuGraphExecNodeSetParams, NULL},
    {"cuGraphExecUpdate", 10020, (void *)cuGraphExecUpdate, NULL},
    {"cuGraphExecUpdate", 12000, (void *)cuGraphExecUpdate_v2, NULL},
    {"cuGraphGetEdges", 10000, (void *)cuGraphGetEdges, NULL},
    {"cuGraphGetEdges", 12030, (void *)cuGraphGetEdges_v2, NULL},
    {"cuGraphGetNodes", 10000, (void *)cuGraphGetNodes, NULL},
    {"cuGraphGetRootNodes", 10000, (void *)cuGraphGetRootNodes, NULL},
    {"cuGraphHostNodeGetParams", 10000, (void *)cuGraphHostNodeGetParams, NULL},
    {"cuGraphHostNodeSetParams", 10000, (void *)cuGraphHostNodeSetParams, NULL},
    {"cuGraphInstantiate", 10000, (void *)cuGraphInstantiate, NULL},
    {"cuGraphInstantiate", 11000, (void *)cuGraphInstantiate_v2, NULL},
    {"cuGraphInstantiate", 12000, (void *)cuGraphInstantiateWithFlags, NULL},
    {"cuGraphInstantiateWithFlags", 11040, (void *)cuGraphInstantiateWithFlags, NULL},
    {"cuGraphInstantiateWithParams", 12000, (void *)cuGraphInstantiateWithParams,
     (void *)cuGraphInstantiateWithParams_ptsz},
    {"cuGraphKernelNodeCopyAttributes", 11000, (void *)cuGraphKernelNodeCopyAttributes, NULL},
    {"cuGraphKernelNodeGetAttribute", 11000, (void *)cuGraphKernelNodeGetAttribute, NULL},
    {"cuGraphKernelNodeGetParams", 10000, (void *)cuGraphKernelNodeGetParams, NULL},
    {"cuGraphKernelNodeGetParams", 12000, (void *)cuGraphKernelNodeGetParams_v2, NULL},
    {"cuGraphKernelNodeSetAttribute", 11000, (void *)cuGraphKernelNodeSetAttribute, NULL},
    {"cuGraphKernelNodeSetParams", 10000, (void *)cuGraphKernelNodeSetParams, NULL},
    {"cuGraphKernelNodeSetParams", 12000, (void *)cuGraphKernelNodeSetParams_v2, NULL},
    {"cuGraphLaunch", 10000, (void *)cuGraphLaunch, (void *)cuGraphLaunch_ptsz},
    {"cuGraphMemAllocNodeGetParams", 11040, (void *)cuGraphMemAllocNodeGetParams, NULL},
    {"cuGraphMemFreeNodeGetParams", 11040, (void *)cuGraphMemFreeNodeGetParams, NULL},
    {"cuGraphMemcpyNodeGetParams", 10000, (void *)cuGraphMemcpyNodeGetParams, NULL},
    {"cuGraphMemcpyNodeSetParams", 10000, (void *)cuGraphMemcpyNodeSetParams, NULL},
    {"cuGraphMemsetNodeGetParams", 10000, (void *)cuGraphMemsetNodeGetParams, NULL},
    {"cuGraphMemsetNodeSetParams", 10000, (void *)cuGraphMemsetNodeSetParams, NULL},
    {"cuGraphNodeFindInClone", 10000, (void *)cuGraphNodeFindInClone, NULL},
    {"cuGraphNodeGetDependencies", 10000, (void *)cuGraphNodeGetDependencies, NULL},
    {"cuGraphNodeGetDependencies", 12030, (void *)cuGraphNodeGetDependencies_v2, NULL},
    {"cuGraphNodeGetDependentNodes", 10000, (void *)cuGraphNodeGetDependentNodes, NULL},
    {"cuGraphNodeGetDependentNodes", 12030, (void *)cuGraphNodeGetDependentNodes_v2, NULL},
    {"cuGraphNodeGetEnabled", 11060, (void *)cuGraphNodeGetEnabled, NULL},
    {"cuGraphNodeGetType", 10000, (void *)cuGraphNodeGetType, NULL},
    {"cuGraphNodeSetEnabled", 11060, (void *)cuGraphNodeSetEnabled, NULL},
    {"cuGraphNodeSetParams", 12020, (void *)cuGraphNodeSetParams, NULL},
    {"cuGraphNodeGetParams", 13020, (void *)cuGraphNodeGetParams, NULL},
    {"cuGraphNodeSetParams", 13040, (void *)cuGraphNodeSetParams_v2, NULL},
    {"cuGraphRemoveDependencies", 10000, (void *)cuGraphRemoveDependencies, NULL},
    {"cuGraphRemoveDependencies", 12030, (void *)cuGraphRemoveDependencies_v2, NULL},
    {"cuGraphUpload", 11010, (void *)cuGraphUpload, (void *)cuGraphUpload_ptsz},
    {"cuGreenCtxCreate", 12040, (void *)cuGreenCtxCreate, NULL},
    {"cuGreenCtxDestroy", 12040, (void *)cuGreenCtxDestroy, NULL},
    {"cuGreenCtxGetDevResource", 12040, (void *)cuGreenCtxGetDevResource, NULL},
    {"cuGreenCtxRecordEvent", 12040, (void *)cuGreenCtxRecordEvent, NULL},
    {"cuGreenCtxStreamCreate", 12050, (void *)cuGreenCtxStreamCreate, NULL},
    {"cuGreenCtxWaitEvent", 12040, (void *)cuGreenCtxWaitEvent, NULL},
    {"cuImportExternalMemory", 10000, (void *)cuImportExternalMemory, NULL},
    {"cuInit", 2000, (void *)cuInit, NULL},
    {"cuKernelGetFunction", 12000, (void *)cuKernelGetFunction, NULL},
    {"cuKernelGetName", 12030, (void *)cuKernelGetName, NULL},
    {"cuLaunchCooperativeKernel", 9000, (void *)cuLaunchCooperativeKernel,
     (void *)cuLaunchCooperativeKernel_ptsz},
    {"cuLaunchHostFunc", 10000, (void *)cuLaunchHostFunc, (void *)cuLaunchHostFunc_ptsz},
    {"cuLaunchHostFunc", 13010, (void *)cuLaunchHostFunc_v2, (void *)cuLaunchHostFunc_v2_ptsz},
    {"cuMemcpyWithAttributesAsync", 13020, (void *)cuMemcpyWithAttributesAsync,
     (void *)cuMemcpyWithAttributesAsync_ptsz},
    {"cuLaunchKernel", 4000, (void *)cuLaunchKernel, (void *)cuLaunchKernel_ptsz},
    {"cuLaunchKernelEx", 11060, (void *)cuLaunchKernelEx, (void *)cuLaunchKernelEx_ptsz},
    {"cuLibraryGetKernel", 12000, (void *)cuLibraryGetKernel, NULL},
    {"cuLibraryLoadData", 12000, (void *)cuLibraryLoadData, NULL},
    {"cuLibraryUnload", 12000, (void *)cuLibraryUnload, NULL},
    {"cuMemAddressFree", 10020, (void *)cuMemAddressFree, NULL},
    {"cuMemAddressReserve", 10020, (void *)cuMemAddressReserve, NULL},
    {"cuMemAlloc", 3020, (void *)cuMemAlloc_v2, NULL},
    {"cuMemAllocAsync", 11020, (void *)cuMemAllocAsync, (void *)cuMemAllocAsync_ptsz},
    {"cuMemAllocFromPoolAsync", 11020, (void *)cuMemAllocFromPoolAsync,
     (void *)cuMemAllocFromPoolAsync_ptsz},
    {"cuMemAllocHost", 3020, (void *)cuMemAllocHost_v2, NULL},
    {"cuMemAllocManaged", 6000, (void *)cuMemAllocManaged, NULL},
    {"cuMemAllocPitch", 3020, (void *)cuMemAllocPitch_v2, NULL},
    {"cuMemCreate", 10020, (void *)cuMemCreate, NULL},
    {"cuMemFree", 3020, (void *)cuMemFree_v2, NULL},
    {"cuMemFreeAsync", 11020, (void *)cuMemFreeAsync, (void *)cuMemFreeAsync_ptsz},
    {"cuMemFreeHost", 2000, (void *)cuMemFreeHost, NULL},
    {"cuMemGetAddressRange", 3020, (void *)cuMemGetAddressRange_v2, NULL},
    {"cuMemGetAllocationGranularity", 10020, (void *)cuMemGetAllocationGranularity, NULL},
    {"cuMemGetInfo", 3020, (void *)cuMemGetInfo_v2, NULL},
    {"cuMemHostAlloc", 2000, (void *)cuMemHostAlloc, NULL},
    {"cuMemHostGetDevicePointer", 3020, (void *)cuMemHostGetDevicePointer_v2, NULL},
    {"cuMemHostGetFlags", 2000, (void *)cuMemHostGetFlags, NULL},
    {"cuMemHostRegister", 6050, (void *)cuMemHostRegister_v2, NULL},
    {"cuMemHostUnregister", 4000, (void *)cuMemHostUnregister, NULL},
    {"cuMemMap", 10020, (void *)cuMemMap, NULL},
    {"cuMemPoolCreate", 11020, (void *)cuMemPoolCreate, NULL},
    {"cuMemPoolDestroy", 11020, (void *)cuMemPoolDestroy, NULL},
    {"cuMemPoolGetAttribute", 11020, (void *)cuMemPoolGetAttribute, NULL},
    {"cuMemPoolSetAttribute", 11020, (void *)cuMemPoolSetAttribute, NULL},
    {"cuMemPoolTrimTo", 11020, (void *)cuMemPoolTrimTo, NULL},
    {"cuMemRelease", 10020, (void *)cuMemRelease, NULL},
    {"cuMemRetainAllocationHandle", 11000, (void *)cuMemRetainAllocationHandle, NULL},
    {"cuMemSetAccess", 10020, (void *)cuMemSetAccess, NULL},
    {"cuMemUnmap", 10020, (void *)cuMemUnmap, NULL},
    {"cuMemcpy", 4000, (void *)cuMemcpy, (void *)cuMemcpy_ptds},
    {"cuMemcpy2D", 3020, (void *)cuMemcpy2D_v2, (void *)cuMemcpy2D_v2_ptds},
    {"cuMemcpy2DAsync", 3020, (void *)cuMemcpy2DAsync_v2, (void *)cuMemcpy2DAsync_v2_ptsz},
    {"cuMemcpy2DUnaligned", 3020, (void *)cuMemcpy2DUnaligned_v2,
     (void *)cuMemcpy2DUnaligned_v2_ptds},
    {"cuMemcpyAsync", 4000, (void *)cuMemcpyAsync, (void *)cuMemcpyAsync_ptsz},
    {"cuMemcpyDtoD", 3020, (void *)cuMemcpyDtoD_v2, (void *)cuMemcpyDtoD_v2_ptds},
    {"cuMemcpyDtoDAsync", 3020, (void *)cuMemcpyDtoDAsync_v2, (void *)cuMemcpyDtoDAsync_v2_ptsz},
    {"cuMemcpyDtoH", 3020, (void *)cuMemcpyDtoH_v2, (void *)cuMemcpyDtoH_v2_ptds},
    {"cuMemcpyDtoHAsync", 3020, (void *)cuMemcpyDtoHAsync_v2, (void *)cuMemcpyDtoHAsync_v2_ptsz},
    {"cuMemcpyHtoD", 3020, (void *)cuMemcpyHtoD_v2, (void *)cuMemcpyHtoD_v2_ptds},
    {"cuMemcpyHtoDAsync", 3020, (void *)cuMemcpyHtoDAsync_v2, (void *)cuMemcpyHtoDAsync_v2_ptsz},
    {"cuMemcpyPeer", 4000, (void *)cuMemcpyPeer, (void *)cuMemcpyPeer_ptds},
    {"cuMemcpyPeerAsync", 4000, (void *)cuMemcpyPeerAsync, (void *)cuMemcpyPeerAsync_ptsz},
    {"cuMemsetD16", 3020, (void *)cuMemsetD16_v2, (void *)cuMemsetD16_v2_ptds},
    {"cuMemsetD16Async", 3020, (void *)cuMemsetD16Async, (void *)cuMemsetD16Async_ptsz},
    {"cuMemsetD2D16", 3020, (void *)cuMemsetD2D16_v2, (void *)cuMemsetD2D16_v2_ptds},
    {"cuMemsetD2D16Async", 3020, (void *)cuMemsetD2D16Async, (void *)cuMemsetD2D16Async_ptsz},
    {"cuMemsetD2D32", 3020, (void *)cuMemsetD2D32_v2, (void *)cuMemsetD2D32_v2_ptds},
    {"cuMemsetD2D32Async", 3020, (void *)cuMemsetD2D32Async, (void *)cuMemsetD2D32Async_ptsz},
    {"cuMemsetD2D8", 3020, (void *)cuMemsetD2D8_v2, (void *)cuMemsetD2D8_v2_ptds},
    {"cuMemsetD2D8Async", 3020, (void *)cuMemsetD2D8Async, (void *)cuMemsetD2D8Async_ptsz},
    {"cuMemsetD32", 3020, (void *)cuMemsetD32_v2, (void *)cuMemsetD32_v2_ptds},
    {"cuMemsetD32Async", 3020, (void *)cuMemsetD32Async, (void *)cuMemsetD32Async_ptsz},
    {"cuMemsetD8", 3020, (void *)cuMemsetD8_v2, (void *)cuMemsetD8_v2_ptds},
    {"cuMemsetD8Async", 3020, (void *)cuMemsetD8Async, (void *)cuMemsetD8Async_ptsz},
    {"cuMipmappedArrayCreate", 5000, (void *)cuMipmappedArrayCreate, NULL},
    {"cuMipmappedArrayDestroy", 5000, (void *)cuMipmappedArrayDestroy, NULL},
    {"cuModuleGetFunction", 2000, (void *)cuModuleGetFunction, NULL},
    {"cuModuleGetGlobal", 3020, (void *)cuModuleGetGlobal_v2, NULL},
    {"cuModuleGetLoadingMode", 11070, (void *)cuModuleGetLoadingMode, NULL},
    {"cuModuleLoad", 2000, (void *)cuModuleLoad, NULL},
    {"cuModuleLoadData", 2000, (void *)cuModuleLoadData, NULL},
    {"cuModuleLoadDataEx", 2000, (void *)cuModuleLoadDataEx, NULL},
    {"cuModuleUnload", 2000, (void *)cuModuleUnload, NULL},
    {"cuOccupancyMaxActiveBlocksPerMultiprocessor", 6050,
     (void *)cuOccupancyMaxActiveBlocksPerMultiprocessor, NULL},
    {"cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", 7000,
     (void *)cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, NULL},
    {"cuOccupancyMaxPotentialBlockSize", 6050, (void *)cuOccupancyMaxPotentialBlockSize, NULL},
    {"cuPointerGetAttribute", 4000, (void *)cuPointerGetAttribute, NULL},
    {"cuStreamAddCallback", 5000, (void *)cuStreamAddCallback, (void *)cuStreamAddCallback_ptsz},
    {"cuStreamBatchMemOp", 11070, (void *)cuStreamBatchMemOp_v2,
     (void *)cuStreamBatchMemOp_v2_ptsz},
    {"cuStreamBeginCapture", 10000, (void *)cuStreamBeginCapture,
     (void *)cuStreamBeginCapture_ptsz},
    {"cuStreamBeginCapture", 10010, (void *)cuStreamBeginCapture_v2,
     (void *)cuStreamBeginCapture_v2_ptsz},
    {"cuStreamBeginCaptureToGraph", 12030, (void *)cuStreamBeginCaptureToGraph,
     (void *)cuStreamBeginCaptureToGraph_ptsz},
    {"cuStreamCopyAttributes", 11000, (void *)cuStreamCopyAttributes,
     (void *)cuStreamCopyAttributes_ptsz},
    {"cuStreamCreate", 2000, (void *)cuStreamCreate, NULL},
    {"cuStreamCreateWithPriority", 5050, (void *)cuStreamCreateWithPriority, NULL},
    {"cuStreamDestroy", 4000, (void *)cuStreamDestroy_v2, NULL},
    {"cuStreamEndCapture", 10000, (void *)cuStreamEndCapture, (void *)cuStreamEndCapture_ptsz},
    {"cuStreamGetAttribute", 11000, (void *)cuStreamGetAttribute,
     (void *)cuStreamGetAttribute_ptsz},
    {"cuStreamGetCaptureInfo", 10010, (void *)cuStreamGetCaptureInfo,
     (void *)cuStreamGetCaptureInfo_ptsz},
    {"cuStreamGetCaptureInfo", 11030, (void *)cuStreamGetCaptureInfo_v2,
     (void *)cuStreamGetCaptureInfo_v2_ptsz},
    {"cuStreamGetCaptureInfo", 12030, (void *)cuStreamGetCaptureInfo_v3,
     (void *)cuStreamGetCaptureInfo_v3_ptsz},
    {"cuStreamGetCtx", 9020, (void *)cuStreamGetCtx, (void *)cuStreamGetCtx_ptsz},
    {"cuStreamGetCtx", 12050, (void *)cuStreamGetCtx_v2, (void *)cuStreamGetCtx_v2_ptsz},
#if CUDA_VERSION >= 12080
    {"cuStreamGetDevice", 12080, (void *)cuStreamGetDevice, (void *)cuStreamGetDevice_ptsz},
#endif
    {"cuStreamGetFlags", 5050, (void *)cuStreamGetFlags, (void *)cuStreamGetFlags_ptsz},
    {"cuStreamGetGreenCtx", 12040, (void *)cuStreamGetGreenCtx, NULL},
    {"cuStreamGetDevResource", 13010, (void *)cuStreamGetDevResource,
     (void *)cuStreamGetDevResource_ptsz},
    {"cuStreamGetId", 12000, (void *)cuStreamGetId, (void *)cuStreamGetId_ptsz},
    {"cuStreamGetPriority", 5050, (void *)cuStreamGetPriority, (void *)cuStreamGetPriority_ptsz},
    {"cuStreamIsCapturing", 10000, (void *)cuStreamIsCapturing, (void *)cuStreamIsCapturing_ptsz},
    {"cuStreamQuery", 2000, (void *)cuStreamQuery, (void *)cuStreamQuery_ptsz},
    {"cuStreamSetAttribute", 11000, (void *)cuStreamSetAttribute,
     (void *)cuStreamSetAttribute_ptsz},
    {"cuStreamSynchronize", 2000, (void *)cuStreamSynchronize, (void *)cuStreamSynchronize_ptsz},
    {"cuStreamUpdateCaptureDependencies", 11030, (void *)cuStreamUpdateCaptureDependencies,
     (void *)cuStreamUpdateCaptureDependencies_ptsz},
    {"cuStreamUpdateCaptureDependencies", 12030, (void *)cuStreamUpdateCaptureDependencies_v2,
     (void *)cuStreamUpdateCaptureDependencies_v2_ptsz},
    {"cuStreamWaitEvent", 3020, (void *)cuStreamWaitEvent, (void *)cuStreamWaitEvent_ptsz},
    {"cuStreamWaitValue32", 11070, (void *)cuStreamWaitValue32_v2,
     (void *)cuStreamWaitValue32_v2_ptsz},
    {"cuStreamWaitValue64", 11070, (void *)cuStreamWaitValue64_v2,
     (void *)cuStreamWaitValue64_v2_ptsz},
    {"cuStreamWriteValue32", 11070, (void *)cuStreamWriteValue32_v2,
     (void *)cuStreamWriteValue32_v2_ptsz},
    {"cuStreamWriteValue64", 11070, (void *)cuStreamWriteValue64_v2,
     (void *)cuStreamWriteValue64_v2_ptsz},
    {"cuThreadExchangeStreamCaptureMode", 10010, (void *)cuThreadExchangeStreamCaptureMode, NULL},
};

CUresult CUDAAPI cuGetProcAddress_v2(const char *name, void **function, int version,
				     cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
	CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
	const struct symbol *best = NULL;
	const int newest = emu_cuda_version();

	if (!name || !function || flags & ~3u || version > newest)
		return CUDA_ERROR_INVALID_VALUE;
	*function = NULL;
	for (size_t i = 0; i < sizeof(symbols) / sizeof(*symbols); i++) {
		if (strcmp(symbols[i].name, name) || symbols[i].since > newest)
			continue;
		if (symbols[i].since <= version && (!best || symbols[i].since > best->since))
			best = &symbols[i];
		else if (!best)
			found = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
	}
	if (best) {
		bool twin = flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM && best->twin;
		*function = twin ? best->twin : best->function;
		found = CU_GET_PROC_ADDRESS_SUCCESS;
	}
	if (status)
		*status = found;
	return CUDA_SUCCESS;
}

/* The first form reports with an error what the second one reports in the status. */
CUresult CUDAAPI cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags)
{
	CUdriverProcAddressQueryResult status;
	void *found;
	CUresult rc = cuGetProcAddress_v2(name, function ? &found : NULL, version, flags, &status);

	if (rc)
		return rc;
	if (status != CU_GET_PROC_ADDRESS_SUCCESS)
		return CUDA_ERROR_NOT_FOUND;
	*function = found;
	return CUDA_SUCCESS;
}

/* Nobody who stands before the driver sees this: the calls are the driver's own. */
static CUresult make_primary_current(CUdevice device)
{
	CUcontext primary;
	CUresult rc = cuDevicePrimaryCtxRetain(&primary, device);

	return rc ? rc : cuCtxSetCurrent(primary);
}

/*
 * The private tables through which the CUDA runtime reaches the driver do not exist here; but one that does
 * what they do, for tests: its size, and a function that makes a primary context current.
 */
CUresult CUDAAPI cuGetExportTable(const void **table, const CUuuid *id)
{
	static const struct {
		size_t size;
		CUresult (*make_primary_current)(CUdevice);
	} ours = {sizeof(ours), make_primary_current};
	static const CUuuid id_of_ours = {"emulated GPU 001"};

	if (!table || !id)
		return CUDA_ERROR_INVALID_VALUE;
	*table = memcmp(id, &id_of_ours, sizeof(*id)) ? NULL : (const void *)&ours;
	return *table ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

static const struct error {
	int value;
	const char *name, *text;
} errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", NULL},
    {5, "CUDA_ERROR_PROFILER_DISABLED", NULL},
    {6, "CUDA_ERROR_PROFILER_NOT_INITIALIZED", NULL},
    {7, "CUDA_ERROR_PROFILER_ALREADY_STARTED", NULL},
    {8, "CUDA_ERROR_PROFILER_ALREADY_STOPPED", NULL},
    {34, "CUDA_ERROR_STUB_LIBRARY", NULL},
    {36, "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", NULL},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", NULL},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {102, "CUDA_ERROR_DEVICE_NOT_LICENSED", NULL},
    {200, "CUDA_ERROR_INVALID_IMAGE", NULL},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {202, "CUDA_ERROR_CONTEXT_ALREADY_CURRENT", NULL},
    {205, "CUDA_ERROR_MAP_FAILED", NULL},
    {206, "CUDA_ERROR_UNMAP_FAILED", NULL},
    {207, "CUDA_ERROR_ARRAY_IS_MAPPED", NULL},
    {208, "CUDA_ERROR_ALREADY_MAPPED", NULL},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {210, "CUDA_ERROR_ALREADY_ACQUIRED", NULL},
    {211, "CUDA_ERROR_NOT_MAPPED", NULL},
    {212, "CUDA_ERROR_NOT_MAPPED_AS_ARRAY", NULL},
    {213, "CUDA_ERROR_NOT_MAPPED_AS_POINTER", NULL},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", NULL},
    {215, "CUDA_ERROR_UNSUPPORTED_LIMIT", NULL},
    {216, "CUDA_ERROR_CONTEXT_ALREADY_IN_USE", NULL},
    {217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", NULL},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {219, "CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", NULL},
    {220, "CUDA_ERROR_NVLINK_UNCORRECTABLE", NULL},
    {221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", NULL},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", NULL},
    {223, "CUDA_ERROR_JIT_COMPILATION_DISABLED", NULL},
    {224, "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", NULL},
    {225, "CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC", NULL},
    {226, "CUDA_ERROR_CONTAINED", NULL},
    {300, "CUDA_ERROR_INVALID_SOURCE", NULL},
    {301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {302, "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", NULL},
    {303, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", NULL},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", NULL},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", NULL},
    {402, "CUDA_ERROR_LOSSY_QUERY", NULL},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", NULL},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", NULL},
    {703, "CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", NULL},
    {704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", NULL},
    {705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", NULL},
    {708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", NULL},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {710, "CUDA_ERROR_ASSERT", NULL},
    {711, "CUDA_ERROR_TOO_MANY_PEERS", NULL},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {714, "CUDA_ERROR_HARDWARE_STACK_ERROR", NULL},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", NULL},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", NULL},
    {717, "CUDA_ERROR_INVALID_ADDRESS_SPACE", NULL},
    {718, "CUDA_ERROR_INVALID_PC", NULL},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks in cooperative launch"},
    {721, "CUDA_ERROR_TENSOR_MEMORY_LEAK", NULL},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", NULL},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", NULL},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", NULL},
    {805, "CUDA_ERROR_MPS_CONNECTION_FAILED",
     "MPS client failed to connect to the MPS control daemon or the MPS server"},
    {806, "CUDA_ERROR_MPS_RPC_FAILURE", NULL},
    {807, "CUDA_ERROR_MPS_SERVER_NOT_READY", NULL},
    {808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
     "the hardware resources required to support more MPS clients are exhausted"},
    {809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", NULL},
    {810, "CUDA_ERROR_MPS_CLIENT_TERMINATED", "the MPS client was terminated"},
    {811, "CUDA_ERROR_CDP_NOT_SUPPORTED", NULL},
    {812, "CUDA_ERROR_CDP_VERSION_MISMATCH", NULL},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", NULL},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", NULL},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", NULL},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", NULL},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", NULL},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", NULL},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", NULL},
    {907, "CUDA_ERROR_CAPTURED_EVENT", NULL},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", NULL},
    {909, "CUDA_ERROR_TIMEOUT", NULL},
    {910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", NULL},
    {911, "CUDA_ERROR_EXTERNAL_DEVICE", NULL},
    {912, "CUDA_ERROR_INVALID_CLUSTER_SIZE", NULL},
    {913, "CUDA_ERROR_FUNCTION_NOT_LOADED", NULL},
    {914, "CUDA_ERROR_INVALID_RESOURCE_TYPE", "invalid resource type"},
    {915, "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", "invalid resource configuration"},
    {916, "CUDA_ERROR_KEY_ROTATION", NULL},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static const struct error *find_error(CUresult error)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
		if (errors[i].value == (int)error)
			return &errors[i];
	return NULL;
}

CUresult CUDAAPI cuGetErrorName(CUresult error, const char **name)
{
	const struct error *e = find_error(error);

	if (!name)
		return CUDA_ERROR_INVALID_VALUE;
	*name = e ? e->name : NULL;
	return e ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **text)
{
	const struct error *e = find_error(error);

	if (!text)
		return CUDA_ERROR_INVALID_VALUE;
	*text = !e ? NULL : e->text ? e->text : e->name;
	return e ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
