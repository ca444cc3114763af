/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes of streams: kept and given back. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/twins.h"

#include <string.h>

/* As the driver has them for streams; others are for launches and nodes. */
static bool is_of_streams(CUstreamAttrID id)
{
	return id == CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW ||
	       id == CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY ||
	       id == CU_LAUNCH_ATTRIBUTE_PRIORITY ||
	       id == CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP ||
	       id == CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN;
}

CUresult CUDAAPI cuStreamGetAttribute(CUstream handle, CUstreamAttrID id, CUstreamAttrValue *value)
{
	struct CUstream_st *s;
	CUresult rc =
	    value && is_of_streams(id) ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*value = s->attributes[id];
	if (id == CU_LAUNCH_ATTRIBUTE_PRIORITY)
		value->priority = s->priority;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamGetAttribute_ptsz, (CUstream s, CUstreamAttrID i, CUstreamAttrValue *v),
	 cuStreamGetAttribute(emu_per_thread(s), i, v))

CUresult CUDAAPI cuStreamSetAttribute(CUstream handle, CUstreamAttrID id,
				      const CUstreamAttrValue *value)
{
	struct CUstream_st *s;
	CUresult rc =
	    value && is_of_streams(id) ? emu_begin_stream(handle, &s) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	s->attributes[id] = *value;
	if (id == CU_LAUNCH_ATTRIBUTE_PRIORITY)
		s->priority = value->priority;
	emu_exit();
	return CUDA_SUCCESS;
}
EMU_TWIN(cuStreamSetAttribute_ptsz, (CUstream s, CUstreamAttrID i, const CUstreamAttrValue *v),
	 cuStreamSetAttribute(emu_per_thread(s), i, v))

/* Both of one context. */
CUresult CUDAAPI cuStreamCopyAttributes(CUstream to, CUstream from)
{
	struct CUstream_st *a, *b;
	CUresult rc = emu_begin_stream(to, &a);

	if (rc)
		return rc;
	b = emu_stream(from, &rc);
	if (b && a->ctx == b->ctx)
		memcpy(a->attributes, b->attributes, sizeof(a->attributes));
	else
		rc = b ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
	emu_exit();
	return rc;
}
EMU_TWIN(cuStreamCopyAttributes_ptsz, (CUstream a, CUstream b),
	 cuStreamCopyAttributes(emu_per_thread(a), emu_per_thread(b)))
