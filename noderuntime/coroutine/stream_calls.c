/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "noderuntime/coroutine/graph_retarget.h"
#include "noderuntime/coroutine/green.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/own.h"

/* The driver calls that make, end and describe streams. */

CUresult ds_cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = ds_vctx_enter(&vctx);

	if (result != CUDA_SUCCESS)
		return result;
	/* What the driver would refuse, it refuses itself. */
	if (!vctx || !ds_vctx_current(vctx) || !phStream || flags & ~CU_STREAM_NON_BLOCKING)
		return ds_green_create_stream(phStream, flags, priority);
	result = ds_streams_create(vctx, ds_own_seen(vctx->primary), flags, priority, &stream);
	if (result == CUDA_SUCCESS)
		*phStream = stream->handle;
	return result;
}
DS_EXPORT(cuStreamCreateWithPriority);

CUresult ds_cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
	return ds_cuStreamCreateWithPriority(phStream, Flags, 0);
}
DS_EXPORT(cuStreamCreate);

/* The stream of the program's own making behind `handle`, or NULL. */
static CUresult find(CUstream handle, struct ds_vctx **vctx, struct ds_vstream **stream)
{
	CUresult result = ds_vctx_enter(vctx);

	*stream = result == CUDA_SUCCESS && *vctx && !ds_is_default(handle)
		      ? ds_streams_find(*vctx, handle)
		      : NULL;
	return result;
}

CUresult ds_cuStreamDestroy_v2(CUstream hStream)
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = find(hStream, &vctx, &stream);

	if (result != CUDA_SUCCESS)
		return result;
	return stream ? ds_streams_destroy(vctx, stream) : ds_green_destroy_stream(hStream);
}
DS_EXPORT(cuStreamDestroy_v2);

CUresult ds_cuStreamDestroy(CUstream hStream)
{
	return ds_cuStreamDestroy_v2(hStream);
}
DS_EXPORT(cuStreamDestroy);

static CUresult get_flags(CUstream handle, unsigned *flags, CUresult (*real)(CUstream, unsigned *))
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = find(handle, &vctx, &stream);

	if (result != CUDA_SUCCESS)
		return result;
	result = real(handle, flags);
	if (result == CUDA_SUCCESS && stream && flags)
		*flags = stream->flags;
	return result;
}

CUresult ds_cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
	return get_flags(hStream, flags, ds_real.cuStreamGetFlags);
}
DS_EXPORT(cuStreamGetFlags);

CUresult ds_cuStreamGetFlags_ptsz(CUstream hStream, unsigned int *flags)
{
	return get_flags(hStream, flags, ds_real.cuStreamGetFlags_ptsz);
}
DS_EXPORT(cuStreamGetFlags_ptsz);

static CUresult get_ctx(CUstream handle, CUcontext *context,
			CUresult (*real)(CUstream, CUcontext *))
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = find(handle, &vctx, &stream);

	if (result != CUDA_SUCCESS)
		return result;
	if (stream && context) {
		*context = stream->made_in;
		return CUDA_SUCCESS;
	}
	result = real(handle, context);
	if (result == CUDA_SUCCESS && context)
		*context = ds_own_seen(*context);
	return result;
}

CUresult ds_cuStreamGetCtx(CUstream hStream, CUcontext *pctx)
{
	return get_ctx(hStream, pctx, ds_real.cuStreamGetCtx);
}
DS_EXPORT(cuStreamGetCtx);

CUresult ds_cuStreamGetCtx_ptsz(CUstream hStream, CUcontext *pctx)
{
	return get_ctx(hStream, pctx, ds_real.cuStreamGetCtx_ptsz);
}
DS_EXPORT(cuStreamGetCtx_ptsz);

static CUresult get_ctx_v2(CUstream handle, CUcontext *context, CUgreenCtx *green,
			   CUresult (*real)(CUstream, CUcontext *, CUgreenCtx *))
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = find(handle, &vctx, &stream);

	if (result != CUDA_SUCCESS)
		return result;
	if (stream && context && green) {
		*context = stream->made_in;
		*green = NULL;
		return CUDA_SUCCESS;
	}
	result = real(handle, context, green);
	if (result == CUDA_SUCCESS && context)
		*context = ds_own_seen(*context);
	return result;
}

CUresult ds_cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
	return get_ctx_v2(hStream, pCtx, pGreenCtx, ds_real.cuStreamGetCtx_v2);
}
DS_EXPORT(cuStreamGetCtx_v2);

CUresult ds_cuStreamGetCtx_v2_ptsz(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
	return get_ctx_v2(hStream, pCtx, pGreenCtx, ds_real.cuStreamGetCtx_v2_ptsz);
}
DS_EXPORT(cuStreamGetCtx_v2_ptsz);

CUresult ds_cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx *phCtx)
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = find(hStream, &vctx, &stream);

	if (result != CUDA_SUCCESS)
		return result;
	if (!stream || !phCtx)
		return ds_real.cuStreamGetGreenCtx(hStream, phCtx);
	*phCtx = NULL;
	return CUDA_SUCCESS;
}
DS_EXPORT(cuStreamGetGreenCtx);

/* A stream of ours has what its context has, which is the whole device. */
static CUresult get_resource(CUstream handle, CUdevResource *resource, CUdevResourceType type,
			     CUresult (*real)(CUstream, CUdevResource *, CUdevResourceType))
{
	struct ds_vstream *stream;
	struct ds_vctx *vctx;
	CUresult result = find(handle, &vctx, &stream);

	if (result != CUDA_SUCCESS)
		return result;
	if (stream && resource && type == CU_DEV_RESOURCE_TYPE_SM)
		return ds_real.cuCtxGetDevResource(vctx->primary, resource, type);
	if (!stream && resource && type == CU_DEV_RESOURCE_TYPE_SM &&
	    ds_green_was_told(handle, resource))
		return CUDA_SUCCESS;
	return real(handle, resource, type);
}

CUresult ds_cuStreamGetDevResource(CUstream hStream, CUdevResource *resource,
				   CUdevResourceType type)
{
	return get_resource(hStream, resource, type, ds_real.cuStreamGetDevResource);
}
DS_EXPORT(cuStreamGetDevResource);

CUresult ds_cuStreamGetDevResource_ptsz(CUstream hStream, CUdevResource *resource,
					CUdevResourceType type)
{
	return get_resource(hStream, resource, type, ds_real.cuStreamGetDevResource_ptsz);
}
DS_EXPORT(cuStreamGetDevResource_ptsz);

/* A callback is told its stream: by the handle the program knows. */
struct callback {
	CUstreamCallback function;
	void *user_data;
	CUstream handle;
};

static void call_back(CUstream shadow, CUresult status, void *data)
{
	struct callback callback = *(struct callback *)data;

	free(data);
	callback.function(callback.handle, status, callback.user_data);
}

static CUresult add_callback(CUstream handle, CUstreamCallback function, void *user_data,
			     unsigned flags, bool per_thread,
			     CUresult (*real)(CUstream, CUstreamCallback, void *, unsigned))
{
	struct callback *callback = NULL;
	struct ds_op op;
	CUresult result = ds_op_begin(&op, handle, per_thread);

	if (result != CUDA_SUCCESS)
		return result;
	if (op.stream && op.target != handle && function) {
		callback = malloc(sizeof(*callback));
		if (!callback) {
			ds_op_abandon(&op);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
		*callback = (struct callback){function, user_data, handle};
		result = real(op.target, call_back, callback, flags);
		if (result != CUDA_SUCCESS)
			free(callback);
	} else {
		result = real(op.target, function, user_data, flags);
	}
	ds_op_end(&op);
	return result;
}

CUresult ds_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData,
				unsigned int flags)
{
	return add_callback(hStream, callback, userData, flags, false, ds_real.cuStreamAddCallback);
}
DS_EXPORT(cuStreamAddCallback);

CUresult ds_cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback, void *userData,
				     unsigned int flags)
{
	return add_callback(hStream, callback, userData, flags, true,
			    ds_real.cuStreamAddCallback_ptsz);
}
DS_EXPORT(cuStreamAddCallback_ptsz);

/*
 * Attributes are the handle's, and those of every other shadow there is; one made later gets those
 * that were ever set.
 */
static CUresult set_attribute(CUstream handle, CUstreamAttrID attribute,
			      const CUstreamAttrValue *value, bool per_thread,
			      CUresult (*real)(CUstream, CUstreamAttrID, const CUstreamAttrValue *))
{
	struct ds_op op;
	CUresult result = ds_op_map(&op, handle, per_thread);

	if (result != CUDA_SUCCESS)
		return result;
	if (!op.stream)
		return real(handle, attribute, value);
	pthread_mutex_lock(&op.stream->lock);
	result = real(op.stream->handle, attribute, value);
	for (unsigned slot = 0; result == CUDA_SUCCESS && slot < DS_PCTX_MAX; slot++)
		if (op.stream->shadows[slot] && op.stream->shadows[slot] != op.stream->handle)
			result = real(op.stream->shadows[slot], attribute, value);
	if (result == CUDA_SUCCESS && (unsigned)attribute < DS_ATTRIBUTES_MAX)
		op.stream->attributes |= 1U << (unsigned)attribute;
	pthread_mutex_unlock(&op.stream->lock);
	return result;
}

CUresult ds_cuStreamSetAttribute(CUstream hStream, CUstreamAttrID attr,
				 const CUstreamAttrValue *param)
{
	return set_attribute(hStream, attr, param, false, ds_real.cuStreamSetAttribute);
}
DS_EXPORT(cuStreamSetAttribute);

CUresult ds_cuStreamSetAttribute_ptsz(CUstream hStream, CUstreamAttrID attr,
				      const CUstreamAttrValue *param)
{
	return set_attribute(hStream, attr, param, true, ds_real.cuStreamSetAttribute_ptsz);
}
DS_EXPORT(cuStreamSetAttribute_ptsz);

/* Between handles, which are of one context, as the driver wants it; then to the other shadows. */
static CUresult copy_attributes(CUstream to, CUstream from, bool per_thread,
				CUresult (*real)(CUstream, CUstream))
{
	struct ds_op to_op, from_op;
	CUresult result = ds_op_map(&to_op, to, per_thread);

	if (result == CUDA_SUCCESS)
		result = ds_op_map(&from_op, from, per_thread);
	if (result == CUDA_SUCCESS)
		result = real(to_op.stream ? to_op.stream->handle : to,
			      from_op.stream ? from_op.stream->handle : from);
	if (result != CUDA_SUCCESS || !to_op.stream)
		return result;
	pthread_mutex_lock(&to_op.stream->lock);
	to_op.stream->attributes |= from_op.stream ? from_op.stream->attributes : UINT32_MAX;
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
		if (to_op.stream->shadows[slot] &&
		    to_op.stream->shadows[slot] != to_op.stream->handle)
			ds_remap_copy_attributes(to_op.stream, to_op.stream->shadows[slot]);
	pthread_mutex_unlock(&to_op.stream->lock);
	return CUDA_SUCCESS;
}

CUresult ds_cuStreamCopyAttributes(CUstream dstStream, CUstream srcStream)
{
	return copy_attributes(dstStream, srcStream, false, ds_real.cuStreamCopyAttributes);
}
DS_EXPORT(cuStreamCopyAttributes);

CUresult ds_cuStreamCopyAttributes_ptsz(CUstream dstStream, CUstream srcStream)
{
	return copy_attributes(dstStream, srcStream, true, ds_real.cuStreamCopyAttributes_ptsz);
}
DS_EXPORT(cuStreamCopyAttributes_ptsz);

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
