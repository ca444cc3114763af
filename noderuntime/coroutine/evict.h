/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_EVICT_H
#define DETSHARE_COROUTINE_EVICT_H

#include "noderuntime/coroutine/remap.h"

/*
 * Destroy physical contexts above the number that is kept (DS_PCTX_CACHED), the least recently used first, and
 * only those that nobody needs. `quiesce` waits until everybody who may have seen what was before has given
 * the driver its work; false: it is given up. With vctx->moving locked, which `quiesce` may let go meanwhile.
 */
void ds_evict(struct ds_vctx *vctx, bool (*quiesce)(void *arg), void *arg);

#endif
