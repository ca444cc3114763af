/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_TARGET_H
#define DETSHARE_COROUTINE_TARGET_H

#include <stdbool.h>

#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * Have new work go to the granted groups, a suspended program's as well: the physical context, every stream's
 * shadow in it and the graphs launched last are made before anybody launches there. False, said once: they
 * cannot be made, and the program stays where it is. With `moving` locked and the primary context current.
 */
bool ds_target_move(struct ds_vctx *vctx, const struct ds_granted *granted);

#endif
