/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/chaos/invariants.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NAMES_MAX = 8192 };

struct look {
	const struct ds_ledger_state *state;
	void (*wrong)(const struct ds_ledger_state *state, const char *text);
	unsigned n_wrong;
};

static char in_time[NAMES_MAX][DS_NAME_SIZE];
static unsigned n_in_time;

bool invariants_in_time(const char *name)
{
	for (unsigned i = n_in_time; i-- > 0;)
		if (!strcmp(in_time[i], name))
			return true;
	return false;
}

static void say(struct look *look, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct look *look, const char *format, ...)
{
	char text[400];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	look->n_wrong++;
	look->wrong(look->state, text);
}

static void note_in_time(const struct ds_ledger_state *state)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];
		if (r->grant.share_milli * state->shape.n_groups < 1000 &&
		    !invariants_in_time(r->name))
			memcpy(in_time[n_in_time++ % NAMES_MAX], r->name, DS_NAME_SIZE);
		if (n_in_time >= NAMES_MAX)
			n_in_time = 0;
	}
}

static const char *text_of(const struct look *look, const struct ds_groups *groups)
{
	static char text[256];

	return ds_groups_format(groups, &look->state->shape, text, sizeof(text));
}

/* What others have in advance of it, whom it owes something. */
static struct ds_groups in_advance(const struct ds_ledger_state *state,
				   const struct ds_ledger_resident *owner)
{
	const uint32_t index = (uint32_t)(owner - state->residents);
	struct ds_groups taken = {{0, 0}};

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];
		if (i != index && r->grant.kind == DS_KIND_LATENCY && r->grant.advance_milli &&
		    r->demand.active && (r->owing >> index & 1) &&
		    owner->grant.kind != DS_KIND_LATENCY)
			taken = ds_groups_union(taken, r->planned);
	}
	return taken;
}

static void check_resident(struct look *look, const struct ds_ledger_resident *r)
{
	const struct ds_gpu_shape *shape = &look->state->shape;
	const unsigned floor_groups = r->grant.share_milli * shape->n_groups / 1000;
	const struct ds_groups kept = ds_groups_intersection(r->own, r->planned);
	const struct ds_groups there = ds_groups_union(r->planned, in_advance(look->state, r));
	struct ds_groups full = r->own;

	ds_groups_remove(&full, shape->n_groups);
	if (ds_groups_count(&full) < floor_groups)
		say(look, "%s has a share of %u thousandths and owns %s only", r->name,
		    r->grant.share_milli, text_of(look, &r->own));
	if (r->demand.active && !ds_groups_within(&r->own, &there))
		say(look, "%s is active and is not planned to have all of its own %s", r->name,
		    text_of(look, &r->own));
	if (!ds_groups_has_full(&kept, shape) && !ds_ledger_is_suspended(look->state, r))
		say(look, "%s is planned to have no full group of its own", r->name);
	for (unsigned g = shape->n_groups + (shape->rest_sms > 0); g < DS_GROUPS_MAX; g++)
		if (ds_groups_has(&r->own, g) || ds_groups_has(&r->planned, g) ||
		    ds_groups_has(&r->held, g))
			say(look, "%s has group %u, which the GPU does not have", r->name, g);
}

/* A whole-GPU window: its owner is where the others, who are quiet, will be again. */
static bool owns_window(const struct look *look, const char *name)
{
	return look->state->whole.phase >= DS_WHOLE_OPEN && !strcmp(look->state->whole.owner, name);
}

static void check_both(struct look *look, const struct ds_ledger_resident *a,
		       const struct ds_ledger_resident *b, const char *what, struct ds_groups of_a,
		       struct ds_groups of_b)
{
	const struct ds_groups both = ds_groups_intersection(of_a, of_b);

	if (!ds_groups_empty(&both))
		say(look, "%s and %s both %s %s", a->name, b->name, what, text_of(look, &both));
}

static void check_two(struct look *look, const struct ds_ledger_resident *a,
		      const struct ds_ledger_resident *b)
{
	if (!strcmp(a->name, b->name))
		say(look, "%s is there twice", a->name);
	if (invariants_in_time(a->name) && invariants_in_time(b->name)) {
		/* All who share a group in time hold it; but nobody what neither owns. */
		check_both(look, a, b, "hold",
			   ds_groups_difference(a->held, ds_groups_union(a->own, b->own)), b->held);
		return;
	}
	check_both(look, a, b, "own", a->own, b->own);
	check_both(look, a, b, "are planned to have", a->planned, b->planned);
	if (owns_window(look, a->name) || owns_window(look, b->name))
		return; /* it may be on what the other one keeps for later */
	check_both(look, a, b, "hold", a->held, b->held);
}

/* Suspended for the window of another one: as it said, or without a runtime by itself, for a time. */
static bool is_suspended(const struct look *look, const struct ds_ledger_program *p)
{
	if (owns_window(look, p->resident) || p->quiet)
		return p->quiet;
	for (uint32_t i = 0; i < look->state->n_residents; i++) {
		if (!strcmp(look->state->residents[i].name, p->resident))
			return !ds_process_alive(&look->state->residents[i].runtime);
	}
	return true;
}

static const struct ds_ledger_resident *owner_of(const struct look *look,
						 const struct ds_ledger_program *p)
{
	for (uint32_t i = 0; i < look->state->n_residents; i++)
		if (!strcmp(look->state->residents[i].name, p->resident))
			return &look->state->residents[i];
	return NULL;
}

/* It was told to leave these groups, or to stop. */
static bool is_leaving(const struct look *look, const struct ds_ledger_resident *r,
		       const struct ds_groups *groups)
{
	const struct ds_groups kept = ds_groups_intersection(*groups, r->held);

	return ds_groups_empty(&kept) || ds_ledger_is_suspended(look->state, r);
}

/*
 * Both of allocations with less than a group: one of them is quiet, unless they cannot take turns; and when they can
 * again, or are to be elsewhere, both are told first.
 */
static bool take_turns(const struct look *look, const struct ds_ledger_program *a,
		       const struct ds_ledger_program *b, const struct ds_groups *both)
{
	const struct ds_ledger_resident *of_a = owner_of(look, a), *of_b = owner_of(look, b);

	if (a->quiet || b->quiet || a->stays || b->stays || !of_a || !of_b)
		return true;
	if (of_a->turn.state == DS_TURN_BESIDE && of_b->turn.state == DS_TURN_BESIDE)
		return of_a->turn.set == of_b->turn.set;
	return is_leaving(look, of_a, both) && is_leaving(look, of_b, both);
}

static void check_two_programs(struct look *look, const struct ds_ledger_program *a,
			       const struct ds_ledger_program *b)
{
	const struct ds_groups both = ds_groups_intersection(a->groups, b->groups);

	if (a->process.pid == b->process.pid && a->process.start_ticks == b->process.start_ticks)
		say(look, "process %d is there twice", a->process.pid);
	if (!strcmp(a->resident, b->resident) || ds_groups_empty(&both) ||
	    ((owns_window(look, a->resident) || owns_window(look, b->resident)) &&
	     (is_suspended(look, a) || is_suspended(look, b))) ||
	    (invariants_in_time(a->resident) && invariants_in_time(b->resident) &&
	     take_turns(look, a, b, &both)))
		return;
	say(look, "process %d of %s and process %d of %s may both be on %s", a->process.pid,
	    a->resident, b->process.pid, b->resident, text_of(look, &both));
}

unsigned invariants_check(const struct ds_ledger_state *state,
			  void (*wrong)(const struct ds_ledger_state *state, const char *text))
{
	struct look look = {.state = state, .wrong = wrong};
	uint32_t shares = 0;

	note_in_time(state);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		shares += state->residents[i].grant.share_milli;
		check_resident(&look, &state->residents[i]);
		for (uint32_t k = 0; k < i; k++)
			check_two(&look, &state->residents[k], &state->residents[i]);
	}
	if (shares > 1000)
		say(&look, "shares of %u thousandths on one GPU", shares);
	for (uint32_t i = 0; i < state->n_programs; i++)
		for (uint32_t k = 0; k < i; k++)
			check_two_programs(&look, &state->programs[k], &state->programs[i]);
	return look.n_wrong;
}
