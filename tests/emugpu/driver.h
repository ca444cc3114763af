/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_DRIVER_H
#define DETSHARE_TESTS_EMUGPU_DRIVER_H

#include "tests/emugpu/engine.h"

/* What cuDriverGetVersion says, unless EMUGPU_CUDA_VERSION makes it an older or a newer driver. */
enum {
	EMU_CUDA_VERSION = 13000,
	EMU_NEWEST_VERSION = 13050, /* of which some calls are here: newer.c */
};
int emu_cuda_version(void);

#define EMU_EXPORT __attribute__((visibility("default")))

/*
 * cuda.h names each function for the newest version; a real libcuda exports every version. Where a
 * header's macro would hide an older one, drop it and declare all versions here.
 */
#undef cuCtxCreate
#undef cuDeviceGetUuid
#undef cuEventElapsedTime
#undef cuGetProcAddress
#undef cuStreamGetCtx
#undef cuDevicePrimaryCtxRelease
#undef cuDevicePrimaryCtxReset
#undef cuDevicePrimaryCtxSetFlags
#undef cuCtxDestroy
#undef cuCtxPopCurrent
#undef cuCtxPushCurrent
#undef cuStreamDestroy
#undef cuEventDestroy
#undef cuStreamGetCaptureInfo
#undef cuStreamBeginCapture
#undef cuStreamUpdateCaptureDependencies
#undef cuGraphInstantiate
#undef cuGraphExecUpdate
#undef cuGraphAddKernelNode
#undef cuGraphKernelNodeGetParams
#undef cuGraphKernelNodeSetParams
#undef cuGraphExecKernelNodeSetParams
#undef cuGraphGetEdges
#undef cuGraphNodeGetDependencies
#undef cuGraphNodeGetDependentNodes
#undef cuGraphAddDependencies
#undef cuGraphRemoveDependencies
#undef cuGraphAddNode
#undef cuMemHostRegister
#undef cuStreamBatchMemOp
#undef cuStreamWaitValue32
#undef cuStreamWriteValue32
#undef cuStreamWaitValue64
#undef cuStreamWriteValue64

/* Name and version of each function that the headers may not declare under this very name. */
#define EMU_VERSION_OF(name, args) EMU_EXPORT CUresult CUDAAPI name args;
EMU_VERSION_OF(cuCtxCreate_v2, (CUcontext *, unsigned, CUdevice))
EMU_VERSION_OF(cuCtxCreate_v3, (CUcontext *, CUexecAffinityParam *, int, unsigned, CUdevice))
EMU_VERSION_OF(cuDeviceGetUuid, (CUuuid *, CUdevice))
EMU_VERSION_OF(cuDeviceGetUuid_v2, (CUuuid *, CUdevice))
EMU_VERSION_OF(cuEventElapsedTime, (float *, CUevent, CUevent))
EMU_VERSION_OF(cuEventElapsedTime_v2, (float *, CUevent, CUevent))
EMU_VERSION_OF(cuGetProcAddress, (const char *, void **, int, cuuint64_t))
EMU_VERSION_OF(cuStreamGetCtx, (CUstream, CUcontext *))
EMU_VERSION_OF(cuStreamGetCtx_v2, (CUstream, CUcontext *, CUgreenCtx *))
EMU_VERSION_OF(cuDevicePrimaryCtxRelease, (CUdevice))
EMU_VERSION_OF(cuDevicePrimaryCtxRelease_v2, (CUdevice))
EMU_VERSION_OF(cuDevicePrimaryCtxReset, (CUdevice))
EMU_VERSION_OF(cuDevicePrimaryCtxReset_v2, (CUdevice))
EMU_VERSION_OF(cuDevicePrimaryCtxSetFlags, (CUdevice, unsigned))
EMU_VERSION_OF(cuDevicePrimaryCtxSetFlags_v2, (CUdevice, unsigned))
EMU_VERSION_OF(cuCtxDestroy_v2, (CUcontext))
EMU_VERSION_OF(cuCtxPopCurrent_v2, (CUcontext *))
EMU_VERSION_OF(cuCtxPushCurrent_v2, (CUcontext))
EMU_VERSION_OF(cuStreamDestroy_v2, (CUstream))
EMU_VERSION_OF(cuEventDestroy_v2, (CUevent))
EMU_VERSION_OF(cuStreamBeginCapture_v2, (CUstream, CUstreamCaptureMode))
EMU_VERSION_OF(cuStreamBeginCapture_v2_ptsz, (CUstream, CUstreamCaptureMode))
EMU_VERSION_OF(cuStreamGetCaptureInfo_v2, (CUstream, CUstreamCaptureStatus *, cuuint64_t *,
					   CUgraph *, const CUgraphNode **, size_t *))
EMU_VERSION_OF(cuStreamGetCaptureInfo_v3,
	       (CUstream, CUstreamCaptureStatus *, cuuint64_t *, CUgraph *, const CUgraphNode **,
		const CUgraphEdgeData **, size_t *))
EMU_VERSION_OF(cuStreamBeginCapture, (CUstream))
EMU_VERSION_OF(cuStreamGetCaptureInfo, (CUstream, CUstreamCaptureStatus *, cuuint64_t *))
EMU_VERSION_OF(cuStreamUpdateCaptureDependencies, (CUstream, CUgraphNode *, size_t, unsigned))
EMU_VERSION_OF(cuStreamUpdateCaptureDependencies_v2,
	       (CUstream, CUgraphNode *, const CUgraphEdgeData *, size_t, unsigned))
EMU_VERSION_OF(cuGraphInstantiate, (CUgraphExec *, CUgraph, CUgraphNode *, char *, size_t))
EMU_VERSION_OF(cuGraphInstantiate_v2, (CUgraphExec *, CUgraph, CUgraphNode *, char *, size_t))
EMU_VERSION_OF(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))
EMU_VERSION_OF(cuGraphExecUpdate, (CUgraphExec, CUgraph, CUgraphNode *, CUgraphExecUpdateResult *))
EMU_VERSION_OF(cuGraphExecUpdate_v2, (CUgraphExec, CUgraph, CUgraphExecUpdateResultInfo *))
EMU_VERSION_OF(cuGraphAddKernelNode, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t,
				      const CUDA_KERNEL_NODE_PARAMS_v1 *))
EMU_VERSION_OF(cuGraphAddKernelNode_v2, (CUgraphNode *, CUgraph, const CUgraphNode *, size_t,
					 const CUDA_KERNEL_NODE_PARAMS *))
EMU_VERSION_OF(cuGraphKernelNodeGetParams, (CUgraphNode, CUDA_KERNEL_NODE_PARAMS_v1 *))
EMU_VERSION_OF(cuGraphKernelNodeGetParams_v2, (CUgraphNode, CUDA_KERNEL_NODE_PARAMS *))
EMU_VERSION_OF(cuGraphKernelNodeSetParams, (CUgraphNode, const CUDA_KERNEL_NODE_PARAMS_v1 *))
EMU_VERSION_OF(cuGraphKernelNodeSetParams_v2, (CUgraphNode, const CUDA_KERNEL_NODE_PARAMS *))
EMU_VERSION_OF(cuGraphExecKernelNodeSetParams,
	       (CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS_v1 *))
EMU_VERSION_OF(cuGraphExecKernelNodeSetParams_v2,
	       (CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS *))
EMU_VERSION_OF(cuGraphGetEdges, (CUgraph, CUgraphNode *, CUgraphNode *, size_t *))
EMU_VERSION_OF(cuGraphGetEdges_v2,
	       (CUgraph, CUgraphNode *, CUgraphNode *, CUgraphEdgeData *, size_t *))
EMU_VERSION_OF(cuGraphNodeGetDependencies, (CUgraphNode, CUgraphNode *, size_t *))
EMU_VERSION_OF(cuGraphNodeGetDependencies_v2,
	       (CUgraphNode, CUgraphNode *, CUgraphEdgeData *, size_t *))
EMU_VERSION_OF(cuGraphNodeGetDependentNodes, (CUgraphNode, CUgraphNode *, size_t *))
EMU_VERSION_OF(cuGraphNodeGetDependentNodes_v2,
	       (CUgraphNode, CUgraphNode *, CUgraphEdgeData *, size_t *))
EMU_VERSION_OF(cuGraphAddDependencies, (CUgraph, const CUgraphNode *, const CUgraphNode *, size_t))
EMU_VERSION_OF(cuGraphAddDependencies_v2,
	       (CUgraph, const CUgraphNode *, const CUgraphNode *, const CUgraphEdgeData *, size_t))
EMU_VERSION_OF(cuGraphRemoveDependencies,
	       (CUgraph, const CUgraphNode *, const CUgraphNode *, size_t))
EMU_VERSION_OF(cuGraphRemoveDependencies_v2,
	       (CUgraph, const CUgraphNode *, const CUgraphNode *, const CUgraphEdgeData *, size_t))
EMU_VERSION_OF(cuGraphAddNode,
	       (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUgraphNodeParams *))
EMU_VERSION_OF(cuGraphAddNode_v2, (CUgraphNode *, CUgraph, const CUgraphNode *,
				   const CUgraphEdgeData *, size_t, CUgraphNodeParams *))
EMU_VERSION_OF(cuStreamBatchMemOp_v2, (CUstream, unsigned, CUstreamBatchMemOpParams *, unsigned))
EMU_VERSION_OF(cuGreenCtxStreamCreate, (CUstream *, CUgreenCtx, unsigned, int))
EMU_VERSION_OF(cuCtxRecordEvent, (CUcontext, CUevent))
EMU_VERSION_OF(cuCtxWaitEvent, (CUcontext, CUevent))
EMU_VERSION_OF(cuMemHostRegister_v2, (void *, size_t, unsigned))
EMU_VERSION_OF(cuStreamWaitValue32_v2, (CUstream, CUdeviceptr, cuuint32_t, unsigned))
EMU_VERSION_OF(cuStreamWriteValue32_v2, (CUstream, CUdeviceptr, cuuint32_t, unsigned))
EMU_VERSION_OF(cuStreamWaitValue64_v2, (CUstream, CUdeviceptr, cuuint64_t, unsigned))
#if CUDA_VERSION >= 12050
EMU_VERSION_OF(cuCtxCreate_v4, (CUcontext *, CUctxCreateParams *, unsigned, CUdevice))
#endif
EMU_VERSION_OF(cuStreamWriteValue64_v2, (CUstream, CUdeviceptr, cuuint64_t, unsigned))

/*
 * The twin of a function for programs compiled with the per-thread default stream; declared in
 * twins.h.
 */
#define EMU_TWIN(twin, args, call) \
	CUresult CUDAAPI twin args \
	{                          \
		return call;       \
	}

static inline CUstream emu_per_thread(CUstream stream)
{
	return stream ? stream : CU_STREAM_PER_THREAD;
}

/*
 * Every call begins with one of these. They take the mutex only if they return CUDA_SUCCESS; the
 * caller leaves with emu_exit().
 */
CUresult emu_begin(void); /* cuInit was called, in this process */
CUresult emu_begin_device(CUdevice number, struct emu_device **dev);
CUresult emu_begin_context(struct CUctx_st **ctx); /* of this thread; no sticky error */
CUresult emu_begin_stream(CUstream handle, struct CUstream_st **stream);

/* Under the mutex: the stream a handle means to this thread, or NULL. */
struct CUstream_st *emu_stream(CUstream handle, CUresult *rc);
struct CUstream_st *emu_stream_new(struct CUctx_st *ctx, unsigned flags, int priority);
void emu_stream_free(struct CUstream_st *stream);

/* Under the mutex: this thread's current context (NULL: none). */
struct CUctx_st *emu_current(void);
/* Retain and release the primary context. */
CUresult emu_primary_retain(struct emu_device *dev, struct CUctx_st **ctx);
void emu_primary_release(struct emu_device *dev);

CUdevice emu_device_number(const struct emu_device *dev);

/* The SM resource of a set of SMs that came out of the split numbered `split`. */
CUdevResource emu_resource(const struct emu_device *dev, const struct emu_sms *sms, unsigned split);

/* Under the mutex: what a descriptor of `dev` holds; false: not such a descriptor. */
bool emu_desc_read(CUdevResourceDesc desc, const struct emu_device *dev, struct emu_sms *sms);

/* Connect to the MPS control daemon, if one lives. Fills emu.server_pid. */
CUresult emu_mps_connect(void);

/* One line on stderr, "emugpu: …". */
void emu_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
