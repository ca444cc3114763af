/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/graph_retarget.h"
#include "noderuntime/coroutine/op.h"

/* The driver calls that begin and end captures, and the waits that bring a stream into one. */

/*
 * To where captures are: in the first physical context, as the program's graphs are (graph.c). So a graph has
 * all its nodes in one place which lasts, whatever becomes of partitions while it is captured; and what
 * cannot be moved later, as copies, need not be. Under the stream's lock.
 */
static CUresult go_home(struct ds_op *op)
{
	CUresult result = ds_remap_home(op->vctx, op->stream);

	if (result != CUDA_SUCCESS)
		return result;
	op->target = atomic_load_explicit(&op->stream->shadow, memory_order_relaxed);
	op->epoch = atomic_load_explicit(&op->stream->epoch, memory_order_relaxed);
	ds_streams_note_uncaptured(op->vctx, op->stream);
	return CUDA_SUCCESS;
}

/*
 * While something is captured, the event may be a captured one: then the legacy stream may not wait for
 * it, but its shadow might, so the driver is asked about its own legacy stream first; and another stream
 * is captured from here on, so it is brought to where captures are, and what it did before is noted. If
 * it is no captured event, the stream only waits there, and goes back with its next operation.
 */
static CUresult wait_captured(struct ds_op *op, CUstream handle, CUevent event, unsigned flags,
			      CUresult (*real)(CUstream, CUevent, unsigned))
{
	CUresult result;

	if (op->stream->kind == DS_STREAM_NULL) {
		result = real(handle, event, flags);
		return result == CUDA_SUCCESS ? real(op->target, event, flags) : result;
	}
	pthread_mutex_lock(&op->stream->lock);
	result = go_home(op);
	if (result == CUDA_SUCCESS)
		result = real(op->target, event, flags);
	pthread_mutex_unlock(&op->stream->lock);
	return result;
}

static CUresult wait_event(CUstream handle, CUevent event, unsigned flags, bool per_thread,
			   CUresult (*real)(CUstream, CUevent, unsigned))
{
	struct ds_op op;
	CUresult result = ds_op_begin(&op, handle, per_thread);

	if (result != CUDA_SUCCESS)
		return result;
	if (op.stream && atomic_load_explicit(&op.vctx->captures, memory_order_relaxed) > 0)
		result = wait_captured(&op, handle, event, flags, real);
	else
		result = real(op.target, event, flags);
	ds_op_end(&op);
	return result;
}

CUresult ds_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	return wait_event(hStream, hEvent, Flags, false, ds_real.cuStreamWaitEvent);
}
DS_EXPORT(cuStreamWaitEvent);

CUresult ds_cuStreamWaitEvent_ptsz(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	return wait_event(hStream, hEvent, Flags, true, ds_real.cuStreamWaitEvent_ptsz);
}
DS_EXPORT(cuStreamWaitEvent_ptsz);

/*
 * A capture begins, and the stream stays where that is until the capture ends. The legacy stream is the
 * driver's to refuse, after the legacy order had its say.
 *
 * The stream's lock is held from here until capture_began: who looks whether the stream's work has
 * ended must know whether it is captured, for to ask would end the capture.
 */
static CUresult capture_begins(struct ds_op *op, CUstream *handle, bool per_thread)
{
	CUresult result = ds_op_map(op, *handle, per_thread);

	if (result != CUDA_SUCCESS || !op->stream)
		return result;
	if (op->stream->kind == DS_STREAM_NULL) {
		CUstream shadow;

		result = ds_order_null(op->vctx, &shadow);
		op->stream = NULL;
		return result;
	}
	op->mark = ds_mark_get();
	if (!op->mark)
		return CUDA_ERROR_OUT_OF_MEMORY;
	ds_mark_begin(op->mark);
	pthread_mutex_lock(&op->stream->lock);
	result = go_home(op);
	if (result != CUDA_SUCCESS) {
		pthread_mutex_unlock(&op->stream->lock);
		ds_mark_end(op->mark);
		return result;
	}
	*handle = op->target;
	return CUDA_SUCCESS;
}

/* Marked as if it had work: the NULL stream must look at it and find it captured. */
static CUresult capture_began(const struct ds_op *op, CUresult result)
{
	if (!op->stream)
		return result;
	if (result == CUDA_SUCCESS) {
		atomic_fetch_add_explicit(&op->vctx->captures, 1, memory_order_relaxed);
		op->stream->capture_began = true;
	}
	pthread_mutex_unlock(&op->stream->lock);
	if (result == CUDA_SUCCESS)
		ds_op_end(op);
	else
		ds_op_abandon(op);
	return result;
}

#define BEGIN_CAPTURE(symbol, per_thread, params, args)                      \
	CUresult ds_##symbol params                                          \
	{                                                                    \
		struct ds_op op;                                             \
		CUresult result = capture_begins(&op, &hStream, per_thread); \
                                                                             \
		if (result != CUDA_SUCCESS)                                  \
			return result;                                       \
		return capture_began(&op, ds_real.symbol args);              \
	}                                                                    \
	DS_EXPORT(symbol);

BEGIN_CAPTURE(cuStreamBeginCapture, false, (CUstream hStream), (hStream))
BEGIN_CAPTURE(cuStreamBeginCapture_ptsz, true, (CUstream hStream), (hStream))
BEGIN_CAPTURE(cuStreamBeginCapture_v2, false, (CUstream hStream, CUstreamCaptureMode mode),
	      (hStream, mode))
BEGIN_CAPTURE(cuStreamBeginCapture_v2_ptsz, true, (CUstream hStream, CUstreamCaptureMode mode),
	      (hStream, mode))
BEGIN_CAPTURE(cuStreamBeginCaptureToGraph, false,
	      (CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	       const CUgraphEdgeData *dependencyData, size_t numDependencies,
	       CUstreamCaptureMode mode),
	      (hStream, hGraph, dependencies, dependencyData, numDependencies, mode))
BEGIN_CAPTURE(cuStreamBeginCaptureToGraph_ptsz, true,
	      (CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	       const CUgraphEdgeData *dependencyData, size_t numDependencies,
	       CUstreamCaptureMode mode),
	      (hStream, hGraph, dependencies, dependencyData, numDependencies, mode))

/* The program is told of nodes as it knows them. */
static CUresult CUDA_CB node_differs(void *of, CUgraphNode node, const CUgraphNodeParams *original,
				     const CUgraphNodeParams *recaptured,
				     CUgraphRecaptureStatus status)
{
	const struct ds_vstream *stream = of;
	CUgraphNodeParams before, after;

	if (original) {
		before = *original;
		ds_graph_show(&before);
	}
	if (recaptured) {
		after = *recaptured;
		ds_graph_show(&after);
	}
	return stream->recaptures.call(stream->recaptures.data, node, original ? &before : NULL,
				       recaptured ? &after : NULL, status);
}

static CUresult begin_recapture(CUstream handle, CUstreamCaptureMode mode, CUgraph graph,
				CUgraphRecaptureCallback callback, void *data, bool per_thread,
				CUresult (*real)(CUstream, CUstreamCaptureMode, CUgraph,
						 CUgraphRecaptureCallback, void *))
{
	struct ds_op op;
	CUresult result = capture_begins(&op, &handle, per_thread);

	if (result != CUDA_SUCCESS)
		return result;
	/* Of a capture that is under way nothing may change, and the driver refuses another one. */
	if (op.stream && callback && !op.stream->capture_began) {
		op.stream->recaptures.call = callback;
		op.stream->recaptures.data = data;
		callback = node_differs;
		data = op.stream;
	}
	return capture_began(&op, real(handle, mode, graph, callback, data));
}

CUresult ds_cuStreamBeginRecaptureToGraph(CUstream hStream, CUstreamCaptureMode mode,
					  CUgraph hGraph, CUgraphRecaptureCallback callbackFunc,
					  void *userData)
{
	return begin_recapture(hStream, mode, hGraph, callbackFunc, userData, false,
			       ds_real.cuStreamBeginRecaptureToGraph);
}
DS_EXPORT(cuStreamBeginRecaptureToGraph);

CUresult ds_cuStreamBeginRecaptureToGraph_ptsz(CUstream hStream, CUstreamCaptureMode mode,
					       CUgraph hGraph,
					       CUgraphRecaptureCallback callbackFunc,
					       void *userData)
{
	return begin_recapture(hStream, mode, hGraph, callbackFunc, userData, true,
			       ds_real.cuStreamBeginRecaptureToGraph_ptsz);
}
DS_EXPORT(cuStreamBeginRecaptureToGraph_ptsz);

static CUresult end_capture(CUstream handle, CUgraph *graph, bool per_thread,
			    CUresult (*real)(CUstream, CUgraph *))
{
	struct ds_op op;
	CUresult result = ds_op_look(&op, handle, per_thread);

	if (result != CUDA_SUCCESS)
		return result;
	if (!op.stream)
		return real(handle, graph);
	if (op.stream->kind == DS_STREAM_NULL) {
		CUstream shadow;

		result = ds_order_null(op.vctx, &shadow);
		if (result == CUDA_SUCCESS)
			result = real(handle, graph);
		ds_op_abandon(&op);
		return result;
	}
	pthread_mutex_lock(&op.stream->lock);
	result = real(op.target, graph);
	/* With an error, too, as a rule; not from the wrong thread or stream. */
	if (op.stream->capture_began && !ds_order_captured(op.target)) {
		atomic_fetch_sub_explicit(&op.vctx->captures, 1, memory_order_relaxed);
		op.stream->capture_began = false;
	}
	pthread_mutex_unlock(&op.stream->lock);
	ds_op_abandon(&op);
	return result;
}

CUresult ds_cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	return end_capture(hStream, phGraph, false, ds_real.cuStreamEndCapture);
}
DS_EXPORT(cuStreamEndCapture);

CUresult ds_cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph)
{
	return end_capture(hStream, phGraph, true, ds_real.cuStreamEndCapture_ptsz);
}
DS_EXPORT(cuStreamEndCapture_ptsz);
