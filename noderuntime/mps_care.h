/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_MPS_CARE_H
#define DETSHARE_NODERUNTIME_MPS_CARE_H

#include "noderuntime/watch.h"

/*
 * The GPU's MPS daemon, from the runtime's loop: that it ended is noticed at once, and it is started anew
 * for the next programs. Programs that were its clients have lost their work, if its servers went with
 * it; as long as those live, nothing is started beside them.
 */

/* Once, when MPS runs. */
void ds_mps_care_begin(struct ds_runtime *rt);

/* DS_WATCH_MPS: the daemon ended. The watch is removed. */
void ds_mps_care_lost(struct ds_runtime *rt, struct ds_watch *daemon);

enum ds_mps_answer {
	DS_MPS_READY,
	DS_MPS_WAIT,   /* it is being started; ds_greet_waiting() is called when that is over */
	DS_MPS_REFUSE, /* it cannot be started: rt->mps_reason */
};

/* A program wants to come in; `again`: it waited for MPS or for groups before. */
enum ds_mps_answer ds_mps_care_ask(struct ds_runtime *rt, bool again);

#endif
