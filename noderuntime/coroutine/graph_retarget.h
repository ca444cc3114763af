/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_GRAPH_RETARGET_H
#define DETSHARE_COROUTINE_GRAPH_RETARGET_H

#include "noderuntime/coroutine/vctx.h"

/*
 * The nodes of a graph run where they were made, whatever stream the graph is launched on. Here they are
 * made anew in another physical context, in place: the program sees no difference.
 */

typedef CUresult ds_graph_visitor(void *with, CUgraphNode node, CUgraphNodeType type,
				  unsigned depth);

/* Call `visitor` for each node of a graph and of its child graphs (`depth` 1 and more), until one fails. */
CUresult ds_graph_walk(CUgraph graph, ds_graph_visitor *visitor, void *with);

struct ds_graph_survey {
	bool ours;    /* has nodes that run in the virtual context */
	bool movable; /* executables for other physical contexts can be made of it */
	bool bodies;  /* has conditional nodes, whose bodies cannot be looked into */
};

/*
 * Look at all nodes of a graph, those of its child graphs too. It is not movable if it has memory nodes (the
 * driver neither clones nor instantiates them twice), conditional nodes, nodes that the device
 * updates, or nodes of a type that is not known here. Returns the driver's error.
 */
CUresult ds_graph_look(struct ds_vctx *vctx, CUgraph graph, struct ds_graph_survey *survey);

/* The context that a node of any type names, or NULL: it names none, or one that need not be changed. Pure. */
CUcontext *ds_graph_context_in(CUgraphNodeParams *params);

/* The context that the program is told a node is in, for the one that it is in. */
CUcontext ds_graph_context_seen(CUcontext context);

/* Parameters that come from the driver, as the program is to see them. */
void ds_graph_show(CUgraphNodeParams *params);

/* Set a kernel node's parameters, and keep its attributes. The current context places it. */
CUresult ds_graph_set_kernel(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *params);

/*
 * Move the graph's kernel and memset nodes, those of its child graphs too, to `pctx`. Nodes of
 * other devices stay, and so do conditional nodes' bodies. Returns CUDA_SUCCESS, or the driver's
 * error: some nodes may have moved then.
 */
CUresult ds_graph_retarget(struct ds_vctx *vctx, CUgraph graph, const struct ds_pctx *pctx);

/*
 * The part of it that the driver takes only from an executable: memset nodes of `exec`, which was
 * instantiated from `graph` after ds_graph_retarget to the same `pctx`.
 */
CUresult ds_graph_retarget_exec(struct ds_vctx *vctx, CUgraphExec exec, CUgraph graph,
				const struct ds_pctx *pctx);

#endif
