/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_KERNELS_H
#define DETSHARE_TESTS_EMUGPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* One block of a launch, as the host function that stands for the kernel sees it. */
struct emu_run {
	unsigned grid[3], block[3];
	unsigned index[3]; /* blockIdx */
	unsigned smid;     /* what %smid reads */
	unsigned n_sms;    /* of the partition that the launch is in */
	uint64_t now_ns;   /* %globaltimer, where the block begins, or ends */
	void *params[16];
};

enum { EMU_ILLEGAL_ADDRESS = -1 };

/*
 * Runs the block. Returns how long it holds its SM in ns (0: as long as the function took), or
 * EMU_ILLEGAL_ADDRESS.
 */
typedef int64_t (*emu_block_fn)(const struct emu_run *run);

struct emu_kernel {
	const char *name;
	unsigned n_params;
	unsigned param_sizes[16];
	emu_block_fn block;
	emu_block_fn at_end; /* what the block does when it ends; NULL: nothing */
	/* Every block waits until all have begun, and holds its SM meanwhile. */
	unsigned meet;
};

/* The host function for a kernel's name; NULL: none. */
const struct emu_kernel *emu_kernel_find(const char *name);

/* Whether the device may touch these bytes (memory.c). */
int emu_device_may_touch(const void *address, size_t bytes);

#endif
