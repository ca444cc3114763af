/* SPDX-License-Identifier: Apache-2.0 */
/* The calls that make graphs, take them apart, and ask what is in them. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"

#include <stdlib.h>

CUresult CUDAAPI cuGraphCreate(CUgraph *out, unsigned flags)
{
	CUresult rc = out && !flags ? emu_begin() : CUDA_ERROR_INVALID_VALUE;
	CUgraph graph;

	if (rc)
		return rc;
	graph = emu_graph_new();
	if (graph)
		*out = graph;
	emu_exit();
	return graph ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph graph)
{
	CUresult rc = emu_begin_graph(graph);

	if (rc)
		return rc;
	if (graph->embedded || graph->captured_to)
		rc = CUDA_ERROR_INVALID_VALUE;
	else
		emu_graph_free(graph);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphClone(CUgraph *out, CUgraph original)
{
	CUresult rc = out ? emu_begin_graph(original) : CUDA_ERROR_INVALID_VALUE;
	CUgraph copy;

	if (rc)
		return rc;
	if (emu_graph_has_memory(original)) {
		rc = CUDA_ERROR_NOT_SUPPORTED;
	} else {
		copy = emu_graph_copy(original, true);
		if (copy)
			*out = copy;
		else
			rc = CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphNodeFindInClone(CUgraphNode *out, CUgraphNode original, CUgraph clone)
{
	CUresult rc = out ? emu_begin_node(original, -1) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = CUDA_ERROR_INVALID_VALUE;
	if (emu_handle_is(clone, EMU_HANDLE_GRAPH))
		for (size_t i = 0; i < clone->nodes.n; i++)
			if (clone->nodes.all[i]->origin_id == original->id) {
				*out = clone->nodes.all[i];
				rc = CUDA_SUCCESS;
			}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphDestroyNode(CUgraphNode node)
{
	CUresult rc = emu_begin_node(node, -1);

	if (rc)
		return rc;
	if (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || node->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
		rc = CUDA_ERROR_NOT_SUPPORTED;
	else if (node->graph->captured_to)
		rc = CUDA_ERROR_INVALID_VALUE;
	else
		emu_node_drop(node);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type)
{
	CUresult rc = type ? emu_begin_node(node, -1) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*type = node->type;
	emu_exit();
	return CUDA_SUCCESS;
}

/* The driver's way to return lists: as many as fit, NULL for the rest, and how many; or only that. */
static void give(const struct emu_nodes *found, CUgraphNode *out, size_t *n)
{
	for (size_t i = 0; out && i < *n; i++)
		out[i] = i < found->n ? found->all[i] : NULL;
	if (!out || *n > found->n)
		*n = found->n;
}

static CUresult list_nodes(CUgraph graph, CUgraphNode *out, size_t *n, bool roots)
{
	CUresult rc = n ? emu_begin_graph(graph) : CUDA_ERROR_INVALID_VALUE;
	struct emu_nodes found = {0};

	if (rc)
		return rc;
	for (size_t i = 0; i < graph->nodes.n && !rc; i++)
		if ((!roots || !graph->nodes.all[i]->after.n) &&
		    !emu_nodes_add(&found, graph->nodes.all[i]))
			rc = CUDA_ERROR_OUT_OF_MEMORY;
	give(&found, out, n);
	free(found.all);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode *out, size_t *n)
{
	return list_nodes(graph, out, n, false);
}

CUresult CUDAAPI cuGraphGetRootNodes(CUgraph graph, CUgraphNode *out, size_t *n)
{
	return list_nodes(graph, out, n, true);
}

/* What is told of edge i; false: there is something to tell, and nowhere to. */
static bool tell_edge(CUgraphEdgeData *edges, size_t i, size_t room, const CUgraphEdgeData *data)
{
	if (edges && i < room)
		edges[i] = data ? *data : (CUgraphEdgeData){0};
	return edges || emu_edge_is_full(data);
}

static const CUgraphEdgeData *data_of(const struct emu_nodes *after, size_t i)
{
	return after->data ? &after->data[i] : NULL;
}

CUresult CUDAAPI cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *from, CUgraphNode *to,
				    CUgraphEdgeData *edges, size_t *n)
{
	CUresult rc = n && !from == !to ? emu_begin_graph(graph) : CUDA_ERROR_INVALID_VALUE;
	struct emu_nodes all_from = {0}, all_to = {0};
	size_t room;

	if (rc)
		return rc;
	for (size_t i = 0; i < graph->nodes.n; i++) {
		CUgraphNode node = graph->nodes.all[i];
		for (size_t j = 0; j < node->after.n && !rc; j++)
			if (from && !tell_edge(edges, all_from.n, *n, data_of(&node->after, j)))
				rc = CUDA_ERROR_LOSSY_QUERY;
			else if (!emu_nodes_add(&all_from, node->after.all[j]) ||
				 !emu_nodes_add(&all_to, node))
				rc = CUDA_ERROR_OUT_OF_MEMORY;
	}
	room = *n;
	give(&all_from, from, n);
	give(&all_to, to, &room);
	free(all_from.all);
	free(all_to.all);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *n)
{
	return cuGraphGetEdges_v2(graph, from, to, NULL, n);
}

CUresult CUDAAPI cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode *out,
					       CUgraphEdgeData *edges, size_t *n)
{
	CUresult rc = n ? emu_begin_node(node, -1) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	for (size_t i = 0; out && i < node->after.n; i++)
		if (!tell_edge(edges, i, *n, data_of(&node->after, i)))
			rc = CUDA_ERROR_LOSSY_QUERY;
	give(&node->after, out, n);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *out, size_t *n)
{
	return cuGraphNodeGetDependencies_v2(node, out, NULL, n);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode *out,
						 CUgraphEdgeData *edges, size_t *n)
{
	CUresult rc = n ? emu_begin_node(node, -1) : CUDA_ERROR_INVALID_VALUE;
	struct emu_nodes found = {0};

	if (rc)
		return rc;
	for (size_t i = 0; i < node->graph->nodes.n && !rc; i++) {
		const struct emu_nodes *after = &node->graph->nodes.all[i]->after;
		if (!emu_nodes_have(after, node))
			continue;
		if (out &&
		    !tell_edge(edges, found.n, *n, data_of(after, emu_node_index(after, node))))
			rc = CUDA_ERROR_LOSSY_QUERY;
		else if (!emu_nodes_add(&found, node->graph->nodes.all[i]))
			rc = CUDA_ERROR_OUT_OF_MEMORY;
	}
	give(&found, out, n);
	free(found.all);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *out, size_t *n)
{
	return cuGraphNodeGetDependentNodes_v2(node, out, NULL, n);
}

/* Only kernels have other ports than the one for the end. */
static bool may_join(CUgraphNode from, CUgraphNode to, const CUgraphEdgeData *data)
{
	return emu_edge_is_full(data) ||
	       (from->type == CU_GRAPH_NODE_TYPE_KERNEL && to->type == CU_GRAPH_NODE_TYPE_KERNEL);
}

CUresult emu_node_set_edges(CUgraphNode node, const CUgraphEdgeData *data)
{
	for (size_t i = 0; data && i < node->after.n; i++) {
		if (emu_edge_is_full(&data[i]))
			continue;
		if (!may_join(node->after.all[i], node, &data[i]))
			return CUDA_ERROR_INVALID_VALUE;
		if (!node->after.data)
			node->after.data = calloc(node->after.n, sizeof(*data));
		if (!node->after.data)
			return CUDA_ERROR_OUT_OF_MEMORY;
		node->after.data[i] = data[i];
	}
	return CUDA_SUCCESS;
}

static CUresult change_edges(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
			     const CUgraphEdgeData *data, size_t n, bool add)
{
	CUresult rc = !n || (from && to) ? emu_begin_graph(graph) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	for (size_t i = 0; i < n && !rc; i++)
		if (!emu_nodes_have(&graph->nodes, from[i]) ||
		    !emu_nodes_have(&graph->nodes, to[i]) || from[i] == to[i] ||
		    emu_nodes_have(&to[i]->after, from[i]) == add ||
		    (add && !may_join(from[i], to[i], data ? &data[i] : NULL)))
			rc = CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < n && !rc; i++) {
		if (!add)
			emu_nodes_remove(&to[i]->after, from[i]);
		else if (!emu_nodes_add_edge(&to[i]->after, from[i], data ? &data[i] : NULL))
			rc = CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from,
					   const CUgraphNode *to, const CUgraphEdgeData *edges,
					   size_t n)
{
	return change_edges(graph, from, to, edges, n, true);
}

CUresult CUDAAPI cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from,
					const CUgraphNode *to, size_t n)
{
	return change_edges(graph, from, to, NULL, n, true);
}

CUresult CUDAAPI cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode *from,
					      const CUgraphNode *to, const CUgraphEdgeData *edges,
					      size_t n)
{
	return change_edges(graph, from, to, NULL, n, false);
}

CUresult CUDAAPI cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode *from,
					   const CUgraphNode *to, size_t n)
{
	return change_edges(graph, from, to, NULL, n, false);
}
