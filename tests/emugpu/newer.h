/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_NEWER_H
#define DETSHARE_TESTS_EMUGPU_NEWER_H

#include "tests/emugpu/driver.h"

/* Calls of CUDA 13.1 to 13.5, which the headers here need not declare. */
#if CUDA_VERSION < 12080
typedef struct CUmemcpyAttributes_st CUmemcpyAttributes;
#endif

EMU_EXPORT CUresult CUDAAPI cuGraphAddNode_v3(CUgraphNode *out, CUgraph graph,
					      const CUgraphNode *after,
					      const CUgraphEdgeData *edges, size_t n,
					      CUgraphNodeParams *p);
EMU_EXPORT CUresult CUDAAPI cuGraphNodeGetParams(CUgraphNode node, CUgraphNodeParams *p);
EMU_EXPORT CUresult CUDAAPI cuGraphNodeSetParams_v2(CUgraphNode node, CUgraphNodeParams *p);
EMU_EXPORT CUresult CUDAAPI cuLaunchHostFunc_v2(CUstream s, CUhostFn f, void *d, unsigned mode);
EMU_EXPORT CUresult CUDAAPI cuLaunchHostFunc_v2_ptsz(CUstream s, CUhostFn f, void *d,
						     unsigned mode);
EMU_EXPORT CUresult CUDAAPI cuMemcpyWithAttributesAsync(CUdeviceptr to, CUdeviceptr from, size_t n,
							CUmemcpyAttributes *a, CUstream s);
EMU_EXPORT CUresult CUDAAPI cuMemcpyWithAttributesAsync_ptsz(CUdeviceptr to, CUdeviceptr from,
							     size_t n, CUmemcpyAttributes *a,
							     CUstream s);
EMU_EXPORT CUresult CUDAAPI cuStreamGetDevResource(CUstream s, CUdevResource *r,
						   CUdevResourceType type);
EMU_EXPORT CUresult CUDAAPI cuStreamGetDevResource_ptsz(CUstream s, CUdevResource *r,
							CUdevResourceType type);

#endif
