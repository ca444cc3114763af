/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs: their nodes and what comes after what. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"

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

bool emu_edge_is_full(const CUgraphEdgeData *data)
{
	static const CUgraphEdgeData full;

	return !data || !memcmp(data, &full, sizeof(full));
}

bool emu_nodes_add_edge(struct emu_nodes *nodes, CUgraphNode node, const CUgraphEdgeData *data)
{
	if (!emu_nodes_add(nodes, node))
		return false;
	if (emu_edge_is_full(data))
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

void emu_nodes_remove(struct emu_nodes *nodes, CUgraphNode node)
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
	emu_nodes_remove(&node->graph->nodes, node);
	for (size_t i = 0; i < node->graph->nodes.n; i++)
		emu_nodes_remove(&node->graph->nodes.all[i]->after, node);
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

size_t emu_node_index(const struct emu_nodes *nodes, CUgraphNode node)
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
			    copy->nodes.all[emu_node_index(&graph->nodes, after->all[j])],
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
