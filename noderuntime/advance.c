/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/advance.h"

#include <string.h>

static const int64_t MS = 1000000;

/* Far below anything that could be paid back, and far from where integers end. */
static const int64_t LEAST_OWED_NS = INT64_MIN / 4;
static const int64_t MOST_PASSED_NS = INT64_C(1000000000000000); /* days */

static uint32_t full(struct ds_groups set, const struct ds_gpu_shape *shape)
{
	ds_groups_remove(&set, shape->n_groups);
	return ds_groups_count(&set);
}

int64_t ds_advance_pass(int64_t owed_ns, const struct ds_advance_flow *flow, uint32_t own,
			int64_t passed_ns)
{
	const int64_t bound_ns = (int64_t)own * DS_ADVANCE_BOUND_MS * MS;
	const int64_t rate = (int64_t)flow->lent - flow->taken;

	if (passed_ns > 0)
		owed_ns += rate * (passed_ns < MOST_PASSED_NS ? passed_ns : MOST_PASSED_NS);
	if (owed_ns < LEAST_OWED_NS)
		return LEAST_OWED_NS;
	return owed_ns < bound_ns ? owed_ns : bound_ns;
}

/* Where programs of `r` may be, beside what is planned for it. */
static struct ds_groups kept_by(const struct ds_ledger_state *state,
				const struct ds_ledger_resident *r)
{
	struct ds_groups kept = ds_groups_union(r->planned, r->held);

	for (uint32_t i = 0; i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, r->name))
			kept = ds_groups_union(kept, state->programs[i].groups);
	}
	return kept;
}

static struct ds_advance_flow flow_of(const struct ds_ledger_state *state, uint32_t self,
				      uint32_t i, const struct ds_groups *kept)
{
	const struct ds_ledger_resident *r = &state->residents[self];
	const struct ds_ledger_resident *other = &state->residents[i];
	struct ds_advance_flow flow = {.lent = 0};
	struct ds_groups lent, taken;

	if (i == self)
		return flow;
	lent = ds_groups_intersection(other->held, ds_groups_difference(r->own, other->own));
	if (state->whole.phase == DS_WHOLE_NONE)
		flow.lent = full(lent, &state->shape);
	if (!other->demand.active)
		return flow;
	taken = ds_groups_intersection(*kept, ds_groups_difference(other->own, r->own));
	flow.taken = full(ds_groups_difference(taken, other->held), &state->shape);
	return flow;
}

struct ds_advance_flow ds_advance_flow(const struct ds_ledger_state *state, uint32_t self,
				       uint32_t i)
{
	const struct ds_groups kept = kept_by(state, &state->residents[self]);

	return flow_of(state, self, i, &kept);
}

bool ds_advance_differs(const struct ds_ledger_state *before, const struct ds_ledger_state *after,
			uint32_t self)
{
	const struct ds_groups kept = kept_by(before, &before->residents[self]);
	const struct ds_groups keeps = kept_by(after, &after->residents[self]);

	for (uint32_t i = 0; i < after->n_residents; i++) {
		const struct ds_advance_flow was = flow_of(before, self, i, &kept);
		const struct ds_advance_flow is = flow_of(after, self, i, &keeps);

		if (was.lent != is.lent || was.taken != is.taken)
			return true;
	}
	return false;
}

static const struct ds_advance_account *find(const struct ds_advance *advance,
					     const struct ds_ledger_resident *neighbour)
{
	for (uint32_t i = 0; i < advance->n; i++) {
		const struct ds_process *known = &advance->accounts[i].neighbour;

		if (known->pid == neighbour->runtime.pid &&
		    known->start_ticks == neighbour->runtime.start_ticks)
			return &advance->accounts[i];
	}
	return NULL;
}

/* Whichever is less for the allocation. */
static struct ds_advance_flow lesser(const struct ds_advance_flow *a,
				     const struct ds_advance_flow *b)
{
	return (struct ds_advance_flow){.lent = a->lent < b->lent ? a->lent : b->lent,
					.taken = a->taken > b->taken ? a->taken : b->taken};
}

void ds_advance_look(struct ds_advance *advance, const struct ds_ledger_state *state, uint32_t self,
		     int64_t now_ns)
{
	const struct ds_groups kept = kept_by(state, &state->residents[self]);
	struct ds_advance next = {.looked_ns = now_ns};

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];
		const struct ds_advance_account *old = find(advance, r);
		struct ds_advance_account *account = &next.accounts[next.n];
		const struct ds_advance_flow now = flow_of(state, self, i, &kept);

		if (i == self)
			continue;
		next.n++;
		*account =
		    old ? *old : (struct ds_advance_account){.neighbour = r->runtime, .flow = now};
		if (!old)
			continue;
		account->flow = lesser(&old->flow, &now);
		account->owed_ns =
		    ds_advance_pass(old->owed_ns, &account->flow, full(r->own, &state->shape),
				    now_ns - advance->looked_ns);
	}
	*advance = next;
}

void ds_advance_note(struct ds_advance *advance, const struct ds_ledger_state *state, uint32_t self)
{
	const struct ds_groups kept = kept_by(state, &state->residents[self]);

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_advance_account *account = find(advance, &state->residents[i]);

		if (account)
			advance->accounts[account - advance->accounts].flow =
			    flow_of(state, self, i, &kept);
	}
}

/* Groups that it can come to have in advance of `i`, at most. */
static uint32_t most_taken(const struct ds_ledger_state *state, uint32_t self, uint32_t i)
{
	const struct ds_ledger_resident *r = &state->residents[self];
	const uint32_t most = (r->grant.share_milli + r->grant.advance_milli) *
			      state->shape.n_groups / DS_SHARE_MILLI_MAX;
	const uint32_t own = full(r->own, &state->shape);
	const uint32_t spare = full(state->residents[i].own, &state->shape);
	const uint32_t beyond = most > own ? most - own : 0;

	if (!spare)
		return 0;
	return beyond < spare - 1 ? beyond : spare - 1;
}

/* What is to be left when it begins to give back: its programs are on the groups for a while. */
static int64_t reserve_ns(const struct ds_ledger_resident *r, uint32_t taken)
{
	return (int64_t)taken * r->demand.drain_us * 1000;
}

uint64_t ds_advance_owing(const struct ds_advance *advance, const struct ds_ledger_state *state,
			  uint32_t self, bool was_active)
{
	const struct ds_ledger_resident *r = &state->residents[self];
	uint64_t owing = 0;

	if (!r->demand.active || r->grant.kind != DS_KIND_LATENCY)
		return 0;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_advance_account *account = find(advance, &state->residents[i]);
		const uint32_t most = most_taken(state, self, i);
		bool may;

		if (i == self || !account)
			continue;
		if (was_active)
			may = (r->owing >> i & 1) &&
			      account->owed_ns > reserve_ns(r, account->flow.taken);
		else
			may = most && account->owed_ns >=
					  most * DS_ADVANCE_LEAST_MS * MS + reserve_ns(r, most);
		owing |= (uint64_t)may << i;
	}
	return owing;
}

int64_t ds_advance_ends_ns(const struct ds_advance *advance, const struct ds_ledger_state *state,
			   uint32_t self)
{
	const struct ds_ledger_resident *r = &state->residents[self];
	int64_t first_ns = 0;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_advance_account *account = find(advance, &state->residents[i]);

		if (!(r->owing >> i & 1) || !account || account->flow.taken <= account->flow.lent)
			continue;
		const int64_t rate = (int64_t)account->flow.taken - account->flow.lent;
		int64_t left_ns = account->owed_ns - reserve_ns(r, account->flow.taken);

		left_ns = left_ns > 0 ? (left_ns + rate - 1) / rate : 0;
		if (!first_ns || advance->looked_ns + left_ns < first_ns)
			first_ns = advance->looked_ns + left_ns;
	}
	return first_ns;
}

int64_t ds_advance_owed_ns(const struct ds_advance *advance, const struct ds_ledger_state *state,
			   uint32_t i, int64_t now_ns)
{
	const struct ds_advance_account *account = find(advance, &state->residents[i]);

	if (!account)
		return 0;
	return ds_advance_pass(account->owed_ns, &account->flow,
			       full(state->residents[i].own, &state->shape),
			       now_ns - advance->looked_ns);
}

uint64_t ds_advance_without(uint64_t owing, uint32_t index)
{
	const uint64_t before = (UINT64_C(1) << index) - 1;

	return (owing & before) | (owing >> 1 & ~before);
}
