/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_GREEN_H
#define DETSHARE_COROUTINE_GREEN_H

#include "noderuntime/coroutine/vctx.h"

/*
 * Green contexts that the program makes itself. What it asks for, it chose among the SMs of the whole GPU;
 * what it gets is as many of its partition, as far as that has so many, and apart from those of its other
 * green contexts, as far as that is possible. They stay where they are: their groups are pinned.
 */

/*
 * The groups for a green context of `sms` SMs: of those granted, the ones that have the fewest `uses` by
 * other green contexts, the full ones first, at most `most` of them and at least one. `granted` has a full
 * group. Pure.
 */
struct ds_groups ds_green_choose(const struct ds_gpu_shape *shape, const struct ds_groups *granted,
				 const unsigned uses[DS_GROUPS_MAX], unsigned sms, unsigned most);

/*
 * Forget destroyed ones whose work is done; what the others have is in vctx->green_pinned then. With
 * `moving` locked. False: look again later.
 */
bool ds_green_reap(struct ds_vctx *vctx);

/* Make and destroy a stream that is none of the virtual context's: it may be a green context's. */
CUresult ds_green_create_stream(CUstream *stream, unsigned flags, int priority);
CUresult ds_green_destroy_stream(CUstream stream);

/* What the program was told that the green context of this stream has; false: it is in none of the program's. */
bool ds_green_was_told(CUstream stream, CUdevResource *resource);

#endif
