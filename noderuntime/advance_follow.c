/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/advance_follow.h"

#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/follow.h"

static bool has_advance(const struct ds_runtime *rt)
{
	return rt->allocation->grant.advance_milli && rt->config->move_programs;
}

/* The GPU does nothing for anybody while the machine sleeps, so that is not counted. */
static int64_t now_ns(void)
{
	return ds_now_ns(CLOCK_MONOTONIC);
}

/* Our place in the ledger as of our last look; n_residents: none. */
static uint32_t our_index(const struct ds_runtime *rt)
{
	struct ds_ledger_state *seen = (struct ds_ledger_state *)(uintptr_t)&rt->seen;
	const struct ds_ledger_resident *self = ds_ledger_find(seen, rt->allocation->name);

	return self ? (uint32_t)(self - seen->residents) : seen->n_residents;
}

void ds_advance_enter(struct ds_runtime *rt, const struct ds_ledger_state *state,
		      struct ds_ledger_resident *self, bool was_active)
{
	const uint32_t index = (uint32_t)(self - state->residents);

	if (!has_advance(rt))
		return;
	ds_advance_look(&rt->advance, state, index, now_ns());
	self->owing = ds_advance_owing(&rt->advance, state, index, was_active);
}

void ds_advance_saw(struct ds_runtime *rt)
{
	if (!has_advance(rt))
		return;
	const uint32_t self = our_index(rt);

	if (self < rt->seen.n_residents)
		ds_advance_note(&rt->advance, &rt->seen, self);
}

void ds_advance_arm(struct ds_runtime *rt)
{
	int64_t at_ns = 0;

	if (!has_advance(rt))
		return;
	const uint32_t self = our_index(rt);
	if (self < rt->seen.n_residents)
		at_ns = ds_advance_ends_ns(&rt->advance, &rt->seen, self);
	if (at_ns == rt->advance_ends_ns)
		return;
	ds_watch_at(rt->advance_timer, (uint64_t)at_ns);
	rt->advance_ends_ns = at_ns;
}

void ds_advance_over(struct ds_runtime *rt)
{
	uint64_t times;

	if (read(rt->advance_timer, &times, sizeof(times)) < 0)
		return;
	rt->advance_ends_ns = 0;
	ds_follow(rt);
}

void ds_advance_report(const struct ds_runtime *rt, struct ds_port_report *report)
{
	const int64_t at_ns = now_ns();

	if (!has_advance(rt))
		return;
	for (uint32_t i = 0; i < rt->seen.n_residents; i++) {
		const struct ds_ledger_resident *r = &rt->seen.residents[i];
		const int64_t owed_ns = ds_advance_owed_ns(&rt->advance, &rt->seen, i, at_ns);

		if (owed_ns)
			report->owing[report->n_owing++] = (struct ds_port_owing){
			    .arrival = r->arrival, .group_us = owed_ns / 1000};
	}
}
