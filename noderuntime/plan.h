/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PLAN_H
#define DETSHARE_NODERUNTIME_PLAN_H

#include <stdint.h>

#include "common/error.h"
#include "common/groups.h"

/*
 * The plan: residents in order of arrival + shape of the GPU -> a partition for each. Pure and
 * deterministic: no clock, no randomness, no memory of earlier plans beyond `held`.
 *
 * How many groups each gets depends on the residents and their order alone:
 *   quota_i = wish_milli_i x n_groups / 1000. A wish below the share counts as the share. Wishes
 *   that sum to more than the GPU: everybody's share first, what is left in proportion to what
 *   each wishes beyond its share.
 *   Everybody gets floor(quota_i); the ceil(sum of quotas) - sum of floors groups left go by
 *   largest remainder, then by arrival.
 * Residents whose quota is less than one group share groups in time, by weight. Together they get
 * the sum of their quotas, rounded up before the others' remainders are served: to be rounded down
 * could leave them with nothing. Each is in one of these groups: the one it holds if there is room,
 * else the first with room, else the one with most room, where weights shrink in proportion.
 * The GPU's remainder goes to whoever has whole groups and is furthest below its quota or exactly
 * at it (never to one above it), then by arrival.
 * Which groups: each keeps what it holds as far as its count allows (lowest first), then takes the
 * lowest free ones, so that a join or a leave moves as few groups as possible. Free ones that nobody
 * held or is busy on come before those that somebody gives up now, since work may still run on the
 * latter: who joins with a quota of whole groups finds floor(quota) groups that it need not wait
 * for, unless they were lent.
 */
enum { DS_RESIDENTS_MAX = 64 };

struct ds_plan_resident {
	uint32_t share_milli;  /* guaranteed, 1..1000 */
	uint32_t wish_milli;   /* what the policy wishes for it, 0..1000 */
	struct ds_groups held; /* what it holds now; a hint for stability, never a right */
	struct ds_groups
	    busy; /* where its work may be beside that; others had better wait for none */
};

struct ds_plan_partition {
	struct ds_groups groups; /* never empty, never the GPU's remainder alone */
	uint32_t weight_milli; /* 1000: alone in its groups; less: its part of the one it shares */
};

/*
 * Returns 0 and fills partitions[0..n-1], or -1 with a reason: n above DS_RESIDENTS_MAX, a share or
 * wish out of range, shares that sum to more than 1000, a shape without groups. Thread-safe.
 */
int ds_plan(const struct ds_gpu_shape *shape, const struct ds_plan_resident *residents, uint32_t n,
	    struct ds_plan_partition *partitions, struct ds_error *err);

#endif
