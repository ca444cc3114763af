/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/graph_retarget.h"
#include "noderuntime/coroutine/hold.h"
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/say.h"
#include "noderuntime/coroutine/vgraph.h"
#include "noderuntime/coroutine/whole.h"

/* Graphs are made executable, uploaded and launched. */

/* ---- instantiation ---- */

/* The program's own graphs and first executables are in the first physical context, which lasts. */
struct making {
	struct ds_vctx *vctx; /* NULL: the graph is none of ours */
	struct ds_pctx *pctx;
	bool movable;
};

static CUresult nowhere(const char *what)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;

	ds_say_once(&said,
		    "%s failed: the graph has nodes that cannot be moved, and the SMs they were "
		    "made for have gone to another program; make the graph anew",
		    what);
	return CUDA_ERROR_NOT_SUPPORTED;
}

/*
 * Where the first executable is to be. One that cannot move is pinned there, so it must be where the
 * program's work still may be; but the bodies of conditional nodes are out of our reach.
 */
static bool hold_place(struct making *making, const struct ds_graph_survey *survey)
{
	struct ds_mark *mark = ds_mark_get();

	if (!mark)
		return false;
	ds_mark_begin(mark);
	making->pctx = ds_remap_slot(making->vctx, 0);
	if (!making->movable && !survey->bodies && !ds_vgraph_may_pin(making->vctx, making->pctx))
		making->pctx = ds_remap_target(making->vctx);
	ds_remap_hold(making->pctx);
	ds_mark_end(mark);
	return true;
}

/* The program may make it executable once more when this place is gone. */
static void bring_home(const struct making *making, CUgraph graph)
{
	if (making->pctx->slot)
		ds_graph_retarget(making->vctx, graph, ds_remap_slot(making->vctx, 0));
}

static CUresult begin_making(struct making *making, CUgraph graph, unsigned long long flags)
{
	struct ds_graph_survey survey;
	CUresult result = ds_vctx_enter(&making->vctx);
	CUgraphNode *none = NULL;
	size_t n = 0;

	if (result != CUDA_SUCCESS || !making->vctx)
		return result;
	/* What is no graph, the driver says; and who is not moved needs no other executables. */
	if (making->vctx->fixed || ds_real.cuGraphGetNodes(graph, none, &n) != CUDA_SUCCESS ||
	    ds_graph_look(making->vctx, graph, &survey) != CUDA_SUCCESS || !survey.ours) {
		making->vctx = NULL;
		return CUDA_SUCCESS;
	}
	making->movable = survey.movable && !(flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH);
	if (!hold_place(making, &survey))
		return CUDA_ERROR_OUT_OF_MEMORY;
	result = ds_graph_retarget(making->vctx, graph, making->pctx);
	if (result == CUDA_SUCCESS)
		return CUDA_SUCCESS;
	bring_home(making, graph);
	ds_remap_release(making->pctx);
	return nowhere("cuGraphInstantiate");
}

/* The executable is wanted where the program's work goes now: better made here than at its first launch. */
static void make_at_target(struct ds_vctx *vctx, CUgraphExec exec)
{
	struct ds_vgraph *graph = ds_vgraph_find(exec);
	struct ds_mark *mark = ds_mark_get();
	struct ds_pctx *target;

	if (!graph || !mark || atomic_load(&graph->pinned))
		return;
	ds_mark_begin(mark);
	target = ds_remap_target(vctx);
	ds_remap_hold(target);
	ds_mark_end(mark);
	ds_vgraph_make(graph, target, true);
	ds_remap_release(target);
}

static CUresult end_making(const struct making *making, CUgraphExec *exec, CUgraph graph,
			   unsigned long long flags, CUresult result)
{
	if (!making->vctx) {
		if (result == CUDA_SUCCESS)
			ds_graph_memory_made(*exec, graph);
		return result;
	}
	if (result != CUDA_SUCCESS) {
		bring_home(making, graph);
		ds_remap_release(making->pctx);
		return result;
	}
	result = ds_graph_retarget_exec(making->vctx, *exec, graph, making->pctx);
	if (result == CUDA_SUCCESS)
		result =
		    ds_vgraph_add(making->vctx, *exec, graph, making->movable, flags, making->pctx);
	bring_home(making, graph);
	ds_remap_release(making->pctx);
	if (result != CUDA_SUCCESS) {
		ds_real.cuGraphExecDestroy(*exec);
		return nowhere("cuGraphInstantiate");
	}
	ds_graph_memory_made(*exec, graph);
	make_at_target(making->vctx, *exec);
	return CUDA_SUCCESS;
}

#define INSTANTIATE(symbol, flags, params, args)                                             \
	CUresult ds_##symbol params                                                          \
	{                                                                                    \
		struct making making = {0};                                                  \
		CUresult result = begin_making(&making, hGraph, flags);                      \
                                                                                             \
		if (result != CUDA_SUCCESS)                                                  \
			return result;                                                       \
		return end_making(&making, phGraphExec, hGraph, flags, ds_real.symbol args); \
	}                                                                                    \
	DS_EXPORT(symbol)

INSTANTIATE(cuGraphInstantiate, 0,
	    (CUgraphExec * phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer,
	     size_t bufferSize),
	    (phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize));
INSTANTIATE(cuGraphInstantiate_v2, 0,
	    (CUgraphExec * phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer,
	     size_t bufferSize),
	    (phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize));
INSTANTIATE(cuGraphInstantiateWithFlags, flags,
	    (CUgraphExec * phGraphExec, CUgraph hGraph, unsigned long long flags),
	    (phGraphExec, hGraph, flags));

/* The stream that the executable is uploaded on hides in the parameters, which also take results. */
static CUresult
upload_too(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params, bool per_thread,
	   CUresult (*real)(CUgraphExec *, CUgraph, CUDA_GRAPH_INSTANTIATE_PARAMS *))
{
	CUstream seen = params->hUploadStream;
	struct ds_op op;
	CUresult result = ds_op_begin(&op, seen, per_thread);

	if (result != CUDA_SUCCESS)
		return result;
	params->hUploadStream = op.target;
	result = real(exec, graph, params);
	params->hUploadStream = seen;
	ds_op_end(&op);
	return result;
}

static CUresult with_params(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params,
			    bool per_thread,
			    CUresult (*const *real)(CUgraphExec *, CUgraph,
						    CUDA_GRAPH_INSTANTIATE_PARAMS *))
{
	const unsigned long long flags = params ? params->flags : 0;
	struct making making = {0};
	CUresult result = begin_making(&making, graph, flags);

	if (result != CUDA_SUCCESS)
		return result;
	result = flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD
		     ? upload_too(exec, graph, params, per_thread, *real)
		     : (*real)(exec, graph, params);
	return end_making(&making, exec, graph, flags, result);
}

CUresult ds_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
					 CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	return with_params(phGraphExec, hGraph, instantiateParams, false,
			   &ds_real.cuGraphInstantiateWithParams);
}
DS_EXPORT(cuGraphInstantiateWithParams);

CUresult ds_cuGraphInstantiateWithParams_ptsz(CUgraphExec *phGraphExec, CUgraph hGraph,
					      CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	return with_params(phGraphExec, hGraph, instantiateParams, true,
			   &ds_real.cuGraphInstantiateWithParams_ptsz);
}
DS_EXPORT(cuGraphInstantiateWithParams_ptsz);

/* ---- launch ---- */

/* Where the operation's shadow is. Marked. */
static struct ds_pctx *place_of(const struct ds_op *op)
{
	struct ds_vstream *stream = op->stream;
	struct ds_pctx *pctx = ds_remap_of_stream(stream);

	if (ds_likely(atomic_load_explicit(&stream->epoch, memory_order_acquire) == op->epoch))
		return pctx;
	/* Another thread moved the stream just now. */
	pthread_mutex_lock(&stream->lock);
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
		if (stream->shadows[slot] == op->target)
			pctx = &op->vctx->pctxs[slot];
	pthread_mutex_unlock(&stream->lock);
	return pctx;
}

/* The stream's shadow in another place than it is in. Marked: the acknowledger finds its work there. */
static CUresult shadow_in(struct ds_vstream *stream, struct ds_pctx *pctx, CUstream *shadow)
{
	CUresult result = ds_remap_prepare(stream, pctx);

	pthread_mutex_lock(&stream->lock);
	*shadow = stream->shadows[pctx->slot];
	if (result == CUDA_SUCCESS && *shadow)
		stream->worked |= 1U << pctx->slot;
	else if (result == CUDA_SUCCESS)
		result = CUDA_ERROR_INVALID_HANDLE;
	pthread_mutex_unlock(&stream->lock);
	return result;
}

/*
 * The widest executable in a part of where new work may go; pinned graphs stay where they are. NULL: there is
 * none with at least half of the SMs: a graph takes longer in so few than it takes to be made executable.
 */
static struct ds_executable *nearby(const struct ds_vgraph *graph, const struct ds_pctx *target)
{
	const struct ds_gpu_shape *shape = &graph->vctx->shape;
	struct ds_executable *widest = NULL;
	uint32_t most = 0;

	if (atomic_load_explicit(&graph->pinned, memory_order_acquire))
		return graph->executables;
	for (struct ds_executable *executable = graph->executables; executable;
	     executable = executable->next) {
		const struct ds_groups *groups = &executable->pctx->groups;
		const uint32_t sms = ds_groups_sms(groups, shape);

		if (sms > most && ds_groups_within(groups, &target->groups)) {
			widest = executable;
			most = sms;
		}
	}
	return 2 * most >= ds_groups_sms(&target->groups, shape) ? widest : NULL;
}

/*
 * The executable for a launch in `pctx`, with `launching` locked. One nearby is taken while another
 * thread makes the right one; if there is none, it is made here and now.
 */
static CUresult choose(struct ds_vgraph *graph, struct ds_pctx *pctx, struct ds_executable **chosen)
{
	CUresult result;

	*chosen = ds_vgraph_in(graph, pctx);
	if (ds_likely(*chosen != NULL))
		return CUDA_SUCCESS;
	*chosen = nearby(graph, ds_remap_target(graph->vctx));
	if (*chosen) {
		if (!atomic_load_explicit(&graph->pinned, memory_order_acquire))
			ds_vgraph_prepare(graph, pctx);
		return CUDA_SUCCESS;
	}
	pthread_mutex_unlock(&graph->launching);
	result = ds_vgraph_make(graph, pctx, false);
	pthread_mutex_lock(&graph->launching);
	*chosen = ds_vgraph_in(graph, pctx);
	return *chosen ? CUDA_SUCCESS : result == CUDA_SUCCESS ? CUDA_ERROR_NOT_SUPPORTED : result;
}

static _Atomic uint64_t graph_launches;

typedef CUresult put(CUgraphExec exec, CUstream stream);

/*
 * On `stream`, behind all earlier launches of the graph: alone it never runs beside itself. With
 * `launching` locked.
 */
static CUresult in_turn(struct ds_vgraph *graph, struct ds_executable *executable, CUstream stream,
			put *real)
{
	CUresult result = CUDA_SUCCESS;

	/* The driver itself keeps the launches of one executable in order. */
	if (graph->last != executable)
		result = ds_real.cuStreamWaitEvent(stream, graph->launched, 0);
	if (result == CUDA_SUCCESS)
		result = real(executable->exec, stream);
	if (result != CUDA_SUCCESS)
		return result;
	graph->last = executable;
	atomic_fetch_add_explicit(&graph->vctx->graphs, 1, memory_order_release);
	graph->used = atomic_fetch_add_explicit(&graph_launches, 1, memory_order_relaxed) + 1;
	return ds_real.cuEventRecord(graph->launched, stream);
}

/* The graph goes where its executable is, between what the stream did and what it will do. */
static CUresult detour(struct ds_vgraph *graph, struct ds_executable *executable,
		       const struct ds_op *op, put *real)
{
	CUstream shadow;
	CUresult result = shadow_in(op->stream, executable->pctx, &shadow);

	if (result == CUDA_SUCCESS)
		result = ds_real.cuEventRecord(graph->detour, op->target);
	if (result == CUDA_SUCCESS)
		result = ds_real.cuStreamWaitEvent(shadow, graph->detour, 0);
	if (result == CUDA_SUCCESS)
		result = in_turn(graph, executable, shadow, real);
	if (result == CUDA_SUCCESS)
		result = ds_real.cuStreamWaitEvent(op->target, graph->launched, 0);
	return result;
}

static CUresult put_graph(struct ds_vgraph *graph, const struct ds_op *op, put *real)
{
	struct ds_pctx *pctx = place_of(op);
	struct ds_executable *executable;
	CUresult result;

	/* Whatever the driver says to that. */
	if (ds_unlikely(atomic_load_explicit(&op->vctx->captures, memory_order_relaxed) > 0) &&
	    ds_order_captured(op->target))
		return real(graph->handle, op->target);
	pthread_mutex_lock(&graph->launching);
	result = choose(graph, pctx, &executable);
	if (result != CUDA_SUCCESS)
		result = result == CUDA_ERROR_OUT_OF_MEMORY ? result : nowhere("cuGraphLaunch");
	else if (ds_likely(executable->pctx == pctx))
		result = in_turn(graph, executable, op->target, real);
	else
		result = detour(graph, executable, op, real);
	pthread_mutex_unlock(&graph->launching);
	return result;
}

/* On a stream that is none of ours: nobody could wait for it there when the graph had to move. */
static CUresult put_elsewhere(struct ds_vgraph *graph, CUstream stream, put *real)
{
	struct ds_mark *mark = ds_mark_get();
	CUresult result;

	if (!mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_lock(&graph->making);
	ds_mark_begin(mark);
	result = ds_vgraph_pin(graph);
	ds_mark_end(mark);
	if (result == CUDA_SUCCESS) {
		graph->elsewhere = true;
		pthread_mutex_lock(&graph->launching);
		result = in_turn(graph, graph->executables, stream, real);
		pthread_mutex_unlock(&graph->launching);
	} else {
		result = nowhere("cuGraphLaunch");
	}
	pthread_mutex_unlock(&graph->making);
	return result;
}

static CUresult launch(CUgraphExec handle, CUstream stream, bool per_thread,
		       CUresult (*const *real)(CUgraphExec, CUstream))
{
	struct ds_op op;
	CUresult result;
	struct ds_payment memory = {.counted = false};
	struct ds_sample *sample;
	struct ds_vgraph *graph;

	if (ds_unlikely(ds_graph_memory_any()))
		result = ds_graph_memory_launch_begin(handle, &memory);
	else
		result = CUDA_SUCCESS;
	if (ds_likely(result == CUDA_SUCCESS))
		result = ds_op_begin_launch(&op, stream, per_thread,
					    &(struct ds_launch){.what = handle});
	if (ds_unlikely(ds_whole_watched() & DS_WHOLE_HOLD) && result == CUDA_SUCCESS)
		result = ds_hold_launch(&op, stream, per_thread, NULL);
	if (ds_unlikely(result != CUDA_SUCCESS)) {
		ds_graph_memory_launch_end(&memory);
		return result;
	}
	sample = ds_measure_launch(NULL, 0, 0, 0, 0, 0, 0, op.stream != NULL, op.target);
	graph = ds_vgraph_find(handle);
	if (!graph) {
		result = (*real)(handle, op.target);
		if (op.stream && result == CUDA_SUCCESS)
			atomic_fetch_add_explicit(&op.vctx->graphs, 1, memory_order_release);
	} else if (op.stream) {
		result = put_graph(graph, &op, *real);
	} else {
		result = put_elsewhere(graph, op.target, *real);
	}
	ds_measure_launched(sample, op.target, result);
	ds_op_launched(&op, DS_LAUNCHED_GRAPH, result);
	ds_graph_memory_launch_end(&memory);
	return result;
}

CUresult ds_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
	return launch(hGraph, hStream, false, &ds_real.cuGraphLaunch);
}
DS_EXPORT(cuGraphLaunch);

CUresult ds_cuGraphLaunch_ptsz(CUgraphExec hGraph, CUstream hStream)
{
	return launch(hGraph, hStream, true, &ds_real.cuGraphLaunch_ptsz);
}
DS_EXPORT(cuGraphLaunch_ptsz);

/* An upload is asked for ahead of a launch: so is the executable made, where the launch is likely to be. */
static CUresult upload(CUgraphExec handle, CUstream stream, bool per_thread,
		       CUresult (*const *real)(CUgraphExec, CUstream))
{
	struct ds_op op;
	CUresult result = ds_op_begin(&op, stream, per_thread);
	struct ds_vgraph *graph;

	if (result != CUDA_SUCCESS)
		return result;
	graph = op.stream ? ds_vgraph_find(handle) : NULL;
	if (graph) {
		struct ds_executable *executable;

		ds_vgraph_make(graph, place_of(&op), false);
		pthread_mutex_lock(&graph->launching);
		executable = ds_vgraph_in(graph, place_of(&op));
		result = (*real)(executable ? executable->exec : handle, op.target);
		pthread_mutex_unlock(&graph->launching);
	} else {
		result = (*real)(handle, op.target);
	}
	ds_op_end(&op);
	return result;
}

CUresult ds_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
	return upload(hGraph, hStream, false, &ds_real.cuGraphUpload);
}
DS_EXPORT(cuGraphUpload);

CUresult ds_cuGraphUpload_ptsz(CUgraphExec hGraph, CUstream hStream)
{
	return upload(hGraph, hStream, true, &ds_real.cuGraphUpload_ptsz);
}
DS_EXPORT(cuGraphUpload_ptsz);
