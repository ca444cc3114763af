/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_OCCUPIED_H
#define DETSHARE_COROUTINE_OCCUPIED_H

#include "noderuntime/coroutine/remap.h"

/* Where the program's work may be. All with vctx->moving locked. */

/* The groups of partitions that something keeps, green contexts of the program's own included. */
struct ds_groups ds_occupied_pinned(struct ds_vctx *vctx);

/* The slots whose partitions are not inside `allowed`. */
uint32_t ds_occupied_outside(struct ds_vctx *vctx, const struct ds_groups *allowed);

/* How many physical contexts there are. */
unsigned ds_occupied_count(struct ds_vctx *vctx);

/*
 * Whether the driver has work of the program's left in one of these slots. Only for slots in which no new work
 * comes; what is found done is not asked for again.
 */
bool ds_occupied_any(struct ds_vctx *vctx, uint32_t slots);

#endif
