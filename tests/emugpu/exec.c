/* SPDX-License-Identifier: Apache-2.0 */
/* Executable graphs: made, updated, launched. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLAGS = 15 };

static CUresult begin_exec(CUgraphExec exec)
{
	CUresult rc = emu_begin();

	if (rc || emu_handle_is(exec, EMU_HANDLE_EXEC))
		return rc;
	emu_exit();
	return CUDA_ERROR_INVALID_VALUE;
}

/* ---- instantiation ---- */

/*
 * What the driver found when a node was made it uses when the graph is made executable, and does not look
 * whether it is still there: it crashes (measured on an H200, driver 580; memory that is set is looked for).
 */
static void crash_if_gone(CUgraph graph)
{
	for (size_t i = 0; i < graph->nodes.n; i++) {
		const struct CUgraphNode_st *node = graph->nodes.all[i];
		const char *gone = NULL;

		if (node->child)
			crash_if_gone(node->child);
		if (node->type == CU_GRAPH_NODE_TYPE_MEMCPY && node->work.kind == EMU_OP_COPY &&
		    !emu_copy_is_there(&node->work.u.copy))
			gone = "memory that a node copies";
		if (node->event && !emu_handle_is(node->event, EMU_HANDLE_EVENT))
			gone = "an event of a node";
		if (!gone)
			continue;
		fprintf(stderr, "emulated driver: a graph is made executable, and %s is gone\n",
			gone);
		raise(SIGSEGV);
	}
}

static CUresult instantiate(CUgraphExec *out, CUgraph graph, cuuint64_t flags)
{
	bool memory = emu_graph_has_memory(graph);
	CUgraphExec exec;

	if (flags & ~(cuuint64_t)FLAGS)
		return CUDA_ERROR_INVALID_VALUE;
	if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH || (memory && graph->exec))
		return CUDA_ERROR_NOT_SUPPORTED;
	crash_if_gone(graph);
	exec = calloc(1, sizeof(*exec));
	if (!exec)
		return CUDA_ERROR_OUT_OF_MEMORY;
	exec->graph = emu_graph_copy(graph, false);
	if (!exec->graph || !emu_graph_order(exec->graph)) {
		CUresult rc = exec->graph ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
		if (exec->graph)
			emu_graph_free(exec->graph);
		free(exec);
		return rc;
	}
	exec->flags = flags;
	if (memory) {
		exec->source = graph;
		graph->exec = exec;
	}
	emu_handle_add(exec, EMU_HANDLE_EXEC);
	*out = exec;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph,
					     unsigned long long flags)
{
	CUresult rc = out && !(flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD)
			  ? emu_begin_graph(graph)
			  : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = instantiate(out, graph, flags);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphInstantiate_v2(CUgraphExec *out, CUgraph graph, CUgraphNode *error_node,
				       char *log, size_t log_bytes)
{
	if (error_node)
		*error_node = NULL;
	if (log && log_bytes)
		*log = '\0';
	return cuGraphInstantiateWithFlags(out, graph, 0);
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec *out, CUgraph graph, CUgraphNode *error_node,
				    char *log, size_t log_bytes)
{
	return cuGraphInstantiate_v2(out, graph, error_node, log, log_bytes);
}

static CUresult instantiate_with(CUgraphExec *out, CUgraph graph,
				 CUDA_GRAPH_INSTANTIATE_PARAMS *params, CUstream upload)
{
	CUresult rc = out && params ? emu_begin_graph(graph) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	/* Nothing is uploaded here, but the stream must be one. */
	if (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD)
		emu_stream(upload, &rc);
	if (!rc)
		rc = instantiate(out, graph, params->flags);
	if (!rc && params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD)
		(*out)->uploaded = true;
	params->hErrNode_out = NULL;
	params->result_out = rc ? CUDA_GRAPH_INSTANTIATE_ERROR : CUDA_GRAPH_INSTANTIATE_SUCCESS;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph graph,
					      CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
	return instantiate_with(out, graph, params, params ? params->hUploadStream : NULL);
}
EMU_TWIN(cuGraphInstantiateWithParams_ptsz,
	 (CUgraphExec * e, CUgraph g, CUDA_GRAPH_INSTANTIATE_PARAMS *p),
	 instantiate_with(e, g, p, p ? emu_per_thread(p->hUploadStream) : NULL))

CUresult CUDAAPI cuGraphExecGetFlags(CUgraphExec exec, cuuint64_t *flags)
{
	CUresult rc = flags ? begin_exec(exec) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*flags = exec->flags;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec exec)
{
	CUresult rc = begin_exec(exec);

	if (rc)
		return rc;
	/* Launches that are not over go on: their operations have all they need. */
	emu_handle_remove(exec);
	if (exec->source)
		exec->source->exec = NULL;
	emu_op_unref(exec->last);
	emu_graph_free(exec->graph);
	free(exec);
	emu_exit();
	return CUDA_SUCCESS;
}

/* ---- update ---- */

static CUresult refuse(CUgraphExecUpdateResultInfo *info, CUgraphExecUpdateResult why,
		       CUgraphNode node)
{
	if (info)
		*info = (CUgraphExecUpdateResultInfo){.result = why, .errorNode = node};
	return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

static size_t index_in(const struct emu_nodes *nodes, CUgraphNode node)
{
	size_t i = 0;

	while (nodes->all[i] != node)
		i++;
	return i;
}

static bool same_edges(CUgraph a, CUgraph b, size_t i)
{
	const struct emu_nodes *one = &a->nodes.all[i]->after, *other = &b->nodes.all[i]->after;
	bool same = one->n == other->n;

	for (size_t j = 0; same && j < one->n; j++)
		same = emu_nodes_have(other, b->nodes.all[index_in(&a->nodes, one->all[j])]);
	for (size_t j = 0; same && j < one->n; j++) {
		size_t k = index_in(other, b->nodes.all[index_in(&a->nodes, one->all[j])]);
		same = emu_edge_is_programmatic(one, j) == emu_edge_is_programmatic(other, k);
	}
	return same;
}

/* Both in launching order, made by the same rule: node i of one stands for node i of the other. */
static CUresult compare(CUgraph have, CUgraph want, CUgraphExecUpdateResultInfo *info)
{
	CUresult rc = CUDA_SUCCESS;

	if (have->nodes.n != want->nodes.n)
		return refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, NULL);
	for (size_t i = 0; i < have->nodes.n && !rc; i++) {
		CUgraphNode a = have->nodes.all[i], b = want->nodes.all[i];
		if (a->type != b->type)
			return refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, NULL);
		if (!same_edges(have, want, i))
			return refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, NULL);
		if (a->type == CU_GRAPH_NODE_TYPE_KERNEL && a->ctx_id != b->ctx_id)
			return refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE,
				      NULL);
		if ((a->type == CU_GRAPH_NODE_TYPE_MEMCPY ||
		     a->type == CU_GRAPH_NODE_TYPE_MEMSET) &&
		    a->ctx_id != b->ctx_id)
			return refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED, NULL);
		if (a->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
			return refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED, NULL);
		if (a->child)
			rc = compare(a->child, b->child, info);
	}
	return rc;
}

/* `from` is a copy that will be thrown away: what its nodes hold changes hands. */
static void take_over(CUgraph have, CUgraph from)
{
	for (size_t i = 0; i < have->nodes.n; i++) {
		CUgraphNode a = have->nodes.all[i], b = from->nodes.all[i];
		struct emu_work work = a->work;
		CUstreamBatchMemOpParams *values = a->values;
		a->work = b->work;
		b->work = work;
		a->values = b->values;
		a->n_values = b->n_values;
		b->values = values;
		a->event = b->event;
		a->priority = b->priority;
		if (a->child)
			take_over(a->child, b->child);
	}
}

CUresult emu_graph_update(CUgraph have, CUgraph graph, CUgraphExecUpdateResultInfo *info)
{
	CUgraph want = emu_graph_copy(graph, false);
	CUresult rc = CUDA_ERROR_OUT_OF_MEMORY;

	if (!want)
		return rc;
	rc = emu_graph_order(want)
		 ? compare(have, want, info)
		 : refuse(info, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, NULL);
	if (!rc)
		take_over(have, want);
	emu_graph_free(want);
	return rc;
}

CUresult CUDAAPI cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph,
				      CUgraphExecUpdateResultInfo *info)
{
	CUresult rc = info ? begin_exec(exec) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*info = (CUgraphExecUpdateResultInfo){.result = CU_GRAPH_EXEC_UPDATE_SUCCESS};
	if (emu_handle_is(graph, EMU_HANDLE_GRAPH))
		rc = emu_graph_update(exec->graph, graph, info);
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	if (rc && rc != CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE)
		info->result = CU_GRAPH_EXEC_UPDATE_ERROR;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode *error_node,
				   CUgraphExecUpdateResult *result)
{
	CUgraphExecUpdateResultInfo info;
	CUresult rc = result ? cuGraphExecUpdate_v2(exec, graph, &info) : CUDA_ERROR_INVALID_VALUE;

	if (result)
		*result = info.result;
	if (result && error_node)
		*error_node = info.errorNode;
	return rc;
}

/* ---- launching ---- */

static bool runs_in_its_context(CUgraphNode node)
{
	return node->type == CU_GRAPH_NODE_TYPE_KERNEL || node->type == CU_GRAPH_NODE_TYPE_MEMCPY ||
	       node->type == CU_GRAPH_NODE_TYPE_MEMSET;
}

/* Everything that could fail, before anything is started. */
static CUresult check(CUgraph graph, const struct CUstream_st *s)
{
	CUresult rc = emu_op_prepare(EMU_OP_HOST, s->ctx->dev);

	for (size_t i = 0; i < graph->nodes.n && !rc; i++) {
		CUgraphNode node = graph->nodes.all[i];
		if (runs_in_its_context(node) && (!emu_handle_is(node->ctx, EMU_HANDLE_CONTEXT) ||
						  node->ctx->id != node->ctx_id)) {
			emu_say("a graph was launched after the context of a node of type %d in it "
				"was destroyed",
				(int)node->type);
			rc = CUDA_ERROR_CONTEXT_IS_DESTROYED;
		} else if (runs_in_its_context(node)) {
			rc = emu_op_prepare(EMU_OP_KERNEL, node->ctx->dev);
		} else if (node->event && !emu_handle_is(node->event, EMU_HANDLE_EVENT)) {
			emu_say("a graph was launched after an event of it was destroyed");
			rc = CUDA_ERROR_INVALID_HANDLE;
		} else if (node->child) {
			rc = check(node->child, s);
		}
	}
	return rc;
}

static struct emu_op *op_for(CUgraphNode node, const struct CUstream_st *s, cuuint64_t flags)
{
	bool own = flags & CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
	struct emu_op *op =
	    emu_op_new_in(EMU_OP_NOP, runs_in_its_context(node) ? node->ctx : s->ctx,
			  own ? node->priority : s->priority);

	if (!op || (!node->disabled && !emu_work_copy(&op->work, &node->work)))
		abort();
	return op;
}

/* Start the node's ops; its `end` is the op that is done when the node is. */
static void make_ops(CUgraphNode node, const struct CUstream_st *s, cuuint64_t flags,
		     struct emu_op *begin);

/* A disabled kernel is no kernel, and one may be made to wait in it. */
static bool waits(CUgraphNode node)
{
	return node->disabled || node->work.kind != EMU_OP_KERNEL ||
	       node->work.u.launch.function->waits;
}

static void start_after(CUgraphNode node, struct emu_op *op, struct emu_op *begin)
{
	if (!node->after.n)
		emu_op_after(op, begin);
	for (size_t i = 0; i < node->after.n; i++) {
		if (emu_edge_is_programmatic(&node->after, i) && !waits(node))
			emu_op_beside(op, node->after.all[i]->end);
		else if (!emu_forget("graph"))
			emu_op_after(op, node->after.all[i]->end);
	}
	emu_op_start(op);
}

/* Batch memory operations happen one after the other. */
static struct emu_op *start_values(CUgraphNode node, const struct CUstream_st *s, cuuint64_t flags,
				   struct emu_op *before)
{
	for (unsigned i = 0; i < node->n_values; i++) {
		struct emu_op *op = op_for(node, s, flags);
		emu_value_work(&op->work, &node->values[i]);
		emu_op_after(op, before);
		emu_op_start(op);
		emu_op_unref(before);
		before = op;
	}
	return before;
}

static void start_nodes(CUgraph graph, const struct CUstream_st *s, cuuint64_t flags,
			struct emu_op *begin)
{
	for (size_t i = 0; i < graph->nodes.n; i++)
		make_ops(graph->nodes.all[i], s, flags, begin);
}

static void all_ended(CUgraph graph, struct emu_op *end)
{
	for (size_t i = 0; i < graph->nodes.n; i++) {
		emu_op_after(end, graph->nodes.all[i]->end);
		emu_op_unref(graph->nodes.all[i]->end);
		graph->nodes.all[i]->end = NULL;
	}
}

static void make_ops(CUgraphNode node, const struct CUstream_st *s, cuuint64_t flags,
		     struct emu_op *begin)
{
	struct emu_op *op = op_for(node, s, flags), *end;

	if (node->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT)
		emu_op_after(op, node->event->op);
	start_after(node, op, begin);
	if (node->child) {
		end = op_for(node, s, flags);
		emu_op_after(end, op);
		start_nodes(node->child, s, flags, op);
		all_ended(node->child, end);
		emu_op_start(end);
		emu_op_unref(op);
		op = end;
	}
	if (node->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD) {
		emu_capture_forget_event(node->event);
		emu_op_unref(node->event->op);
		emu_op_ref(op);
		node->event->op = op;
	}
	node->end = node->n_values ? start_values(node, s, flags, op) : op;
}

/* For tests: EMUGPU_TELL=upload tells of launches that have to upload first. */
static void note_upload(CUgraphExec exec)
{
	const char *tell = getenv("EMUGPU_TELL");

	if (!exec->uploaded && tell && !strcmp(tell, "upload"))
		emu_say("a graph is launched that was not uploaded");
	exec->uploaded = true;
}

static CUresult launch_now(CUgraphExec exec, struct CUstream_st *s)
{
	CUresult rc = check(exec->graph, s);
	struct emu_op *begin, *end;

	if (rc)
		return rc;
	note_upload(exec);
	begin = emu_op_new(EMU_OP_NOP, s);
	end = emu_op_new(EMU_OP_NOP, s);
	if (!begin || !end) {
		emu_op_unref(begin);
		emu_op_unref(end);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	/* Launches of one executable come one after the other, whatever their streams. */
	if (!emu_forget("launch"))
		emu_op_after(begin, exec->last);
	emu_op_ref(begin);
	emu_op_submit(begin, s);
	start_nodes(exec->graph, s, exec->flags, begin);
	all_ended(exec->graph, end);
	emu_op_unref(begin);
	emu_op_unref(exec->last);
	emu_op_ref(end);
	exec->last = end;
	return emu_op_submit(end, s);
}

static CUresult launch(CUgraphExec exec, struct CUstream_st *s)
{
	CUresult rc;

	emu.launches_apart = s->ctx->green;
	rc = launch_now(exec, s);
	emu.launches_apart = false;
	return rc;
}

/* What the memory nodes of a graph want together. */
static uint64_t memory_of(CUgraph graph)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < graph->nodes.n; i++)
		if (graph->nodes.all[i]->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
			sum += graph->nodes.all[i]->alloc.bytesize;
	return sum;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_work(handle, &s);

	if (rc)
		return rc;
	if (!emu_handle_is(exec, EMU_HANDLE_EXEC))
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (s->capture)
		rc = emu_capture_graph(s, exec->graph);
	else
		rc = emu_graph_memory(s->ctx->dev, memory_of(exec->graph));
	if (!rc && !s->capture)
		rc = launch(exec, s);
	emu_exit();
	return rc;
}
EMU_TWIN(cuGraphLaunch_ptsz, (CUgraphExec e, CUstream s), cuGraphLaunch(e, emu_per_thread(s)))

/* Nothing has to be brought anywhere, but it takes its place in the stream. */
static CUresult upload(CUgraphExec exec, struct CUstream_st *s)
{
	struct emu_op *op = emu_op_new(EMU_OP_NOP, s);

	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	exec->uploaded = true;
	return emu_op_submit(op, s);
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec exec, CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_work(handle, &s);

	if (rc)
		return rc;
	if (!emu_handle_is(exec, EMU_HANDLE_EXEC))
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (s->capture)
		rc = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	else
		rc = upload(exec, s);
	emu_exit();
	return rc;
}
EMU_TWIN(cuGraphUpload_ptsz, (CUgraphExec e, CUstream s), cuGraphUpload(e, emu_per_thread(s)))
