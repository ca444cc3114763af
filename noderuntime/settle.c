/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/ledger.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "noderuntime/advance.h"
#include "noderuntime/held.h"
#include "noderuntime/lend.h"

enum { ROUNDS_MAX = 8 }; /* two or three are the rule */

struct ds_ledger_resident *ds_ledger_find(struct ds_ledger_state *state, const char *name)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (!strcmp(state->residents[i].name, name))
			return &state->residents[i];
	}
	return NULL;
}

int ds_ledger_join(struct ds_ledger_state *state, const struct ds_ledger_resident *resident,
		   struct ds_error *err)
{
	uint32_t free_milli = DS_SHARE_MILLI_MAX;

	if (ds_ledger_find(state, resident->name)) {
		errno = EEXIST;
		return ds_fail(err, "%s is on GPU %s already", resident->name, state->gpu_uuid);
	}
	if (state->n_residents == DS_RESIDENTS_MAX) {
		errno = ENOSPC;
		return ds_fail(err, "%s cannot join GPU %s: it has %d residents, which is the most",
			       resident->name, state->gpu_uuid, DS_RESIDENTS_MAX);
	}
	for (uint32_t i = 0; i < state->n_residents; i++)
		free_milli -= state->residents[i].grant.share_milli;
	if (resident->grant.share_milli > free_milli) {
		errno = ENOSPC;
		return ds_fail(err,
			       "%s does not fit on GPU %s: it is granted %" PRIu32
			       " thousandths and %" PRIu32 " are left",
			       resident->name, state->gpu_uuid, resident->grant.share_milli,
			       free_milli);
	}

	struct ds_ledger_resident *joined = &state->residents[state->n_residents++];
	*joined = *resident;
	joined->arrival = state->next_arrival++;
	joined->own = joined->planned = joined->held = (struct ds_groups){{0, 0}};
	joined->weight_milli = 0;
	joined->wish_milli = joined->grant.share_milli;
	return 0;
}

static void remove_resident(struct ds_ledger_state *state, uint32_t index)
{
	state->n_residents--;
	memmove(&state->residents[index], &state->residents[index + 1],
		(state->n_residents - index) * sizeof(state->residents[0]));
	memset(&state->residents[state->n_residents], 0, sizeof(state->residents[0]));
	for (uint32_t i = 0; i < state->n_residents; i++)
		state->residents[i].owing = ds_advance_without(state->residents[i].owing, index);
}

static void remove_program(struct ds_ledger_state *state, uint32_t index)
{
	state->n_programs--;
	memmove(&state->programs[index], &state->programs[index + 1],
		(state->n_programs - index) * sizeof(state->programs[0]));
	memset(&state->programs[state->n_programs], 0, sizeof(state->programs[0]));
}

int ds_ledger_leave(struct ds_ledger_state *state, const char *name)
{
	struct ds_ledger_resident *resident = ds_ledger_find(state, name);

	if (!resident)
		return 0;
	remove_resident(state, (uint32_t)(resident - state->residents));
	return 1;
}

struct ds_ledger_program *ds_ledger_find_program(struct ds_ledger_state *state,
						 const struct ds_process *process)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_ledger_program *p = &state->programs[i];

		if (p->process.pid == process->pid &&
		    p->process.start_ticks == process->start_ticks)
			return p;
	}
	return NULL;
}

int ds_ledger_add_program(struct ds_ledger_state *state, const char *resident,
			  const struct ds_process *process, const struct ds_groups *groups,
			  struct ds_error *err)
{
	const struct ds_ledger_resident *owner = ds_ledger_find(state, resident);
	struct ds_ledger_program *program = ds_ledger_find_program(state, process);

	if (!owner || (program && strcmp(program->resident, resident))) {
		errno = ENOENT;
		return ds_fail(err,
			       "process %" PRId32 " cannot run as a program of %s on GPU %s: %s",
			       process->pid, resident, state->gpu_uuid,
			       owner ? "it is another one's" : "no such allocation is there");
	}
	struct ds_groups foreign = ds_groups_difference(*groups, owner->held);
	if (!ds_groups_empty(&foreign)) {
		char text[128];

		errno = EBUSY;
		return ds_fail(
		    err,
		    "process %" PRId32 " cannot run on group %s of GPU %s: %s does not hold it",
		    process->pid, ds_groups_format(&foreign, &state->shape, text, sizeof(text)),
		    state->gpu_uuid, resident);
	}
	if (program) {
		program->groups = ds_groups_union(program->groups, *groups);
		return 0;
	}
	if (state->n_programs == DS_PROGRAMS_MAX) {
		errno = ENOSPC;
		return ds_fail(err,
			       "process %" PRId32
			       " cannot join GPU %s: it has %d programs, which is the most",
			       process->pid, state->gpu_uuid, DS_PROGRAMS_MAX);
	}
	program = &state->programs[state->n_programs++];
	*program = (struct ds_ledger_program){.process = *process, .groups = *groups};
	memcpy(program->resident, owner->name, sizeof(program->resident));
	return 0;
}

bool ds_ledger_shrink_program(struct ds_ledger_program *program, const struct ds_groups *in_use,
			      const struct ds_groups *granted)
{
	struct ds_groups before = program->groups;

	program->groups = ds_groups_intersection(before, ds_groups_union(*in_use, *granted));
	return !ds_groups_equal(&before, &program->groups);
}

int ds_ledger_remove_program(struct ds_ledger_state *state, const struct ds_process *process)
{
	struct ds_ledger_program *program = ds_ledger_find_program(state, process);

	if (!program)
		return 0;
	remove_program(state, (uint32_t)(program - state->programs));
	return 1;
}

int ds_ledger_may_use_gpu(const struct ds_ledger_state *state, const struct ds_process *process,
			  const char *ours, ds_ledger_judge *lives, void *arg)
{
	const struct ds_ledger_program *program =
	    ds_ledger_find_program((struct ds_ledger_state *)(uintptr_t)state, process);
	const struct ds_ledger_resident *owner =
	    program ? ds_ledger_find((struct ds_ledger_state *)(uintptr_t)state, program->resident)
		    : NULL;

	if (owner && strcmp(owner->name, ours) != 0 && lives(state, &owner->runtime, arg))
		return 1;
	return lives(state, process, arg);
}

bool ds_ledger_has_programs(const struct ds_ledger_state *state, const char *name)
{
	for (uint32_t i = 0; i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, name))
			return true;
	}
	return false;
}

/* Backwards, since removing closes the gap from behind. */
static void remove_dead(struct ds_ledger_state *state, ds_ledger_judge *alive, void *arg)
{
	for (uint32_t i = state->n_programs; i-- > 0;) {
		if (!alive(state, &state->programs[i].process, arg))
			remove_program(state, i);
	}
	for (uint32_t i = state->n_residents; i-- > 0;) {
		if (alive(state, &state->residents[i].runtime, arg))
			continue;
		state->residents[i].owing = 0; /* nobody keeps its accounts */
		if (!ds_ledger_has_programs(state, state->residents[i].name))
			remove_resident(state, i);
	}
}

/* A window ends with its owner, when no program of it can be on the GPU any more. */
static void remove_ownerless_window(struct ds_ledger_state *state)
{
	if (state->whole.phase != DS_WHOLE_NONE && !ds_ledger_find(state, state->whole.owner) &&
	    !ds_ledger_has_programs(state, state->whole.owner))
		state->whole = (struct ds_whole_window){.not_before_ns = 0};
}

/*
 * Where a resident is, for the plan to leave it there: what it owns. If it holds no full group of that,
 * since others are there still, then what it does hold: two of whom each waits for the other's group
 * would wait for ever.
 */
static struct ds_groups place_of(const struct ds_ledger_state *state,
				 const struct ds_ledger_resident *r)
{
	const struct ds_groups both = ds_groups_intersection(r->own, r->held);

	if (ds_groups_has_full(&both, &state->shape) ||
	    !ds_groups_has_full(&r->held, &state->shape))
		return r->own;
	return r->held;
}

/* Whose own each group is: by the plan, from shares alone. */
static int set_own(struct ds_ledger_state *state, struct ds_error *err)
{
	struct ds_plan_resident wanted[DS_RESIDENTS_MAX];
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		wanted[i] = (struct ds_plan_resident){.share_milli = r->grant.share_milli,
						      .wish_milli = r->grant.share_milli,
						      .held = place_of(state, r),
						      .busy = ds_groups_union(r->planned, r->held)};
	}
	if (ds_plan(&state->shape, wanted, state->n_residents, partitions, err))
		return ds_fail_within(err, "GPU %s", state->gpu_uuid);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		state->residents[i].own = partitions[i].groups;
		state->residents[i].weight_milli = partitions[i].weight_milli;
	}
	return 0;
}

static bool is_shared_in_time(const struct ds_ledger_resident *r)
{
	return r->weight_milli < 1000;
}

bool ds_ledger_is_small(const struct ds_ledger_state *state,
			const struct ds_ledger_resident *resident)
{
	return resident->grant.share_milli * state->shape.n_groups < DS_SHARE_MILLI_MAX;
}

bool ds_ledger_lends(const struct ds_ledger_resident *resident)
{
	return resident->grant.lends && !is_shared_in_time(resident);
}

bool ds_ledger_borrows(const struct ds_ledger_resident *resident)
{
	return resident->grant.borrows && !is_shared_in_time(resident);
}

bool ds_ledger_is_lending(const struct ds_ledger_state *state)
{
	const struct ds_policy_id *id = &state->residents[0].policy;

	return state->n_residents && !id->failed &&
	       (id->digest || !strcmp(id->name, detshare_policy_lend.name));
}

static bool may_borrow(const struct ds_ledger_resident *r)
{
	return ds_ledger_borrows(r) && !r->demand.overlong;
}

/* The policy of the GPU: NULL if it is somebody's own that is not ours to ask. */
static const struct detshare_policy *policy_of(const struct ds_ledger_state *state,
					       const struct ds_policy *site)
{
	const struct ds_policy_id *id = &state->residents[0].policy;
	const struct detshare_policy *built_in;

	if (id->failed)
		return &detshare_policy_static;
	if (id->digest)
		return site && site->table && site->id.digest == id->digest ? site->table : NULL;
	built_in = ds_policy_built_in(id->name);
	return built_in ? built_in : &detshare_policy_static;
}

/* Ask the policy. One that fails is not asked again by anybody. */
static void set_wishes(struct ds_ledger_state *state, struct ds_policy *site)
{
	const struct detshare_policy_gpu gpu = {.n_groups = state->shape.n_groups,
						.group_sms = state->shape.group_sms,
						.rest_sms = state->shape.rest_sms};
	struct detshare_policy_resident asked[DS_RESIDENTS_MAX];
	uint32_t wish_milli[DS_RESIDENTS_MAX];
	const struct detshare_policy *policy;

	policy = state->n_residents ? policy_of(state, site) : NULL;
	if (!policy)
		return;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		asked[i] = (struct detshare_policy_resident){
		    .share_milli = r->grant.share_milli,
		    .kind = r->grant.kind,
		    .active = r->demand.active,
		    .may_borrow = may_borrow(r),
		    .may_lend = ds_ledger_lends(r),
		    .reclaim_us = r->grant.reclaim_us,
		    .drain_us = r->demand.drain_us,
		    .step_p50_us = r->demand.step_p50_us,
		    .step_p99_us = r->demand.step_p99_us,
		    .busy_milli = r->demand.busy_milli,
		};
	}
	if (ds_policy_ask(policy, &gpu, asked, state->n_residents, wish_milli,
			  site ? &site->failure : NULL) < 0) {
		uint64_t digest = state->residents[0].policy.digest;

		for (uint32_t i = 0; i < state->n_residents; i++) {
			if (state->residents[i].policy.digest == digest)
				state->residents[i].policy.failed = 1;
		}
	}
	for (uint32_t i = 0; i < state->n_residents; i++)
		state->residents[i].wish_milli = wish_milli[i];
}

/* Where each is to work now. */
static void set_planned(struct ds_ledger_state *state)
{
	struct ds_lend_resident residents[DS_RESIDENTS_MAX];
	struct ds_groups planned[DS_RESIDENTS_MAX];

	_Static_assert((int)DS_KIND_LATENCY == (int)DS_LEND_LATENCY &&
			   (int)DS_KIND_THROUGHPUT == (int)DS_LEND_THROUGHPUT &&
			   (int)DS_KIND_BESTEFFORT == (int)DS_LEND_BESTEFFORT,
		       "kinds are numbered alike");
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		residents[i] = (struct ds_lend_resident){
		    .own = r->own,
		    .planned = r->planned,
		    .held = r->held,
		    .share_milli = r->grant.share_milli,
		    .wish_milli = r->wish_milli,
		    .kind = (enum ds_lend_kind)r->grant.kind,
		    .active = r->demand.active,
		    .lends = r->grant.lends,
		    .borrows = may_borrow(r),
		    .in_time = is_shared_in_time(r),
		    .reclaim_us = r->grant.reclaim_us,
		    .drain_us = r->demand.drain_us,
		    .advance_milli = r->grant.advance_milli,
		    .owing = r->owing,
		};
	}
	ds_lend(&state->shape, residents, state->n_residents, planned);
	for (uint32_t i = 0; i < state->n_residents; i++)
		state->residents[i].planned = planned[i];
}

bool ds_ledger_is_suspended(const struct ds_ledger_state *state,
			    const struct ds_ledger_resident *resident)
{
	return ds_whole_suspends(state, resident) || ds_held_is_to_stop(resident) ||
	       (ds_turns_suspend(state, resident) && !ds_whole_is_open_for(state, resident));
}

struct places {
	struct ds_groups own, planned, held;
};

static void note_places(const struct ds_ledger_state *state, struct places *places)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		places[i] = (struct places){.own = r->own, .planned = r->planned, .held = r->held};
	}
}

int ds_ledger_settle(struct ds_ledger_state *state, ds_ledger_judge *alive, void *arg,
		     struct ds_policy *site, struct ds_error *err)
{
	struct places before[DS_RESIDENTS_MAX], after[DS_RESIDENTS_MAX];
	size_t size;

	remove_dead(state, alive, arg);
	remove_ownerless_window(state);
	size = state->n_residents * sizeof(after[0]);
	note_places(state, after);
	/* Where each is counts in where each is to be; nobody else is woken to do the next round. */
	for (unsigned round = 0; round < ROUNDS_MAX; round++) {
		memcpy(before, after, size);
		if (set_own(state, err) < 0)
			return -1;
		set_wishes(state, site);
		set_planned(state);
		ds_held_set(state);
		note_places(state, after);
		if (!memcmp(before, after, size))
			break;
	}
	return 0;
}
