/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs: their nodes and what comes after what. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>

bool emu_nodes_add(struct emu_nodes *nodes, CUgraphNode node)
{
	CUgraphNode *more = reallocarray(nodes->all, nodes->n + 1, sizeof(CUgraphNode));

	if (!more)
		return false;
	nodes->all = more;
	if (nodes->data) {
		CUgraphEdgeData *data = reallocarray(nodes->data, nodes->n + 1, sizeof(*data));

		if (!data)
			return false;
		nodes->data = data;
		memset(&data[nodes->n], 0, sizeof(*data));
	}
	more[nodes->n++] = node;
	return true;
}

static bool is_full(const CUgraphEdgeData *data)
{
	static const CUgraphEdgeData full;

	return !data || !memcmp(data, &full, sizeof(full));
}

bool emu_nodes_add_edge(struct emu_nodes *nodes, CUgraphNode node, const CUgraphEdgeData *data)
{
	if (!emu_nodes_add(nodes, node))
		return false;
	if (is_full(data))
		return true;
	if (!nodes->data)
		nodes->data = calloc(nodes->n, sizeof(*nodes->data));
	if (!nodes->data)
		return false;
	nodes->data[nodes->n - 1] = *data;
	return true;
}

bool emu_edge_is_programmatic(const struct emu_nodes *nodes, size_t i)
{
	return nodes->data && nodes->data[i].type == CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
}

bool emu_node_overlaps(CUgraphNode node)
{
	if (!node->after.data)
		node->after.data = calloc(node->after.n + 1, sizeof(*node->after.data));
	for (size_t i = 0; node->after.data && i < node->after.n; i++)
		if (node->after.all[i]->type == CU_GRAPH_NODE_TYPE_KERNEL)
			node->after.data[i] =
			    (CUgraphEdgeData){.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC,
					      .type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC};
	return node->after.data != NULL;
}

bool emu_nodes_have(const struct emu_nodes *nodes, CUgraphNode node)
{
	for (size_t i = 0; i < nodes->n; i++)
		if (nodes->all[i] == node)
			return true;
	return false;
}

static void nodes_remove(struct emu_nodes *nodes, CUgraphNode node)
{
	size_t kept = 0;

	for (size_t i = 0; i < nodes->n; i++) {
		if (nodes->all[i] == node)
			continue;
		if (nodes->data)
			nodes->data[kept] = nodes->data[i];
		nodes->all[kept++] = nodes->all[i];
	}
	nodes->n = kept;
}

CUgraph emu_graph_new(void)
{
	CUgraph graph = calloc(1, sizeof(*graph));

	if (!graph)
		return NULL;
	graph->id = ++emu.next_id;
	graph->visible = true;
	emu_handle_add(graph, EMU_HANDLE_GRAPH);
	return graph;
}

static void node_free(CUgraphNode node)
{
	if (node->graph->visible)
		emu_handle_remove(node);
	if (node->child)
		emu_graph_free(node->child);
	emu_work_free(&node->work);
	free(node->values);
	free(node->after.all);
	free(node->after.data);
	free(node);
}

void emu_node_drop(CUgraphNode node)
{
	nodes_remove(&node->graph->nodes, node);
	for (size_t i = 0; i < node->graph->nodes.n; i++)
		nodes_remove(&node->graph->nodes.all[i]->after, node);
	node_free(node);
}

void emu_graph_free(CUgraph graph)
{
	for (size_t i = 0; i < graph->nodes.n; i++)
		node_free(graph->nodes.all[i]);
	free(graph->nodes.all);
	if (graph->visible)
		emu_handle_remove(graph);
	if (graph->exec)
		graph->exec->source = NULL;
	free(graph);
}

static CUgraphNode node_alloc(CUgraph graph, CUgraphNodeType type)
{
	CUgraphNode node = calloc(1, sizeof(*node));

	if (!node || !emu_nodes_add(&graph->nodes, node)) {
		free(node);
		return NULL;
	}
	node->graph = graph;
	node->id = ++emu.next_id;
	node->type = type;
	if (graph->visible)
		emu_handle_add(node, EMU_HANDLE_NODE);
	return node;
}

CUresult emu_node_new(CUgraph graph, const CUgraphNode *after, size_t n, CUgraphNodeType type,
		      struct CUctx_st *ctx, CUgraphNode *out)
{
	CUgraphNode node;

	for (size_t i = 0; i < n; i++) {
		if (!emu_nodes_have(&graph->nodes, after[i]))
			return CUDA_ERROR_INVALID_VALUE;
		for (size_t j = 0; j < i; j++)
			if (after[i] == after[j])
				return CUDA_ERROR_INVALID_VALUE;
	}
	node = node_alloc(graph, type);
	if (!node)
		return CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t i = 0; i < n; i++)
		if (!emu_nodes_add(&node->after, after[i])) {
			emu_node_drop(node);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
	node->ctx = ctx;
	node->ctx_id = ctx ? ctx->id : 0;
	*out = node;
	return CUDA_SUCCESS;
}

static size_t index_of(const struct emu_nodes *nodes, CUgraphNode node)
{
	size_t i = 0;

	while (nodes->all[i] != node)
		i++;
	return i;
}

/* What the node does, without where it stands. */
static bool copy_content(CUgraphNode to, const struct CUgraphNode_st *from, bool visible)
{
	struct CUgraphNode_st keep = *to;

	*to = *from;
	to->graph = keep.graph;
	to->id = keep.id;
	to->after = keep.after;
	to->origin_id = from->id;
	to->end = NULL;
	to->work = (struct emu_work){.kind = EMU_OP_NOP};
	to->child = NULL;
	to->values = NULL;
	if (!emu_work_copy(&to->work, &from->work)) {
		to->work = (struct emu_work){.kind = EMU_OP_NOP};
		return false;
	}
	if (from->child) {
		to->child = emu_graph_copy(from->child, visible);
		if (!to->child)
			return false;
		to->child->embedded = true;
	}
	if (from->values) {
		to->values = calloc(from->n_values, sizeof(*to->values));
		if (!to->values)
			return false;
		memcpy(to->values, from->values, from->n_values * sizeof(*to->values));
	}
	return true;
}

CUgraph emu_graph_copy(CUgraph graph, bool visible)
{
	CUgraph copy = emu_graph_new();
	bool ok = copy != NULL;

	if (!ok)
		return NULL;
	if (!visible)
		emu_handle_remove(copy);
	copy->visible = visible;
	for (size_t i = 0; ok && i < graph->nodes.n; i++) {
		CUgraphNode from = graph->nodes.all[i], to = node_alloc(copy, from->type);
		ok = to && copy_content(to, from, visible);
	}
	for (size_t i = 0; ok && i < graph->nodes.n; i++) {
		const struct emu_nodes *after = &graph->nodes.all[i]->after;
		for (size_t j = 0; ok && j < after->n; j++)
			ok = emu_nodes_add_edge(
			    &copy->nodes.all[i]->after,
			    copy->nodes.all[index_of(&graph->nodes, after->all[j])],
			    after->data ? &after->data[j] : NULL);
	}
	if (ok)
		return copy;
	emu_graph_free(copy);
	return NULL;
}

bool emu_graph_order(CUgraph graph)
{
	struct emu_nodes ordered = {0};
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < graph->nodes.n; i++) {
			CUgraphNode node = graph->nodes.all[i];
			bool ready = !emu_nodes_have(&ordered, node);
			for (size_t j = 0; ready && j < node->after.n; j++)
				ready = emu_nodes_have(&ordered, node->after.all[j]);
			if (ready && emu_nodes_add(&ordered, node))
				more = true;
		}
	}
	if (ordered.n < graph->nodes.n) {
		free(ordered.all);
		return false;
	}
	free(graph->nodes.all);
	graph->nodes = ordered;
	for (size_t i = 0; i < graph->nodes.n; i++)
		if (graph->nodes.all[i]->child && !emu_graph_order(graph->nodes.all[i]->child))
			return false;
	return true;
}

bool emu_graph_has_memory(CUgraph graph)
{
	for (size_t i = 0; i < graph->nodes.n; i++) {
		CUgraphNode node = graph->nodes.all[i];
		if (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
		    node->type == CU_GRAPH_NODE_TYPE_MEM_FREE ||
		    (node->child && emu_graph_has_memory(node->child)))
			return true;
	}
	return false;
}

CUresult emu_begin_graph(CUgraph graph)
{
	CUresult rc = emu_begin();

	if (rc || emu_handle_is(graph, EMU_HANDLE_GRAPH))
		return rc;
	emu_exit();
	return CUDA_ERROR_INVALID_VALUE;
}

CUresult emu_begin_node(CUgraphNode node, int type)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (emu_handle_is(node, EMU_HANDLE_NODE) && (type < 0 || (int)node->type == type))
		return CUDA_SUCCESS;
	emu_exit();
	return CUDA_ERROR_INVALID_VALUE;
}

/* ---- calls ---- */

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
	return edges || is_full(data);
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
		if (out && !tell_edge(edges, found.n, *n, data_of(after, index_of(after, node))))
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
	return is_full(data) ||
	       (from->type == CU_GRAPH_NODE_TYPE_KERNEL && to->type == CU_GRAPH_NODE_TYPE_KERNEL);
}

CUresult emu_node_set_edges(CUgraphNode node, const CUgraphEdgeData *data)
{
	for (size_t i = 0; data && i < node->after.n; i++) {
		if (is_full(&data[i]))
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
			nodes_remove(&to[i]->after, from[i]);
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
