/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/turns.h"

#include <string.h>

#include "noderuntime/ledger.h"

#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

enum {
	TURN_MS = 20, /* on average: some hundred times what a hand-over takes */
	TURN_LEAST_MS = 5,
	TURN_MOST_MS = 100,
	DEBT_MOST_S = 5,    /* of its own time, that one may have to wait for what it overran */
	PATIENCE_S = 5,     /* with a program that runs and does not leave the group, */
	BESIDE_S = 30,      /* and how long one has none after that */
	USED_MOST_BITS = 62 /* of `used`, before all are counted down */
};

/* Those who hold one group, in order of arrival. */
struct set {
	struct ds_ledger_state *state;
	uint64_t now_ns;
	struct ds_ledger_resident *members[DS_RESIDENTS_MAX];
	uint32_t n;
};

/* ---- who uses what ---- */

/* The group that one with less than a group is in, plus one; 0: it has none, or more than that is its. */
static uint32_t set_of(const struct ds_ledger_state *state, const struct ds_ledger_resident *r)
{
	const struct ds_groups own = ds_groups_intersection(r->own, r->held);
	const struct ds_groups *in = ds_groups_has_full(&own, &state->shape) ? &own : &r->held;

	for (uint32_t g = 0; ds_ledger_is_small(state, r) && g < state->shape.n_groups; g++)
		if (ds_groups_has(in, g))
			return g + 1;
	return 0;
}

static bool is_of(const struct ds_ledger_program *program, const struct ds_ledger_resident *r)
{
	return !strcmp(program->resident, r->name);
}

/* Something of it may be on the GPU. */
static bool is_there(const struct ds_ledger_state *state, const struct ds_ledger_resident *r)
{
	for (uint32_t i = 0; i < state->n_programs; i++)
		if (is_of(&state->programs[i], r) && !state->programs[i].quiet)
			return true;
	return false;
}

static bool is_active(const struct ds_ledger_state *state, const struct ds_ledger_resident *r)
{
	return r->demand.active && ds_ledger_has_programs(state, r->name);
}

/* ---- accounts ---- */

static uint64_t add(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

/* What so long a use counts. */
static uint64_t counts(const struct ds_ledger_resident *r, uint64_t ns)
{
	const uint32_t share_milli = r->grant.share_milli ? r->grant.share_milli : 1;

	return (ns < UINT64_MAX / 1000 ? ns * 1000 : UINT64_MAX) / share_milli;
}

static uint64_t used_by(const struct set *set, const struct ds_ledger_resident *r)
{
	if (!r->turn.since_ns || set->now_ns <= r->turn.since_ns)
		return r->turn.used;
	return add(r->turn.used, counts(r, set->now_ns - r->turn.since_ns));
}

static void count(const struct set *set, struct ds_ledger_resident *r)
{
	r->turn.used = used_by(set, r);
	r->turn.since_ns = 0;
}

/* The least of those that are active, but for `but`; UINT64_MAX: there is none. */
static uint64_t least_used(const struct set *set, const struct ds_ledger_resident *but)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t i = 0; i < set->n; i++) {
		const struct ds_ledger_resident *r = set->members[i];

		if (r != but && r->turn.active && used_by(set, r) < least)
			least = used_by(set, r);
	}
	return least;
}

/* Who comes back has not saved up what it left to others meanwhile, but for a turn. */
static void note_active(struct set *set)
{
	bool was[DS_RESIDENTS_MAX];

	for (uint32_t i = 0; i < set->n; i++) {
		was[i] = set->members[i]->turn.active;
		set->members[i]->turn.active = was[i] && is_active(set->state, set->members[i]);
	}
	for (uint32_t i = 0; i < set->n; i++) {
		struct ds_ledger_resident *r = set->members[i];
		const uint64_t others = least_used(set, r), saved = counts(r, TURN_MS * MS);

		if (was[i] || !is_active(set->state, r))
			continue;
		r->turn.active = 1;
		if (others != UINT64_MAX && others > saved && r->turn.used < others - saved)
			r->turn.used = others - saved;
	}
}

/* Nobody owes without an end; and all accounts are counted down before one is full. */
static void bound(struct set *set)
{
	const uint64_t least = least_used(set, NULL);

	if (least == UINT64_MAX)
		return;
	for (uint32_t i = 0; i < set->n; i++) {
		struct ds_ledger_resident *r = set->members[i];
		const uint64_t most = add(least, counts(r, DEBT_MOST_S * S));

		if (r->turn.active && r->turn.used > most)
			r->turn.used = most;
	}
	for (uint32_t i = 0; i < set->n && least >> USED_MOST_BITS; i++) {
		struct ds_turn *turn = &set->members[i]->turn;

		turn->used = turn->used > least ? turn->used - least : 0;
	}
}

/* Of all that those have used who are active. Shares times what they count is time again, so it fits. */
static bool is_below_average(const struct set *set, const struct ds_ledger_resident *r)
{
	const uint64_t least = least_used(set, NULL);
	uint64_t shares = 0, sum = 0;

	for (uint32_t i = 0; i < set->n; i++) {
		const struct ds_ledger_resident *other = set->members[i];

		if (!other->turn.active)
			continue;
		shares += other->grant.share_milli;
		sum = add(sum, (used_by(set, other) - least) / 1000 * other->grant.share_milli);
	}
	return shares && (used_by(set, r) - least) / 1000 <= sum / shares;
}

/* ---- turns ---- */

/* Who goes on: the first of those that are active; NULL: nobody is. */
static struct ds_ledger_resident *next(const struct set *set)
{
	struct ds_ledger_resident *best = NULL;
	bool best_first = false;

	for (uint32_t i = 0; i < set->n; i++) {
		struct ds_ledger_resident *r = set->members[i];

		if (!r->turn.active)
			continue;
		const bool first = r->grant.kind == DS_KIND_LATENCY && is_below_average(set, r);
		if (!best || first > best_first ||
		    (first == best_first && used_by(set, r) < used_by(set, best))) {
			best = r;
			best_first = first;
		}
	}
	return best;
}

/* Where nobody is active: who is there, or who came first. */
static struct ds_ledger_resident *anybody(const struct set *set)
{
	for (uint32_t i = 0; i < set->n; i++)
		if (is_there(set->state, set->members[i]))
			return set->members[i];
	return set->members[0];
}

static bool others_wait(const struct set *set, const struct ds_ledger_resident *r)
{
	for (uint32_t i = 0; i < set->n; i++)
		if (set->members[i] != r && set->members[i]->turn.active)
			return true;
	return false;
}

static uint64_t turn_ns(const struct set *set, const struct ds_ledger_resident *r)
{
	uint64_t shares = 0, n = 0, ns;

	for (uint32_t i = 0; i < set->n; i++) {
		n += set->members[i]->turn.active;
		shares += set->members[i]->turn.active ? set->members[i]->grant.share_milli : 0;
	}
	ns = shares ? TURN_MS * MS * r->grant.share_milli * n / shares : 0;
	if (ns < TURN_LEAST_MS * MS)
		return TURN_LEAST_MS * MS;
	return ns < TURN_MOST_MS * MS ? ns : TURN_MOST_MS * MS;
}

static struct ds_ledger_resident *whose(const struct set *set)
{
	for (uint32_t i = 0; i < set->n; i++)
		if (set->members[i]->turn.state == DS_TURN_HAS)
			return set->members[i];
	return NULL;
}

/* Who is to have the group now. */
static struct ds_ledger_resident *choose(const struct set *set)
{
	struct ds_ledger_resident *has = whose(set), *first = next(set);

	if (!first)
		return has ? has : anybody(set);
	if (!has || !has->turn.active)
		return first;
	if (!others_wait(set, has))
		return has;
	/* Not begun: what the others are at ends first. Without an end: until just now nobody waited. */
	if (!has->turn.since_ns || (has->turn.until_ns && set->now_ns < has->turn.until_ns))
		return has;
	return first;
}

static void give(struct set *set, struct ds_ledger_resident *to)
{
	const bool goes_on = to->turn.state == DS_TURN_HAS;

	for (uint32_t i = 0; i < set->n; i++) {
		struct ds_turn *turn = &set->members[i]->turn;

		turn->why = DS_TURN_WHY_NONE;
		if (set->members[i] != to || !goes_on)
			turn->until_ns = 0;
		turn->state = set->members[i] == to ? DS_TURN_HAS : DS_TURN_WAITS;
	}
}

/* The use of who has the group, and of who has not left it yet. */
static void follow_use(struct set *set)
{
	for (uint32_t i = 0; i < set->n; i++) {
		struct ds_ledger_resident *r = set->members[i];
		const bool has = r->turn.state == DS_TURN_HAS;

		const bool may = has && r->turn.active && !ds_turns_suspend(set->state, r);

		if (r->turn.since_ns && (has ? !may : !is_there(set->state, r))) {
			count(set, r);
			r->turn.until_ns = 0;
		}
		if (may && !r->turn.since_ns) {
			r->turn.since_ns = set->now_ns;
			r->turn.until_ns = 0;
		}
		if (has && (!r->turn.active || (may && !others_wait(set, r))))
			r->turn.until_ns = 0;
		if (may && others_wait(set, r) && set->now_ns >= r->turn.until_ns) {
			r->turn.until_ns = set->now_ns + turn_ns(set, r);
			r->turn.count++;
		}
	}
}

/* A window for the whole GPU: nobody of them has the group, or one of them has all. */
static void pause_turns(struct set *set)
{
	for (uint32_t i = 0; i < set->n; i++) {
		count(set, set->members[i]);
		set->members[i]->turn.until_ns = 0;
	}
}

static enum ds_turn_why why_beside(const struct set *set)
{
	enum ds_turn_why why = DS_TURN_WHY_NONE;

	for (uint32_t i = 0; i < set->n; i++) {
		const struct ds_ledger_resident *r = set->members[i];

		if (r->turn.fixed)
			return DS_TURN_WHY_FIXED;
		for (uint32_t k = 0; k < set->state->n_programs; k++) {
			const struct ds_ledger_program *p = &set->state->programs[k];

			if (!is_of(p, r))
				continue;
			if (p->stays & DS_STAYS_ORPHAN)
				why = DS_TURN_WHY_ORPHAN;
			else if (p->stays & DS_STAYS_BUSY)
				why = DS_TURN_WHY_BUSY;
			else if (p->stays & DS_STAYS_IMMOVABLE)
				why = DS_TURN_WHY_IMMOVABLE;
			else if (p->stays & DS_STAYS_LONG)
				why = DS_TURN_WHY_LONG;
		}
	}
	return why;
}

static void all_alike(struct set *set, enum ds_turn_state state, enum ds_turn_why why)
{
	for (uint32_t i = 0; i < set->n; i++) {
		struct ds_turn *turn = &set->members[i]->turn;

		turn->state = state;
		turn->why = why;
		turn->used = turn->since_ns = 0;
	}
}

static void step_set(struct set *set)
{
	const enum ds_turn_why why = why_beside(set);

	note_active(set);
	if (set->n == 1 || why) {
		all_alike(set, set->n == 1 ? DS_TURN_ALONE : DS_TURN_BESIDE,
			  set->n == 1 ? DS_TURN_WHY_NONE : why);
		return;
	}
	if (set->state->whole.phase != DS_WHOLE_NONE)
		pause_turns(set);
	if (set->state->whole.phase == DS_WHOLE_NONE || !whose(set))
		give(set, choose(set));
	if (set->state->whole.phase == DS_WHOLE_NONE)
		follow_use(set);
	bound(set);
}

/* It may use the group, but for those who have not left it. */
static bool is_kept_waiting(const struct ds_ledger_state *state, const struct ds_ledger_resident *r)
{
	return r->turn.set && r->turn.state != DS_TURN_WAITS && r->turn.active &&
	       !r->turn.since_ns && state->whole.phase == DS_WHOLE_NONE &&
	       ds_turns_suspend(state, r);
}

static void expire(struct ds_ledger_program *program, uint64_t now_ns)
{
	if (!(program->stays & DS_STAYS_LONG) || now_ns / S < program->long_s)
		return;
	program->stays &= ~(uint32_t)DS_STAYS_LONG;
	program->long_s = 0;
}

/* Nobody waits any more for who has not left in time, unless it is stopped. */
static void lose_patience(struct ds_ledger_state *state, struct ds_ledger_resident *r,
			  uint64_t now_ns, int (*stopped)(const struct ds_process *process))
{
	if (!is_kept_waiting(state, r) || !r->turn.until_ns || now_ns < r->turn.until_ns)
		return;
	r->turn.until_ns = 0;
	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_ledger_program *p = &state->programs[i];

		if (!ds_turns_wait_for(state, r, p) || stopped(&p->process))
			continue;
		p->stays |= DS_STAYS_LONG;
		p->long_s = (uint32_t)(now_ns / S) + BESIDE_S;
	}
}

/* How long the patience lasts of those who wait; without that it is no business of those who have no turns. */
static void note_patience(struct ds_ledger_state *state, struct ds_ledger_resident *r,
			  uint64_t now_ns)
{
	if (!is_kept_waiting(state, r)) {
		if (r->turn.state != DS_TURN_HAS || !r->turn.since_ns)
			r->turn.until_ns = 0;
	} else if (!r->turn.until_ns) {
		r->turn.until_ns = now_ns + PATIENCE_S * S;
	}
}

static struct set members_of(struct ds_ledger_state *state, uint32_t group, uint64_t now_ns)
{
	struct set set = {.state = state, .now_ns = now_ns};

	for (uint32_t i = 0; i < state->n_residents; i++)
		if (state->residents[i].turn.set == group)
			set.members[set.n++] = &state->residents[i];
	return set;
}

void ds_turns_step(struct ds_ledger_state *state, uint64_t now_ns,
		   int (*alive)(const struct ds_ledger_state *state,
				const struct ds_process *process, void *arg),
		   void *arg, int (*stopped)(const struct ds_process *process))
{
	bool any = false;

	if (state->incomplete)
		return;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		struct ds_ledger_resident *r = &state->residents[i];
		const uint32_t group = set_of(state, r);

		/* What it used of another one says nothing here. */
		if (r->turn.set != group)
			r->turn = (struct ds_turn){.set = group,
						   .state = group ? DS_TURN_WAITS : DS_TURN_ALONE,
						   .fixed = r->turn.fixed};
		any |= group != 0;
		if (!ds_ledger_is_small(state, r) || alive(state, &r->runtime, arg))
			continue;
		for (uint32_t k = 0; k < state->n_programs; k++)
			if (is_of(&state->programs[k], r))
				state->programs[k].stays |= DS_STAYS_ORPHAN;
	}
	for (uint32_t i = 0; any && i < state->n_programs; i++)
		expire(&state->programs[i], now_ns);
	for (uint32_t i = 0; any && i < state->n_residents; i++)
		lose_patience(state, &state->residents[i], now_ns, stopped);
	for (uint32_t group = 1; any && group <= state->shape.n_groups; group++) {
		struct set set = members_of(state, group, now_ns);

		if (set.n)
			step_set(&set);
	}
	/* Of all, since who is in one group may have been in another's before. */
	for (uint32_t i = 0; any && i < state->n_residents; i++)
		note_patience(state, &state->residents[i], now_ns);
}
