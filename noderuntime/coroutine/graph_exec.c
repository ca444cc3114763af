/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "noderuntime/coroutine/graph_retarget.h"
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/own.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/vgraph.h"

/*
 * The driver calls that change an executable graph. A change is made to the first executable as the program
 * asked for it; if the driver takes it, the clone follows and then the others. An other that does not take
 * it is made anew when it is needed.
 */
struct change {
	struct ds_vctx *vctx;    /* NULL: none of ours */
	struct ds_vgraph *graph; /* NULL: none of ours, or of a program that is not moved */
	struct ds_executable *next;
	CUgraphNode twin;
	CUresult result; /* what the program is told */
	enum { TO_FIRST, TO_CLONE, TO_OTHERS, DONE } step;
	/* The present step: */
	CUgraphExec exec; /* NULL: change the clone's node */
	CUgraphNode node;
	struct ds_executable *executable;
	struct ds_pctx *pctx; /* current, if the graph is ours */
};

static struct ds_executable *first_of(const struct ds_vgraph *graph)
{
	struct ds_executable *executable = graph->executables;

	while (executable->next)
		executable = executable->next;
	return executable;
}

static CUresult enter(struct change *change)
{
	CUresult result;

	pthread_mutex_lock(&change->vctx->green_current);
	result = ds_real.cuCtxPushCurrent_v2(change->pctx->context);
	if (result != CUDA_SUCCESS)
		pthread_mutex_unlock(&change->vctx->green_current);
	return result;
}

static void leave(struct change *change)
{
	CUcontext popped;

	ds_real.cuCtxPopCurrent_v2(&popped);
	pthread_mutex_unlock(&change->vctx->green_current);
}

/* Returns whether there is a first step. */
static bool begin(struct change *change, CUgraphExec handle, CUgraphNode node)
{
	*change = (struct change){.exec = handle, .node = node};
	if (!ds_driver_ready()) {
		change->result = CUDA_ERROR_NOT_INITIALIZED;
		return false;
	}
	change->vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	if (!change->vctx)
		return true;
	change->graph = ds_vgraph_find(handle);
	if (change->graph) {
		pthread_mutex_lock(&change->graph->making);
		change->executable = first_of(change->graph);
		change->pctx = change->executable->pctx;
	} else if (change->vctx->fixed && ds_vctx_current(change->vctx)) {
		change->pctx = ds_remap_slot(change->vctx, 0); /* where all its graphs are */
	} else {
		change->vctx = NULL;
		return true;
	}
	change->result = enter(change);
	if (change->result != CUDA_SUCCESS && change->graph)
		pthread_mutex_unlock(&change->graph->making);
	return change->result == CUDA_SUCCESS;
}

/* The first executable took the change. Returns whether the clone can follow; else the graph is pinned. */
static bool clone_follows(struct change *change)
{
	if (atomic_load(&change->graph->pinned))
		return false;
	change->twin = ds_vgraph_twin(change->graph, change->node);
	if (!change->twin)
		change->result = ds_vgraph_pin(change->graph);
	return change->twin != NULL;
}

static bool next_other(struct change *change)
{
	change->executable = change->next;
	if (!change->executable || !change->executable->next)
		return false;
	change->next = change->executable->next;
	change->exec = change->executable->exec;
	change->node = change->twin;
	change->pctx = change->executable->pctx;
	return true;
}

static bool step_on(struct change *change, CUresult result)
{
	switch (change->step) {
	case TO_FIRST:
		change->result = result;
		if (!change->graph || result != CUDA_SUCCESS || !clone_follows(change))
			return false;
		change->step = TO_CLONE;
		change->exec = NULL;
		change->node = change->twin;
		return true;
	case TO_CLONE:
		if (result != CUDA_SUCCESS) {
			change->result = ds_vgraph_pin(change->graph);
			return false;
		}
		ds_vgraph_renew(change->graph, change->twin);
		change->step = TO_OTHERS;
		change->next = change->graph->executables;
		return next_other(change);
	default:
		if (result != CUDA_SUCCESS)
			ds_vgraph_discard(change->graph, change->executable);
		return next_other(change);
	}
}

/* The present step ended with `result`. Returns whether there is another. */
static bool go_on(struct change *change, CUresult result)
{
	CUresult entered = CUDA_SUCCESS;

	if (change->vctx)
		leave(change);
	while (step_on(change, result)) {
		entered = enter(change);
		if (entered == CUDA_SUCCESS)
			return true;
		result = entered;
	}
	if (change->graph)
		pthread_mutex_unlock(&change->graph->making);
	return false;
}

/* The context a node is to have, for the one the program names (NULL: the current one). */
static CUcontext physical(const struct change *change, CUcontext context)
{
	return change->vctx && (!context || ds_own_real(context) == change->vctx->primary)
		   ? change->pctx->context
		   : context;
}

/* CHANGED is the driver's change of `change.node` in `change.exec`, or if that is NULL in its graph. */
#define CHANGE_EITHER(symbol, params, changed)                 \
	CUresult ds_##symbol params                            \
	{                                                      \
		struct change change;                          \
		bool more = begin(&change, hGraphExec, hNode); \
                                                               \
		while (more)                                   \
			more = go_on(&change, changed);        \
		return change.result;                          \
	}                                                      \
	DS_EXPORT(symbol)

/* The same where the driver has one call for the one and another for the other. */
#define CHANGE(symbol, params, to_exec, to_node) \
	CHANGE_EITHER(symbol, params, change.exec ? (to_exec) : (to_node))

CHANGE(cuGraphExecHostNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams),
       ds_real.cuGraphExecHostNodeSetParams(change.exec, change.node, nodeParams),
       ds_real.cuGraphHostNodeSetParams(change.node, nodeParams));
CHANGE(cuGraphExecEventRecordNodeSetEvent,
       (CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event),
       ds_real.cuGraphExecEventRecordNodeSetEvent(change.exec, change.node, event),
       ds_real.cuGraphEventRecordNodeSetEvent(change.node, event));
CHANGE(cuGraphExecEventWaitNodeSetEvent, (CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event),
       ds_real.cuGraphExecEventWaitNodeSetEvent(change.exec, change.node, event),
       ds_real.cuGraphEventWaitNodeSetEvent(change.node, event));
CHANGE(cuGraphExecExternalSemaphoresSignalNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode,
	const CUDA_EXT_SEM_SIGNAL_NODE_PARAMS *nodeParams),
       ds_real.cuGraphExecExternalSemaphoresSignalNodeSetParams(change.exec, change.node,
								nodeParams),
       ds_real.cuGraphExternalSemaphoresSignalNodeSetParams(change.node, nodeParams));
CHANGE(cuGraphExecExternalSemaphoresWaitNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_EXT_SEM_WAIT_NODE_PARAMS *nodeParams),
       ds_real.cuGraphExecExternalSemaphoresWaitNodeSetParams(change.exec, change.node, nodeParams),
       ds_real.cuGraphExternalSemaphoresWaitNodeSetParams(change.node, nodeParams));
CHANGE(cuGraphExecMemcpyNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMCPY3D *copyParams, CUcontext ctx),
       ds_real.cuGraphExecMemcpyNodeSetParams(change.exec, change.node, copyParams,
					      physical(&change, ctx)),
       ds_real.cuGraphMemcpyNodeSetParams(change.node, copyParams));
CHANGE(cuGraphExecMemsetNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *memsetParams,
	CUcontext ctx),
       ds_real.cuGraphExecMemsetNodeSetParams(change.exec, change.node, memsetParams,
					      physical(&change, ctx)),
       ds_real.cuGraphMemsetNodeSetParams(change.node, memsetParams));

/* Parameters that name their context are handed on with the one of the step. */
static const CUDA_KERNEL_NODE_PARAMS *kernel(const struct change *change,
					     const CUDA_KERNEL_NODE_PARAMS *params,
					     CUDA_KERNEL_NODE_PARAMS *mapped)
{
	if (!params || !change->vctx)
		return params;
	*mapped = *params;
	mapped->ctx = physical(change, params->ctx);
	return mapped;
}

static const CUDA_BATCH_MEM_OP_NODE_PARAMS *mem_ops(const struct change *change,
						    const CUDA_BATCH_MEM_OP_NODE_PARAMS *params,
						    CUDA_BATCH_MEM_OP_NODE_PARAMS *mapped)
{
	if (!params || !change->vctx)
		return params;
	*mapped = *params;
	mapped->ctx = physical(change, params->ctx);
	return mapped;
}

/* The first form of the struct lacks the last members. */
static const CUDA_KERNEL_NODE_PARAMS *newer(const CUDA_KERNEL_NODE_PARAMS_v1 *params,
					    CUDA_KERNEL_NODE_PARAMS *mapped)
{
	memset(mapped, 0, sizeof(*mapped));
	memcpy(mapped, params, sizeof(*params));
	return mapped;
}

CHANGE(cuGraphExecKernelNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams),
       ds_real.cuGraphExecKernelNodeSetParams(change.exec, change.node, nodeParams),
       ds_graph_set_kernel(change.node, newer(nodeParams, &(CUDA_KERNEL_NODE_PARAMS){0})));
CHANGE(cuGraphExecKernelNodeSetParams_v2,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams),
       ds_real.cuGraphExecKernelNodeSetParams_v2(change.exec, change.node,
						 kernel(&change, nodeParams,
							&(CUDA_KERNEL_NODE_PARAMS){0})),
       ds_graph_set_kernel(change.node,
			   kernel(&change, nodeParams, &(CUDA_KERNEL_NODE_PARAMS){0})));
CHANGE(cuGraphExecBatchMemOpNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams),
       ds_real.cuGraphExecBatchMemOpNodeSetParams(change.exec, change.node,
						  mem_ops(&change, nodeParams,
							  &(CUDA_BATCH_MEM_OP_NODE_PARAMS){0})),
       ds_real.cuGraphBatchMemOpNodeSetParams(change.node,
					      mem_ops(&change, nodeParams,
						      &(CUDA_BATCH_MEM_OP_NODE_PARAMS){0})));

/* The driver has no such change of a node in its graph: the graph stays where it is from then on. */
CHANGE(cuGraphExecChildGraphNodeSetParams,
       (CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph),
       ds_real.cuGraphExecChildGraphNodeSetParams(change.exec, change.node, childGraph),
       CUDA_ERROR_NOT_SUPPORTED);

static CUresult set_any(const struct change *change, CUgraphNodeParams *params)
{
	CUcontext *context = params && change->vctx ? ds_graph_context_in(params) : NULL;
	CUgraphNodeParams mapped;
	CUDA_KERNEL_NODE_PARAMS older;

	if (!context)
		return change->exec
			   ? ds_real.cuGraphExecNodeSetParams(change->exec, change->node, params)
			   : ds_real.cuGraphNodeSetParams(change->node, params);
	mapped = *params;
	context = ds_graph_context_in(&mapped);
	*context = physical(change, *context);
	if (change->exec)
		return ds_real.cuGraphExecNodeSetParams(change->exec, change->node, &mapped);
	if (mapped.type != CU_GRAPH_NODE_TYPE_KERNEL)
		return ds_real.cuGraphNodeSetParams(change->node, &mapped);
	memcpy(&older, &mapped.kernel, sizeof(older));
	return ds_graph_set_kernel(change->node, &older);
}

CHANGE_EITHER(cuGraphExecNodeSetParams,
	      (CUgraphExec hGraphExec, CUgraphNode hNode, CUgraphNodeParams *nodeParams),
	      set_any(&change, nodeParams));

static CUresult enable_in_clone(const struct change *change, unsigned enabled)
{
	return ds_vgraph_enable(change->graph, change->node, enabled) ? CUDA_SUCCESS
								      : CUDA_ERROR_OUT_OF_MEMORY;
}

CHANGE(cuGraphNodeSetEnabled, (CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled),
       ds_real.cuGraphNodeSetEnabled(change.exec, change.node, isEnabled),
       enable_in_clone(&change, isEnabled));

/* The graph's nodes are brought to where the first executable is: the driver updates only there. */
static bool begin_update(struct change *change, CUgraphExec handle, CUgraph graph)
{
	if (!begin(change, handle, NULL))
		return false;
	if (change->vctx)
		leave(change);
	if (change->graph)
		ds_graph_retarget(change->vctx, graph, change->pctx);
	return true;
}

static CUresult end_update(struct change *change, CUgraph graph, CUresult result)
{
	if (change->graph) {
		if (result == CUDA_SUCCESS)
			result = ds_vgraph_updated(change->graph, graph);
		if (change->pctx->slot) /* the graph is the program's, and may outlive this place */
			ds_graph_retarget(change->vctx, graph, ds_remap_slot(change->vctx, 0));
		pthread_mutex_unlock(&change->graph->making);
	}
	return result;
}

CUresult ds_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
			      CUgraphExecUpdateResult *updateResult_out)
{
	struct change change;

	if (!begin_update(&change, hGraphExec, hGraph))
		return change.result;
	return end_update(
	    &change, hGraph,
	    ds_real.cuGraphExecUpdate(hGraphExec, hGraph, hErrorNode_out, updateResult_out));
}
DS_EXPORT(cuGraphExecUpdate);

CUresult ds_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
				 CUgraphExecUpdateResultInfo *resultInfo)
{
	struct change change;

	if (!begin_update(&change, hGraphExec, hGraph))
		return change.result;
	return end_update(&change, hGraph,
			  ds_real.cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo));
}
DS_EXPORT(cuGraphExecUpdate_v2);

CUresult ds_cuGraphExecDestroy(CUgraphExec hGraphExec)
{
	struct ds_vgraph *graph = NULL;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (atomic_load_explicit(&ds_vctx, memory_order_acquire))
		graph = ds_vgraph_find(hGraphExec);
	ds_graph_memory_gone(hGraphExec);
	return graph ? ds_vgraph_destroy(graph) : ds_real.cuGraphExecDestroy(hGraphExec);
}
DS_EXPORT(cuGraphExecDestroy);
