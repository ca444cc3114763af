/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_DRIVER_H
#define DETSHARE_COROUTINE_DRIVER_H

#include <stdbool.h>

#include "noderuntime/coroutine/hooks.h"

/* The driver's own functions; a function that this driver lacks answers CUDA_ERROR_NOT_SUPPORTED. */
extern struct ds_real ds_real;

/*
 * True once the program has loaded libcuda and ds_real is filled. Never loads it: a program that does
 * not use CUDA stays without it. Thread-safe; after the first true, one load.
 */
bool ds_driver_ready(void);

/* Whether the driver has this entry point itself. Only after ds_driver_ready() returned true. */
bool ds_driver_has(const struct ds_hook *hook);

/*
 * The stand-in for `address`, a function of the driver just looked up, or `address` itself if it is
 * none that we stand in for. Thread-safe.
 */
void *ds_stand_in_for(void *address);

/* The next dlsym in the process (the C library's, as a rule). Never NULL; see dlsym.c. */
void *ds_next_dlsym(void *handle, const char *name);

#endif
