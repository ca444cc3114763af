/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/held.h"

#include <string.h>

bool ds_held_is_to_stop(const struct ds_ledger_resident *resident)
{
	return resident->grant.kind == DS_KIND_BESTEFFORT && ds_groups_empty(&resident->planned);
}

/* Whose each program is; NULL when its resident is gone. */
static void find_owners(struct ds_ledger_state *state, const struct ds_ledger_resident **owners)
{
	for (uint32_t i = 0; i < state->n_programs; i++)
		owners[i] = ds_ledger_find(state, state->programs[i].resident);
}

/*
 * Groups that programs of others than `resident` may use. Small ones do not wait for each other to hold what is
 * their own: who of them may use it when is a matter of turns (turns.h), and two that change places, each with its
 * programs where the other is to go, would wait for ever.
 */
static struct ds_groups used_by_others(const struct ds_ledger_state *state,
				       const struct ds_ledger_resident *const *owners,
				       const struct ds_ledger_resident *resident)
{
	struct ds_groups used = {{0, 0}};

	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_groups theirs = state->programs[i].groups;

		if (owners[i] == resident)
			continue;
		if (owners[i] && ds_ledger_is_small(state, resident) &&
		    ds_ledger_is_small(state, owners[i]))
			theirs = ds_groups_difference(theirs, resident->own);
		used = ds_groups_union(used, theirs);
	}
	return used;
}

/* The groups that programs of `r` are known to be on. */
static struct ds_groups used_by(const struct ds_ledger_state *state,
				const struct ds_ledger_resident *const *owners,
				const struct ds_ledger_resident *r)
{
	struct ds_groups used = {{0, 0}};

	for (uint32_t i = 0; i < state->n_programs; i++) {
		if (owners[i] == r)
			used = ds_groups_union(used, state->programs[i].groups);
	}
	return used;
}

static bool add_lowest_full(struct ds_groups *to, const struct ds_groups *from, unsigned n_groups)
{
	for (unsigned g = 0; g < n_groups; g++) {
		if (!ds_groups_has(from, g))
			continue;
		ds_groups_add(to, g);
		return true;
	}
	return false;
}

/*
 * A resident whose programs run keeps a full group to run on, until one of those planned for it is
 * free. It can only be one that a program of it is known to be on: others wait for that one. One that
 * it held comes first; but it may have been given another one and lost it again before its programs
 * heard of that, and then it is one that they are on and nobody else is.
 */
static void keep_floor(const struct ds_ledger_state *state,
		       const struct ds_ledger_resident *const *owners,
		       const struct ds_ledger_resident *r, struct ds_groups *held,
		       const struct ds_groups *held_before, const struct ds_groups *used_by_others)
{
	const struct ds_groups used = used_by(state, owners, r);
	const struct ds_groups kept = ds_groups_intersection(*held_before, used);
	const struct ds_groups only = ds_groups_difference(used, *used_by_others);

	if (ds_groups_has_full(held, &state->shape) ||
	    add_lowest_full(held, &kept, state->shape.n_groups))
		return;
	add_lowest_full(held, &only, state->shape.n_groups);
}

static struct ds_groups all_groups(const struct ds_gpu_shape *shape)
{
	struct ds_groups all = {{0, 0}};

	for (unsigned g = 0; g < shape->n_groups + (shape->rest_sms > 0); g++)
		ds_groups_add(&all, g);
	return all;
}

/* Programs of the owner of a window are where others, who are quiet, will be again. */
static struct ds_groups used_in_window(const struct ds_ledger_state *state)
{
	struct ds_groups used = {{0, 0}};

	for (uint32_t i = 0; state->whole.phase >= DS_WHOLE_OPEN && i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, state->whole.owner))
			used = ds_groups_union(used, state->programs[i].groups);
	}
	return used;
}

/*
 * What one may use: what is planned for it, less what others may still be on. What it held before nobody
 * was let into, but the owner of a window.
 */
static struct ds_groups held_by(const struct ds_ledger_state *state,
				const struct ds_ledger_resident *const *owners,
				const struct ds_ledger_resident *r, const struct ds_groups *before)
{
	const struct ds_groups others = used_by_others(state, owners, r);
	const struct ds_groups kept = ds_groups_intersection(*before, used_in_window(state));
	const struct ds_groups had = ds_groups_union(*before, used_by(state, owners, r));
	struct ds_groups held;

	if (ds_whole_is_open_for(state, r))
		return all_groups(&state->shape);
	held = ds_groups_difference(r->planned, ds_groups_difference(others, kept));
	if (state->incomplete)
		held = ds_groups_intersection(held, had);
	if (!ds_held_is_to_stop(r))
		keep_floor(state, owners, r, &held, before, &others);
	return held;
}

/*
 * What `r` holds since nobody else is there, though `other` had been given it and lets nobody in yet: its
 * programs are there, so `other` has to wait.
 */
static struct ds_groups contested(const struct ds_ledger_state *state,
				  const struct ds_ledger_resident *const *owners,
				  const struct ds_ledger_resident *r,
				  const struct ds_ledger_resident *other)
{
	struct ds_groups both = ds_groups_intersection(r->held, other->held);

	if (ds_ledger_is_small(state, r) && ds_ledger_is_small(state, other))
		both = ds_groups_difference(both, ds_groups_union(r->own, other->own));
	if (r == other || ds_groups_empty(&both) || ds_whole_is_open_for(state, r) ||
	    ds_whole_is_open_for(state, other))
		return (struct ds_groups){{0, 0}};
	return ds_groups_intersection(both, used_by(state, owners, r));
}

void ds_held_set(struct ds_ledger_state *state)
{
	const struct ds_ledger_resident *owners[DS_PROGRAMS_MAX] = {NULL};
	struct ds_groups before[DS_RESIDENTS_MAX];
	bool again = true;

	find_owners(state, owners);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		struct ds_ledger_resident *r = &state->residents[i];

		before[i] = r->held;
		if (ds_whole_is_open_for(state, r))
			continue;
		/* In a window it held what others hold, too: that says nothing of who was let in. */
		if (r->whole.opened)
			before[i] = (struct ds_groups){{0, 0}};
		r->whole.opened = 0;
	}
	/* Ends, since every round but the last takes a group out of `before`. */
	while (again) {
		again = false;
		for (uint32_t i = 0; i < state->n_residents; i++)
			state->residents[i].held =
			    held_by(state, owners, &state->residents[i], &before[i]);
		for (uint32_t i = 0; i < state->n_residents * state->n_residents; i++) {
			const uint32_t loser = i / state->n_residents;
			struct ds_groups lost =
			    contested(state, owners, &state->residents[i % state->n_residents],
				      &state->residents[loser]);

			lost = ds_groups_intersection(lost, before[loser]);
			before[loser] = ds_groups_difference(before[loser], lost);
			again |= !ds_groups_empty(&lost);
		}
	}
}
