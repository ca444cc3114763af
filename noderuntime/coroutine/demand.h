/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_DEMAND_H
#define DETSHARE_COROUTINE_DEMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * Whether the program has a use for its groups. The acknowledger looks from time to time whether it put
 * anything on its streams since the last look, and whether they are empty. If neither for a while, the
 * program is asleep: nobody looks any more, and the gate (gate.h) is asked to have the next
 * operation say that it is not, before it goes to the driver, at once and to where it would have gone.
 * While the page wants to know, the runtime is told of both.
 */

/* Looks at a program that may be asleep. Zero to begin with. */
struct ds_quiet {
	uint64_t operations; /* so far, at the last look */
	uint64_t since_ns;   /* 0: it is not quiet */
};

/*
 * Look: `operations` there have been so far, and nothing is under way if it is `empty`. Returns whether
 * it has been so for `long_ns`, two looks at least. Pure but for *quiet.
 */
bool ds_quiet_look(struct ds_quiet *quiet, uint64_t operations, bool empty, uint64_t now_ns,
		   uint64_t long_ns);

/* There is a session, for as long as the process lives. */
void ds_demand_start(struct ds_session *session);

/* The page wants to know, or not any more. vctx NULL: there is no work. With `moving` locked. */
void ds_demand_tell(struct ds_vctx *vctx, bool tell);

/*
 * A thread waits, or does not any more, for the groups that it is to begin with: the program is active although it has
 * nothing yet. With `moving` locked.
 */
void ds_demand_wait(bool begins);

/* The program begins to use the device: whatever was said, it is active. With `moving` locked. */
void ds_demand_begin(struct ds_vctx *vctx);

/*
 * Look at the program. Returns in how many us to look again, at most `within_us` (0: somebody else
 * needs no looks); -1: not before it does something. With `moving` locked.
 */
int64_t ds_demand_look(struct ds_vctx *vctx, int64_t within_us);

/* An operation came to the gate that was to tell: active when this returns. Waits for nothing but others who do so. */
void ds_demand_woken(struct ds_vctx *vctx);

#endif
