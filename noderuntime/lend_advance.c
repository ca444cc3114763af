/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/lend_advance.h"

#include "noderuntime/plan.h"

struct taking {
	const struct ds_gpu_shape *shape;
	const struct ds_lend_resident *residents;
	uint32_t n;
	struct ds_groups *planned;
};

static uint32_t count_full(struct ds_groups set, const struct ds_gpu_shape *shape)
{
	ds_groups_remove(&set, shape->n_groups);
	return ds_groups_count(&set);
}

uint32_t ds_lend_advance_most(const struct ds_gpu_shape *shape, const struct ds_lend_resident *r)
{
	const uint32_t wished = (r->wish_milli * shape->n_groups + 999) / 1000;
	const uint32_t most = (r->share_milli + r->advance_milli) * shape->n_groups / 1000;

	if (r->kind != DS_LEND_LATENCY || !r->advance_milli || !r->active || !r->lends ||
	    !r->borrows || r->in_time || r->wish_milli <= r->share_milli)
		return 0;
	return most < wished ? most : wished;
}

static bool gives(const struct taking *t, uint32_t taker, uint32_t i)
{
	const struct ds_lend_resident *r = &t->residents[i];
	const struct ds_lend_resident *to = &t->residents[taker];

	return i != taker && (to->owing >> i & 1) && r->active && r->lends && r->borrows &&
	       !r->in_time && r->kind != DS_LEND_LATENCY && ds_lend_fits(to, r->drain_us);
}

/*
 * The one that it keeps: one that it holds and was left with before, so that nothing moves for it; else one
 * that it holds, so that it need not wait for any.
 */
static struct ds_groups floor_of(const struct ds_lend_resident *r, const struct ds_gpu_shape *shape)
{
	const struct ds_groups there = ds_groups_intersection(r->own, r->held);
	const struct ds_groups left = ds_groups_intersection(there, r->planned);
	const struct ds_groups *from = &r->own;
	struct ds_groups floor = {{0, 0}};

	if (ds_groups_has_full(&left, shape))
		from = &left;
	else if (ds_groups_has_full(&there, shape))
		from = &there;
	for (unsigned g = 0; g < shape->n_groups && ds_groups_empty(&floor); g++) {
		if (ds_groups_has(from, g))
			ds_groups_add(&floor, g);
	}
	return floor;
}

/* What may be taken of it: its own full groups, as far as they are there, but one. */
static struct ds_groups spare(const struct taking *t, uint32_t i)
{
	const struct ds_lend_resident *r = &t->residents[i];
	const struct ds_groups floor = floor_of(r, t->shape);
	struct ds_groups set = ds_groups_intersection(r->own, t->planned[i]);

	ds_groups_remove(&set, t->shape->n_groups);
	return ds_groups_difference(set, floor);
}

/* How many of each, of `wanted` in all. */
static void count(const struct taking *t, const struct ds_groups *spares, uint32_t wanted,
		  uint32_t *counts)
{
	for (; wanted; wanted--) {
		uint64_t best_own = 0, best_divisor = 1;
		uint32_t best = t->n;

		for (uint32_t i = 0; i < t->n; i++) {
			const uint64_t own = count_full(t->residents[i].own, t->shape);
			const uint64_t divisor = 2 * (uint64_t)counts[i] + 1;

			if (counts[i] < ds_groups_count(&spares[i]) &&
			    own * best_divisor > best_own * divisor) {
				best = i;
				best_own = own;
				best_divisor = divisor;
			}
		}
		if (best == t->n)
			return;
		counts[best]++;
	}
}

/* Move the lowest groups of `preferred` from one to the other, at most *missing. */
static void move(const struct taking *t, uint32_t from, uint32_t to,
		 const struct ds_groups *preferred, struct ds_groups *spare, uint32_t *missing)
{
	for (unsigned g = 0; g < t->shape->n_groups && *missing; g++) {
		if (!ds_groups_has(preferred, g) || !ds_groups_has(spare, g))
			continue;
		ds_groups_remove(spare, g);
		ds_groups_remove(&t->planned[from], g);
		ds_groups_add(&t->planned[to], g);
		--*missing;
	}
}

static void take(const struct taking *t, uint32_t taker)
{
	const struct ds_lend_resident *r = &t->residents[taker];
	const uint32_t most = ds_lend_advance_most(t->shape, r);
	const uint32_t has = count_full(t->planned[taker], t->shape);
	struct ds_groups spares[DS_RESIDENTS_MAX] = {{{0, 0}}};
	uint32_t counts[DS_RESIDENTS_MAX] = {0};

	if (most <= has || !r->owing)
		return;
	for (uint32_t i = 0; i < t->n; i++) {
		if (gives(t, taker, i))
			spares[i] = spare(t, i);
	}
	count(t, spares, most - has, counts);
	for (uint32_t i = 0; i < t->n; i++) {
		const struct ds_groups all = spares[i];

		move(t, i, taker, &r->planned, &spares[i], &counts[i]);
		move(t, i, taker, &r->held, &spares[i], &counts[i]);
		move(t, i, taker, &all, &spares[i], &counts[i]);
	}
}

void ds_lend_advance(const struct ds_gpu_shape *shape, const struct ds_lend_resident *residents,
		     uint32_t n, struct ds_groups *planned)
{
	const struct taking t = {
	    .shape = shape, .residents = residents, .n = n, .planned = planned};

	for (uint32_t i = 0; i < n; i++)
		take(&t, i);
}
