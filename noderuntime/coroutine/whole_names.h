/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_WHOLE_NAMES_H
#define DETSHARE_COROUTINE_WHOLE_NAMES_H

#include <stdbool.h>

#include "noderuntime/coroutine/cuda_api.h"

/*
 * Kernels whose blocks wait for each other without saying so to the driver (a barrier of their own):
 * the site names them in detshare-node.conf, the user in DETSHARE_WHOLE_GPU (kernel_list.h).
 */

/* Add `patterns`, and set DS_WHOLE_NAMED if there are any (whole.h). Not while another thread launches. */
void ds_whole_name(const char *patterns);

/* Whether `function` is named. Thread-safe. */
bool ds_whole_is_named(CUfunction function);

/* Whether the name matches one of the patterns. Pure but for what was named before. Thread-safe. */
bool ds_whole_name_matches(const char *name);

#endif
