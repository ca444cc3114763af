/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/emugpu/newer.h"

#include <string.h>

#include "tests/emugpu/graph.h"

/* Calls of drivers newer than the rest of this one: what they do, older ones do, too. */

CUresult CUDAAPI cuLaunchHostFunc_v2(CUstream handle, CUhostFn fn, void *data, unsigned mode)
{
	return mode > 1 ? CUDA_ERROR_INVALID_VALUE : cuLaunchHostFunc(handle, fn, data);
}
EMU_TWIN(cuLaunchHostFunc_v2_ptsz, (CUstream s, CUhostFn f, void *d, unsigned mode),
	 cuLaunchHostFunc_v2(emu_per_thread(s), f, d, mode))

CUresult CUDAAPI cuMemcpyWithAttributesAsync(CUdeviceptr to, CUdeviceptr from, size_t n,
					     CUmemcpyAttributes *attributes, CUstream handle)
{
	return attributes && handle ? cuMemcpyAsync(to, from, n, handle) : CUDA_ERROR_INVALID_VALUE;
}
EMU_TWIN(cuMemcpyWithAttributesAsync_ptsz,
	 (CUdeviceptr to, CUdeviceptr from, size_t n, CUmemcpyAttributes *a, CUstream s),
	 cuMemcpyWithAttributesAsync(to, from, n, a, emu_per_thread(s)))

CUresult CUDAAPI cuStreamGetDevResource(CUstream handle, CUdevResource *resource,
					CUdevResourceType type)
{
	CUgreenCtx green;
	CUcontext context;
	CUresult rc = cuStreamGetGreenCtx(handle, &green);

	if (rc)
		return rc;
	if (green)
		return cuGreenCtxGetDevResource(green, resource, type);
	rc = cuStreamGetCtx(handle, &context);
	return rc ? rc : cuCtxGetDevResource(context, resource, type);
}
EMU_TWIN(cuStreamGetDevResource_ptsz, (CUstream s, CUdevResource *r, CUdevResourceType type),
	 cuStreamGetDevResource(emu_per_thread(s), r, type))

CUresult CUDAAPI cuGraphAddNode_v3(CUgraphNode *out, CUgraph graph, const CUgraphNode *after,
				   const CUgraphEdgeData *edges, size_t n, CUgraphNodeParams *p)
{
	return cuGraphAddNode_v2(out, graph, after, edges, n, p);
}

CUresult CUDAAPI cuGraphNodeSetParams_v2(CUgraphNode node, CUgraphNodeParams *p)
{
	return cuGraphNodeSetParams(node, p);
}

/* Of the kinds that name a context, those that this driver tells of. */
CUresult CUDAAPI cuGraphNodeGetParams(CUgraphNode node, CUgraphNodeParams *p)
{
	CUDA_KERNEL_NODE_PARAMS kernel;
	CUDA_MEMSET_NODE_PARAMS set;
	CUgraphNodeType type;
	CUresult rc = p ? cuGraphNodeGetType(node, &type) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	memset(p, 0, sizeof(*p));
	p->type = type;
	switch ((int)type) {
	case CU_GRAPH_NODE_TYPE_KERNEL:
		rc = cuGraphKernelNodeGetParams_v2(node, &kernel);
		memcpy(&p->kernel, &kernel, sizeof(kernel));
		return rc;
	case CU_GRAPH_NODE_TYPE_MEMSET:
		rc = cuGraphMemsetNodeGetParams(node, &set);
		memcpy(&p->memset, &set,
		       sizeof(set)); /* the newer form begins with the older one */
		p->memset.ctx = (CUcontext)node->ctx;
		return rc;
	default:
		return CUDA_ERROR_NOT_SUPPORTED;
	}
}
