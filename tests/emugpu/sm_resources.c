/* SPDX-License-Identifier: Apache-2.0 */
/* SMs as resources: split, and described for green contexts. */
#include "tests/emugpu/driver.h"

#include <stdlib.h>
#include <string.h>

/* CU_DEV_SM_RESOURCE_SPLIT_...; the oldest headers do not have it. */
enum { IGNORE_SM_COSCHEDULING = 1 };

/* What the driver keeps in the opaque part of a CUdevResource: which SMs, of which split. */
struct hidden {
	uint32_t magic;
	uint32_t split; /* 0: the whole GPU */
	uint32_t device;
	struct emu_sms sms;
};
_Static_assert(sizeof(struct hidden) <= sizeof(((CUdevResource *)NULL)->_internal_padding),
	       "no room in CUdevResource");

enum { HIDDEN_MAGIC = 0x454d5552 };

struct CUdevResourceDesc_st {
	struct emu_device *dev;
	struct emu_sms sms;
};

static unsigned splits;

CUdevResource emu_resource(const struct emu_device *dev, const struct emu_sms *sms, unsigned split)
{
	CUdevResource r;
	struct hidden h = {.magic = HIDDEN_MAGIC,
			   .split = split,
			   .device = (uint32_t)emu_device_number(dev),
			   .sms = *sms};

	memset(&r, 0, sizeof(r));
	r.type = CU_DEV_RESOURCE_TYPE_SM;
	r.sm.smCount = emu_sms_count(sms);
#if CUDA_VERSION >= 13000
	/* The driver leaves these 0 in what a split returns. */
	r.sm.minSmPartitionSize = split ? 0 : dev->map.gpu->group_sms;
	r.sm.smCoscheduledAlignment = split ? 0 : dev->map.gpu->group_sms;
#endif
	memcpy(r._internal_padding, &h, sizeof(h));
	return r;
}

static bool reveal(const CUdevResource *resource, struct hidden *h)
{
	memcpy(h, resource->_internal_padding, sizeof(*h));
	return resource->type == CU_DEV_RESOURCE_TYPE_SM && h->magic == HIDDEN_MAGIC &&
	       h->device < emu.n_devices;
}

static struct emu_sms all_sms(const struct emu_device *dev)
{
	struct emu_sms all = {{0}};

	for (unsigned sm = 0; sm < dev->map.gpu->n_sms; sm++)
		emu_sms_add(&all, sm);
	return all;
}

CUresult CUDAAPI cuDeviceGetDevResource(CUdevice number, CUdevResource *resource,
					CUdevResourceType type)
{
	struct emu_device *dev;
	CUresult rc = resource ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (type == CU_DEV_RESOURCE_TYPE_SM) {
		struct emu_sms all = all_sms(dev);
		*resource = emu_resource(dev, &all, 0);
	} else {
		rc = CUDA_ERROR_INVALID_RESOURCE_TYPE;
	}
	emu_exit();
	return rc;
}

static void move_first(struct emu_sms *from, struct emu_sms *to, unsigned n)
{
	for (unsigned sm = 0; sm < EMU_SMS_MAX && n; sm++)
		if (emu_sms_has(from, sm)) {
			emu_sms_add(to, sm);
			from->bits[sm / 64] &= ~(UINT64_C(1) << (sm % 64));
			n--;
		}
}

/*
 * Groups of minCount SMs, rounded up to the alignment (8 on Hopper; 2 with
 * IGNORE_SM_COSCHEDULING), lowest SMs first, the same in every process; what is left over goes to
 * `remaining`. result == NULL asks for the number of groups. As measured on an H200, all sizes give as
 * many groups as there is room for, but the whole GPU in groups of 8 gives 15 of them, not 16.
 */
CUresult CUDAAPI cuDevSmResourceSplitByCount(CUdevResource *result, unsigned *n_groups,
					     const CUdevResource *input, CUdevResource *remaining,
					     unsigned flags, unsigned min_count)
{
	CUresult rc = n_groups && input ? emu_begin() : CUDA_ERROR_INVALID_VALUE;
	struct emu_sms left;
	struct emu_device *dev;
	struct hidden h;
	unsigned total, size, possible, split;

	if (rc)
		return rc;
	if (!reveal(input, &h) || flags & ~3u) {
		emu_exit();
		return CUDA_ERROR_INVALID_VALUE;
	}
	/* Groups of a split are split again only as the resource of a green context. */
	total = emu_sms_count(&h.sms);
	if (h.split || min_count > total) {
		emu_exit();
		return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
	}
	dev = &emu.devices[h.device];
	size = flags & IGNORE_SM_COSCHEDULING ? 2 : dev->map.gpu->group_sms;
	min_count = min_count ? min_count : 1;
	size = (min_count + size - 1) / size * size;
	size = size < total ? size : total;
	possible = total / size;
	if (size == dev->map.gpu->group_sms && total == dev->map.gpu->n_sms &&
	    !(flags & IGNORE_SM_COSCHEDULING))
		possible = dev->map.gpu->n_groups;
	if (!result) {
		*n_groups = possible;
		emu_exit();
		return CUDA_SUCCESS;
	}
	if (*n_groups > possible)
		*n_groups = possible;
	split = ++splits;
	left = h.sms;
	for (unsigned i = 0; i < *n_groups; i++) {
		struct emu_sms group = {{0}};
		move_first(&left, &group, size);
		result[i] = emu_resource(dev, &group, split);
	}
	if (remaining) {
		*remaining = emu_resource(dev, &left, split);
		if (!emu_sms_count(&left))
			remaining->type = CU_DEV_RESOURCE_TYPE_INVALID;
	}
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevResourceGenerateDesc(CUdevResourceDesc *desc, CUdevResource *resources,
					   unsigned n)
{
	CUresult rc = desc && resources && n ? emu_begin() : CUDA_ERROR_INVALID_VALUE;
	struct CUdevResourceDesc_st *d;
	struct emu_sms sms = {{0}};
	struct hidden first, h;

	if (rc)
		return rc;
	for (unsigned i = 0; i < n; i++) {
		if (!reveal(&resources[i], &h) || !emu_sms_count(&h.sms)) {
			emu_exit();
			return CUDA_ERROR_INVALID_RESOURCE_TYPE;
		}
		if (!i)
			first = h;
		/* Of one split of one GPU, each group once. */
		for (unsigned w = 0; w < EMU_SMS_MAX / 64; w++)
			if (h.split != first.split || h.device != first.device ||
			    sms.bits[w] & h.sms.bits[w]) {
				emu_exit();
				return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
			}
		for (unsigned w = 0; w < EMU_SMS_MAX / 64; w++)
			sms.bits[w] |= h.sms.bits[w];
	}
	d = malloc(sizeof(*d));
	if (d) {
		*d = (struct CUdevResourceDesc_st){.dev = &emu.devices[first.device], .sms = sms};
		emu_handle_add(d, EMU_HANDLE_DESC);
		*desc = d;
	}
	emu_exit();
	return d ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

bool emu_desc_read(CUdevResourceDesc desc, const struct emu_device *dev, struct emu_sms *sms)
{
	if (!emu_handle_is(desc, EMU_HANDLE_DESC) || desc->dev != dev)
		return false;
	*sms = desc->sms;
	return true;
}
