/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_REACH_H
#define DETSHARE_COROUTINE_REACH_H

#include <stdbool.h>

#include "noderuntime/coroutine/driver.h"

/*
 * Whether a synchronous copy or set reaches memory that the host sees. Those return when the work is
 * done; between parts of device memory they return at once.
 */
bool ds_reaches_host(CUdeviceptr address);
bool ds_copy_2d_reaches_host(const CUDA_MEMCPY2D *copy);
bool ds_copy_3d_reaches_host(const CUDA_MEMCPY3D *copy);
bool ds_copy_3d_peer_reaches_host(const CUDA_MEMCPY3D_PEER *copy);

#endif
