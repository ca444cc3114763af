/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEND_H
#define DETSHARE_NODERUNTIME_LEND_H

#include <stdbool.h>
#include <stdint.h>

#include "common/groups.h"

/*
 * The second layer of planning: the plan (plan.h) says which groups are whose own, and this says where
 * each may work now. Pure and deterministic, like the plan.
 *
 * An active resident has all that it owns, always, but for what it owes to somebody who has it in advance
 * (lend_advance.h, the last step). An idle one that lends keeps its lowest full group,
 * of those it holds if it holds any, and offers the rest, and keeps of that what nobody takes; groups
 * that nobody owns are offered, too. They go to active residents that may borrow and wish more than
 * their share:
 *   - to kind latency first, then throughput, then besteffort, so that besteffort yields first;
 *   - among those of a kind by Sainte-Lague's divisors of what each wishes beyond its share, then by
 *     arrival: in proportion, and without ever taking a group from one because there is one more to give, as
 *     largest remainders may;
 *   - to none beyond its wish;
 *   - a group of a latency resident only to those whose programs are off it within its reclaim
 *     budget, as far as is known. Groups that few may have are given before those that many may, so
 *     that none is left over which somebody could use.
 * Which groups: each keeps those it was planned already, then takes the lowest that nobody holds, then
 * the lowest.
 * The GPU's remainder, if it is to lend, goes to one of the first kind there is, who borrows most.
 *
 * Residents that share a group in time neither lend nor borrow.
 */
enum ds_lend_kind { DS_LEND_LATENCY, DS_LEND_THROUGHPUT, DS_LEND_BESTEFFORT, DS_LEND_KINDS };

struct ds_lend_resident {
	struct ds_groups own;     /* by the plan */
	struct ds_groups planned; /* by the last call of this; a hint for stability */
	struct ds_groups held;    /* where it works; a hint, too */
	uint32_t share_milli;     /* 1..1000 */
	uint32_t wish_milli;      /* of the policy, 0..1000 */
	enum ds_lend_kind kind;
	bool active;
	bool lends;
	bool borrows;
	bool in_time;        /* shares its group in time */
	uint32_t reclaim_us; /* of kind latency: its budget */
	uint32_t drain_us;   /* 0: not known */
	/* Of kind latency: */
	uint32_t advance_milli; /* what it may have in advance beyond its share, 0..1000 */
	uint64_t owing;         /* of whom now: bit i stands for residents[i] */
};

/*
 * Write where each of the n residents (at most DS_RESIDENTS_MAX) may work: planned[0..n-1]. What they
 * own must not overlap, but for those who share in time. Thread-safe.
 */
void ds_lend(const struct ds_gpu_shape *shape, const struct ds_lend_resident *residents, uint32_t n,
	     struct ds_groups *planned);

/* True if one that drains within `drain_us` (0: not known) may have a group of `owner` for a while. */
bool ds_lend_fits(const struct ds_lend_resident *owner, uint32_t drain_us);

#endif
