/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_RANGES_H
#define DETSHARE_TESTS_EMUGPU_RANGES_H

#include "tests/emugpu/driver.h"

enum emu_range_kind { EMU_RANGE_DEVICE, EMU_RANGE_HOST, EMU_RANGE_REGISTERED, EMU_RANGE_MAPPED };

struct emu_range {
	unsigned long long id; /* no other range has it, nor will; emu_range_add gives it */
	uintptr_t base;
	size_t bytes, mapped;
	enum emu_range_kind kind;
	struct emu_device *dev;
	struct CUctx_st *root; /* the context that it goes with; NULL: none */
	unsigned flags;
	size_t charged; /* to the process; else a pool, a graph or physical memory has it */
	struct CUmemPoolHandle_st *pool; /* it is of this pool */
};

/* Ranges have a mutex of their own, since kernels look while others change them; it is taken inside emu.mutex. */

/* The range that has all these bytes. */
bool emu_range_find(uintptr_t address, size_t bytes, struct emu_range *found);
/* Does one have them? */
bool emu_is_range(const void *p, size_t bytes, bool must_be_device);
/* Any range that goes with this context. */
bool emu_range_of(const struct CUctx_st *root, struct emu_range *found);
/* False: no memory. */
bool emu_range_add(struct emu_range range);
/* Take out the one that begins there and is of this kind. */
bool emu_range_take(uintptr_t base, enum emu_range_kind kind, struct emu_range *taken);

/* memory.c: memory of this process, which goes with the context's root. */
CUresult emu_memory_allocate(struct CUctx_st *ctx, size_t bytes, enum emu_range_kind kind,
			     unsigned flags, void **out);

#endif
