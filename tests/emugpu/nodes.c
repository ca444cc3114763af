/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes of graphs do: made, asked for and changed. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>

/* The context that parameters name; NULL is this thread's. */
static CUresult context_of(CUcontext named, struct CUctx_st **ctx)
{
	*ctx = named ? named : emu_current();
	return emu_handle_is(*ctx, EMU_HANDLE_CONTEXT) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

/*
 * As measured: a kernel given as `func` runs in the context that is current, whatever `ctx` says; one
 * given as `kern` in `ctx`. In an executable the context cannot change.
 */
static CUresult set_kernel(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *p, bool exec)
{
	struct emu_work work = {.kind = EMU_OP_NOP};
	struct CUctx_st *ctx;
	struct emu_launch launch = {
	    .function = p->func ? (struct emu_function *)p->func : (struct emu_function *)p->kern,
	    .grid = {p->gridDimX, p->gridDimY, p->gridDimZ},
	    .block = {p->blockDimX, p->blockDimY, p->blockDimZ},
	    .shared = p->sharedMemBytes,
	    .cooperative = node->work.kind == EMU_OP_KERNEL && node->work.u.launch.cooperative,
	    .params = p->kernelParams,
	    .extra = p->extra};
	CUresult rc = context_of(p->func ? NULL : p->ctx, &ctx);

	if (!rc && exec && ctx->id != node->ctx_id)
		rc = CUDA_ERROR_INVALID_VALUE;
	if (!rc)
		rc = emu_launch_work(&work, ctx, &launch);
	if (rc) {
		emu_work_free(&work);
		return rc;
	}
	emu_work_free(&node->work);
	node->work = work;
	node->ctx = ctx;
	node->ctx_id = ctx->id;
	return CUDA_SUCCESS;
}

static void get_kernel(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS *p)
{
	const struct emu_function *f = node->work.u.launch.function;
	struct emu_run *run = &node->work.u.launch.run;

	/* Kernels of libraries have both names, functions of modules have one. */
	*p = (CUDA_KERNEL_NODE_PARAMS){.func = (CUfunction)(uintptr_t)f,
				       .gridDimX = run->grid[0],
				       .gridDimY = run->grid[1],
				       .gridDimZ = run->grid[2],
				       .blockDimX = run->block[0],
				       .blockDimY = run->block[1],
				       .blockDimZ = run->block[2],
				       .sharedMemBytes = node->work.u.launch.shared,
				       .kernelParams = run->params,
				       .ctx = node->ctx};
	if (emu_handle_is(f, EMU_HANDLE_FUNCTION) && !f->module->ctx_id)
		p->kern = (CUkernel)(uintptr_t)f;
}

/* A context of NULL leaves the node where it is. */
static CUresult set_memcpy(CUgraphNode node, const CUDA_MEMCPY3D *p, CUcontext named)
{
	struct CUctx_st *ctx = node->ctx;
	struct emu_copy shape;
	CUresult rc = emu_copy_shape(p, &shape);

	if (!rc && named)
		rc = context_of(named, &ctx);
	if (rc)
		return rc;
	emu_copy_find(&shape);
	node->work = (struct emu_work){.kind = EMU_OP_COPY, .u.copy = shape};
	node->ctx = ctx;
	node->ctx_id = ctx->id;
	return CUDA_SUCCESS;
}

static CUresult set_memset(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext named)
{
	struct CUctx_st *ctx = node->ctx;
	struct emu_work work;
	CUresult rc = emu_set_work(&work, p);

	if (!rc && named)
		rc = context_of(named, &ctx);
	if (rc)
		return rc;
	node->work = work;
	node->ctx = ctx;
	node->ctx_id = ctx->id;
	return CUDA_SUCCESS;
}

static void get_memset(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS *p)
{
	const struct emu_work *w = &node->work;

	*p = (CUDA_MEMSET_NODE_PARAMS){.dst = (CUdeviceptr)w->u.set.to,
				       .pitch = w->u.set.pitch,
				       .value = w->u.set.value,
				       .elementSize = w->u.set.size,
				       .width = w->u.set.width,
				       .height = w->u.set.height};
}

static CUresult set_host(CUgraphNode node, const CUDA_HOST_NODE_PARAMS *p)
{
	if (!p->fn)
		return CUDA_ERROR_INVALID_VALUE;
	node->work = (struct emu_work){.kind = EMU_OP_HOST};
	node->work.u.host.fn = p->fn;
	node->work.u.host.data = p->userData;
	return CUDA_SUCCESS;
}

static CUresult set_event(CUgraphNode node, CUevent event)
{
	if (!emu_handle_is(event, EMU_HANDLE_EVENT))
		return CUDA_ERROR_INVALID_HANDLE;
	node->event = event;
	return CUDA_SUCCESS;
}

/* In a graph the child may be any; in an executable it must be the same but for parameters. */
static CUresult set_child(CUgraphNode node, CUgraph child, bool exec)
{
	CUgraph copy;

	if (!emu_handle_is(child, EMU_HANDLE_GRAPH))
		return CUDA_ERROR_INVALID_VALUE;
	if (emu_graph_has_memory(child))
		return CUDA_ERROR_NOT_SUPPORTED;
	if (exec)
		return emu_graph_update(node->child, child, NULL);
	copy = emu_graph_copy(child, true);
	if (!copy)
		return CUDA_ERROR_OUT_OF_MEMORY;
	copy->embedded = true;
	node->child = copy;
	return CUDA_SUCCESS;
}

static CUresult set_values(CUgraphNode node, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p)
{
	CUresult rc = p->count && p->count <= 256 && p->paramArray && !p->flags
			  ? CUDA_SUCCESS
			  : CUDA_ERROR_INVALID_VALUE;
	CUstreamBatchMemOpParams *values;
	struct emu_work work;

	for (unsigned i = 0; !rc && i < p->count; i++)
		rc = emu_value_work(&work, &p->paramArray[i]);
	if (rc)
		return rc;
	values = calloc(p->count, sizeof(*values));
	if (!values)
		return CUDA_ERROR_OUT_OF_MEMORY;
	memcpy(values, p->paramArray, p->count * sizeof(*values));
	free(node->values);
	node->values = values;
	node->n_values = p->count;
	return CUDA_SUCCESS;
}

static CUresult set_alloc(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS *p)
{
	CUresult rc = emu_graph_allocate(node->ctx, p->bytesize, &p->dptr);

	if (!rc) {
		node->alloc = *p;
		node->alloc.accessDescs = NULL;
		node->alloc.accessDescCount = 0;
	}
	return rc;
}

static CUDA_KERNEL_NODE_PARAMS from_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	return (CUDA_KERNEL_NODE_PARAMS){.func = p->func,
					 .gridDimX = p->gridDimX,
					 .gridDimY = p->gridDimY,
					 .gridDimZ = p->gridDimZ,
					 .blockDimX = p->blockDimX,
					 .blockDimY = p->blockDimY,
					 .blockDimZ = p->blockDimZ,
					 .sharedMemBytes = p->sharedMemBytes,
					 .kernelParams = p->kernelParams,
					 .extra = p->extra};
}

static CUDA_KERNEL_NODE_PARAMS from_v3(const CUDA_KERNEL_NODE_PARAMS_v3 *p)
{
	CUDA_KERNEL_NODE_PARAMS q;

	_Static_assert(sizeof(q) == sizeof(*p), "the two differ in name only");
	memcpy(&q, p, sizeof(q));
	return q;
}

static CUDA_MEMSET_NODE_PARAMS from_set_v2(const CUDA_MEMSET_NODE_PARAMS_v2 *p)
{
	return (CUDA_MEMSET_NODE_PARAMS){.dst = p->dst,
					 .pitch = p->pitch,
					 .value = p->value,
					 .elementSize = p->elementSize,
					 .width = p->width,
					 .height = p->height};
}

static CUDA_HOST_NODE_PARAMS from_host_v2(const CUDA_HOST_NODE_PARAMS_v2 *p)
{
	return (CUDA_HOST_NODE_PARAMS){.fn = p->fn, .userData = p->userData};
}

/* Any type; `making` a node also allows what cannot be changed later. */
static CUresult set_any(CUgraphNode node, CUgraphNodeParams *p, bool exec, bool making)
{
	CUDA_KERNEL_NODE_PARAMS kernel;
	CUDA_MEMSET_NODE_PARAMS memset_params;
	CUDA_HOST_NODE_PARAMS host;
	CUDA_BATCH_MEM_OP_NODE_PARAMS values;
	CUcontext ctx;

	if (p->type != node->type)
		return CUDA_ERROR_INVALID_VALUE;
	switch (p->type) {
	case CU_GRAPH_NODE_TYPE_KERNEL:
		kernel = from_v3(&p->kernel);
		return set_kernel(node, &kernel, exec);
	case CU_GRAPH_NODE_TYPE_MEMCPY:
		ctx = p->memcpy.copyCtx;
		if (exec && ctx && ctx != node->ctx)
			return CUDA_ERROR_INVALID_VALUE;
		return set_memcpy(node, &p->memcpy.copyParams, ctx);
	case CU_GRAPH_NODE_TYPE_MEMSET:
		memset_params = from_set_v2(&p->memset);
		if (exec && p->memset.ctx && p->memset.ctx != node->ctx)
			return CUDA_ERROR_INVALID_VALUE;
		return set_memset(node, &memset_params, p->memset.ctx);
	case CU_GRAPH_NODE_TYPE_HOST:
		host = from_host_v2(&p->host);
		return set_host(node, &host);
	case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
		return set_event(node, p->eventWait.event);
	case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
		return set_event(node, p->eventRecord.event);
	case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
		values = (CUDA_BATCH_MEM_OP_NODE_PARAMS){.ctx = p->memOp.ctx,
							 .count = p->memOp.count,
							 .paramArray = p->memOp.paramArray,
							 .flags = p->memOp.flags};
		return set_values(node, &values);
	case CU_GRAPH_NODE_TYPE_GRAPH:
		return making || exec ? set_child(node, p->graph.graph, exec)
				      : CUDA_ERROR_NOT_SUPPORTED;
	case CU_GRAPH_NODE_TYPE_EMPTY:
		return making ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
	case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
		return making ? set_alloc(node, (CUDA_MEM_ALLOC_NODE_PARAMS *)&p->alloc)
			      : CUDA_ERROR_NOT_SUPPORTED;
	case CU_GRAPH_NODE_TYPE_MEM_FREE:
		node->alloc.dptr = p->free.dptr;
		return making ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
	default:
		return CUDA_ERROR_NOT_SUPPORTED; /* semaphores, conditions */
	}
}

/* ---- making nodes ---- */

/* A node whose context, if any is named by its parameters, is not yet that: NULL means current. */
static CUresult begin_add(CUgraphNode *out, CUgraph graph, const CUgraphNode *after, size_t n,
			  CUgraphNodeType type, CUgraphNode *node)
{
	CUresult rc = out && (!n || after) ? emu_begin_graph(graph) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = emu_current() ? emu_node_new(graph, after, n, type, emu_current(), node)
			   : CUDA_ERROR_INVALID_CONTEXT;
	if (rc)
		emu_exit();
	return rc;
}

static CUresult end_add(CUgraphNode *out, CUgraphNode node, CUresult rc)
{
	if (rc)
		emu_node_drop(node);
	else
		*out = node;
	emu_exit();
	return rc;
}

#define ADD_NODE(name, type, params, given, set)                                                   \
	CUresult CUDAAPI name(CUgraphNode *out, CUgraph graph, const CUgraphNode *after, size_t n, \
			      params)                                                              \
	{                                                                                          \
		CUgraphNode node;                                                                  \
		CUresult rc = given ? begin_add(out, graph, after, n, type, &node)                 \
				    : CUDA_ERROR_INVALID_VALUE;                                    \
                                                                                                   \
		return rc ? rc : end_add(out, node, set);                                          \
	}

#define AND ,
ADD_NODE(cuGraphAddKernelNode_v2, CU_GRAPH_NODE_TYPE_KERNEL, const CUDA_KERNEL_NODE_PARAMS *p, p,
	 set_kernel(node, p, false))
ADD_NODE(cuGraphAddMemcpyNode, CU_GRAPH_NODE_TYPE_MEMCPY, const CUDA_MEMCPY3D *p AND CUcontext ctx,
	 p, set_memcpy(node, p, ctx))
ADD_NODE(cuGraphAddMemsetNode, CU_GRAPH_NODE_TYPE_MEMSET,
	 const CUDA_MEMSET_NODE_PARAMS *p AND CUcontext ctx, p, set_memset(node, p, ctx))
ADD_NODE(cuGraphAddHostNode, CU_GRAPH_NODE_TYPE_HOST, const CUDA_HOST_NODE_PARAMS *p, p,
	 set_host(node, p))
ADD_NODE(cuGraphAddChildGraphNode, CU_GRAPH_NODE_TYPE_GRAPH, CUgraph child, child,
	 set_child(node, child, false))
ADD_NODE(cuGraphAddEventRecordNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, CUevent event, true,
	 set_event(node, event))
ADD_NODE(cuGraphAddEventWaitNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, CUevent event, true,
	 set_event(node, event))
ADD_NODE(cuGraphAddBatchMemOpNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
	 const CUDA_BATCH_MEM_OP_NODE_PARAMS *p, p, set_values(node, p))
ADD_NODE(cuGraphAddMemAllocNode, CU_GRAPH_NODE_TYPE_MEM_ALLOC, CUDA_MEM_ALLOC_NODE_PARAMS *p, p,
	 set_alloc(node, p))
ADD_NODE(cuGraphAddMemFreeNode, CU_GRAPH_NODE_TYPE_MEM_FREE, CUdeviceptr p, p,
	 (node->alloc.dptr = p AND CUDA_SUCCESS))

CUresult CUDAAPI cuGraphAddEmptyNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *after,
				     size_t n)
{
	CUgraphNode node;
	CUresult rc = begin_add(out, graph, after, n, CU_GRAPH_NODE_TYPE_EMPTY, &node);

	return rc ? rc : end_add(out, node, CUDA_SUCCESS);
}

CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *after,
				      size_t n, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	CUDA_KERNEL_NODE_PARAMS params;

	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	params = from_v1(p);
	return cuGraphAddKernelNode_v2(out, graph, after, n, &params);
}

CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *after,
				   const CUgraphEdgeData *edges, size_t n, CUgraphNodeParams *p)
{
	CUgraphNode node;
	CUresult rc =
	    p ? begin_add(out, graph, after, n, p->type, &node) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = emu_node_set_edges(node, edges);
	return end_add(out, node, rc ? rc : set_any(node, p, false, true));
}

CUresult CUDAAPI cuGraphAddNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *after, size_t n,
				CUgraphNodeParams *p)
{
	return cuGraphAddNode_v2(out, graph, after, NULL, n, p);
}

/* ---- asking and changing ---- */

/* A call about a node of one type. */
#define NODE_CALL(name, type, param, given, body)                                            \
	CUresult CUDAAPI name(CUgraphNode node, param)                                       \
	{                                                                                    \
		CUresult rc = given ? emu_begin_node(node, type) : CUDA_ERROR_INVALID_VALUE; \
                                                                                             \
		if (rc)                                                                      \
			return rc;                                                           \
		body;                                                                        \
		emu_exit();                                                                  \
		return rc;                                                                   \
	}

NODE_CALL(cuGraphKernelNodeGetParams_v2, CU_GRAPH_NODE_TYPE_KERNEL, CUDA_KERNEL_NODE_PARAMS *p, p,
	  get_kernel(node, p))
NODE_CALL(cuGraphKernelNodeSetParams_v2, CU_GRAPH_NODE_TYPE_KERNEL,
	  const CUDA_KERNEL_NODE_PARAMS *p, p, rc = set_kernel(node, p, false))
NODE_CALL(cuGraphMemcpyNodeGetParams, CU_GRAPH_NODE_TYPE_MEMCPY, CUDA_MEMCPY3D *p, p,
	  emu_copy_describe(&node->work.u.copy, p))
NODE_CALL(cuGraphMemcpyNodeSetParams, CU_GRAPH_NODE_TYPE_MEMCPY, const CUDA_MEMCPY3D *p, p,
	  rc = set_memcpy(node, p, NULL))
NODE_CALL(cuGraphMemsetNodeGetParams, CU_GRAPH_NODE_TYPE_MEMSET, CUDA_MEMSET_NODE_PARAMS *p, p,
	  get_memset(node, p))
NODE_CALL(cuGraphMemsetNodeSetParams, CU_GRAPH_NODE_TYPE_MEMSET, const CUDA_MEMSET_NODE_PARAMS *p,
	  p, rc = set_memset(node, p, NULL))
NODE_CALL(cuGraphHostNodeGetParams, CU_GRAPH_NODE_TYPE_HOST, CUDA_HOST_NODE_PARAMS *p, p,
	  *p = ((CUDA_HOST_NODE_PARAMS){.fn = node->work.u.host.fn,
					.userData = node->work.u.host.data}))
NODE_CALL(cuGraphHostNodeSetParams, CU_GRAPH_NODE_TYPE_HOST, const CUDA_HOST_NODE_PARAMS *p, p,
	  rc = set_host(node, p))
NODE_CALL(cuGraphChildGraphNodeGetGraph, CU_GRAPH_NODE_TYPE_GRAPH, CUgraph *p, p, *p = node->child)
NODE_CALL(cuGraphEventRecordNodeGetEvent, CU_GRAPH_NODE_TYPE_EVENT_RECORD, CUevent *p, p,
	  *p = node->event)
NODE_CALL(cuGraphEventRecordNodeSetEvent, CU_GRAPH_NODE_TYPE_EVENT_RECORD, CUevent p, true,
	  rc = set_event(node, p))
NODE_CALL(cuGraphEventWaitNodeGetEvent, CU_GRAPH_NODE_TYPE_WAIT_EVENT, CUevent *p, p,
	  *p = node->event)
NODE_CALL(cuGraphEventWaitNodeSetEvent, CU_GRAPH_NODE_TYPE_WAIT_EVENT, CUevent p, true,
	  rc = set_event(node, p))
NODE_CALL(cuGraphBatchMemOpNodeGetParams, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
	  CUDA_BATCH_MEM_OP_NODE_PARAMS *p, p,
	  *p = ((CUDA_BATCH_MEM_OP_NODE_PARAMS){
	      .ctx = node->ctx, .count = node->n_values, .paramArray = node->values}))
NODE_CALL(cuGraphBatchMemOpNodeSetParams, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
	  const CUDA_BATCH_MEM_OP_NODE_PARAMS *p, p, rc = set_values(node, p))
NODE_CALL(cuGraphMemAllocNodeGetParams, CU_GRAPH_NODE_TYPE_MEM_ALLOC, CUDA_MEM_ALLOC_NODE_PARAMS *p,
	  p, *p = node->alloc)
NODE_CALL(cuGraphMemFreeNodeGetParams, CU_GRAPH_NODE_TYPE_MEM_FREE, CUdeviceptr *p, p,
	  *p = node->alloc.dptr)
NODE_CALL(cuGraphNodeSetParams, -1, CUgraphNodeParams *p, p, rc = set_any(node, p, false, false))

CUresult CUDAAPI cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	CUDA_KERNEL_NODE_PARAMS params;
	CUresult rc = p ? cuGraphKernelNodeGetParams_v2(node, &params) : CUDA_ERROR_INVALID_VALUE;

	if (!rc)
		memcpy(p, &params, sizeof(*p)); /* the newer form begins with the older one */
	return rc;
}

CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	CUDA_KERNEL_NODE_PARAMS params;

	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	params = from_v1(p);
	return cuGraphKernelNodeSetParams_v2(node, &params);
}

/* Attributes that mean something here; the others are accepted, and read as zero. */
CUresult CUDAAPI cuGraphKernelNodeGetAttribute(CUgraphNode node, CUkernelNodeAttrID id,
					       CUkernelNodeAttrValue *value)
{
	CUresult rc =
	    value ? emu_begin_node(node, CU_GRAPH_NODE_TYPE_KERNEL) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	memset(value, 0, sizeof(*value));
	if (id == CU_KERNEL_NODE_ATTRIBUTE_PRIORITY)
		value->priority = node->priority;
	else if (id == CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE)
		value->cooperative = node->work.u.launch.cooperative;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphKernelNodeSetAttribute(CUgraphNode node, CUkernelNodeAttrID id,
					       const CUkernelNodeAttrValue *value)
{
	CUresult rc =
	    value ? emu_begin_node(node, CU_GRAPH_NODE_TYPE_KERNEL) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (id == CU_KERNEL_NODE_ATTRIBUTE_PRIORITY)
		node->priority = value->priority;
	else if (id == CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE)
		node->work.u.launch.cooperative = value->cooperative;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphKernelNodeCopyAttributes(CUgraphNode to, CUgraphNode from)
{
	CUresult rc = emu_begin_node(to, CU_GRAPH_NODE_TYPE_KERNEL);

	if (rc)
		return rc;
	if (!emu_handle_is(from, EMU_HANDLE_NODE) || from->type != CU_GRAPH_NODE_TYPE_KERNEL) {
		rc = CUDA_ERROR_INVALID_VALUE;
	} else {
		to->priority = from->priority;
		to->work.u.launch.cooperative = from->work.u.launch.cooperative;
	}
	emu_exit();
	return rc;
}

/* ---- in executables ---- */

static CUgraphNode find_in(CUgraph graph, unsigned long long id)
{
	CUgraphNode found = NULL;

	for (size_t i = 0; i < graph->nodes.n && !found; i++) {
		CUgraphNode node = graph->nodes.all[i];
		if (node->origin_id == id)
			found = node;
		else if (node->child)
			found = find_in(node->child, id);
	}
	return found;
}

/* The executable's own node for one of the graph that it was made of. */
static CUresult begin_exec_node(CUgraphExec exec, CUgraphNode named, int type, CUgraphNode *node)
{
	CUresult rc = emu_begin_node(named, type);

	if (rc)
		return rc;
	*node = emu_handle_is(exec, EMU_HANDLE_EXEC) ? find_in(exec->graph, named->id) : NULL;
	if (*node)
		return CUDA_SUCCESS;
	emu_exit();
	return CUDA_ERROR_INVALID_VALUE;
}

#define EXEC_CALL(name, type, param, given, body)                                                 \
	CUresult CUDAAPI name(CUgraphExec exec, CUgraphNode named, param)                         \
	{                                                                                         \
		CUgraphNode node;                                                                 \
		CUresult rc =                                                                     \
		    given ? begin_exec_node(exec, named, type, &node) : CUDA_ERROR_INVALID_VALUE; \
                                                                                                  \
		if (rc)                                                                           \
			return rc;                                                                \
		body;                                                                             \
		emu_exit();                                                                       \
		return rc;                                                                        \
	}

EXEC_CALL(cuGraphExecKernelNodeSetParams_v2, CU_GRAPH_NODE_TYPE_KERNEL,
	  const CUDA_KERNEL_NODE_PARAMS *p, p, rc = set_kernel(node, p, true))
EXEC_CALL(cuGraphExecMemcpyNodeSetParams, CU_GRAPH_NODE_TYPE_MEMCPY,
	  const CUDA_MEMCPY3D *p AND CUcontext ctx, p, rc = set_memcpy(node, p, ctx))
EXEC_CALL(cuGraphExecMemsetNodeSetParams, CU_GRAPH_NODE_TYPE_MEMSET,
	  const CUDA_MEMSET_NODE_PARAMS *p AND CUcontext ctx, p, rc = set_memset(node, p, ctx))
EXEC_CALL(cuGraphExecHostNodeSetParams, CU_GRAPH_NODE_TYPE_HOST, const CUDA_HOST_NODE_PARAMS *p, p,
	  rc = set_host(node, p))
EXEC_CALL(cuGraphExecChildGraphNodeSetParams, CU_GRAPH_NODE_TYPE_GRAPH, CUgraph p, p,
	  rc = set_child(node, p, true))
EXEC_CALL(cuGraphExecEventRecordNodeSetEvent, CU_GRAPH_NODE_TYPE_EVENT_RECORD, CUevent p, true,
	  rc = set_event(node, p))
EXEC_CALL(cuGraphExecEventWaitNodeSetEvent, CU_GRAPH_NODE_TYPE_WAIT_EVENT, CUevent p, true,
	  rc = set_event(node, p))
EXEC_CALL(cuGraphExecBatchMemOpNodeSetParams, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
	  const CUDA_BATCH_MEM_OP_NODE_PARAMS *p, p, rc = set_values(node, p))
EXEC_CALL(cuGraphExecNodeSetParams, -1, CUgraphNodeParams *p, p, rc = set_any(node, p, true, false))
EXEC_CALL(cuGraphNodeGetEnabled, -1, unsigned *p, p, *p = !node->disabled)

CUresult CUDAAPI cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
						const CUDA_KERNEL_NODE_PARAMS_v1 *p)
{
	CUDA_KERNEL_NODE_PARAMS params;

	if (!p)
		return CUDA_ERROR_INVALID_VALUE;
	params = from_v1(p);
	return cuGraphExecKernelNodeSetParams_v2(exec, node, &params);
}

CUresult CUDAAPI cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode named, unsigned enabled)
{
	CUgraphNode node;
	CUresult rc = begin_exec_node(exec, named, -1, &node);

	if (rc)
		return rc;
	if (node->type == CU_GRAPH_NODE_TYPE_KERNEL || node->type == CU_GRAPH_NODE_TYPE_MEMSET ||
	    node->type == CU_GRAPH_NODE_TYPE_MEMCPY)
		node->disabled = !enabled;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}
