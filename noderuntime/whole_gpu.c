/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/whole_gpu.h"

#include <string.h>

#include "noderuntime/ledger.h"

#define MS UINT64_C(1000000)

_Static_assert(sizeof(((struct ds_whole_window *)0)->owner) == DS_NAME_SIZE, "a resident's name");

enum {
	BAR_MS = 10000,      /* at least, for one that does not give back in time */
	BAR_TIMES = 5,       /* or as often as its window was long */
	ORPHAN_MS = 10000,   /* for programs without a runtime to leave what is not theirs */
	STOPPED_MS = 500,    /* to look again whether somebody still cannot stop */
	GATHER_DOUBLINGS = 3 /* of the time to gather in, with every try */
};

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t gather_ns(const struct ds_ledger_resident *owner,
			  const struct ds_whole_rules *rules)
{
	uint32_t doublings =
	    owner->whole.tries < GATHER_DOUBLINGS ? owner->whole.tries : GATHER_DOUBLINGS;

	return (rules->deadline_ms * MS) << doublings;
}

static uint64_t patience_ends_ns(const struct ds_ledger_resident *r,
				 const struct ds_whole_rules *rules)
{
	return r->whole.asked_ns + rules->patience_ms * MS;
}

void ds_whole_enter(struct ds_ledger_resident *resident, bool wants, uint64_t now_ns)
{
	if (!wants || ds_whole_refuses(resident, now_ns))
		resident->whole.asked_ns = 0;
	else if (!resident->whole.asked_ns)
		resident->whole.asked_ns = now_ns;
}

/* Nothing of other residents is on the GPU, nor can anything begin there. */
static bool others_are_quiet(const struct ds_ledger_state *state, const char *owner)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		if (!state->programs[i].quiet && strcmp(state->programs[i].resident, owner) != 0)
			return false;
	}
	return true;
}

static bool has_a_runtime(const struct ds_ledger_state *state,
			  const struct ds_ledger_program *program,
			  int (*alive)(const struct ds_process *))
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (!strcmp(state->residents[i].name, program->resident))
			return alive(&state->residents[i].runtime);
	}
	return false;
}

/*
 * A program of another one that would not be quiet: the others would be suspended for nothing. No
 * `stopped`: only those that have lost their runtime, for good.
 */
static bool somebody_cannot_stop(const struct ds_ledger_state *state, const char *owner,
				 int (*alive)(const struct ds_process *),
				 int (*stopped)(const struct ds_process *))
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *p = &state->programs[i];

		if (!p->quiet && strcmp(p->resident, owner) != 0 &&
		    (!has_a_runtime(state, p, alive) || (stopped && stopped(&p->process))))
			return true;
	}
	return false;
}

/* The owner's programs are where the owner may be without a window. */
static bool is_given_back(const struct ds_ledger_state *state, const char *name,
			  const struct ds_ledger_resident *owner)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *p = &state->programs[i];
		struct ds_groups beyond = p->groups;

		if (strcmp(p->resident, name) != 0)
			continue;
		if (owner)
			beyond = ds_groups_difference(beyond, owner->held);
		if (!ds_groups_empty(&beyond))
			return false;
	}
	return true;
}

/*
 * Nobody can hear any more what they say; but by themselves they leave what was not theirs when their
 * runtime dies.
 */
static void take_from_orphans(struct ds_ledger_state *state, const struct ds_ledger_resident *owner)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_ledger_program *p = &state->programs[i];

		if (!strcmp(p->resident, owner->name))
			p->groups = ds_groups_intersection(p->groups, owner->held);
	}
}

static void enter_phase(struct ds_ledger_state *state, enum ds_whole_phase phase, uint64_t now_ns)
{
	state->whole.phase = phase;
	state->whole.since_ns = now_ns;
}

static void bar(struct ds_ledger_resident *r, uint64_t until_ns)
{
	r->whole.barred_ns = later(r->whole.barred_ns, until_ns);
	r->whole.asked_ns = 0;
	r->whole.refusals++;
	r->whole.tries = 0;
}

/* The window is over. Whoever had it waits until it has had no more than its part of the time. */
static void end(struct ds_ledger_state *state, struct ds_ledger_resident *owner, uint64_t now_ns)
{
	const uint64_t took_ns = now_ns - state->whole.begun_ns;

	if (owner) {
		const uint64_t ms = ds_grant_whole_ms(&owner->grant);

		owner->whole.total_ns += state->n_residents > 1 ? took_ns : 0;
		if (ms && state->n_residents > 1)
			owner->whole.not_before_ns = now_ns + took_ns / ms * (DS_WHOLE_MS_MAX - ms);
	}
	/* Nor do all windows together take more than half of it. */
	state->whole = (struct ds_whole_window){
	    .not_before_ns = state->n_residents > 1 ? now_ns + took_ns : now_ns};
}

static void gather(struct ds_ledger_state *state, struct ds_ledger_resident *owner,
		   const struct ds_whole_rules *rules, uint64_t now_ns,
		   int (*alive)(const struct ds_process *))
{
	if (others_are_quiet(state, owner->name)) {
		enter_phase(state, DS_WHOLE_OPEN, now_ns);
		owner->whole.windows++;
		owner->whole.tries = 0;
		owner->whole.opened = 1;
	} else if (now_ns - state->whole.since_ns >= gather_ns(owner, rules) ||
		   somebody_cannot_stop(state, owner->name, alive, NULL)) {
		owner->whole.tries++;
		end(state, owner, now_ns);
	}
}

/* Takes it back. What the owner has on the GPU goes on; it may ask again, behind the others. */
static void close_window(struct ds_ledger_state *state, struct ds_ledger_resident *owner,
			 uint64_t now_ns)
{
	enter_phase(state, DS_WHOLE_RETURNING, now_ns);
	if (owner && owner->whole.asked_ns)
		owner->whole.asked_ns = now_ns;
}

static void take_back(struct ds_ledger_state *state, struct ds_ledger_resident *owner,
		      const struct ds_whole_rules *rules, uint64_t now_ns, bool runtime_lives)
{
	const uint64_t took_ns = now_ns - state->whole.begun_ns;
	/* The GPU has to end what it works on; that may take as long once more. */
	const bool late = now_ns - state->whole.since_ns > rules->deadline_ms * MS;

	/* By ds_ledger_settle, which is next: then it can be seen who is still outside of that. */
	if (owner && owner->whole.opened)
		return;
	if (owner && !runtime_lives && now_ns - state->whole.since_ns >= ORPHAN_MS * MS)
		take_from_orphans(state, owner);
	if (!is_given_back(state, state->whole.owner, owner))
		return;
	if (owner && late) {
		owner->whole.overruns++;
		bar(owner, now_ns + later(BAR_MS * MS, BAR_TIMES * took_ns));
	}
	end(state, owner, now_ns);
}

static bool waits_in_vain(const struct ds_ledger_state *state, const struct ds_ledger_resident *r,
			  const struct ds_whole_rules *rules, uint64_t now_ns)
{
	const bool has_it =
	    state->whole.phase == DS_WHOLE_OPEN && !strcmp(state->whole.owner, r->name);

	return r->whole.asked_ns && !has_it && now_ns >= patience_ends_ns(r, rules);
}

/* Who asked first of those whose turn it can be. */
static struct ds_ledger_resident *next_owner(struct ds_ledger_state *state, uint64_t now_ns,
					     int (*alive)(const struct ds_process *))
{
	struct ds_ledger_resident *first = NULL;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		struct ds_ledger_resident *r = &state->residents[i];

		if (r->whole.asked_ns && r->whole.not_before_ns <= now_ns &&
		    (!first || r->whole.asked_ns < first->whole.asked_ns) && alive(&r->runtime))
			first = r;
	}
	return first;
}

static void begin(struct ds_ledger_state *state, uint64_t now_ns,
		  int (*alive)(const struct ds_process *),
		  int (*stopped)(const struct ds_process *))
{
	struct ds_ledger_resident *owner;

	if (now_ns < state->whole.not_before_ns)
		return;
	owner = next_owner(state, now_ns, alive);
	if (!owner || somebody_cannot_stop(state, owner->name, alive, stopped))
		return;
	memcpy(state->whole.owner, owner->name, sizeof(state->whole.owner));
	state->whole.begun_ns = now_ns;
	enter_phase(state, DS_WHOLE_GATHERING, now_ns);
}

/* Only a runtime that lives vouches for what its programs said. */
static void forget_words_of_the_dead(struct ds_ledger_state *state,
				     int (*alive)(const struct ds_process *))
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_ledger_program *p = &state->programs[i];

		if (p->quiet && !has_a_runtime(state, p, alive))
			p->quiet = 0;
	}
}

void ds_whole_step(struct ds_ledger_state *state, const struct ds_whole_rules *rules,
		   uint64_t now_ns, int (*alive)(const struct ds_process *),
		   int (*stopped)(const struct ds_process *))
{
	struct ds_ledger_resident *owner = ds_ledger_find(state, state->whole.owner);
	const bool runtime_lives = owner && alive(&owner->runtime);
	const bool asks = runtime_lives && owner->whole.asked_ns;

	forget_words_of_the_dead(state, alive);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (waits_in_vain(state, &state->residents[i], rules, now_ns))
			bar(&state->residents[i], now_ns + BAR_MS * MS);
	}
	if (state->whole.phase == DS_WHOLE_GATHERING) {
		if (!asks || !owner->whole.asked_ns)
			end(state, owner, now_ns);
		else
			gather(state, owner, rules, now_ns, alive);
	}
	if (state->whole.phase == DS_WHOLE_OPEN) {
		const bool over = now_ns - state->whole.since_ns >= rules->deadline_ms * MS;

		if (!asks || over || !others_are_quiet(state, owner->name))
			close_window(state, owner, now_ns);
	}
	if (state->whole.phase == DS_WHOLE_RETURNING)
		take_back(state, owner, rules, now_ns, runtime_lives);
	if (state->whole.phase == DS_WHOLE_NONE)
		begin(state, now_ns, alive, stopped);
	if (state->whole.phase == DS_WHOLE_GATHERING) {
		owner = ds_ledger_find(state, state->whole.owner);
		if (owner)
			gather(state, owner, rules, now_ns, alive);
	}
}

/* The earlier of two times, of which 0 is never; what has passed already does not count. */
static void sooner(uint64_t *next, uint64_t at_ns, uint64_t now_ns)
{
	if (at_ns > now_ns && (!*next || at_ns < *next))
		*next = at_ns;
}

uint64_t ds_whole_next_ns(const struct ds_ledger_state *state, const struct ds_whole_rules *rules,
			  uint64_t now_ns)
{
	const struct ds_whole_window *window = &state->whole;
	uint64_t next = 0;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		sooner(&next, r->whole.barred_ns, now_ns);
		if (!r->whole.asked_ns)
			continue;
		sooner(&next, patience_ends_ns(r, rules), now_ns);
		if (window->phase != DS_WHOLE_NONE)
			continue;
		sooner(&next, r->whole.not_before_ns, now_ns);
		sooner(&next, window->not_before_ns, now_ns);
		/* If it could begin and has not, somebody cannot stop. */
		if (r->whole.not_before_ns <= now_ns && window->not_before_ns <= now_ns)
			sooner(&next, now_ns + STOPPED_MS * MS, now_ns);
	}
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		if (strcmp(r->name, window->owner) != 0)
			continue;
		if (window->phase == DS_WHOLE_GATHERING)
			sooner(&next, window->since_ns + gather_ns(r, rules), now_ns);
	}
	if (window->phase == DS_WHOLE_OPEN)
		sooner(&next, window->since_ns + rules->deadline_ms * MS, now_ns);
	if (window->phase == DS_WHOLE_RETURNING)
		sooner(&next, window->since_ns + ORPHAN_MS * MS, now_ns);
	return next;
}

bool ds_whole_suspends(const struct ds_ledger_state *state,
		       const struct ds_ledger_resident *resident)
{
	return state->whole.phase != DS_WHOLE_NONE &&
	       strcmp(state->whole.owner, resident->name) != 0;
}

bool ds_whole_is_open_for(const struct ds_ledger_state *state,
			  const struct ds_ledger_resident *resident)
{
	return state->whole.phase == DS_WHOLE_OPEN &&
	       strcmp(state->whole.owner, resident->name) == 0;
}

bool ds_whole_refuses(const struct ds_ledger_resident *resident, uint64_t now_ns)
{
	return !ds_grant_whole_ms(&resident->grant) || now_ns < resident->whole.barred_ns;
}
