/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_GRAPH_H
#define DETSHARE_TESTS_EMUGPU_GRAPH_H

#include "tests/emugpu/engine.h"

/*
 * Graphs and stream capture. A node holds the work that one launch of it does, and the context in which
 * it does that: as on the real driver, a kernel runs where its node was made, whatever stream launches
 * the graph. Everything here is called under the mutex.
 */
struct CUgraphNode_st {
	CUgraph graph;
	unsigned long long id;
	unsigned long long origin_id; /* the node that it was cloned or instantiated from */
	CUgraphNodeType type;
	struct CUctx_st *ctx; /* where it runs; may be destroyed meanwhile, then ctx_id tells */
	unsigned long long ctx_id;
	int priority;
	bool disabled;                    /* in an executable */
	struct emu_work work;             /* kernel, memcpy, memset and host nodes */
	CUgraph child;                    /* child graph nodes; owned */
	CUevent event;                    /* event record and wait nodes */
	CUstreamBatchMemOpParams *values; /* batch memory operations */
	unsigned n_values;
	CUDA_MEM_ALLOC_NODE_PARAMS alloc; /* memory nodes: a free node has the address only */
	struct emu_nodes after;
	struct emu_op *end; /* while it is being launched: done when the node is */
};

struct CUgraph_st {
	unsigned long long id;
	struct emu_nodes nodes; /* in the order they were made */
	bool visible;           /* the program has handles of it and its nodes */
	bool captured_to;       /* a capture is adding to it */
	bool embedded;          /* in a child graph node */
	CUgraphExec exec;       /* memory nodes: the only executable that may be */
};

struct CUgraphExec_st {
	CUgraph graph;       /* a copy of its own, in an order to launch in */
	CUgraph source;      /* if that has memory nodes */
	struct emu_op *last; /* end of the latest launch: the next one waits for it */
	bool uploaded;       /* on the GPU: else its first launch brings it there */
	cuuint64_t flags;
};

/* What a kernel launch is asked to be. */
struct emu_launch {
	const struct emu_function *function;
	unsigned grid[3], block[3], shared;
	bool cooperative;
	void **params, **extra;
	bool overlaps; /* may begin while the kernel before it still runs */
	CUevent
	    event; /* recorded behind its begin, at the latest behind its end: here; NULL: none */
};

/* Check, and make the work of a kernel in `ctx`. On failure the work may still hold memory. */
CUresult emu_launch_work(struct emu_work *work, const struct CUctx_st *ctx,
			 const struct emu_launch *launch);
CUresult emu_set_work(struct emu_work *work, const CUDA_MEMSET_NODE_PARAMS *params);
CUresult emu_copy_shape(const CUDA_MEMCPY3D *params, struct emu_copy *shape);
void emu_copy_describe(const struct emu_copy *shape, CUDA_MEMCPY3D *params);
/* Memory of a graph's node; it stays until emu_memory_free. */
CUresult emu_graph_allocate(struct CUctx_st *ctx, size_t bytes, CUdeviceptr *out);

/* Check one operation on a value in memory, and make its work. */
CUresult emu_value_work(struct emu_work *work, const CUstreamBatchMemOpParams *params);

CUgraph emu_graph_new(void);
void emu_graph_free(CUgraph graph);
/* A copy whose nodes remember where they came from; NULL: no memory. */
CUgraph emu_graph_copy(CUgraph graph, bool visible);
/* A node in `graph` after others of it. The caller fills in what it does. */
CUresult emu_node_new(CUgraph graph, const CUgraphNode *after, size_t n, CUgraphNodeType type,
		      struct CUctx_st *ctx, CUgraphNode *out);
/* Undo emu_node_new: nothing comes after it yet. */
void emu_node_drop(CUgraphNode node);
bool emu_nodes_add(struct emu_nodes *nodes, CUgraphNode node);
bool emu_nodes_add_edge(struct emu_nodes *nodes, CUgraphNode node, const CUgraphEdgeData *data);
bool emu_nodes_have(const struct emu_nodes *nodes, CUgraphNode node);
void emu_nodes_remove(struct emu_nodes *nodes, CUgraphNode node);
/* Where it is among them; it is. */
size_t emu_node_index(const struct emu_nodes *nodes, CUgraphNode node);
/* An edge that waits until all is done; NULL is one, too. */
bool emu_edge_is_full(const CUgraphEdgeData *data);
/* Whether node i of them is waited for only until it has begun. */
bool emu_edge_is_programmatic(const struct emu_nodes *nodes, size_t i);
/* What the edges to a new node are. */
CUresult emu_node_set_edges(CUgraphNode node, const CUgraphEdgeData *data);
/* A captured kernel may overlap with the kernels that it comes after. False: no memory. */
bool emu_node_overlaps(CUgraphNode node);
/* Can every node run after those it comes after? Puts the graph and those in it into such an order. */
bool emu_graph_order(CUgraph graph);
bool emu_graph_has_memory(CUgraph graph);
/* Give the nodes of an executable's graph the parameters of another one of the same shape. */
CUresult emu_graph_update(CUgraph have, CUgraph graph, CUgraphExecUpdateResultInfo *info);

/* Begin a call about a graph, or about a node of one type (-1: any): see emu_begin in driver.h. */
CUresult emu_begin_graph(CUgraph graph);
CUresult emu_begin_node(CUgraphNode node, int type);

/* A sequence of calls on streams that become nodes of one graph. */
struct emu_capture {
	struct emu_capture *next;
	unsigned long long id;
	CUgraph graph;
	bool borrowed; /* the graph is the program's */
	struct CUstream_st *origin;
	CUstreamCaptureMode mode;
	uint64_t thread;
	bool invalid;
};

/*
 * Calls that put work into a stream begin with emu_begin_work, calls that ask or wait for its state
 * with emu_begin_wait, and calls that might order work behind the capture's back with
 * emu_begin_unsafe: they fail, and end captures, as the driver's do.
 */
CUresult emu_begin_work(CUstream handle, struct CUstream_st **stream);
CUresult emu_begin_wait(CUstream handle, struct CUstream_st **stream);
CUresult emu_begin_unsafe(struct CUctx_st **ctx);
/* The same checks, under the mutex. */
CUresult emu_capture_unsafe(void);
CUresult emu_capture_none_in(const struct CUctx_st *ctx);
CUresult emu_capture_not_this_event(const struct CUevent_st *event);

/* A capturing stream gets a node. Takes the work. */
CUresult emu_capture_work(struct CUstream_st *stream, struct emu_work *work);
CUresult emu_capture_alloc(struct CUstream_st *stream, size_t bytes, CUdeviceptr *out);
CUresult emu_capture_free(struct CUstream_st *stream, CUdeviceptr address);
CUresult emu_capture_values(struct CUstream_st *stream, unsigned n,
			    const CUstreamBatchMemOpParams *ops);
CUresult emu_capture_graph(struct CUstream_st *stream, CUgraph graph);
CUresult emu_capture_record(struct CUstream_st *stream, struct CUevent_st *event, unsigned flags);
/* *done: nothing is left to do outside of captures. */
CUresult emu_capture_wait(struct CUstream_st *stream, struct CUevent_st *event, unsigned flags,
			  bool *done);
/* A stream, or an event's record, is no more. */
void emu_capture_forget_stream(struct CUstream_st *stream);
void emu_capture_forget_event(struct CUevent_st *event);

#endif
