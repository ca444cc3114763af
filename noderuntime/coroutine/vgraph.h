/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_VGRAPH_H
#define DETSHARE_COROUTINE_VGRAPH_H

#include "noderuntime/coroutine/graph_refers.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * A virtual graph: what the program knows as one CUgraphExec is one real executable per physical
 * context, of which the program's launches take the one where their stream is.
 *
 * The handle is the first executable, the one that the driver made for the program's own call: so
 * whatever we do not know of still finds an executable of the driver's. It also tells what alone
 * would have come of a change, as every change is made to it first. The others are made from a private
 * clone, which has followed those changes.
 *
 * A graph that cannot be cloned has the first executable only, and is pinned where that is.
 */

struct ds_executable {
	struct ds_executable *next; /* the first one is last */
	struct ds_pctx *pctx;
	CUgraphExec exec;
};

struct ds_vgraph {
	struct ds_vgraph *next; /* in the table, under its lock */
	unsigned references;    /* under the table's lock */
	struct ds_vctx *vctx;
	CUgraphExec handle;
	unsigned long long flags; /* of instantiation */

	/*
	 * Held while an executable is made or changed, which may take milliseconds; a launch takes it only
	 * if there is no executable that it may use.
	 */
	pthread_mutex_t making;
	CUgraph clone; /* makes further executables; NULL: there will be none */
	struct ds_pctx
	    *clone_at; /* where its nodes may be, beside the first; an executable is there */
	struct ds_refers refers; /* of `clone`; changed with the table's lock, too */
	bool destroyed;          /* by the program: only who has a reference knows it */
	CUgraphNode *disabled;   /* in `clone` */
	size_t n_disabled;

	/* Held for a launch; with `making`, to change the list. */
	pthread_mutex_t launching;
	struct ds_executable *executables;
	struct ds_executable *last; /* launched last */
	CUevent launched;           /* behind its launch */
	uint64_t used;              /* when it was last launched, counted in launches of graphs */
	CUevent detour;             /* before a launch elsewhere than where the stream is */

	atomic_bool pinned;
	bool elsewhere;    /* launched where nobody sees when it ends: pinned for good */
	bool preparing;    /* under the preparer's lock */
	uint64_t sort_key; /* the acknowledger's */
};

/* The virtual graph of a handle, or NULL: not one of ours. Borrowed: valid while the program keeps the handle. */
struct ds_vgraph *ds_vgraph_find(CUgraphExec handle);

/*
 * Take in an executable that the driver just made from `graph`, whose nodes are all in `pctx`. If `movable`
 * is false, or the graph cannot be cloned, it stays there. Returns CUDA_SUCCESS or why the program cannot
 * have it; the executable is the caller's to destroy then.
 */
CUresult ds_vgraph_add(struct ds_vctx *vctx, CUgraphExec exec, CUgraph graph, bool movable,
		       unsigned long long flags, struct ds_pctx *pctx);

/* Destroy it with all its executables. Running launches end in peace. */
CUresult ds_vgraph_destroy(struct ds_vgraph *graph);

/* A reference for another thread. */
void ds_vgraph_hold(struct ds_vgraph *graph);
void ds_vgraph_release(struct ds_vgraph *graph);

/* The executable in `pctx`, or NULL. Under `launching` or `making`. */
struct ds_executable *ds_vgraph_in(const struct ds_vgraph *graph, const struct ds_pctx *pctx);

/*
 * Make the executable in `pctx`, if there is none yet. Takes `making` and, shortly, `launching`. `ahead`: no
 * launch waits for it; it is uploaded, too.
 */
CUresult ds_vgraph_make(struct ds_vgraph *graph, struct ds_pctx *pctx, bool ahead);

/*
 * graph_upload.c: upload a new executable. Some milliseconds at most, in relaxed capture mode. False: that
 * was not enough, and another one is to be made, which is launched as it is.
 */
bool ds_graph_upload(struct ds_pctx *pctx, CUgraphExec exec);

/* Whether a physical context's groups are still the program's, and may be pinned. Marked. */
bool ds_vgraph_may_pin(struct ds_vctx *vctx, const struct ds_pctx *pctx);

/*
 * The graph is to stay where its first executable is, and becomes that executable alone. Returns
 * CUDA_ERROR_NOT_SUPPORTED if the groups there have gone. Under `making`.
 */
CUresult ds_vgraph_pin(struct ds_vgraph *graph);

/* Destroy an executable that is not the first. Under `making`. */
void ds_vgraph_discard(struct ds_vgraph *graph, struct ds_executable *executable);

/* The node of the clone that stands for the program's `node`, or NULL: not known. Under `making`. */
CUgraphNode ds_vgraph_twin(const struct ds_vgraph *graph, CUgraphNode node);

/* Remember whether a node of the clone is enabled. Returns false without memory. Under `making`. */
bool ds_vgraph_enable(struct ds_vgraph *graph, CUgraphNode twin, bool enabled);

/*
 * The graph now does what `updated` says, whose topology is the same. The first executable has been
 * updated; the others follow, and so will those yet to be made. Under `making`.
 */
CUresult ds_vgraph_updated(struct ds_vgraph *graph, CUgraph updated);

/* A node of the clone has been changed. Under `making`. */
void ds_vgraph_renew(struct ds_vgraph *graph, CUgraphNode twin);

/*
 * What the nodes of graphs may refer to is about to be destroyed: `n` handles from `first` on. Such graphs are not
 * made executable any more, and when this returns nobody is at it. Waits for that, some milliseconds at most,
 * only if a graph does refer to it. Thread-safe.
 */
void ds_vgraphs_lose(enum ds_refers_kind kind, uint64_t first, uint64_t n);

/* All there are, each with a reference, in a list that the caller frees. NULL: none, or no memory. */
struct ds_vgraph **ds_vgraph_all(size_t *n);

/* graph_prepare.c */

/* Have another thread make the executable in `pctx`. Marked, or with `pctx` held. */
void ds_vgraph_prepare(struct ds_vgraph *graph, struct ds_pctx *pctx);

/*
 * Make executables in `pctx`, which new work is about to go to: of the graphs launched last first, for as
 * long as BUDGET_US of time. With `pctx` held or `moving` locked.
 */
void ds_vgraph_make_ready(struct ds_pctx *pctx, unsigned budget_us);

/* Have that thread leave off all it was to do, and wait until it is idle. */
void ds_vgraph_prepare_none(void);

/*
 * Give back the holds on a physical context, by destroying all executables there that are not the first of
 * their graph and not just being made or changed. With the virtual context's `moving` locked.
 */
void ds_vgraph_evict(struct ds_pctx *pctx);

/* Forget all graphs, without telling the driver: their context is gone. */
void ds_vgraph_drop(void);

#endif
