/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/lend.h"

#include <string.h>

#include "noderuntime/lend_advance.h"
#include "noderuntime/plan.h"

/*
 * The groups to lend, in tiers: those of a tier may go to the same residents. Budgets rise from tier to
 * tier, and the last has none, so whoever may have a group of one tier may have any of the later ones.
 */
struct tier {
	uint64_t budget_us;
	struct ds_groups groups; /* not given yet */
};

struct lending {
	const struct ds_gpu_shape *shape;
	const struct ds_lend_resident *residents;
	uint32_t n;
	struct tier tiers[DS_RESIDENTS_MAX + 1];
	uint32_t n_tiers;
	bool rest_is_lent;
	uint64_t rest_budget_us;
	struct ds_groups all_held;
	uint32_t borrowed[DS_RESIDENTS_MAX]; /* full groups */
	uint32_t most[DS_RESIDENTS_MAX];     /* that it may borrow */
	struct ds_groups *planned;
};

#define NO_BUDGET UINT64_MAX

static uint64_t budget_of(const struct ds_lend_resident *owner)
{
	return owner->kind == DS_LEND_LATENCY ? owner->reclaim_us : NO_BUDGET;
}

static bool drains_within(uint32_t drain_us, uint64_t budget_us)
{
	return budget_us == NO_BUDGET || (drain_us && drain_us <= budget_us);
}

bool ds_lend_fits(const struct ds_lend_resident *owner, uint32_t drain_us)
{
	return drains_within(drain_us, budget_of(owner));
}

static bool is_lending(const struct ds_lend_resident *r)
{
	return !r->active && r->lends && !r->in_time;
}

/* Put groups into the tier of that budget; tiers stay in order of their budgets. */
static void offer(struct lending *l, struct ds_groups groups, uint64_t budget_us)
{
	uint32_t at = 0;

	if (ds_groups_has(&groups, l->shape->n_groups)) {
		l->rest_is_lent = true;
		l->rest_budget_us = budget_us;
		ds_groups_remove(&groups, l->shape->n_groups);
	}
	while (at < l->n_tiers && l->tiers[at].budget_us < budget_us)
		at++;
	if (at == l->n_tiers || l->tiers[at].budget_us != budget_us) {
		memmove(&l->tiers[at + 1], &l->tiers[at], (l->n_tiers - at) * sizeof(l->tiers[0]));
		l->tiers[at] = (struct tier){.budget_us = budget_us};
		l->n_tiers++;
	}
	l->tiers[at].groups = ds_groups_union(l->tiers[at].groups, groups);
}

static struct ds_groups lowest_full(const struct ds_groups *set, const struct ds_gpu_shape *shape)
{
	struct ds_groups lowest = {{0, 0}};

	for (uint32_t g = 0; g < shape->n_groups; g++) {
		if (ds_groups_has(set, g)) {
			ds_groups_add(&lowest, g);
			break;
		}
	}
	return lowest;
}

/* What an idle one keeps: its lowest group, of those that it need not wait for. */
static struct ds_groups floor_of(const struct ds_lend_resident *r, const struct ds_gpu_shape *shape)
{
	struct ds_groups there = ds_groups_intersection(r->own, r->held);

	return lowest_full(ds_groups_has_full(&there, shape) ? &there : &r->own, shape);
}

/* Everybody has what it owns, or of that what it does not lend. */
static void collect(struct lending *l)
{
	struct ds_groups unowned = {{0, 0}};

	for (uint32_t g = 0; g < l->shape->n_groups + (l->shape->rest_sms ? 1 : 0); g++)
		ds_groups_add(&unowned, g);
	for (uint32_t i = 0; i < l->n; i++) {
		const struct ds_lend_resident *r = &l->residents[i];

		unowned = ds_groups_difference(unowned, r->own);
		l->all_held = ds_groups_union(l->all_held, r->held);
		l->planned[i] = r->own;
		if (!is_lending(r))
			continue;
		l->planned[i] = floor_of(r, l->shape);
		offer(l, ds_groups_difference(r->own, l->planned[i]), budget_of(r));
	}
	offer(l, unowned, NO_BUDGET);
}

/* How many full groups it may have beyond its own: what it wishes, rounded up. */
static uint32_t most_borrowed(const struct lending *l, const struct ds_lend_resident *r)
{
	uint32_t wished = (r->wish_milli * l->shape->n_groups + 999) / 1000;
	struct ds_groups own = r->own;

	if (!r->active || !r->borrows || r->in_time || r->wish_milli <= r->share_milli)
		return 0;
	ds_groups_remove(&own, l->shape->n_groups);
	return wished > ds_groups_count(&own) ? wished - ds_groups_count(&own) : 0;
}

static bool may_have(const struct lending *l, uint32_t i, enum ds_lend_kind kind,
		     uint64_t budget_us)
{
	return l->residents[i].kind == kind && l->borrowed[i] < l->most[i] &&
	       drains_within(l->residents[i].drain_us, budget_us);
}

/* Who gets the next group: the largest (wish beyond share) / (2 x borrowed + 1). n: nobody can. */
static uint32_t next_in_turn(const struct lending *l, enum ds_lend_kind kind, uint64_t budget_us)
{
	uint32_t best = l->n;
	uint64_t best_extra = 0, best_divisor = 1;

	for (uint32_t i = 0; i < l->n; i++) {
		const struct ds_lend_resident *r = &l->residents[i];

		if (!may_have(l, i, kind, budget_us))
			continue;
		uint64_t extra = r->wish_milli - r->share_milli;
		uint64_t divisor = 2 * (uint64_t)l->borrowed[i] + 1;
		if (extra * best_divisor > best_extra * divisor) {
			best = i;
			best_extra = extra;
			best_divisor = divisor;
		}
	}
	return best;
}

/* Move the lowest groups that are in `wanted` from the tier to the resident, at most *missing. */
static void take(struct lending *l, struct tier *tier, uint32_t i, struct ds_groups wanted,
		 uint32_t *missing)
{
	wanted = ds_groups_intersection(wanted, tier->groups);
	for (unsigned word = 0; word < 2; word++) {
		while (*missing && wanted.bits[word]) {
			uint64_t lowest = wanted.bits[word] & -wanted.bits[word];

			wanted.bits[word] ^= lowest;
			tier->groups.bits[word] ^= lowest;
			l->planned[i].bits[word] |= lowest;
			--*missing;
		}
	}
}

/* Give the groups of one tier to residents of one kind: first how many, then which. */
static void give(struct lending *l, struct tier *tier, enum ds_lend_kind kind)
{
	uint32_t missing[DS_RESIDENTS_MAX] = {0};
	uint32_t seats = ds_groups_count(&tier->groups);

	for (; seats; seats--) {
		uint32_t i = next_in_turn(l, kind, tier->budget_us);
		if (i == l->n)
			break;
		missing[i]++;
		l->borrowed[i]++;
	}
	for (uint32_t i = 0; i < l->n; i++)
		take(l, tier, i, l->residents[i].planned, &missing[i]);
	for (uint32_t i = 0; i < l->n; i++)
		take(l, tier, i, l->residents[i].held, &missing[i]);
	for (uint32_t i = 0; i < l->n; i++) {
		take(l, tier, i, ds_groups_difference(tier->groups, l->all_held), &missing[i]);
		take(l, tier, i, tier->groups, &missing[i]);
	}
}

/* The GPU's remainder. It is nobody's only group, so whoever is there for it has others. */
static void give_rest(struct lending *l)
{
	uint32_t best = l->n;

	for (unsigned kind = 0; kind < DS_LEND_KINDS && best == l->n; kind++) {
		for (uint32_t i = 0; i < l->n; i++) {
			if (l->residents[i].kind == kind && l->most[i] &&
			    drains_within(l->residents[i].drain_us, l->rest_budget_us) &&
			    (best == l->n || l->borrowed[i] > l->borrowed[best]))
				best = i;
		}
	}
	if (best < l->n)
		ds_groups_add(&l->planned[best], l->shape->n_groups);
}

/* What nobody could use is not taken from its owner. */
static void keep_unused(struct lending *l)
{
	struct ds_groups given = {{0, 0}};

	for (uint32_t i = 0; i < l->n; i++)
		given = ds_groups_union(given, l->planned[i]);
	for (uint32_t i = 0; i < l->n; i++) {
		if (is_lending(&l->residents[i]))
			l->planned[i] = ds_groups_union(
			    l->planned[i], ds_groups_difference(l->residents[i].own, given));
	}
}

void ds_lend(const struct ds_gpu_shape *shape, const struct ds_lend_resident *residents, uint32_t n,
	     struct ds_groups *planned)
{
	struct lending l = {.shape = shape, .residents = residents, .n = n, .planned = planned};

	collect(&l);
	for (uint32_t i = 0; i < n; i++)
		l.most[i] = most_borrowed(&l, &residents[i]);
	for (unsigned kind = 0; kind < DS_LEND_KINDS; kind++) {
		for (uint32_t t = 0; t < l.n_tiers; t++)
			give(&l, &l.tiers[t], (enum ds_lend_kind)kind);
	}
	if (l.rest_is_lent)
		give_rest(&l);
	keep_unused(&l);
	ds_lend_advance(shape, residents, n, planned);
}
