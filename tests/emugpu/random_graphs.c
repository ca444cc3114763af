/* SPDX-License-Identifier: Apache-2.0 */
/* The graphs of a random program: captured, made by hand, changed, launched. */
#include <stdlib.h>
#include <string.h>

#include "tests/emugpu/random_program.h"

void forget_graph(struct graph *g)
{
	if (g->exec)
		OK(cuGraphExecDestroy(g->exec));
	if (g->source)
		OK(cuGraphDestroy(g->source));
	*g = (struct graph){0};
}

static struct graph *graph_slot(struct world *w)
{
	struct graph *g = &w->graphs[draw(w, GRAPHS)];

	forget_graph(g);
	return g;
}

/* While a graph is made nothing runs: order inside it is counted from nothing. */
static void forget_order(struct world *inner)
{
	for (int i = 0; i < BUFFERS; i++) {
		inner->buffers[i].writer = -1;
		inner->buffers[i].written = 0;
		memset(inner->buffers[i].read, 0, sizeof(inner->buffers[i].read));
	}
	for (int i = 0; i < inner->n_streams; i++)
		inner->streams[i].clock = inner->streams[i].passed = (struct clock){{0}};
	inner->host = (struct clock){{0}};
}

static void note_accesses(struct graph *g, const struct world *inner)
{
	for (int i = 0; i < BUFFERS; i++) {
		g->writes[i] = inner->buffers[i].writer >= 0;
		for (int line = 0; line < LINES; line++)
			g->reads[i] = g->reads[i] || inner->buffers[i].read[line];
	}
}

static bool may_capture(const struct world *w, int s)
{
	enum kind kind = w->streams[s].kind;

	return kind == NON_BLOCKING || (w->alone && kind != LEGACY);
}

static int stream_to_capture(struct world *w)
{
	for (int tries = 0; tries < 20; tries++) {
		int s = any_stream(w);
		if (may_capture(w, s))
			return s;
	}
	return -1;
}

void capture(struct world *w)
{
	static const CUstreamCaptureMode modes[] = {CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
						    CU_STREAM_CAPTURE_MODE_RELAXED,
						    CU_STREAM_CAPTURE_MODE_GLOBAL};
	int origin = stream_to_capture(w);
	unsigned n = 2 + draw(w, NODES);
	struct world *inner;
	struct graph *g;
	CUgraph graph;

	if (origin < 0)
		return;
	g = graph_slot(w);
	inner = malloc(sizeof(*inner));
	if (!inner)
		abort();
	*inner = *w;
	forget_order(inner);
	OK(cuStreamBeginCapture(w->streams[origin].handle, modes[draw(inner, w->alone ? 3 : 2)]));
	inner->streams[origin].capturing = true;
	for (unsigned i = 0; i < n; i++) {
		int s = draw(inner, 2) ? origin : stream_to_capture(inner);
		if (s < 0)
			continue;
		if (!inner->streams[s].capturing) {
			struct event fork = {0};
			OK(cuEventCreate(&fork.handle, CU_EVENT_DISABLE_TIMING));
			record(inner, origin, &fork);
			wait_for(inner, s, &fork);
			inner->streams[s].capturing = true;
			OK(cuEventDestroy(fork.handle));
		}
		simple(inner, s);
	}
	for (int s = 0; s < inner->n_streams; s++)
		if (s != origin && inner->streams[s].capturing)
			put_after(inner, origin, s);
	OK(cuStreamEndCapture(w->streams[origin].handle, &graph));
	OK(cuGraphInstantiate(&g->exec, graph, 0));
	OK(cuGraphDestroy(graph));
	note_accesses(g, inner);
	w->random = inner->random;
	w->calls = inner->calls;
	free(inner);
}

struct made {
	CUgraphNode node;
	struct access access;
	uint32_t after; /* bits: all nodes that come before it */
};

/* Must `a` and what `b` does be in order? */
static bool conflict(struct access a, struct access b)
{
	return a.dst == b.dst || a.dst == b.src || a.src == b.dst;
}

/* What a kernel node does. */
struct kernel_node {
	CUdeviceptr dst, src;
	uint32_t words, x, y;
	unsigned us;
	void *args[6];
	CUDA_KERNEL_NODE_PARAMS params;
};

static const CUDA_KERNEL_NODE_PARAMS *kernel_node(struct world *w, struct access a,
						  struct kernel_node *k)
{
	*k = (struct kernel_node){.dst = w->buffers[a.dst].at,
				  .src = w->buffers[a.src].at,
				  .words = WORDS,
				  .x = draw(w, 1000) * 2 + 3,
				  .y = draw(w, 100000),
				  .us = duration_us(w)};
	memcpy(k->args, (void *[]){&k->dst, &k->src, &k->words, &k->x, &k->y, &k->us},
	       sizeof(k->args));
	k->params = (CUDA_KERNEL_NODE_PARAMS){.func = w->mix,
					      .gridDimX = 1,
					      .gridDimY = 1,
					      .gridDimZ = 1,
					      .blockDimX = WORDS,
					      .blockDimY = 1,
					      .blockDimZ = 1,
					      .kernelParams = k->args};
	return &k->params;
}

static CUgraphNode add_node(struct world *w, struct graph *g, CUgraph graph,
			    const CUgraphNode *after, size_t n, struct access *a)
{
	struct kernel_node k;
	CUgraphNode node;

	switch (draw(w, 5)) {
	case 0: {
		struct call *c = host_call(w, a);
		OK(cuGraphAddHostNode(&node, graph, after, n,
				      &(CUDA_HOST_NODE_PARAMS){.fn = host_mix, .userData = c}));
		return node;
	}
	case 1:
		a->src = -1;
		OK(cuGraphAddMemsetNode(&node, graph, after, n,
					&(CUDA_MEMSET_NODE_PARAMS){.dst = w->buffers[a->dst].at,
								   .value = draw(w, 100000),
								   .elementSize = 4,
								   .width = 1 + draw(w, WORDS / 4),
								   .height = 1},
					w->ctx));
		return node;
	case 2:
		OK(cuGraphAddMemcpyNode(&node, graph, after, n,
					&(CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
							 .srcDevice = w->buffers[a->src].at,
							 .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
							 .dstDevice = w->buffers[a->dst].at,
							 .WidthInBytes = WORDS,
							 .Height = 1,
							 .Depth = 1},
					w->ctx));
		return node;
	default:
		OK(cuGraphAddKernelNode(&node, graph, after, n, kernel_node(w, *a, &k)));
		g->kernels[g->n_kernels].node = node;
		g->kernels[g->n_kernels].dst = a->dst;
		g->kernels[g->n_kernels++].src = a->src;
		return node;
	}
}

/* CUDA 13 gave this name to the form with edges. */
static CUresult add_dependency(CUgraph graph, CUgraphNode from, CUgraphNode to)
{
#if CUDA_VERSION >= 13000
	return cuGraphAddDependencies(graph, &from, &to, NULL, 1);
#else
	return cuGraphAddDependencies(graph, &from, &to, 1);
#endif
}

/* Nodes that come after those they must and some more; sometimes all of them inside another graph. */
void explicit_graph(struct world *w)
{
	struct graph *g = graph_slot(w);
	struct made made[NODES];
	CUgraph graph, outer;
	CUgraphNode node;

	OK(cuGraphCreate(&graph, 0));
	for (unsigned i = 0; i < NODES; i++) {
		struct access a = {.dst = any_buffer(w)};
		CUgraphNode after[NODES];
		size_t n = 0;
		a.src = other_buffer(w, a.dst);
		made[i].after = 0;
		made[i].node = add_node(w, g, graph, NULL, 0, &a);
		made[i].access = a;
		for (unsigned j = i; j-- > 0;) {
			bool needed = conflict(a, made[j].access) && !(made[i].after >> j & 1);
			if (!needed && draw(w, 6))
				continue;
			if (made[i].after >> j & 1)
				continue;
			made[i].after |= made[j].after | 1u << j;
			after[n++] = made[j].node;
		}
		for (size_t j = 0; j < n; j++)
			OK(add_dependency(graph, after[j], made[i].node));
		g->writes[a.dst] = true;
		if (a.src >= 0)
			g->reads[a.src] = true;
	}
	if (!draw(w, 3)) {
		OK(cuGraphCreate(&outer, 0));
		OK(cuGraphAddChildGraphNode(&node, outer, NULL, 0, graph));
		OK(cuGraphAddChildGraphNode(&node, outer, &node, 1, graph));
		OK(cuGraphDestroy(graph));
		graph = outer;
		g->n_kernels = 0;
	}
	OK(cuGraphInstantiate(&g->exec, graph, 0));
	g->source = graph;
}
static bool all_enabled(const struct graph *g)
{
	bool all = true;

	for (unsigned i = 0; i < g->n_kernels; i++)
		all = all && !g->kernels[i].disabled;
	return all;
}

/* With what an update does to a node that is disabled the driver's documents do not deal. */
static void update(struct graph *g)
{
	CUgraphExecUpdateResultInfo info;

	if (all_enabled(g))
		OK(cuGraphExecUpdate(g->exec, g->source, &info));
}

void change_graph(struct world *w)
{
	struct graph *g = &w->graphs[draw(w, GRAPHS)];
	struct kernel_node k;
	struct access a;
	unsigned i;

	if (!g->exec || !g->n_kernels)
		return;
	i = draw(w, g->n_kernels);
	a = (struct access){.dst = g->kernels[i].dst, .src = g->kernels[i].src};
	switch (draw(w, 4)) {
	case 0:
		OK(cuGraphExecKernelNodeSetParams(g->exec, g->kernels[i].node,
						  kernel_node(w, a, &k)));
		break;
	case 1:
		OK(cuGraphKernelNodeSetParams(g->kernels[i].node, kernel_node(w, a, &k)));
		update(g);
		break;
	case 2:
		g->kernels[i].disabled = !g->kernels[i].disabled;
		OK(cuGraphNodeSetEnabled(g->exec, g->kernels[i].node, !g->kernels[i].disabled));
		break;
	default:
		OK(cuGraphUpload(g->exec, w->streams[any_stream(w)].handle));
		break;
	}
}

/* Launches of one executable come one after the other. */
void launch_graph(struct world *w, int s)
{
	struct graph *g = &w->graphs[draw(w, GRAPHS)];

	if (!g->exec)
		return;
	for (int b = 0; b < BUFFERS; b++) {
		if (g->writes[b])
			settle_after(w, s, (struct access){.dst = b, .src = -1}, &g->clock);
		else if (g->reads[b])
			settle_after(w, s, (struct access){.dst = -1, .src = b}, &g->clock);
	}
	OK(cuGraphLaunch(g->exec, w->streams[s].handle));
	join(&w->streams[s].clock, &g->clock);
	did(w, s, (struct access){.dst = -1, .src = -1});
	g->clock = w->streams[s].clock;
	for (int b = 0; b < BUFFERS; b++)
		if (g->writes[b] || g->reads[b])
			touched(&w->buffers[b], s, w->streams[s].clock.at[s], g->writes[b]);
}
