/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/graph_retarget.h"

#include <stdlib.h>
#include <string.h>

#include "noderuntime/coroutine/own.h"
#include "noderuntime/coroutine/remap.h"

enum { DEEPEST = 32 }; /* child graphs of child graphs */

struct visit {
	struct ds_vctx *vctx;
	const struct ds_pctx *pctx;
	CUgraphExec exec;
	struct ds_graph_survey *survey;
};

static CUresult walk(CUgraph graph, ds_graph_visitor *visitor, void *with, unsigned depth)
{
	CUgraphNode *nodes = NULL;
	CUresult result;
	size_t n = 0;

	if (depth > DEEPEST)
		return CUDA_ERROR_NOT_SUPPORTED;
	result = ds_real.cuGraphGetNodes(graph, NULL, &n);
	if (result != CUDA_SUCCESS || !n)
		return result;
	nodes = calloc(n, sizeof(CUgraphNode));
	if (!nodes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_real.cuGraphGetNodes(graph, nodes, &n);
	for (size_t i = 0; result == CUDA_SUCCESS && i < n; i++) {
		CUgraphNodeType type;
		CUgraph child;

		result = ds_real.cuGraphNodeGetType(nodes[i], &type);
		if (result != CUDA_SUCCESS)
			break;
		if (type == CU_GRAPH_NODE_TYPE_GRAPH) {
			result = ds_real.cuGraphChildGraphNodeGetGraph(nodes[i], &child);
			if (result == CUDA_SUCCESS)
				result = walk(child, visitor, with, depth + 1);
		} else {
			result = visitor(with, nodes[i], type, depth);
		}
	}
	free(nodes);
	return result;
}

CUresult ds_graph_walk(CUgraph graph, ds_graph_visitor *visitor, void *with)
{
	return walk(graph, visitor, with, 0);
}

static bool device_updates(CUgraphNode node)
{
	CUkernelNodeAttrValue value;

	memset(&value, 0, sizeof(value));
	return ds_real.cuGraphKernelNodeGetAttribute(
		   node, CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE, &value) ==
		   CUDA_SUCCESS &&
	       value.deviceUpdatableKernelNode.deviceUpdatable;
}

/* What a kernel node may carry beside its parameters. The last ones are newer than some headers. */
static const int attributes[] = {
    CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW,
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE,
    CU_LAUNCH_ATTRIBUTE_PRIORITY,
    CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP,
    CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN,
    11, /* preferred cluster dimension */
    14, /* preferred shared memory carve-out */
    16, /* NVLink utilisation */
    17, /* portable cluster size */
    18, /* shared memory mode */
};

enum { N_ATTRIBUTES = sizeof(attributes) / sizeof(attributes[0]) };

struct attribute {
	bool known;
	CUkernelNodeAttrValue value;
};

static void read_attribute(CUgraphNode node, unsigned i, struct attribute *attribute)
{
	/* All of the union, so that two can be compared. */
	memset(attribute, 0, sizeof(*attribute));
	attribute->known =
	    ds_real.cuGraphKernelNodeGetAttribute(node, (CUkernelNodeAttrID)attributes[i],
						  &attribute->value) == CUDA_SUCCESS;
}

/*
 * New parameters must not cost a node its attributes (cluster, priority, cooperative). The driver says
 * nothing about it, and copies attributes only within one context: so they are compared and put back.
 */
static CUresult keep_attributes(CUgraphNode node, const struct attribute kept[N_ATTRIBUTES])
{
	CUresult result = CUDA_SUCCESS;

	for (unsigned i = 0; result == CUDA_SUCCESS && i < N_ATTRIBUTES; i++) {
		struct attribute now;

		if (!kept[i].known)
			continue;
		read_attribute(node, i, &now);
		if (!now.known || memcmp(&now.value, &kept[i].value, sizeof(now.value)) != 0)
			result = ds_real.cuGraphKernelNodeSetAttribute(
			    node, (CUkernelNodeAttrID)attributes[i], &kept[i].value);
	}
	return result;
}

/* Kinds of nodes that are newer than some headers, and where their parameters name a context (cuda.h of 13.5). */
enum {
	MEMCPY_BATCH = 14,
	MEMCPY_BATCH_CONTEXT = 56,
	FABRIC_COPY_BATCH = 18,
	FABRIC_COPY_BATCH_CONTEXT = 24,
};

CUcontext *ds_graph_context_in(CUgraphNodeParams *params)
{
	switch ((int)params->type) {
	case CU_GRAPH_NODE_TYPE_KERNEL:
		return &params->kernel.ctx;
	case CU_GRAPH_NODE_TYPE_MEMCPY:
		return &params->memcpy.copyCtx;
	case CU_GRAPH_NODE_TYPE_MEMSET:
		return &params->memset.ctx;
	case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
		return &params->memOp.ctx;
	case MEMCPY_BATCH:
		return (CUcontext *)&params->reserved1[MEMCPY_BATCH_CONTEXT / 8];
	case FABRIC_COPY_BATCH:
		return (CUcontext *)&params->reserved1[FABRIC_COPY_BATCH_CONTEXT / 8];
	default:
		return NULL;
	}
}

#if CUDA_VERSION >= 13050
_Static_assert((int)CU_GRAPH_NODE_TYPE_MEMCPY_BATCH == MEMCPY_BATCH &&
		   (int)CU_GRAPH_NODE_TYPE_FABRIC_CPY_BATCH == FABRIC_COPY_BATCH &&
		   offsetof(CUgraphNodeParams, memcpyBatch.ctx) ==
		       offsetof(CUgraphNodeParams, reserved1) + MEMCPY_BATCH_CONTEXT &&
		   offsetof(CUgraphNodeParams, fabricCpyBatch.ctx) ==
		       offsetof(CUgraphNodeParams, reserved1) + FABRIC_COPY_BATCH_CONTEXT,
	       "newer kinds of nodes are as cuda.h has them");
#endif

CUcontext ds_graph_context_seen(CUcontext context)
{
	const struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);

	return vctx && ds_remap_is_physical(vctx, context) ? ds_own_seen(vctx->primary) : context;
}

void ds_graph_show(CUgraphNodeParams *params)
{
	CUcontext *context = ds_graph_context_in(params);

	if (context)
		*context = ds_graph_context_seen(*context);
}

CUresult ds_graph_set_kernel(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *params)
{
	struct attribute kept[N_ATTRIBUTES];
	CUresult result;

	for (unsigned i = 0; i < N_ATTRIBUTES; i++)
		read_attribute(node, i, &kept[i]);
	result = ds_real.cuGraphKernelNodeSetParams_v2(node, params);
	return result == CUDA_SUCCESS ? keep_attributes(node, kept) : result;
}

/* A node of another device, or of a context of the program's own, is none of ours. */
static bool is_ours(struct ds_vctx *vctx, CUcontext context)
{
	return context
		   ? ds_own_real(context) == vctx->primary || ds_remap_is_physical(vctx, context)
		   : ds_vctx_current(vctx);
}

/* A function is placed by the current context, a CUkernel by the one in the parameters. */
static CUresult move_kernel(const struct visit *visit, CUgraphNode node)
{
	CUDA_KERNEL_NODE_PARAMS params;
	CUresult result;

	memset(&params, 0, sizeof(params));
	result = ds_real.cuGraphKernelNodeGetParams_v2(node, &params);
	if (result != CUDA_SUCCESS)
		return result;
	if (params.ctx == visit->pctx->context || !is_ours(visit->vctx, params.ctx))
		return CUDA_SUCCESS;
	if (params.kern)
		params.func = NULL;
	params.ctx = visit->pctx->context;
	return ds_graph_set_kernel(node, &params);
}

/* Memset nodes do not tell their context: their memory tells the device. */
static bool is_elsewhere(const struct visit *visit, const CUDA_MEMSET_NODE_PARAMS *params)
{
	int ordinal;

	return ds_real.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
					     params->dst) == CUDA_SUCCESS &&
	       ordinal != visit->vctx->device;
}

static CUresult move_memset(const struct visit *visit, CUgraphNode node)
{
	CUDA_MEMSET_NODE_PARAMS params;
	CUresult result = ds_real.cuGraphMemsetNodeGetParams(node, &params);

	if (result != CUDA_SUCCESS || is_elsewhere(visit, &params))
		return result;
	if (visit->exec)
		return ds_real.cuGraphExecMemsetNodeSetParams(visit->exec, node, &params,
							      visit->pctx->context);
	return ds_real.cuGraphMemsetNodeSetParams(node, &params);
}

static CUresult look(void *with, CUgraphNode node, CUgraphNodeType type, unsigned depth)
{
	const struct visit *visit = with;
	struct ds_graph_survey *survey = visit->survey;
	CUDA_MEMSET_NODE_PARAMS memset_params;
	CUDA_KERNEL_NODE_PARAMS params;
	CUresult result = CUDA_SUCCESS;

	switch ((int)type) {
	case CU_GRAPH_NODE_TYPE_KERNEL:
		memset(&params, 0, sizeof(params));
		result = ds_real.cuGraphKernelNodeGetParams_v2(node, &params);
		survey->ours |= is_ours(visit->vctx, params.ctx);
		survey->movable &= !device_updates(node);
		break;
	case CU_GRAPH_NODE_TYPE_MEMSET:
		result = ds_real.cuGraphMemsetNodeGetParams(node, &memset_params);
		survey->ours |= result == CUDA_SUCCESS && !is_elsewhere(visit, &memset_params);
		break;
	case CU_GRAPH_NODE_TYPE_MEMCPY:
	case MEMCPY_BATCH:
	case FABRIC_COPY_BATCH:
	case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
	case CU_GRAPH_NODE_TYPE_HOST:
	case CU_GRAPH_NODE_TYPE_EMPTY:
	case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
	case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
	case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
	case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
		break;
	default:
		survey->ours |= ds_vctx_current(visit->vctx);
		survey->movable = false;
		survey->bodies |=
		    type != CU_GRAPH_NODE_TYPE_MEM_ALLOC && type != CU_GRAPH_NODE_TYPE_MEM_FREE;
	}
	return result;
}

CUresult ds_graph_look(struct ds_vctx *vctx, CUgraph graph, struct ds_graph_survey *survey)
{
	*survey = (struct ds_graph_survey){.movable = true};
	return ds_graph_walk(graph, look, &(struct visit){.vctx = vctx, .survey = survey});
}

static CUresult move(void *with, CUgraphNode node, CUgraphNodeType type, unsigned depth)
{
	const struct visit *visit = with;
	CUcontext popped;
	CUresult result;

	if (type != CU_GRAPH_NODE_TYPE_KERNEL && type != CU_GRAPH_NODE_TYPE_MEMSET)
		return CUDA_SUCCESS;
	pthread_mutex_lock(&visit->vctx->green_current);
	result = ds_real.cuCtxPushCurrent_v2(visit->pctx->context);
	if (result == CUDA_SUCCESS) {
		result = type == CU_GRAPH_NODE_TYPE_KERNEL ? move_kernel(visit, node)
							   : move_memset(visit, node);
		ds_real.cuCtxPopCurrent_v2(&popped);
	}
	pthread_mutex_unlock(&visit->vctx->green_current);
	return result;
}

CUresult ds_graph_retarget(struct ds_vctx *vctx, CUgraph graph, const struct ds_pctx *pctx)
{
	return ds_graph_walk(graph, move, &(struct visit){.vctx = vctx, .pctx = pctx});
}

/* Memset nodes of child graphs are no nodes of the executable's own; the driver took their context above. */
static CUresult move_in_exec(void *with, CUgraphNode node, CUgraphNodeType type, unsigned depth)
{
	const struct visit *visit = with;

	return type == CU_GRAPH_NODE_TYPE_MEMSET && depth == 0 ? move_memset(visit, node)
							       : CUDA_SUCCESS;
}

CUresult ds_graph_retarget_exec(struct ds_vctx *vctx, CUgraphExec exec, CUgraph graph,
				const struct ds_pctx *pctx)
{
	return ds_graph_walk(graph, move_in_exec,
			     &(struct visit){.vctx = vctx, .pctx = pctx, .exec = exec});
}
