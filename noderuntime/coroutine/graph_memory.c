/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "noderuntime/coroutine/memory.h"

/*
 * The memory of graphs that have memory nodes. It is of one pool per device, which no handle names and which is
 * asked in a way of its own. What a launch will want counts before it; what the pool has, after it.
 */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool any_graph;
static uint64_t counted; /* under the lock */
static CUdevice device_of_graphs;

static uint64_t attribute(CUgraphMem_attribute what, uint64_t otherwise)
{
	cuuint64_t value = otherwise;

	return ds_real.cuDeviceGetGraphMemAttribute(device_of_graphs, what, &value) == CUDA_SUCCESS
		   ? value
		   : otherwise;
}

/* Under the lock. `wanted` was in the book for what the pool may have got. */
static void recount(uint64_t wanted)
{
	uint64_t now = attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, counted);

	ds_memory_changed(counted, now, wanted);
	counted = now;
}

/* What the memory nodes of a graph want together. */
static uint64_t bytes_of(CUgraph graph)
{
	CUgraphNode *nodes;
	uint64_t sum = 0;
	size_t n = 0;

	if (ds_real.cuGraphGetNodes(graph, NULL, &n) != CUDA_SUCCESS || !n)
		return 0;
	nodes = calloc(n, sizeof(*nodes));
	if (!nodes || ds_real.cuGraphGetNodes(graph, nodes, &n) != CUDA_SUCCESS)
		n = 0;
	for (size_t i = 0; i < n; i++) {
		CUDA_MEM_ALLOC_NODE_PARAMS params;
		CUgraphNodeType type;

		if (ds_real.cuGraphNodeGetType(nodes[i], &type) == CUDA_SUCCESS &&
		    type == CU_GRAPH_NODE_TYPE_MEM_ALLOC &&
		    ds_real.cuGraphMemAllocNodeGetParams(nodes[i], &params) == CUDA_SUCCESS)
			sum += ds_memory_rounded(params.bytesize);
	}
	free(nodes);
	return sum;
}

void ds_graph_memory_made(CUgraphExec exec, CUgraph graph)
{
	CUdevice device;
	uint64_t bytes;

	if (!ds_memory_counts() || ds_real.cuCtxGetDevice(&device) != CUDA_SUCCESS)
		return;
	bytes = bytes_of(graph);
	if (!bytes)
		return;
	ds_holdings_put(
	    &(struct ds_holding){.kind = DS_HOLD_GRAPH, .key = (uintptr_t)exec, .bytes = bytes});
	pthread_mutex_lock(&lock);
	device_of_graphs = device;
	pthread_mutex_unlock(&lock);
	atomic_store(&any_graph, true);
}

bool ds_graph_memory_any(void)
{
	return atomic_load_explicit(&any_graph, memory_order_relaxed);
}

void ds_graph_memory_gone(CUgraphExec exec)
{
	struct ds_holding gone;

	if (atomic_load_explicit(&any_graph, memory_order_relaxed))
		ds_holdings_take(DS_HOLD_GRAPH, (uintptr_t)exec, &gone);
}

CUresult ds_graph_memory_launch_begin(CUgraphExec exec, struct ds_payment *payment)
{
	struct ds_holding graph;
	uint64_t has, used, idle;

	*payment = (struct ds_payment){.counted = false};
	if (!atomic_load_explicit(&any_graph, memory_order_relaxed) || !ds_memory_counts() ||
	    !ds_holdings_find(DS_HOLD_GRAPH, (uintptr_t)exec, &graph))
		return CUDA_SUCCESS;
	/* Memory of earlier runs, its own or others', is used again. */
	has = attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, 0);
	used = attribute(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, 0);
	idle = has > used ? has - used : 0;
	return ds_memory_want(payment, graph.bytes > idle ? graph.bytes - idle : 0)
		   ? CUDA_SUCCESS
		   : CUDA_ERROR_OUT_OF_MEMORY;
}

void ds_graph_memory_launch_end(const struct ds_payment *payment)
{
	if (!payment->counted)
		return;
	pthread_mutex_lock(&lock);
	recount(payment->wanted);
	pthread_mutex_unlock(&lock);
}

CUresult ds_cuDeviceGraphMemTrim(CUdevice device)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuDeviceGraphMemTrim(device);
	if (atomic_load(&any_graph)) {
		pthread_mutex_lock(&lock);
		recount(0);
		pthread_mutex_unlock(&lock);
	}
	return result;
}
DS_EXPORT(cuDeviceGraphMemTrim);

void ds_graph_memory_trim(void)
{
	if (!atomic_load(&any_graph))
		return;
	pthread_mutex_lock(&lock);
	ds_real.cuDeviceGraphMemTrim(device_of_graphs);
	recount(0);
	pthread_mutex_unlock(&lock);
}

void ds_graph_memory_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	atomic_store(&any_graph, false);
}
