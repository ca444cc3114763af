/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/wants.h"

#include <string.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/whole_follow.h"

enum {
	IDLE_BURST = 200,
	IDLE_EVERY_NS = 500000,
	MUCH_SHORTER_NS = 10000000,
	SHORTER_NS = 100000000,
};

static double age_s(const struct ds_watch *program, int64_t now_ns)
{
	return (double)(now_ns - program->since_ns) / 1e9;
}

/* For a site's own policy: what our programs measured so far, those that have ended among them. */
static void measure(struct ds_runtime *rt, int64_t now_ns, struct ds_demand *demand)
{
	struct ds_measured measured = rt->allocation->measured;
	struct ds_usage_reported reported;
	double lifetime_s = 0;

	for (const struct ds_watch *w = rt->watches; w; w = w->next) {
		char copy[DS_PORT_SIZE];
		ssize_t n =
		    w->kind == DS_WATCH_PROGRAM ? pread(w->port_fd, copy, sizeof(copy), 0) : 0;
		if (n <= 0)
			continue;
		ds_measured_add(&measured, copy, (size_t)n, age_s(w, now_ns));
		lifetime_s += age_s(w, now_ns);
	}
	ds_measured_report(&measured, &reported);
	ds_demand_measure(demand, &reported, lifetime_s);
}

/*
 * A program may be idle and active again as often as it has work, but not so often that its neighbours
 * do nothing but move: after IDLE_BURST words that come faster than one in IDLE_EVERY_NS, it is
 * taken to be active until it has calmed down. idle_ns is when the words so far are worked off.
 */
static bool is_worn_out(struct ds_runtime *rt, int64_t now_ns)
{
	if (rt->idle_ns < now_ns)
		rt->idle_ns = now_ns;
	if (rt->idle_ns - now_ns > (int64_t)IDLE_BURST * IDLE_EVERY_NS)
		return true;
	rt->idle_ns += IDLE_EVERY_NS;
	return false;
}

/*
 * How long the programs may be on a group: longer is entered at once, shorter when it stayed so, since two
 * runtimes must not wake each other for nothing else. What is much shorter, or known at last, need
 * not wait for long.
 */
static uint32_t next_drain(struct ds_runtime *rt, int64_t now_ns, uint32_t drain_us,
			   uint32_t entered_us)
{
	bool shorter = drain_us && (!entered_us || drain_us < entered_us);

	if (!shorter) {
		rt->shorter_ns = 0;
		return drain_us;
	}
	if (!rt->shorter_ns) {
		rt->shorter_ns = now_ns;
		rt->shorter_us = drain_us;
	}
	if (drain_us > rt->shorter_us)
		rt->shorter_us = drain_us;
	int64_t patience_ns =
	    !entered_us || rt->shorter_us < entered_us / 2 ? MUCH_SHORTER_NS : SHORTER_NS;
	if (now_ns - rt->shorter_ns < patience_ns) {
		rt->look_again = true;
		return entered_us;
	}
	rt->shorter_ns = 0;
	return rt->shorter_us;
}

/* How soon we are off a group, by what our programs say of themselves in what they have. */
static uint32_t own_drain(struct ds_runtime *rt, uint32_t said_us, int64_t now_ns)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&rt->seen, rt->allocation->name);

	if (self)
		ds_squeeze_note(&rt->squeeze, &rt->seen, self, now_ns);
	return ds_squeeze_drain_us(&rt->squeeze, said_us, now_ns);
}

struct ds_demand ds_wants_next(struct ds_runtime *rt, const struct ds_demand_sum *sum,
			       const struct ds_demand *entered)
{
	const int64_t now_ns = ds_now_ns(CLOCK_BOOTTIME);
	struct ds_demand next = ds_demand_enter(sum, entered);

	rt->look_again = false;
	if (entered->active && !next.active && is_worn_out(rt, now_ns)) {
		next.active = 1;
		rt->look_again = true;
	}
	next.drain_us =
	    next_drain(rt, now_ns, own_drain(rt, next.drain_us, now_ns), entered->drain_us);
	if (rt->site.table &&
	    (next.active != entered->active || next.drain_us != entered->drain_us))
		measure(rt, now_ns, &next);
	return next;
}

bool ds_wants_differ(struct ds_runtime *rt, const struct ds_watch *program,
		     const struct ds_port *port)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&rt->seen, rt->allocation->name);
	struct ds_demand_sum sum = {.drain_unknown = false};
	struct ds_port copy;
	bool whole = false;

	if (!self)
		return true;
	for (const struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind != DS_WATCH_PROGRAM ||
		    (w != program && ds_port_copy(w->port_fd, &copy) < 0))
			continue;
		const struct ds_port *said = w == program ? port : &copy;
		ds_demand_add(&sum, said);
		whole |= ds_whole_is_wanted(said);
	}
	struct ds_demand next = ds_demand_enter(&sum, &self->demand);
	next.drain_us = own_drain(rt, next.drain_us, ds_now_ns(CLOCK_BOOTTIME));
	if (ds_whole_asks_anew(rt, self, whole))
		return true;
	return memcmp(&next, &self->demand, sizeof(next)) != 0;
}
