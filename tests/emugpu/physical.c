/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Physical memory and the addresses it is mapped to, arrays, and external memory. Arrays have no contents
 * here: they take memory, and that is all.
 */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GRANULARITY = 2 << 20 };

struct physical {
	struct emu_device *dev;
	size_t bytes;
	int fd;
	unsigned refs; /* handles that were given out, and mappings */
};

struct mapping {
	char *address;
	size_t bytes;
	struct physical *of;
	struct mapping *next;
};

static struct mapping *mappings;

static struct physical *physical_of(CUmemGenericAllocationHandle handle)
{
	struct physical *p = (struct physical *)(uintptr_t)handle;

	return emu_handle_is(p, EMU_HANDLE_PHYSICAL) ? p : NULL;
}

static void unref(struct physical *p)
{
	if (--p->refs)
		return;
	emu_handle_remove(p);
	emu_memory_credit(p->dev, p->bytes);
	close(p->fd);
	free(p);
}

CUresult CUDAAPI cuMemGetAllocationGranularity(size_t *out, const CUmemAllocationProp *prop,
					       CUmemAllocationGranularity_flags flags)
{
	(void)flags;
	if (!out || !prop)
		return CUDA_ERROR_INVALID_VALUE;
	*out = GRANULARITY;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle *out, size_t bytes,
			     const CUmemAllocationProp *prop, unsigned long long flags)
{
	struct physical *p;
	struct CUctx_st *ctx;
	CUresult rc;

	if (!out || !prop || !bytes || bytes % GRANULARITY || flags ||
	    prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
		return CUDA_ERROR_INVALID_VALUE;
	rc = emu_begin_context(&ctx);
	if (rc)
		return rc;
	p = calloc(1, sizeof(*p));
	rc = CUDA_ERROR_OUT_OF_MEMORY;
	if (p && emu_memory_charge(ctx->dev, bytes)) {
		*p = (struct physical){.dev = ctx->dev,
				       .bytes = bytes,
				       .fd = memfd_create("emugpu", MFD_CLOEXEC),
				       .refs = 1};
		emu_handle_add(p, EMU_HANDLE_PHYSICAL);
		if (p->fd >= 0 && !ftruncate(p->fd, (off_t)bytes)) {
			*out = (uintptr_t)p;
			rc = CUDA_SUCCESS;
		} else {
			unref(p);
		}
	} else {
		free(p);
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle)
{
	struct physical *p;

	emu_enter();
	p = physical_of(handle);
	if (p)
		unref(p);
	emu_exit();
	return p ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *out, void *address)
{
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	if (!out)
		return rc;
	emu_enter();
	for (struct mapping *m = mappings; m && rc; m = m->next) {
		if ((char *)address < m->address || (char *)address >= m->address + m->bytes)
			continue;
		m->of->refs++;
		*out = (uintptr_t)m->of;
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr *out, size_t bytes, size_t alignment,
				     CUdeviceptr wish, unsigned long long flags)
{
	void *p;

	(void)wish;
	if (!out || !bytes || bytes % GRANULARITY || flags || alignment > GRANULARITY)
		return CUDA_ERROR_INVALID_VALUE;
	p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*out = (CUdeviceptr)p;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
	return munmap((void *)address, bytes) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemMap(CUdeviceptr address, size_t bytes, size_t offset,
			  CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	struct mapping *m = calloc(1, sizeof(*m));
	CUresult rc = CUDA_ERROR_INVALID_VALUE;
	struct physical *p;

	if (!m)
		return CUDA_ERROR_OUT_OF_MEMORY;
	emu_enter();
	p = physical_of(handle);
	if (p && !offset && !flags && bytes && bytes <= p->bytes &&
	    mmap((void *)address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, p->fd,
		 0) != MAP_FAILED &&
	    emu_memory_add_mapping(p->dev, (void *)address, bytes)) {
		*m = (struct mapping){(char *)address, bytes, p, mappings};
		mappings = m;
		p->refs++;
		rc = CUDA_SUCCESS;
	} else {
		free(m);
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr address, size_t bytes)
{
	char *from = (char *)address, *end = from + bytes;
	CUresult rc = CUDA_ERROR_INVALID_VALUE;

	emu_enter();
	for (struct mapping **link = &mappings; *link;) {
		struct mapping *m = *link;
		if (m->address < from || m->address + m->bytes > end) {
			link = &m->next;
			continue;
		}
		*link = m->next;
		emu_memory_remove_mapping(m->address);
		mmap(m->address, m->bytes, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		unref(m->of);
		free(m);
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *desc,
				size_t n)
{
	(void)address;
	return bytes && desc && n ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- things that only take memory ---- */

struct taken {
	struct emu_device *dev;
	uint64_t bytes;
};

static CUresult take(void **out, uint64_t bytes, enum emu_kind kind)
{
	struct CUctx_st *ctx;
	CUresult rc = out && bytes ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct taken *t;

	if (rc)
		return rc;
	t = calloc(1, sizeof(*t));
	rc = CUDA_ERROR_OUT_OF_MEMORY;
	if (t && emu_memory_charge(ctx->dev, bytes)) {
		*t = (struct taken){ctx->dev, bytes};
		emu_handle_add(t, kind);
		*out = t;
		rc = CUDA_SUCCESS;
	} else {
		free(t);
	}
	emu_exit();
	return rc;
}

static CUresult give(void *handle, enum emu_kind kind)
{
	struct taken *t = handle;
	CUresult rc = CUDA_ERROR_INVALID_HANDLE;

	emu_enter();
	if (emu_handle_is(t, kind)) {
		emu_handle_remove(t);
		emu_memory_credit(t->dev, t->bytes);
		free(t);
		rc = CUDA_SUCCESS;
	}
	emu_exit();
	return rc;
}

static uint64_t channel_bytes(CUarray_format format)
{
	switch (format) {
	case CU_AD_FORMAT_UNSIGNED_INT8:
	case CU_AD_FORMAT_SIGNED_INT8:
		return 1;
	case CU_AD_FORMAT_UNSIGNED_INT16:
	case CU_AD_FORMAT_SIGNED_INT16:
	case CU_AD_FORMAT_HALF:
		return 2;
	default:
		return 4;
	}
}

static uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned level)
{
	uint64_t width = d->Width >> level, height = d->Height >> level, depth = d->Depth >> level;

	return (width ? width : 1) * (height ? height : 1) * (depth ? depth : 1) *
	       channel_bytes(d->Format) * d->NumChannels;
}

CUresult CUDAAPI cuArray3DCreate(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *d)
{
	return d && d->Width ? take((void **)out, array_bytes(d, 0), EMU_HANDLE_ARRAY)
			     : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuArrayCreate(CUarray *out, const CUDA_ARRAY_DESCRIPTOR *d)
{
	CUDA_ARRAY3D_DESCRIPTOR full;

	if (!d)
		return CUDA_ERROR_INVALID_VALUE;
	full = (CUDA_ARRAY3D_DESCRIPTOR){.Width = d->Width,
					 .Height = d->Height,
					 .Format = d->Format,
					 .NumChannels = d->NumChannels};
	return cuArray3DCreate(out, &full);
}

CUresult CUDAAPI cuArrayDestroy(CUarray array)
{
	return give(array, EMU_HANDLE_ARRAY);
}

CUresult CUDAAPI cuMipmappedArrayCreate(CUmipmappedArray *out, const CUDA_ARRAY3D_DESCRIPTOR *d,
					unsigned levels)
{
	uint64_t bytes = 0;

	for (unsigned level = 0; d && level < levels; level++)
		bytes += array_bytes(d, level);
	return take((void **)out, bytes, EMU_HANDLE_MIPMAP);
}

CUresult CUDAAPI cuMipmappedArrayDestroy(CUmipmappedArray array)
{
	return give(array, EMU_HANDLE_MIPMAP);
}

CUresult CUDAAPI cuImportExternalMemory(CUexternalMemory *out,
					const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *d)
{
	return d ? take((void **)out, d->size, EMU_HANDLE_EXTERNAL) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuDestroyExternalMemory(CUexternalMemory memory)
{
	return give(memory, EMU_HANDLE_EXTERNAL);
}
