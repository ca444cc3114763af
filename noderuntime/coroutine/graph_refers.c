/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/graph_refers.h"

#include <stdlib.h>
#include <string.h>

#include "noderuntime/coroutine/graph_retarget.h"

static bool add(struct ds_refers *refers, CUgraphNode node, enum ds_refers_kind kind,
		uint64_t handle)
{
	if (!handle)
		return true;
	if (refers->n == refers->room) {
		const size_t room = refers->room ? 2 * refers->room : 8;
		struct ds_reference *all = realloc(refers->all, room * sizeof(*all));

		if (!all)
			return false;
		refers->all = all;
		refers->room = room;
	}
	refers->all[refers->n++] =
	    (struct ds_reference){.node = node, .kind = kind, .handle = handle};
	return true;
}

/* Memory that the driver knows nothing of is only looked at when the copy is made. */
static bool add_memory(struct ds_refers *refers, CUgraphNode node, uint64_t address)
{
	CUdeviceptr begin = 0;

	if (!address || ds_real.cuPointerGetAttribute(&begin, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
						      address) != CUDA_SUCCESS)
		return true;
	return add(refers, node, DS_REFERS_MEMORY, begin);
}

static bool add_copied(struct ds_refers *refers, CUgraphNode node, CUmemorytype type,
		       const void *host, CUdeviceptr device, CUarray array)
{
	switch (type) {
	case CU_MEMORYTYPE_HOST:
		return add_memory(refers, node, (uint64_t)(uintptr_t)host);
	case CU_MEMORYTYPE_ARRAY:
		return add(refers, node, DS_REFERS_ARRAY, (uint64_t)(uintptr_t)array);
	default:
		return add_memory(refers, node, device);
	}
}

static bool add_copy(struct ds_refers *refers, CUgraphNode node)
{
	CUDA_MEMCPY3D copy;

	if (ds_real.cuGraphMemcpyNodeGetParams(node, &copy) != CUDA_SUCCESS)
		return true;
	return add_copied(refers, node, copy.srcMemoryType, copy.srcHost, copy.srcDevice,
			  copy.srcArray) &&
	       add_copied(refers, node, copy.dstMemoryType, copy.dstHost, copy.dstDevice,
			  copy.dstArray);
}

static bool add_set(struct ds_refers *refers, CUgraphNode node)
{
	CUDA_MEMSET_NODE_PARAMS set;

	return ds_real.cuGraphMemsetNodeGetParams(node, &set) != CUDA_SUCCESS ||
	       add_memory(refers, node, set.dst);
}

/* Kernels of one module are many: it is noted once, and stays noted. */
static bool add_module(struct ds_refers *refers, uint64_t module)
{
	for (size_t i = 0; i < refers->n; i++)
		if (refers->all[i].kind == DS_REFERS_MODULE && refers->all[i].handle == module)
			return true;
	return add(refers, NULL, DS_REFERS_MODULE, module);
}

static bool add_kernel(struct ds_refers *refers, CUgraphNode node)
{
	CUDA_KERNEL_NODE_PARAMS params;
	CUlibrary library = NULL;
	CUmodule module = NULL;

	memset(&params, 0, sizeof(params));
	if (ds_real.cuGraphKernelNodeGetParams_v2(node, &params) != CUDA_SUCCESS)
		return true;
	if (params.kern && ds_real.cuKernelGetLibrary(&library, params.kern) == CUDA_SUCCESS)
		return add_module(refers, (uint64_t)(uintptr_t)library);
	if (params.func && ds_real.cuFuncGetModule(&module, params.func) == CUDA_SUCCESS)
		return add_module(refers, (uint64_t)(uintptr_t)module);
	return true;
}

static bool add_event(struct ds_refers *refers, CUgraphNode node,
		      CUresult (*event_of)(CUgraphNode, CUevent *))
{
	CUevent event = NULL;

	return event_of(node, &event) != CUDA_SUCCESS ||
	       add(refers, node, DS_REFERS_EVENT, (uint64_t)(uintptr_t)event);
}

static bool add_semaphores(struct ds_refers *refers, CUgraphNode node, CUexternalSemaphore *all,
			   unsigned n)
{
	bool added = true;

	for (unsigned i = 0; added && i < n; i++)
		added = add(refers, node, DS_REFERS_SEMAPHORE, (uint64_t)(uintptr_t)all[i]);
	return added;
}

static bool add_node(struct ds_refers *refers, CUgraphNode node, CUgraphNodeType type)
{
	CUDA_EXT_SEM_SIGNAL_NODE_PARAMS signal;
	CUDA_EXT_SEM_WAIT_NODE_PARAMS wait;

	switch ((int)type) {
	case CU_GRAPH_NODE_TYPE_KERNEL:
		return add_kernel(refers, node);
	case CU_GRAPH_NODE_TYPE_MEMCPY:
		return add_copy(refers, node);
	case CU_GRAPH_NODE_TYPE_MEMSET:
		return add_set(refers, node);
	case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
		return add_event(refers, node, ds_real.cuGraphEventRecordNodeGetEvent);
	case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
		return add_event(refers, node, ds_real.cuGraphEventWaitNodeGetEvent);
	case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
		return ds_real.cuGraphExternalSemaphoresSignalNodeGetParams(node, &signal) !=
			   CUDA_SUCCESS ||
		       add_semaphores(refers, node, signal.extSemArray, signal.numExtSems);
	case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
		return ds_real.cuGraphExternalSemaphoresWaitNodeGetParams(node, &wait) !=
			   CUDA_SUCCESS ||
		       add_semaphores(refers, node, wait.extSemArray, wait.numExtSems);
	default:
		return true;
	}
}

static CUresult collect(void *refers, CUgraphNode node, CUgraphNodeType type, unsigned depth)
{
	(void)depth;
	return add_node(refers, node, type) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

bool ds_refers_collect(struct ds_refers *refers, CUgraph graph)
{
	return ds_graph_walk(graph, collect, refers) != CUDA_ERROR_OUT_OF_MEMORY;
}

bool ds_refers_renew(struct ds_refers *refers, CUgraphNode node)
{
	CUgraphNodeType type;
	size_t n = 0;

	for (size_t i = 0; i < refers->n; i++)
		if (refers->all[i].node != node)
			refers->all[n++] = refers->all[i];
	refers->n = n;
	return ds_real.cuGraphNodeGetType(node, &type) != CUDA_SUCCESS ||
	       add_node(refers, node, type);
}

bool ds_refers_lose(struct ds_refers *refers, enum ds_refers_kind kind, uint64_t first, uint64_t n)
{
	bool any = false;

	for (size_t i = 0; i < refers->n; i++) {
		struct ds_reference *reference = &refers->all[i];

		if (reference->kind != kind || reference->gone || reference->handle - first >= n)
			continue;
		reference->gone = true;
		any = true;
	}
	return any;
}

bool ds_refers_lost(const struct ds_refers *refers)
{
	for (size_t i = 0; i < refers->n; i++)
		if (refers->all[i].gone)
			return true;
	return false;
}

void ds_refers_free(struct ds_refers *refers)
{
	free(refers->all);
	*refers = (struct ds_refers){.all = NULL};
}
