/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_NEWER_CUDA_H
#define DETSHARE_TESTS_GPU_NEWER_CUDA_H

/* Calls that programs look up by name, and that cuda.h does not declare by it. After cuda.h. */
__typeof__(cuLaunchKernel) cuLaunchKernel_ptsz;
__typeof__(cuMemcpyDtoD_v2) cuMemcpyDtoD_v2_ptds;

/* Headers that are older. */
#if CUDA_VERSION < 12050
CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *stream, CUgreenCtx green, unsigned flags,
					int priority);
CUresult CUDAAPI cuCtxRecordEvent(CUcontext context, CUevent event);
CUresult CUDAAPI cuStreamGetCtx_v2(CUstream stream, CUcontext *context, CUgreenCtx *green);
#endif
#if CUDA_VERSION < 12080
typedef struct CUmemcpyAttributes_st CUmemcpyAttributes;
CUresult CUDAAPI cuStreamGetDevice(CUstream stream, CUdevice *device);
CUresult CUDAAPI cuEventElapsedTime_v2(float *ms, CUevent start, CUevent end);
#endif

#endif
