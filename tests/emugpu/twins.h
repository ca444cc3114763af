/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_TWINS_H
#define DETSHARE_TESTS_EMUGPU_TWINS_H

#include "tests/emugpu/driver.h"

/*
 * Functions that cuda.h declares only for programs compiled with the per-thread default stream
 * (_ptsz: takes a stream; _ptds: uses the default one), and versions that it hides.
 */
EMU_EXPORT CUresult CUDAAPI cuEventRecordWithFlags_ptsz(CUevent e, CUstream s, unsigned f);
EMU_EXPORT CUresult CUDAAPI cuEventRecord_ptsz(CUevent e, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned gx, unsigned gy,
							   unsigned gz, unsigned bx, unsigned by,
							   unsigned bz, unsigned sh, CUstream s,
							   void **p);
EMU_EXPORT CUresult CUDAAPI cuLaunchHostFunc_ptsz(CUstream s, CUhostFn f, void *d);
EMU_EXPORT CUresult CUDAAPI cuLaunchKernelEx_ptsz(const CUlaunchConfig *c, CUfunction f, void **p,
						  void **e);
EMU_EXPORT CUresult CUDAAPI cuLaunchKernel_ptsz(CUfunction f, unsigned gx, unsigned gy, unsigned gz,
						unsigned bx, unsigned by, unsigned bz, unsigned sh,
						CUstream s, void **p, void **e);
EMU_EXPORT CUresult CUDAAPI cuMemAllocAsync_ptsz(CUdeviceptr *p, size_t n, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *p, size_t n, CUmemoryPool q,
							 CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemFreeAsync_ptsz(CUdeviceptr p, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyAsync_ptsz(CUdeviceptr to, CUdeviceptr from, size_t n,
					       CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr to, CUdeviceptr from, size_t n,
						      CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoD_v2_ptds(CUdeviceptr to, CUdeviceptr from, size_t n);
EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoHAsync_v2_ptsz(void *to, CUdeviceptr from, size_t n,
						      CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoH_v2_ptds(void *to, CUdeviceptr from, size_t n);
EMU_EXPORT CUresult CUDAAPI cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr to, const void *from, size_t n,
						      CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyHtoD_v2_ptds(CUdeviceptr to, const void *from, size_t n);
EMU_EXPORT CUresult CUDAAPI cuMemcpy_ptds(CUdeviceptr to, CUdeviceptr from, size_t n);
EMU_EXPORT CUresult CUDAAPI cuMemsetD16Async_ptsz(CUdeviceptr to, unsigned short v, size_t n,
						  CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemsetD16_v2_ptds(CUdeviceptr to, unsigned short v, size_t n);
EMU_EXPORT CUresult CUDAAPI cuMemsetD2D16Async_ptsz(CUdeviceptr to, size_t pitch, unsigned short v,
						    size_t w, size_t h, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemsetD2D16_v2_ptds(CUdeviceptr to, size_t pitch, unsigned short v,
						  size_t w, size_t h);
EMU_EXPORT CUresult CUDAAPI cuMemsetD2D32Async_ptsz(CUdeviceptr to, size_t pitch, unsigned v,
						    size_t w, size_t h, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemsetD2D32_v2_ptds(CUdeviceptr to, size_t pitch, unsigned v,
						  size_t w, size_t h);
EMU_EXPORT CUresult CUDAAPI cuMemsetD2D8Async_ptsz(CUdeviceptr to, size_t pitch, unsigned char v,
						   size_t w, size_t h, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemsetD2D8_v2_ptds(CUdeviceptr to, size_t pitch, unsigned char v,
						 size_t w, size_t h);
EMU_EXPORT CUresult CUDAAPI cuMemsetD32Async_ptsz(CUdeviceptr to, unsigned v, size_t n, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemsetD32_v2_ptds(CUdeviceptr to, unsigned v, size_t n);
EMU_EXPORT CUresult CUDAAPI cuMemsetD8Async_ptsz(CUdeviceptr to, unsigned char v, size_t n,
						 CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemsetD8_v2_ptds(CUdeviceptr to, unsigned char v, size_t n);
EMU_EXPORT CUresult CUDAAPI cuStreamAddCallback_ptsz(CUstream s, CUstreamCallback c, void *d,
						     unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamCopyAttributes_ptsz(CUstream a, CUstream b);
EMU_EXPORT CUresult CUDAAPI cuStreamGetAttribute_ptsz(CUstream s, CUstreamAttrID i,
						      CUstreamAttrValue *v);
EMU_EXPORT CUresult CUDAAPI cuStreamSetAttribute_ptsz(CUstream s, CUstreamAttrID i,
						      const CUstreamAttrValue *v);
EMU_EXPORT CUresult CUDAAPI cuStreamGetCtx_ptsz(CUstream s, CUcontext *c);
EMU_EXPORT CUresult CUDAAPI cuStreamGetCtx_v2_ptsz(CUstream s, CUcontext *c, CUgreenCtx *g);
#if CUDA_VERSION >= 12080
EMU_EXPORT CUresult CUDAAPI cuStreamGetDevice_ptsz(CUstream s, CUdevice *d);
#endif
EMU_EXPORT CUresult CUDAAPI cuStreamGetFlags_ptsz(CUstream s, unsigned *f);
EMU_EXPORT CUresult CUDAAPI cuStreamGetId_ptsz(CUstream s, unsigned long long *i);
EMU_EXPORT CUresult CUDAAPI cuStreamGetPriority_ptsz(CUstream s, int *p);
EMU_EXPORT CUresult CUDAAPI cuStreamIsCapturing_ptsz(CUstream s, CUstreamCaptureStatus *st);
EMU_EXPORT CUresult CUDAAPI cuStreamQuery_ptsz(CUstream s);
EMU_EXPORT CUresult CUDAAPI cuStreamSynchronize_ptsz(CUstream s);
EMU_EXPORT CUresult CUDAAPI cuStreamWaitEvent_ptsz(CUstream s, CUevent e, unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamWaitValue32_v2_ptsz(CUstream s, CUdeviceptr a, cuuint32_t v,
							unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamWaitValue64_v2_ptsz(CUstream s, CUdeviceptr a, cuuint64_t v,
							unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamWriteValue32_v2_ptsz(CUstream s, CUdeviceptr a, cuuint32_t v,
							 unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamWriteValue64_v2_ptsz(CUstream s, CUdeviceptr a, cuuint64_t v,
							 unsigned f);
EMU_EXPORT CUresult CUDAAPI cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D *c, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *c);
EMU_EXPORT CUresult CUDAAPI cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D *c);
EMU_EXPORT CUresult CUDAAPI cuMemcpyPeerAsync_ptsz(CUdeviceptr to, CUcontext tc, CUdeviceptr from,
						   CUcontext fc, size_t n, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyPeer_ptds(CUdeviceptr to, CUcontext tc, CUdeviceptr from,
					      CUcontext fc, size_t n);
EMU_EXPORT CUresult CUDAAPI cuStreamBatchMemOp_v2_ptsz(CUstream s, unsigned n,
						       CUstreamBatchMemOpParams *o, unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamEndCapture_ptsz(CUstream s, CUgraph *g);
EMU_EXPORT CUresult CUDAAPI cuStreamGetCaptureInfo_v2_ptsz(CUstream s, CUstreamCaptureStatus *st,
							   cuuint64_t *i, CUgraph *g,
							   const CUgraphNode **d, size_t *n);
EMU_EXPORT CUresult CUDAAPI cuStreamGetCaptureInfo_v3_ptsz(CUstream s, CUstreamCaptureStatus *st,
							   cuuint64_t *i, CUgraph *g,
							   const CUgraphNode **d,
							   const CUgraphEdgeData **e, size_t *n);
EMU_EXPORT CUresult CUDAAPI cuStreamBeginCapture_ptsz(CUstream s);
EMU_EXPORT CUresult CUDAAPI cuStreamBeginCaptureToGraph_ptsz(CUstream s, CUgraph g,
							     const CUgraphNode *a,
							     const CUgraphEdgeData *e, size_t n,
							     CUstreamCaptureMode m);
EMU_EXPORT CUresult CUDAAPI cuStreamGetCaptureInfo_ptsz(CUstream s, CUstreamCaptureStatus *st,
							cuuint64_t *i);
EMU_EXPORT CUresult CUDAAPI cuStreamUpdateCaptureDependencies_ptsz(CUstream s, CUgraphNode *d,
								   size_t n, unsigned f);
EMU_EXPORT CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream s, CUgraphNode *d,
								      const CUgraphEdgeData *e,
								      size_t n, unsigned f);
EMU_EXPORT CUresult CUDAAPI cuGraphInstantiateWithParams_ptsz(CUgraphExec *e, CUgraph g,
							      CUDA_GRAPH_INSTANTIATE_PARAMS *p);
EMU_EXPORT CUresult CUDAAPI cuGraphLaunch_ptsz(CUgraphExec e, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuGraphUpload_ptsz(CUgraphExec e, CUstream s);
#endif
