/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "noderuntime/coroutine/graph_retarget.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/vgraph.h"

enum { BUCKETS = 1024 };

static struct ds_vgraph *buckets[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
/* Of each kind: whether a graph has ever referred to one, so that programs without pay nothing. */
static atomic_bool referred[DS_REFERS_KINDS];

static struct ds_vgraph **bucket(CUgraphExec handle)
{
	return &buckets[((uintptr_t)handle >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 54];
}

struct ds_vgraph *ds_vgraph_find(CUgraphExec handle)
{
	struct ds_vgraph *graph;

	pthread_mutex_lock(&table_lock);
	graph = *bucket(handle);
	while (graph && graph->handle != handle)
		graph = graph->next;
	pthread_mutex_unlock(&table_lock);
	return graph;
}

/* What is made here is no act of the program's that a capture under way may forbid. */
static CUstreamCaptureMode relax(void)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	return mode;
}

static void unrelax(CUstreamCaptureMode mode)
{
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
}

struct ds_executable *ds_vgraph_in(const struct ds_vgraph *graph, const struct ds_pctx *pctx)
{
	struct ds_executable *executable = graph->executables;

	while (executable && executable->pctx != pctx)
		executable = executable->next;
	return executable;
}

static void put(struct ds_vgraph *graph, struct ds_executable *executable)
{
	pthread_mutex_lock(&graph->launching);
	executable->next = graph->executables;
	graph->executables = executable;
	pthread_mutex_unlock(&graph->launching);
}

static struct ds_pctx *first_place(const struct ds_vgraph *graph)
{
	const struct ds_executable *executable = graph->executables;

	while (executable->next)
		executable = executable->next;
	return executable->pctx;
}

/* Under `making`. */
static void set_refers(struct ds_vgraph *graph, struct ds_refers refers)
{
	struct ds_refers old;

	for (size_t i = 0; i < refers.n; i++)
		atomic_store(&referred[refers.all[i].kind], true);
	pthread_mutex_lock(&table_lock);
	old = graph->refers;
	graph->refers = refers;
	pthread_mutex_unlock(&table_lock);
	ds_refers_free(&old);
}

/* Under `making`. False: no memory. */
static bool collect(struct ds_vgraph *graph)
{
	struct ds_refers refers = {.all = NULL};
	const bool collected = ds_refers_collect(&refers, graph->clone);

	set_refers(graph, refers);
	return collected;
}

/* Nothing is to be made of it any more, for the driver would look for what has gone. Under `making`. */
static bool is_left(const struct ds_vgraph *graph)
{
	bool lost;

	if (graph->destroyed)
		return true;
	pthread_mutex_lock(&table_lock);
	lost = ds_refers_lost(&graph->refers);
	pthread_mutex_unlock(&table_lock);
	return lost;
}

static void forget_clone(struct ds_vgraph *graph)
{
	set_refers(graph, (struct ds_refers){.all = NULL});
	if (graph->clone)
		ds_real.cuGraphDestroy(graph->clone);
	graph->clone = NULL;
	graph->clone_at = NULL;
	free(graph->disabled);
	graph->disabled = NULL;
	graph->n_disabled = 0;
}

/*
 * The clone's nodes must not be in a physical context that goes: another may come to have its handle. Under
 * `making`.
 */
static void bring_clone_back(struct ds_vgraph *graph)
{
	if (graph->clone &&
	    (is_left(graph) ||
	     ds_graph_retarget(graph->vctx, graph->clone, first_place(graph)) != CUDA_SUCCESS))
		forget_clone(graph);
	graph->clone_at = NULL;
}

static void executable_free(struct ds_executable *executable)
{
	ds_remap_release(executable->pctx);
	free(executable);
}

void ds_vgraph_discard(struct ds_vgraph *graph, struct ds_executable *executable)
{
	struct ds_executable **link = &graph->executables;

	if (graph->clone_at == executable->pctx)
		bring_clone_back(graph);
	pthread_mutex_lock(&graph->launching);
	while (*link != executable)
		link = &(*link)->next;
	*link = executable->next;
	if (graph->last == executable)
		graph->last = NULL; /* the next launch waits for the event all the same */
	pthread_mutex_unlock(&graph->launching);
	ds_real.cuGraphExecDestroy(executable->exec);
	executable_free(executable);
}

static void discard_all_but_first(struct ds_vgraph *graph)
{
	while (graph->executables->next)
		ds_vgraph_discard(graph, graph->executables);
}

bool ds_vgraph_may_pin(struct ds_vctx *vctx, const struct ds_pctx *pctx)
{
	const struct ds_pctx *granted;
	struct ds_groups rest;

	if (atomic_load_explicit(&pctx->pins, memory_order_acquire))
		return true;
	pthread_mutex_lock(&vctx->publishing);
	/* In a program that moves for tests, the target is only a part. */
	granted = vctx->chaos.n_partitions ? vctx->chaos.partitions[0] : ds_remap_target(vctx);
	rest = ds_groups_difference(pctx->groups, granted->groups);
	pthread_mutex_unlock(&vctx->publishing);
	return ds_groups_empty(&rest);
}

static bool pin(struct ds_vctx *vctx, struct ds_pctx *pctx)
{
	struct ds_mark *mark = ds_mark_get();
	bool pinned;

	if (!mark)
		return false;
	ds_mark_begin(mark);
	pinned = ds_vgraph_may_pin(vctx, pctx);
	if (pinned)
		ds_remap_pin(pctx);
	ds_mark_end(mark);
	return pinned;
}

CUresult ds_vgraph_pin(struct ds_vgraph *graph)
{
	if (atomic_load(&graph->pinned))
		return CUDA_SUCCESS;
	/* Whatever comes of it, the others no longer do what the program wants. */
	forget_clone(graph);
	discard_all_but_first(graph);
	if (!pin(graph->vctx, graph->executables->pctx))
		return CUDA_ERROR_NOT_SUPPORTED;
	if (graph->vctx->pinned_graphs)
		atomic_fetch_add_explicit(graph->vctx->pinned_graphs, 1, memory_order_relaxed);
	atomic_store(&graph->pinned, true);
	return CUDA_SUCCESS;
}

static CUresult make_events(struct ds_vctx *vctx, struct ds_vgraph *graph)
{
	CUstreamCaptureMode mode = relax();
	CUresult result = ds_real.cuCtxPushCurrent_v2(vctx->primary);
	CUcontext popped;

	if (result == CUDA_SUCCESS) {
		result = ds_real.cuEventCreate(&graph->launched, CU_EVENT_DISABLE_TIMING);
		if (result == CUDA_SUCCESS)
			result = ds_real.cuEventCreate(&graph->detour, CU_EVENT_DISABLE_TIMING);
		ds_real.cuCtxPopCurrent_v2(&popped);
	}
	unrelax(mode);
	return result;
}

static void destroy_events(struct ds_vgraph *graph)
{
	if (graph->launched)
		ds_real.cuEventDestroy_v2(graph->launched);
	if (graph->detour)
		ds_real.cuEventDestroy_v2(graph->detour);
}

CUresult ds_vgraph_add(struct ds_vctx *vctx, CUgraphExec exec, CUgraph graph, bool movable,
		       unsigned long long flags, struct ds_pctx *pctx)
{
	struct ds_vgraph *made = calloc(1, sizeof(*made));
	struct ds_executable *first = calloc(1, sizeof(*first));
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;

	if (!made || !first)
		goto fail;
	*first = (struct ds_executable){.pctx = pctx, .exec = exec};
	*made = (struct ds_vgraph){
	    .references = 1,
	    .vctx = vctx,
	    .handle = exec,
	    .flags = flags & ~(unsigned long long)CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD,
	    .making = PTHREAD_MUTEX_INITIALIZER,
	    .launching = PTHREAD_MUTEX_INITIALIZER,
	    .executables = first,
	};
	result = make_events(vctx, made);
	if (result != CUDA_SUCCESS)
		goto fail;
	if (!movable || ds_real.cuGraphClone(&made->clone, graph) != CUDA_SUCCESS || !collect(made))
		result = ds_vgraph_pin(made);
	if (result != CUDA_SUCCESS)
		goto fail;
	ds_remap_hold(pctx);
	pthread_mutex_lock(&table_lock);
	made->next = *bucket(exec);
	*bucket(exec) = made;
	pthread_mutex_unlock(&table_lock);
	return CUDA_SUCCESS;
fail:
	if (made) {
		forget_clone(made);
		destroy_events(made);
	}
	free(first);
	free(made);
	return result;
}

void ds_vgraph_hold(struct ds_vgraph *graph)
{
	pthread_mutex_lock(&table_lock);
	graph->references++;
	pthread_mutex_unlock(&table_lock);
}

static void unpin(struct ds_vgraph *graph, struct ds_pctx *pctx)
{
	if (graph->vctx->pinned_graphs)
		atomic_fetch_sub_explicit(graph->vctx->pinned_graphs, 1, memory_order_relaxed);
	ds_remap_unpin(pctx);
}

/* The driver keeps what still runs. */
static CUresult free_graph(struct ds_vgraph *graph)
{
	CUresult result = CUDA_SUCCESS;

	while (graph->executables) {
		struct ds_executable *executable = graph->executables;

		graph->executables = executable->next;
		/* The last one is the program's own. */
		result = ds_real.cuGraphExecDestroy(executable->exec);
		if (atomic_load(&graph->pinned) && !graph->elsewhere)
			unpin(graph, executable->pctx);
		executable_free(executable);
	}
	forget_clone(graph);
	destroy_events(graph);
	free(graph);
	return result;
}

static CUresult release(struct ds_vgraph *graph)
{
	unsigned left;

	pthread_mutex_lock(&table_lock);
	left = --graph->references;
	pthread_mutex_unlock(&table_lock);
	return left ? CUDA_SUCCESS : free_graph(graph);
}

void ds_vgraph_release(struct ds_vgraph *graph)
{
	release(graph);
}

CUresult ds_vgraph_destroy(struct ds_vgraph *graph)
{
	struct ds_vgraph **link = bucket(graph->handle);

	pthread_mutex_lock(&table_lock);
	while (*link != graph)
		link = &(*link)->next;
	*link = graph->next;
	pthread_mutex_unlock(&table_lock);
	/* What it refers to may go now, and nobody will find that it did. */
	pthread_mutex_lock(&graph->making);
	graph->destroyed = true;
	pthread_mutex_unlock(&graph->making);
	return release(graph);
}

static CUresult instantiate(struct ds_vgraph *graph, struct ds_pctx *pctx, CUgraphExec *exec)
{
	CUresult result = ds_graph_retarget(graph->vctx, graph->clone, pctx);

	graph->clone_at = pctx;
	if (result != CUDA_SUCCESS)
		return result;
	result = ds_real.cuGraphInstantiateWithFlags(exec, graph->clone, graph->flags);
	if (result != CUDA_SUCCESS)
		return result;
	result = ds_graph_retarget_exec(graph->vctx, *exec, graph->clone, pctx);
	for (size_t i = 0; result == CUDA_SUCCESS && i < graph->n_disabled; i++)
		result = ds_real.cuGraphNodeSetEnabled(*exec, graph->disabled[i], 0);
	if (result != CUDA_SUCCESS)
		ds_real.cuGraphExecDestroy(*exec);
	return result;
}

static CUresult make(struct ds_vgraph *graph, struct ds_pctx *pctx, bool ahead)
{
	struct ds_executable *executable;
	CUstreamCaptureMode mode;
	CUresult result;

	if (ds_vgraph_in(graph, pctx))
		return CUDA_SUCCESS;
	if (!graph->clone || is_left(graph))
		return CUDA_ERROR_NOT_SUPPORTED;
	executable = calloc(1, sizeof(*executable));
	if (!executable)
		return CUDA_ERROR_OUT_OF_MEMORY;
	mode = relax();
	result = instantiate(graph, pctx, &executable->exec);
	if (result == CUDA_SUCCESS && ahead && !ds_graph_upload(pctx, executable->exec)) {
		ds_real.cuGraphExecDestroy(executable->exec);
		result = instantiate(graph, pctx, &executable->exec);
	}
	if (result != CUDA_SUCCESS)
		bring_clone_back(graph);
	unrelax(mode);
	if (result != CUDA_SUCCESS) {
		free(executable);
		return result;
	}
	ds_remap_hold(pctx);
	executable->pctx = pctx;
	put(graph, executable);
	return CUDA_SUCCESS;
}

CUresult ds_vgraph_make(struct ds_vgraph *graph, struct ds_pctx *pctx, bool ahead)
{
	CUresult result;

	pthread_mutex_lock(&graph->making);
	result = make(graph, pctx, ahead);
	pthread_mutex_unlock(&graph->making);
	return result;
}

CUgraphNode ds_vgraph_twin(const struct ds_vgraph *graph, CUgraphNode node)
{
	CUgraphNode twin = NULL;

	/* After an update by another graph than it was made from, the program's nodes are not known. */
	if (!graph->clone ||
	    ds_real.cuGraphNodeFindInClone(&twin, node, graph->clone) != CUDA_SUCCESS)
		return NULL;
	return twin;
}

bool ds_vgraph_enable(struct ds_vgraph *graph, CUgraphNode twin, bool enabled)
{
	CUgraphNode *more;
	size_t i = 0;

	while (i < graph->n_disabled && graph->disabled[i] != twin)
		i++;
	if (enabled && i < graph->n_disabled)
		graph->disabled[i] = graph->disabled[--graph->n_disabled];
	if (enabled || i < graph->n_disabled)
		return true;
	more = realloc(graph->disabled, (i + 1) * sizeof(CUgraphNode));
	if (!more)
		return false;
	graph->disabled = more;
	graph->disabled[graph->n_disabled++] = twin;
	return true;
}

static const struct ds_executable *last_launched(struct ds_vgraph *graph)
{
	const struct ds_executable *last;

	pthread_mutex_lock(&graph->launching);
	last = graph->last;
	pthread_mutex_unlock(&graph->launching);
	return last;
}

/*
 * The one launched last follows. Others, and it if it does not take the update, are made anew when they are
 * needed: some programs update a graph before each launch, and would pay for all each time.
 */
static void update_others(struct ds_vgraph *graph)
{
	struct ds_executable *next;

	for (struct ds_executable *other = graph->executables; other->next; other = next) {
		CUgraphExecUpdateResultInfo info;

		next = other->next;
		if (other != last_launched(graph)) {
			ds_vgraph_discard(graph, other);
			continue;
		}
		graph->clone_at = other->pctx;
		if (!graph->clone ||
		    ds_graph_retarget(graph->vctx, graph->clone, other->pctx) != CUDA_SUCCESS ||
		    ds_real.cuGraphExecUpdate_v2(other->exec, graph->clone, &info) != CUDA_SUCCESS)
			ds_vgraph_discard(graph, other);
	}
}

CUresult ds_vgraph_updated(struct ds_vgraph *graph, CUgraph updated)
{
	CUgraph clone;

	if (atomic_load(&graph->pinned))
		return CUDA_SUCCESS;
	/* Which nodes are disabled is known of the old clone's only. */
	if (graph->n_disabled || ds_real.cuGraphClone(&clone, updated) != CUDA_SUCCESS)
		return ds_vgraph_pin(graph);
	forget_clone(graph);
	graph->clone = clone;
	if (!collect(graph))
		return ds_vgraph_pin(graph);
	update_others(graph);
	return CUDA_SUCCESS;
}

void ds_vgraph_renew(struct ds_vgraph *graph, CUgraphNode twin)
{
	struct ds_refers refers = {.all = NULL};
	bool renewed = true;

	pthread_mutex_lock(&table_lock);
	if (graph->refers.n) {
		refers.all = calloc(graph->refers.n, sizeof(*refers.all));
		renewed = refers.all != NULL;
	}
	if (renewed && graph->refers.n) {
		refers.n = refers.room = graph->refers.n;
		memcpy(refers.all, graph->refers.all, refers.n * sizeof(*refers.all));
	}
	pthread_mutex_unlock(&table_lock);
	/* Without memory nobody knows what it refers to, and so nothing is made of it any more. */
	if (renewed && ds_refers_renew(&refers, twin)) {
		set_refers(graph, refers);
		return;
	}
	ds_refers_free(&refers);
	forget_clone(graph);
}

/* The next graph that is found to refer to it, marked, with a reference; NULL: no other does. */
static struct ds_vgraph *next_loser(enum ds_refers_kind kind, uint64_t first, uint64_t n)
{
	struct ds_vgraph *loser = NULL;

	pthread_mutex_lock(&table_lock);
	for (unsigned i = 0; i < BUCKETS && !loser; i++) {
		loser = buckets[i];
		while (loser && !ds_refers_lose(&loser->refers, kind, first, n))
			loser = loser->next;
	}
	if (loser)
		loser->references++;
	pthread_mutex_unlock(&table_lock);
	return loser;
}

void ds_vgraphs_lose(enum ds_refers_kind kind, uint64_t first, uint64_t n)
{
	struct ds_vgraph *loser;

	if (!atomic_load_explicit(&referred[kind], memory_order_acquire))
		return;
	while ((loser = next_loser(kind, first, n))) {
		/* Whoever makes it executable just now began before. */
		pthread_mutex_lock(&loser->making);
		pthread_mutex_unlock(&loser->making);
		ds_vgraph_release(loser);
	}
}

struct ds_vgraph **ds_vgraph_all(size_t *n)
{
	struct ds_vgraph **graphs = NULL;

	*n = 0;
	pthread_mutex_lock(&table_lock);
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct ds_vgraph *graph = buckets[i]; graph; graph = graph->next)
			++*n;
	if (*n)
		graphs = calloc(*n, sizeof(struct ds_vgraph *));
	*n = 0;
	for (unsigned i = 0; graphs && i < BUCKETS; i++)
		for (struct ds_vgraph *graph = buckets[i]; graph; graph = graph->next) {
			graph->references++;
			graphs[(*n)++] = graph;
		}
	pthread_mutex_unlock(&table_lock);
	return graphs;
}

void ds_vgraph_drop(void)
{
	ds_vgraph_prepare_none();
	pthread_mutex_lock(&table_lock);
	for (unsigned i = 0; i < BUCKETS; i++) {
		while (buckets[i]) {
			struct ds_vgraph *graph = buckets[i];

			buckets[i] = graph->next;
			while (graph->executables) {
				struct ds_executable *executable = graph->executables;

				graph->executables = executable->next;
				free(executable);
			}
			ds_refers_free(&graph->refers);
			free(graph->disabled);
			free(graph);
		}
	}
	pthread_mutex_unlock(&table_lock);
}
