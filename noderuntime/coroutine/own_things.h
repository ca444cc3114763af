/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_OWN_THINGS_H
#define DETSHARE_COROUTINE_OWN_THINGS_H

#include <stdint.h>

#include "noderuntime/coroutine/own.h"

/*
 * What the program has made in contexts of its own, and must go with them. The driver knows all of it as the
 * primary context's. Nothing is noted once the CUDA runtime is in the program (seen.h): whose it is, is not
 * certain then.
 */
enum ds_thing {
	DS_THING_ADDRESS, /* device memory, also managed */
	DS_THING_HOST,    /* pinned host memory */
	DS_THING_REGISTERED,
	DS_THING_ARRAY,
	DS_THING_MIPMAP,
	DS_THING_EVENT,
	DS_THING_MODULE,
};

/* Made just now. Nothing without a context of the program's own that is current. */
void ds_own_made(enum ds_thing thing, uint64_t handle);

/* About to be destroyed by the program; before the driver can give the handle to another thread. */
void ds_own_unmade(enum ds_thing thing, uint64_t handle);

/* The context in which the memory at `base` was made, as the program knows it; NULL: not one of its own. */
CUcontext ds_own_of(uint64_t base);

/* Destroy what was made in it. With the primary context current, and none of its work left. */
void ds_own_destroy_things(const struct ds_own *own);

#endif
