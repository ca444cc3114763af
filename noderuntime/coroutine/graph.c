/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/graph_retarget.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/own.h"

/*
 * Graph nodes run where they were made, whatever stream the graph is launched on. Nodes that the program adds
 * or changes itself are made with the first physical context current, and captured ones are brought there
 * when the capture ends, so that a program's graphs are all in one place, which lasts. For a kernel given as
 * a CUfunction the current context decides, for one given as a CUkernel and for other nodes the context in
 * the parameters does.
 */
struct placing {
	struct ds_vctx *vctx; /* NULL: none of ours */
};

static struct ds_pctx *home(struct ds_vctx *vctx)
{
	return ds_remap_slot(vctx, 0);
}

static CUresult place(struct placing *placing)
{
	CUresult result;

	result = ds_vctx_enter(&placing->vctx);
	if (result != CUDA_SUCCESS || !placing->vctx)
		return result;
	if (!ds_vctx_current(placing->vctx)) {
		placing->vctx = NULL;
		return CUDA_SUCCESS;
	}
	pthread_mutex_lock(&placing->vctx->green_current);
	result = ds_real.cuCtxPushCurrent_v2(home(placing->vctx)->context);
	if (result != CUDA_SUCCESS)
		pthread_mutex_unlock(&placing->vctx->green_current);
	return result;
}

static CUresult placed(struct placing *placing, CUresult result)
{
	CUcontext popped;

	if (placing->vctx) {
		ds_real.cuCtxPopCurrent_v2(&popped);
		pthread_mutex_unlock(&placing->vctx->green_current);
	}
	return result;
}

/* The context a node is to have, for the one the program names (NULL: the current one). */
static CUcontext physical(const struct placing *placing, CUcontext context)
{
	return placing->vctx && (!context || ds_own_real(context) == placing->vctx->primary)
		   ? home(placing->vctx)->context
		   : context;
}

/* Parameters that name no context: where the call is made is enough. */
#define PLACED(symbol, params, args)                                                            \
	CUresult ds_##symbol params                                                             \
	{                                                                                       \
		struct placing placing;                                                         \
		CUresult result = place(&placing);                                              \
                                                                                                \
		return result == CUDA_SUCCESS ? placed(&placing, ds_real.symbol args) : result; \
	}                                                                                       \
	DS_EXPORT(symbol)

PLACED(cuGraphAddKernelNode,
       (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams),
       (phGraphNode, hGraph, dependencies, numDependencies, nodeParams));
PLACED(cuGraphKernelNodeSetParams,
       (CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams), (hNode, nodeParams));
PLACED(cuGraphMemsetNodeSetParams, (CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams),
       (hNode, nodeParams));

/* Parameters whose struct names a context in `ctx`. */
#define PLACED_STRUCT(symbol, type, params, args)                    \
	CUresult ds_##symbol params                                  \
	{                                                            \
		struct placing placing;                              \
		CUresult result = place(&placing);                   \
		type mapped;                                         \
                                                                     \
		if (result != CUDA_SUCCESS)                          \
			return result;                               \
		if (nodeParams && placing.vctx) {                    \
			mapped = *nodeParams;                        \
			mapped.ctx = physical(&placing, mapped.ctx); \
			nodeParams = &mapped;                        \
		}                                                    \
		return placed(&placing, ds_real.symbol args);        \
	}                                                            \
	DS_EXPORT(symbol)

PLACED_STRUCT(cuGraphAddKernelNode_v2, CUDA_KERNEL_NODE_PARAMS,
	      (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	       size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS *nodeParams),
	      (phGraphNode, hGraph, dependencies, numDependencies, nodeParams));
PLACED_STRUCT(cuGraphKernelNodeSetParams_v2, CUDA_KERNEL_NODE_PARAMS,
	      (CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams), (hNode, nodeParams));
PLACED_STRUCT(cuGraphAddBatchMemOpNode, CUDA_BATCH_MEM_OP_NODE_PARAMS,
	      (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	       size_t numDependencies, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams),
	      (phGraphNode, hGraph, dependencies, numDependencies, nodeParams));
PLACED_STRUCT(cuGraphBatchMemOpNodeSetParams, CUDA_BATCH_MEM_OP_NODE_PARAMS,
	      (CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams),
	      (hNode, nodeParams));
/* Calls with a context among their parameters. */
#define PLACED_CONTEXT(symbol, params, args)                  \
	CUresult ds_##symbol params                           \
	{                                                     \
		struct placing placing;                       \
		CUresult result = place(&placing);            \
                                                              \
		if (result != CUDA_SUCCESS)                   \
			return result;                        \
		if (ctx)                                      \
			ctx = physical(&placing, ctx);        \
		return placed(&placing, ds_real.symbol args); \
	}                                                     \
	DS_EXPORT(symbol)

PLACED_CONTEXT(cuGraphAddMemsetNode,
	       (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
		size_t numDependencies, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx),
	       (phGraphNode, hGraph, dependencies, numDependencies, memsetParams, ctx));
PLACED_CONTEXT(cuGraphAddMemcpyNode,
	       (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
		size_t numDependencies, const CUDA_MEMCPY3D *copyParams, CUcontext ctx),
	       (phGraphNode, hGraph, dependencies, numDependencies, copyParams, ctx));

/* Changed in place and put back: the driver writes results into some of these structs. */
#define PLACED_ANY(symbol, params, args)                                                       \
	CUresult ds_##symbol params                                                            \
	{                                                                                      \
		struct placing placing;                                                        \
		CUresult result = place(&placing);                                             \
		CUcontext *context, seen;                                                      \
                                                                                               \
		if (result != CUDA_SUCCESS)                                                    \
			return result;                                                         \
		context = nodeParams && placing.vctx ? ds_graph_context_in(nodeParams) : NULL; \
		if (!context)                                                                  \
			return placed(&placing, ds_real.symbol args);                          \
		seen = *context;                                                               \
		*context = physical(&placing, seen);                                           \
		result = placed(&placing, ds_real.symbol args);                                \
		*context = seen;                                                               \
		return result;                                                                 \
	}                                                                                      \
	DS_EXPORT(symbol)

PLACED_ANY(cuGraphAddNode,
	   (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	    size_t numDependencies, CUgraphNodeParams *nodeParams),
	   (phGraphNode, hGraph, dependencies, numDependencies, nodeParams));
PLACED_ANY(cuGraphAddNode_v2,
	   (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	    const CUgraphEdgeData *dependencyData, size_t numDependencies,
	    CUgraphNodeParams *nodeParams),
	   (phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams));
PLACED_ANY(cuGraphAddNode_v3,
	   (CUgraphNode * phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
	    const CUgraphEdgeData *dependencyData, size_t numDependencies,
	    CUgraphNodeParams *nodeParams),
	   (phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams));
PLACED_ANY(cuGraphNodeSetParams, (CUgraphNode hNode, CUgraphNodeParams *nodeParams),
	   (hNode, nodeParams));
PLACED_ANY(cuGraphNodeSetParams_v2, (CUgraphNode hNode, CUgraphNodeParams *nodeParams),
	   (hNode, nodeParams));

CUresult ds_cuGraphNodeGetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGraphNodeGetParams(hNode, nodeParams);
	if (result == CUDA_SUCCESS && nodeParams)
		ds_graph_show(nodeParams);
	return result;
}
DS_EXPORT(cuGraphNodeGetParams);

CUresult ds_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGraphKernelNodeGetParams_v2(hNode, nodeParams);
	if (result == CUDA_SUCCESS && nodeParams)
		nodeParams->ctx = ds_graph_context_seen(nodeParams->ctx);
	return result;
}
DS_EXPORT(cuGraphKernelNodeGetParams_v2);

CUresult ds_cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode,
					   CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGraphBatchMemOpNodeGetParams(hNode, nodeParams_out);
	if (result == CUDA_SUCCESS && nodeParams_out)
		nodeParams_out->ctx = ds_graph_context_seen(nodeParams_out->ctx);
	return result;
}
DS_EXPORT(cuGraphBatchMemOpNodeGetParams);
