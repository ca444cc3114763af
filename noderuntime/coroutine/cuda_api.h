/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_CUDA_API_H
#define DETSHARE_COROUTINE_CUDA_API_H

/*
 * cuda.h with every entry point under the name that libcuda exports: without this, the header
 * renames cuMemFree to cuMemFree_v2 and so on, and old forms are not declared at all.
 */
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>

/*
 * One build serves every driver, so the table names calls newer than the oldest headers we accept.
 * Their types are only ever pointed to, and passed on.
 */
#if CUDA_VERSION < 13050
typedef struct CUDA_FABRIC_COPY_BATCH_OP_st CUDA_FABRIC_COPY_BATCH_OP;
#endif
#if CUDA_VERSION < 13030
typedef int CUgraphRecaptureStatus;
typedef CUresult(CUDA_CB *CUgraphRecaptureCallback)(void *, CUgraphNode, const CUgraphNodeParams *,
						    const CUgraphNodeParams *,
						    CUgraphRecaptureStatus);
#endif
#if CUDA_VERSION < 12060
typedef struct CUmemDecompressParams_st CUmemDecompressParams;
#endif
#if CUDA_VERSION < 12080
typedef struct CUmemcpyAttributes_st CUmemcpyAttributes;
typedef struct CUDA_MEMCPY3D_BATCH_OP_st CUDA_MEMCPY3D_BATCH_OP;
#endif
#if CUDA_VERSION < 12050
typedef struct CUctxCreateParams_st CUctxCreateParams;
#endif

#endif
