/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_WANTS_H
#define DETSHARE_NODERUNTIME_WANTS_H

#include "noderuntime/demand.h"
#include "noderuntime/watch.h"

/*
 * What our programs say that they want, and how much of it is believed when: an owner that wants its
 * groups back, at once; everything that would only make neighbours move, with patience.
 */

/*
 * What to enter in the ledger, where `entered` stands, when the programs say `sum`. Sets look_again
 * if it is not all of that, so that it is looked at once more in some milliseconds.
 */
struct ds_demand ds_wants_next(struct ds_runtime *rt, const struct ds_demand_sum *sum,
			       const struct ds_demand *entered);

/* True if what they say, `program` with this copy of its port, is not what the ledger said at our last look. */
bool ds_wants_differ(struct ds_runtime *rt, const struct ds_watch *program,
		     const struct ds_port *port);

#endif
