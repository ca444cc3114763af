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
 *   quota_i = wish_milli_i x n_groups / 1000; everybody gets floor(quota_i); the
 *   ceil(sum of quotas) - sum of floors groups left go by largest remainder, then by arrival.
 * The GPU's remainder goes to whoever is furthest below the quota (never above it, never without a
 * full group), then by arrival.
 * Which groups: each keeps what it holds as far as its count allows (lowest first), then takes the
 * lowest free ones, so that a join or a leave moves as few groups as possible.
 * Residents whose quota gives no whole group share groups in time, by weight (`weight_milli`).
 */
enum { DS_RESIDENTS_MAX = 64 };

struct ds_plan_resident {
	uint32_t share_milli;   /* guaranteed, 1..1000 */
	uint32_t wish_milli;    /* what the policy wishes for it, >= share_milli for guaranteed ones */
	struct ds_groups held;  /* what it holds now; a hint for stability, never a right */
};

struct ds_plan_partition {
	struct ds_groups groups;
	uint32_t weight_milli;  /* 1000: alone in its groups; less: its part of a group shared in time */
};

/*
 * Returns 0 and fills partitions[0..n-1], or -1 with a reason: n above DS_RESIDENTS_MAX, a share out
 * of range, shares that sum to more than 1000, a shape without groups. Thread-safe.
 */
int ds_plan(const struct ds_gpu_shape *shape, const struct ds_plan_resident *residents, uint32_t n,
	    struct ds_plan_partition *partitions, struct ds_error *err);

#endif
