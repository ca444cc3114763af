/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/plan.h"

#include <inttypes.h>
#include <stdbool.h>

/*
 * Quotas are exact fractions of a group over one common denominator, so that no rounding can give a
 * group away twice. The largest numerator is 64 wishes x 1000 x 127 groups x 1000 < 2^43.
 */
struct division {
	uint32_t n;
	uint64_t one;                     /* the numerator of one whole group */
	uint64_t quota[DS_RESIDENTS_MAX]; /* numerators */
	uint32_t count[DS_RESIDENTS_MAX]; /* whole groups; 0: one of the small ones */
	uint32_t small_count;             /* groups that the small ones share */
	uint32_t rest_owner;              /* n: nobody */
};

static int check(const struct ds_gpu_shape *shape, const struct ds_plan_resident *residents,
		 uint32_t n, struct ds_error *err)
{
	uint32_t taken_milli = 0;

	if (shape->n_groups < 1 || shape->n_groups >= DS_GROUPS_MAX)
		return ds_fail(err,
			       "cannot plan a GPU of %" PRIu32 " SM groups: 1 to %d are possible",
			       shape->n_groups, DS_GROUPS_MAX - 1);
	if (n > DS_RESIDENTS_MAX)
		return ds_fail(err, "cannot plan for %" PRIu32 " residents of one GPU: at most %d",
			       n, DS_RESIDENTS_MAX);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t share_milli = residents[i].share_milli;

		if (share_milli < 1 || share_milli > 1000 || residents[i].wish_milli > 1000)
			return ds_fail(err,
				       "cannot plan resident %" PRIu32 ": share %" PRIu32
				       " (1 to 1000) or wish %" PRIu32
				       " (0 to 1000) thousandths out of range",
				       i, share_milli, residents[i].wish_milli);
		if (taken_milli + share_milli > 1000)
			return ds_fail(err,
				       "resident %" PRIu32 " does not fit: it is granted %" PRIu32
				       " thousandths of the GPU and %" PRIu32 " are left",
				       i, share_milli, 1000 - taken_milli);
		taken_milli += share_milli;
	}
	return 0;
}

static void set_quotas(const struct ds_gpu_shape *shape, const struct ds_plan_resident *residents,
		       struct division *d)
{
	uint64_t extra_milli[DS_RESIDENTS_MAX];
	uint64_t shares_milli = 0;
	uint64_t extras_milli = 0;

	for (uint32_t i = 0; i < d->n; i++) {
		const struct ds_plan_resident *r = &residents[i];

		extra_milli[i] =
		    r->wish_milli > r->share_milli ? r->wish_milli - r->share_milli : 0;
		shares_milli += r->share_milli;
		extras_milli += extra_milli[i];
	}

	/* share + extra x factor / divisor, times groups: the factor is 1 while the wishes fit. */
	bool fit = shares_milli + extras_milli <= 1000;
	uint64_t factor = fit ? 1 : 1000 - shares_milli;
	uint64_t divisor = fit ? 1 : extras_milli;

	d->one = 1000 * divisor;
	for (uint32_t i = 0; i < d->n; i++)
		d->quota[i] = (residents[i].share_milli * divisor + extra_milli[i] * factor) *
			      shape->n_groups;
}

/* Who of those with whole groups has the largest remainder and is not served yet. */
static uint32_t largest_remainder(const struct division *d)
{
	uint32_t best = d->n;
	uint64_t best_remainder = 0;

	for (uint32_t i = 0; i < d->n; i++) {
		uint64_t whole = d->count[i] * d->one;

		if (d->count[i] && d->quota[i] > whole && d->quota[i] - whole > best_remainder) {
			best = i;
			best_remainder = d->quota[i] - whole;
		}
	}
	return best;
}

static void set_counts(const struct ds_gpu_shape *shape, struct division *d)
{
	uint64_t sum = 0;
	uint64_t small_sum = 0;
	uint32_t given = 0;

	for (uint32_t i = 0; i < d->n; i++) {
		d->count[i] = (uint32_t)(d->quota[i] / d->one);
		given += d->count[i];
		sum += d->quota[i];
		if (!d->count[i])
			small_sum += d->quota[i];
	}
	d->small_count = (uint32_t)((small_sum + d->one - 1) / d->one);
	given += d->small_count;

	/* The sum of the quotas is at most n_groups, and so is its ceiling. */
	uint32_t seats = (uint32_t)((sum + d->one - 1) / d->one);
	for (; given < seats; given++)
		d->count[largest_remainder(d)]++;

	d->rest_owner = d->n;
	uint64_t furthest = 0;
	for (uint32_t i = 0; shape->rest_sms && i < d->n; i++) {
		uint64_t whole = d->count[i] * d->one;

		if (!d->count[i] || whole > d->quota[i])
			continue;
		if (d->rest_owner == d->n || d->quota[i] - whole > furthest) {
			d->rest_owner = i;
			furthest = d->quota[i] - whole;
		}
	}
}

/* Move the lowest groups of *from into *to until *to has `count`. */
static void take_lowest(struct ds_groups *to, struct ds_groups *from, uint32_t count)
{
	uint32_t missing = count - ds_groups_count(to);

	for (unsigned word = 0; word < 2; word++) {
		while (missing && from->bits[word]) {
			uint64_t lowest = from->bits[word] & -from->bits[word];

			to->bits[word] |= lowest;
			from->bits[word] &= ~lowest;
			missing--;
		}
	}
}

static void keep_held(struct ds_groups *to, struct ds_groups *free_groups, struct ds_groups held,
		      uint32_t count)
{
	struct ds_groups kept = ds_groups_intersection(held, *free_groups);

	take_lowest(to, &kept, count);
	*free_groups = ds_groups_difference(*free_groups, *to);
}

static void take_new(struct ds_groups *to, struct ds_groups *free_groups, struct ds_groups all_held,
		     uint32_t count)
{
	struct ds_groups unheld = ds_groups_difference(*free_groups, all_held);

	take_lowest(to, &unheld, count);
	*free_groups = ds_groups_difference(*free_groups, *to);
	take_lowest(to, free_groups, count);
}

/* The group of `pool` for one small resident, given what is in each already. */
static uint32_t choose_home(const struct ds_groups *pool, uint32_t n_groups, uint64_t one,
			    const uint64_t *load, uint64_t quota, const struct ds_groups *held)
{
	uint32_t first = DS_GROUPS_MAX;
	uint32_t emptiest = DS_GROUPS_MAX;

	for (uint32_t g = 0; g < n_groups; g++) {
		if (!ds_groups_has(pool, g))
			continue;
		if (load[g] + quota <= one) {
			if (ds_groups_has(held, g))
				return g;
			if (first == DS_GROUPS_MAX)
				first = g;
		}
		if (emptiest == DS_GROUPS_MAX || load[g] < load[emptiest])
			emptiest = g;
	}
	return first < DS_GROUPS_MAX ? first : emptiest;
}

/*
 * Put each small one into one group of `pool`, then say what part of it is its own. Those who are in
 * the pool already choose first, so that no newcomer takes the room of one who could stay.
 */
static void share_pool(const struct division *d, uint32_t n_groups,
		       const struct ds_plan_resident *residents, const struct ds_groups *pool,
		       struct ds_plan_partition *partitions)
{
	uint64_t load[DS_GROUPS_MAX] = {0};
	uint32_t n_members[DS_GROUPS_MAX] = {0};
	uint32_t home[DS_RESIDENTS_MAX];

	for (int newcomers = 0; newcomers < 2; newcomers++) {
		for (uint32_t i = 0; i < d->n; i++) {
			struct ds_groups held = ds_groups_intersection(residents[i].held, *pool);

			if (d->count[i] || ds_groups_empty(&held) != newcomers)
				continue;
			home[i] = choose_home(pool, n_groups, d->one, load, d->quota[i], &held);
			load[home[i]] += d->quota[i];
			n_members[home[i]]++;
		}
	}
	for (uint32_t i = 0; i < d->n; i++) {
		if (d->count[i])
			continue;
		uint64_t full = load[home[i]] > d->one ? load[home[i]] : d->one;
		uint32_t part_milli = (uint32_t)(d->quota[i] * 1000 / full);

		partitions[i] =
		    (struct ds_plan_partition){.weight_milli = part_milli ? part_milli : 1};
		ds_groups_add(&partitions[i].groups, home[i]);
		if (n_members[home[i]] == 1)
			partitions[i].weight_milli = 1000;
	}
}

static void place(const struct ds_gpu_shape *shape, const struct ds_plan_resident *residents,
		  const struct division *d, struct ds_plan_partition *partitions)
{
	struct ds_groups free_groups = {{0, 0}};
	struct ds_groups pool = {{0, 0}};
	struct ds_groups pool_held = {{0, 0}};
	struct ds_groups all_held = {{0, 0}};
	uint32_t first_small = d->n;

	for (uint32_t g = 0; g < shape->n_groups; g++)
		ds_groups_add(&free_groups, g);
	for (uint32_t i = 0; i < d->n; i++) {
		partitions[i] = (struct ds_plan_partition){.weight_milli = 1000};
		all_held = ds_groups_union(all_held,
					   ds_groups_union(residents[i].held, residents[i].busy));
		if (d->count[i])
			continue;
		pool_held = ds_groups_union(pool_held, residents[i].held);
		if (first_small == d->n)
			first_small = i;
	}
	for (uint32_t i = 0; i < d->n; i++) {
		if (d->count[i])
			keep_held(&partitions[i].groups, &free_groups, residents[i].held,
				  d->count[i]);
		else if (i == first_small)
			keep_held(&pool, &free_groups, pool_held, d->small_count);
	}
	for (uint32_t i = 0; i < d->n; i++) {
		if (d->count[i])
			take_new(&partitions[i].groups, &free_groups, all_held, d->count[i]);
		else if (i == first_small)
			take_new(&pool, &free_groups, all_held, d->small_count);
	}
	if (d->rest_owner < d->n)
		ds_groups_add(&partitions[d->rest_owner].groups, shape->n_groups);
	share_pool(d, shape->n_groups, residents, &pool, partitions);
}

int ds_plan(const struct ds_gpu_shape *shape, const struct ds_plan_resident *residents, uint32_t n,
	    struct ds_plan_partition *partitions, struct ds_error *err)
{
	struct division d = {.n = n};

	if (check(shape, residents, n, err))
		return -1;
	set_quotas(shape, residents, &d);
	set_counts(shape, &d);
	place(shape, residents, &d, partitions);
	return 0;
}
