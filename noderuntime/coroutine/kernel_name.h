/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_KERNEL_NAME_H
#define DETSHARE_COROUTINE_KERNEL_NAME_H

#include "noderuntime/coroutine/cuda_api.h"

/*
 * The name of a kernel that is being launched. A launch takes a CUfunction or, cast to it, a CUkernel;
 * the calls that tell the name take one of the two each and do not check. So a name is asked for
 * only of handles that were seen to come from the driver as the one or the other.
 */

/* The name, valid as long as the handle is, or NULL: not known. No lock. */
const char *ds_kernel_name(CUfunction function);

#endif
