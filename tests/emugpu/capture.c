/* SPDX-License-Identifier: Apache-2.0 */
/* Stream capture: calls become nodes of a graph, and what the driver forbids meanwhile. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>

static struct emu_capture *captures;
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static CUresult invalidate(struct emu_capture *capture, CUresult why)
{
	capture->invalid = true;
	return why;
}

static struct emu_capture *find(unsigned long long id)
{
	struct emu_capture *c = captures;

	while (c && c->id != id)
		c = c->next;
	return c;
}

static void leave(struct CUstream_st *s)
{
	s->capture = NULL;
	free(s->after.all);
	free(s->edges);
	s->after = (struct emu_nodes){0};
	s->edges = NULL;
}

/* All streams of a device's contexts that take part in `capture`, one after the other. */
static struct CUstream_st *next_stream(const struct emu_capture *capture)
{
	const struct CUstream_st *s = capture->origin;

	for (struct CUctx_st *ctx = emu_contexts; ctx; ctx = ctx->next)
		for (struct CUstream_st *other = ctx->streams; other; other = other->next)
			if (other->capture == capture && other != s)
				return other;
	return NULL;
}

static void end(struct emu_capture *capture)
{
	struct emu_capture **p = &captures;
	struct CUstream_st *s;

	while ((s = next_stream(capture)))
		leave(s);
	leave(capture->origin);
	while (*p != capture)
		p = &(*p)->next;
	*p = capture->next;
	if (capture->graph)
		capture->graph->captured_to = false;
	free(capture);
}

static void end_and_discard(struct emu_capture *capture)
{
	CUgraph graph = capture->borrowed ? NULL : capture->graph;

	end(capture);
	if (graph)
		emu_graph_free(graph);
}

/* A blocking stream of the context that is captured: the legacy stream must not be used. */
static struct emu_capture *blocking_capture(const struct CUctx_st *ctx)
{
	for (struct CUstream_st *s = ctx->streams; s; s = s->next)
		if (s->blocking && s->capture)
			return s->capture;
	return NULL;
}

static CUresult check_legacy(const struct CUstream_st *s)
{
	struct emu_capture *c = s->null_stream ? blocking_capture(s->ctx) : NULL;

	return c ? invalidate(c, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) : CUDA_SUCCESS;
}

CUresult emu_begin_work(CUstream handle, struct CUstream_st **stream)
{
	CUresult rc = emu_begin_stream(handle, stream);

	if (rc)
		return rc;
	rc = check_legacy(*stream);
	if (!rc && (*stream)->capture && (*stream)->capture->invalid)
		rc = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	if (rc)
		emu_exit();
	return rc;
}

CUresult emu_begin_wait(CUstream handle, struct CUstream_st **stream)
{
	CUresult rc = emu_begin_stream(handle, stream);

	if (rc)
		return rc;
	rc = check_legacy(*stream);
	if (!rc && (*stream)->capture)
		rc = invalidate((*stream)->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	if (rc)
		emu_exit();
	return rc;
}

CUresult emu_capture_unsafe(void)
{
	CUresult rc = CUDA_SUCCESS;

	if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_SUCCESS;
	for (struct emu_capture *c = captures; c; c = c->next) {
		bool mine = c->thread == emu_thread();
		bool forbids = mine ? c->mode != CU_STREAM_CAPTURE_MODE_RELAXED
				    : c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
					  thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
		if (forbids)
			rc = invalidate(c, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	}
	return rc;
}

CUresult emu_begin_unsafe(struct CUctx_st **ctx)
{
	CUresult rc = emu_begin_context(ctx);

	if (rc)
		return rc;
	rc = emu_capture_unsafe();
	if (rc)
		emu_exit();
	return rc;
}

CUresult emu_capture_none_in(const struct CUctx_st *ctx)
{
	CUresult rc = CUDA_SUCCESS;

	for (struct CUctx_st *c = emu_contexts; c; c = c->next)
		for (struct CUstream_st *s = c->streams; s; s = s->next)
			if (s->capture && (ctx->green ? c == ctx : c->root == ctx))
				rc = invalidate(s->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	return rc;
}

CUresult emu_capture_not_this_event(const struct CUevent_st *event)
{
	struct emu_capture *c = find(event->capture_id);

	if (!event->capture_id)
		return CUDA_SUCCESS;
	return c ? invalidate(c, CUDA_ERROR_CAPTURED_EVENT) : CUDA_ERROR_CAPTURED_EVENT;
}

/* ---- nodes ---- */

static CUresult set_after(struct CUstream_st *s, const CUgraphNode *nodes, size_t n, bool keep)
{
	struct emu_nodes after = {0};
	CUgraphEdgeData *edges;

	for (size_t i = 0; keep && i < s->after.n; i++)
		if (!emu_nodes_add(&after, s->after.all[i]))
			goto fail;
	for (size_t i = 0; i < n; i++)
		if (!emu_nodes_have(&after, nodes[i]) && !emu_nodes_add(&after, nodes[i]))
			goto fail;
	edges = calloc(after.n + 1, sizeof(*edges));
	if (!edges)
		goto fail;
	free(s->after.all);
	free(s->edges);
	s->after = after;
	s->edges = edges;
	return CUDA_SUCCESS;
fail:
	free(after.all);
	return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult capture_node(struct CUstream_st *s, CUgraphNodeType type, CUgraphNode *node)
{
	CUresult rc = s->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;

	if (!rc)
		rc = emu_node_new(s->capture->graph, s->after.all, s->after.n, type, s->ctx, node);
	if (rc)
		return rc;
	(*node)->priority = s->priority;
	rc = set_after(s, node, 1, false);
	if (rc)
		emu_node_drop(*node);
	return rc;
}

CUresult emu_capture_work(struct CUstream_st *s, struct emu_work *work)
{
	static const CUgraphNodeType types[] = {[EMU_OP_NOP] = CU_GRAPH_NODE_TYPE_EMPTY,
						[EMU_OP_KERNEL] = CU_GRAPH_NODE_TYPE_KERNEL,
						[EMU_OP_COPY] = CU_GRAPH_NODE_TYPE_MEMCPY,
						[EMU_OP_SET] = CU_GRAPH_NODE_TYPE_MEMSET,
						[EMU_OP_HOST] = CU_GRAPH_NODE_TYPE_HOST};
	CUgraphNode node;
	CUresult rc;

	rc = capture_node(s, types[work->kind], &node);
	if (rc)
		return rc;
	node->work = *work;
	work->kind = EMU_OP_NOP;
	return CUDA_SUCCESS;
}

CUresult emu_capture_alloc(struct CUstream_st *s, size_t bytes, CUdeviceptr *out)
{
	CUgraphNode node;
	CUdeviceptr p;
	CUresult rc = emu_graph_allocate(s->ctx, bytes, &p);

	if (!rc)
		rc = capture_node(s, CU_GRAPH_NODE_TYPE_MEM_ALLOC, &node);
	if (rc)
		return rc;
	node->alloc.bytesize = bytes;
	node->alloc.dptr = *out = p;
	return CUDA_SUCCESS;
}

CUresult emu_capture_free(struct CUstream_st *s, CUdeviceptr address)
{
	CUgraphNode node;
	CUresult rc = capture_node(s, CU_GRAPH_NODE_TYPE_MEM_FREE, &node);

	if (!rc)
		node->alloc.dptr = address;
	return rc;
}

CUresult emu_capture_values(struct CUstream_st *s, unsigned n, const CUstreamBatchMemOpParams *ops)
{
	CUstreamBatchMemOpParams *values = calloc(n, sizeof(*values));
	CUgraphNode node;
	CUresult rc;

	if (!values)
		return CUDA_ERROR_OUT_OF_MEMORY;
	rc = capture_node(s, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &node);
	if (rc) {
		free(values);
		return rc;
	}
	memcpy(values, ops, n * sizeof(*values));
	node->values = values;
	node->n_values = n;
	return CUDA_SUCCESS;
}

CUresult emu_capture_graph(struct CUstream_st *s, CUgraph graph)
{
	CUgraph child;
	CUgraphNode node;
	CUresult rc;

	if (emu_graph_has_memory(graph))
		return CUDA_ERROR_NOT_SUPPORTED;
	child = emu_graph_copy(graph, true);
	if (!child)
		return CUDA_ERROR_OUT_OF_MEMORY;
	rc = capture_node(s, CU_GRAPH_NODE_TYPE_GRAPH, &node);
	if (rc) {
		emu_graph_free(child);
		return rc;
	}
	child->embedded = true;
	node->child = child;
	return CUDA_SUCCESS;
}

void emu_capture_forget_event(struct CUevent_st *event)
{
	free(event->after.all);
	event->after = (struct emu_nodes){0};
	event->capture_id = 0;
}

CUresult emu_capture_record(struct CUstream_st *s, struct CUevent_st *event, unsigned flags)
{
	CUgraphNode node;
	CUresult rc;

	if (flags & CU_EVENT_RECORD_EXTERNAL) {
		rc = capture_node(s, CU_GRAPH_NODE_TYPE_EVENT_RECORD, &node);
		if (!rc)
			node->event = event;
		return rc;
	}
	emu_capture_forget_event(event);
	for (size_t i = 0; i < s->after.n; i++)
		if (!emu_nodes_add(&event->after, s->after.all[i]))
			return CUDA_ERROR_OUT_OF_MEMORY;
	event->capture_id = s->capture->id;
	emu_op_unref(event->op);
	event->op = NULL;
	return CUDA_SUCCESS;
}

static CUresult join(struct CUstream_st *s, struct CUevent_st *event)
{
	struct emu_capture *c = find(event->capture_id);

	if (!c)
		return CUDA_ERROR_CAPTURED_EVENT;
	if (s->capture && s->capture != c) {
		invalidate(s->capture, CUDA_SUCCESS);
		return invalidate(c, CUDA_ERROR_STREAM_CAPTURE_MERGE);
	}
	if (s->null_stream)
		return invalidate(c, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
	if (c->invalid)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	s->capture = c;
	return set_after(s, event->after.all, event->after.n, true);
}

CUresult emu_capture_wait(struct CUstream_st *s, struct CUevent_st *event, unsigned flags,
			  bool *done)
{
	CUgraphNode node;
	CUresult rc;

	*done = true;
	if (s->capture && flags & CU_EVENT_WAIT_EXTERNAL) {
		rc = capture_node(s, CU_GRAPH_NODE_TYPE_WAIT_EVENT, &node);
		if (!rc)
			node->event = event;
		return rc;
	}
	if (event->capture_id)
		return join(s, event);
	if (s->capture)
		return event->op ? invalidate(s->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
				 : CUDA_SUCCESS;
	*done = false;
	return CUDA_SUCCESS;
}

void emu_capture_forget_stream(struct CUstream_st *s)
{
	if (!s->capture)
		return;
	if (s->capture->origin == s) {
		end_and_discard(s->capture);
		return;
	}
	invalidate(s->capture, CUDA_SUCCESS);
	leave(s);
}

/* ---- calls ---- */

static CUresult begin_capture(CUstream handle, CUstreamCaptureMode mode, CUgraph graph,
			      const CUgraphNode *after, size_t n)
{
	struct CUstream_st *s;
	CUresult rc = (unsigned)mode <= CU_STREAM_CAPTURE_MODE_RELAXED
			  ? emu_begin_stream(handle, &s)
			  : CUDA_ERROR_INVALID_VALUE;
	struct emu_capture *c;

	if (rc)
		return rc;
	rc = check_legacy(s);
	if (!rc && s->null_stream)
		rc = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	else if (s->capture || (graph && graph->captured_to))
		rc = CUDA_ERROR_ILLEGAL_STATE;
	if (rc)
		goto done;
	rc = CUDA_ERROR_OUT_OF_MEMORY;
	c = calloc(1, sizeof(*c));
	if (!c)
		goto done;
	c->borrowed = graph != NULL;
	c->graph = graph ? graph : emu_graph_new();
	c->id = ++emu.next_id;
	c->origin = s;
	c->mode = mode;
	c->thread = emu_thread();
	c->next = captures;
	captures = c;
	s->capture = c;
	if (!c->graph || set_after(s, after, n, false)) {
		end_and_discard(c);
		goto done;
	}
	c->graph->captured_to = true;
	rc = CUDA_SUCCESS;
done:
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode mode)
{
	return begin_capture(s, mode, NULL, NULL, 0);
}
EMU_TWIN(cuStreamBeginCapture_v2_ptsz, (CUstream s, CUstreamCaptureMode m),
	 cuStreamBeginCapture_v2(emu_per_thread(s), m))

CUresult CUDAAPI cuStreamBeginCapture(CUstream s)
{
	return begin_capture(s, CU_STREAM_CAPTURE_MODE_GLOBAL, NULL, NULL, 0);
}
EMU_TWIN(cuStreamBeginCapture_ptsz, (CUstream s), cuStreamBeginCapture(emu_per_thread(s)))

CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream s, CUgraph graph, const CUgraphNode *after,
					     const CUgraphEdgeData *edges, size_t n,
					     CUstreamCaptureMode mode)
{
	CUresult rc = n && !after ? CUDA_ERROR_INVALID_VALUE : emu_begin();

	if (rc)
		return rc;
	if (!emu_handle_is(graph, EMU_HANDLE_GRAPH))
		rc = CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < n && !rc; i++)
		if (!emu_nodes_have(&graph->nodes, after[i]))
			rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc ? rc : begin_capture(s, mode, graph, after, n);
}
EMU_TWIN(cuStreamBeginCaptureToGraph_ptsz,
	 (CUstream s, CUgraph g, const CUgraphNode *a, const CUgraphEdgeData *e, size_t n,
	  CUstreamCaptureMode m),
	 cuStreamBeginCaptureToGraph(emu_per_thread(s), g, a, e, n, m))

static void add_ancestors(struct emu_nodes *found, const struct emu_nodes *of)
{
	for (size_t i = 0; i < of->n; i++)
		if (!emu_nodes_have(found, of->all[i]) && emu_nodes_add(found, of->all[i]))
			add_ancestors(found, &of->all[i]->after);
}

/* Did everything that was captured come back to the stream in which the capture began? */
static bool all_joined(const struct emu_capture *capture)
{
	struct emu_nodes joined = {0};
	bool all = true;

	add_ancestors(&joined, &capture->origin->after);
	for (struct CUctx_st *ctx = emu_contexts; ctx; ctx = ctx->next)
		for (struct CUstream_st *s = ctx->streams; s; s = s->next)
			for (size_t i = 0; s->capture == capture && i < s->after.n; i++)
				all = all && emu_nodes_have(&joined, s->after.all[i]);
	free(joined.all);
	return all;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *out)
{
	struct CUstream_st *s;
	CUresult rc = out ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	struct emu_capture *c;

	if (rc)
		return rc;
	c = s->capture;
	if (!c)
		rc = CUDA_ERROR_ILLEGAL_STATE;
	else if (c->origin != s)
		rc = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
	else if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && c->thread != emu_thread())
		rc = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
	if (rc)
		goto done;
	if (c->invalid)
		rc = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	else if (!all_joined(c))
		rc = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
	*out = rc ? NULL : c->graph;
	if (rc)
		end_and_discard(c);
	else
		end(c);
done:
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamEndCapture_ptsz, (CUstream s, CUgraph *g),
	 cuStreamEndCapture(emu_per_thread(s), g))

/* Questions do not end a capture, but the legacy stream cannot answer beside a blocking one. */
static CUresult begin_question(CUstream handle, const void *out, struct CUstream_st **s)
{
	CUresult rc = out ? emu_begin_stream(handle, s) : CUDA_ERROR_INVALID_VALUE;

	if (!rc && (*s)->null_stream && blocking_capture((*s)->ctx)) {
		rc = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
		emu_exit();
	}
	return rc;
}

static CUstreamCaptureStatus status_of(const struct CUstream_st *s)
{
	if (!s->capture)
		return CU_STREAM_CAPTURE_STATUS_NONE;
	return s->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
				   : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
	struct CUstream_st *s;
	CUresult rc = begin_question(handle, status, &s);

	if (rc)
		return rc;
	*status = status_of(s);
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamIsCapturing_ptsz, (CUstream s, CUstreamCaptureStatus *st),
	 cuStreamIsCapturing(emu_per_thread(s), st))

/* Where nothing is captured the driver writes the status and leaves the rest alone. */
CUresult CUDAAPI cuStreamGetCaptureInfo_v3(CUstream handle, CUstreamCaptureStatus *status,
					   cuuint64_t *id, CUgraph *graph,
					   const CUgraphNode **nodes, const CUgraphEdgeData **edges,
					   size_t *n)
{
	struct CUstream_st *s;
	CUresult rc = begin_question(handle, status, &s);

	if (rc)
		return rc;
	*status = status_of(s);
	if (*status == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
		if (id)
			*id = s->capture->id;
		if (graph)
			*graph = s->capture->graph;
		if (nodes)
			*nodes = s->after.all;
		if (edges)
			*edges = s->edges;
		if (n)
			*n = s->after.n;
	}
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetCaptureInfo_v3_ptsz,
	 (CUstream s, CUstreamCaptureStatus *st, cuuint64_t *i, CUgraph *g, const CUgraphNode **d,
	  const CUgraphEdgeData **e, size_t *n),
	 cuStreamGetCaptureInfo_v3(emu_per_thread(s), st, i, g, d, e, n))

CUresult CUDAAPI cuStreamGetCaptureInfo_v2(CUstream s, CUstreamCaptureStatus *status,
					   cuuint64_t *id, CUgraph *graph,
					   const CUgraphNode **nodes, size_t *n)
{
	return cuStreamGetCaptureInfo_v3(s, status, id, graph, nodes, NULL, n);
}
EMU_TWIN(cuStreamGetCaptureInfo_v2_ptsz,
	 (CUstream s, CUstreamCaptureStatus *st, cuuint64_t *i, CUgraph *g, const CUgraphNode **d,
	  size_t *n),
	 cuStreamGetCaptureInfo_v2(emu_per_thread(s), st, i, g, d, n))

CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream s, CUstreamCaptureStatus *status, cuuint64_t *id)
{
	return cuStreamGetCaptureInfo_v3(s, status, id, NULL, NULL, NULL, NULL);
}
EMU_TWIN(cuStreamGetCaptureInfo_ptsz, (CUstream s, CUstreamCaptureStatus *st, cuuint64_t *i),
	 cuStreamGetCaptureInfo(emu_per_thread(s), st, i))

CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2(CUstream handle, CUgraphNode *nodes,
						      const CUgraphEdgeData *edges, size_t n,
						      unsigned flags)
{
	struct CUstream_st *s;
	CUresult rc = (n && !nodes) || flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES
			  ? CUDA_ERROR_INVALID_VALUE
			  : emu_begin_work(handle, &s);

	if (rc)
		return rc;
	if (!s->capture)
		rc = CUDA_ERROR_ILLEGAL_STATE;
	for (size_t i = 0; i < n && !rc; i++)
		if (!emu_nodes_have(&s->capture->graph->nodes, nodes[i]))
			rc = CUDA_ERROR_INVALID_VALUE;
	if (!rc)
		rc = set_after(s, nodes, n, flags == CU_STREAM_ADD_CAPTURE_DEPENDENCIES);
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamUpdateCaptureDependencies_v2_ptsz,
	 (CUstream s, CUgraphNode *d, const CUgraphEdgeData *e, size_t n, unsigned f),
	 cuStreamUpdateCaptureDependencies_v2(emu_per_thread(s), d, e, n, f))

CUresult CUDAAPI cuStreamUpdateCaptureDependencies(CUstream s, CUgraphNode *nodes, size_t n,
						   unsigned flags)
{
	return cuStreamUpdateCaptureDependencies_v2(s, nodes, NULL, n, flags);
}
EMU_TWIN(cuStreamUpdateCaptureDependencies_ptsz, (CUstream s, CUgraphNode *d, size_t n, unsigned f),
	 cuStreamUpdateCaptureDependencies(emu_per_thread(s), d, n, f))

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
	CUstreamCaptureMode old = thread_mode;

	if (!mode || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_ERROR_INVALID_VALUE;
	thread_mode = *mode;
	*mode = old;
	return CUDA_SUCCESS;
}
