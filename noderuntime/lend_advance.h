/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEND_ADVANCE_H
#define DETSHARE_NODERUNTIME_LEND_ADVANCE_H

#include "noderuntime/lend.h"

/*
 * The last step of lend.h, in place: of `planned`, which has what each owns and borrows, an active resident
 * of kind latency that is allowed an advance gets full groups of active neighbours who owe it something,
 * until it has as many as its share and the advance are worth together, rounded down, and no more than it
 * wishes. Why they owe it, and for how long, is advance.h's business.
 *   - Only of those that lend and borrow, of another kind than latency, that do not share in time, and
 *     whose programs are off a group within its reclaim budget, as far as is known.
 *   - Each keeps a full group of its own, of those it holds if it holds any. The remainder is not taken.
 *   - Of several as evenly as what they own allows (Sainte-Lague's divisors, as in lend.h), by arrival.
 *   - Which groups: those that were planned for it already, then what it holds, then the lowest.
 * Pure, thread-safe.
 */
void ds_lend_advance(const struct ds_gpu_shape *shape, const struct ds_lend_resident *residents,
		     uint32_t n, struct ds_groups *planned);

/* Full groups that such a resident may have in all; 0: it may have nothing in advance now. Pure. */
uint32_t ds_lend_advance_most(const struct ds_gpu_shape *shape, const struct ds_lend_resident *r);

#endif
