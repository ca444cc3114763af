/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_RECLAIM_H
#define DETSHARE_NODERUNTIME_RECLAIM_H

#include "noderuntime/ledger.h"

/*
 * What a resident has to do with groups of a latency job's that are lent, for which those who take part in giving them
 * back may spin (common/spin.h).
 */
enum ds_reclaim {
	DS_RECLAIM_NONE,
	DS_RECLAIM_LENT,  /* some of its own are somebody else's while it is idle */
	DS_RECLAIM_WAITS, /* it wants them back and does not have all of them yet */
	DS_RECLAIM_GIVES, /* programs of it are on such that another one wants back */
};

/*
 * What `self`, one of the residents in `state`, has to do with it. Not while somebody has or gets the GPU as a whole, nor
 * while not all are in the ledger, nor for groups that are shared in time. Pure.
 */
enum ds_reclaim ds_reclaim_of(const struct ds_ledger_state *state,
			      const struct ds_ledger_resident *self);

#endif
