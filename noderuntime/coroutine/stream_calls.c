/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

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
