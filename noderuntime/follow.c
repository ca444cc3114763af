/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/follow.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/advance_follow.h"
#include "noderuntime/concern.h"
#include "noderuntime/deadline.h"
#include "noderuntime/demand.h"
#include "noderuntime/late_follow.h"
#include "noderuntime/neighbours.h"
#include "noderuntime/off_gpu.h"
#include "noderuntime/orphans.h"
#include "noderuntime/peers.h"
#include "noderuntime/terms.h"
#include "noderuntime/turns_follow.h"
#include "noderuntime/wants.h"
#include "noderuntime/whole_follow.h"

enum {
	RETRY_MS = 500,        /* to look at a ledger again that somebody else held too long */
	LOOK_MS = 100,         /* to look whether those have come back that a newcomer waits for */
	LATER_MS = 20,         /* when what programs say is not taken at its word yet */
	SETTLE_ROUNDS_MAX = 8, /* neighbours that die while we look at them */
};

static struct ds_ledger_resident as_resident(const struct ds_runtime *rt)
{
	struct ds_ledger_resident resident = {.job_id = rt->allocation->job_id,
					      .uid = rt->allocation->uid,
					      .grant = rt->allocation->grant,
					      .runtime = rt->allocation->runtime,
					      .memory_mib = rt->allocation->quota_mib,
					      .joined_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME)};

	memcpy(resident.name, rt->allocation->name, sizeof(resident.name));
	resident.policy = rt->policy;
	if (!rt->config->move_programs)
		resident.grant.lends = resident.grant.borrows = 0; /* which is to move */
	resident.turn.fixed = !rt->config->move_programs;
	resident.heeds_steps = rt->config->hold_back;
	return resident;
}

/*
 * Who may be here: one user's jobs, unless the site said otherwise to all of them. MPS serves one user
 * at a time then, and another one's programs would wait in cuInit without an end or a word.
 */
static int check_isolation(const struct ds_ledger_state *state,
			   const struct ds_ledger_resident *newcomer, struct ds_error *err)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *other = &state->residents[i];
		if (other->uid == newcomer->uid || (other->grant.isolation == DS_ISOLATION_NONE &&
						    newcomer->grant.isolation == DS_ISOLATION_NONE))
			continue;
		return ds_fail(err,
			       "%s of uid %u cannot be on GPU %s beside %s of uid %u: "
			       "isolation = user in detshare.conf keeps users apart",
			       newcomer->name, newcomer->uid, state->gpu_uuid, other->name,
			       other->uid);
	}
	return 0;
}

static int lives_by_us(const struct ds_ledger_state *state, const struct ds_process *process,
		       void *arg)
{
	(void)state;
	return ds_lives(arg, process);
}

/* Of ours, the end is still to be heard of, or being looked after. */
static int may_use_gpu(const struct ds_ledger_state *state, const struct ds_process *process,
		       void *arg)
{
	const struct ds_runtime *rt = arg;

	return ds_ledger_may_use_gpu(state, process, rt->allocation->name, lives_by_us, arg) ||
	       ds_off_gpu_awaits(rt, process);
}

static int settle_ledger(struct ds_runtime *rt, struct ds_ledger_state *state, struct ds_error *err)
{
	if (ds_ledger_settle(state, may_use_gpu, rt, &rt->site, err) < 0)
		return -1;
	ds_turns_step(state, (uint64_t)ds_now_ns(CLOCK_BOOTTIME), may_use_gpu, rt,
		      ds_process_stopped);
	return 0;
}

/* A ledger that was made anew is complete again when all that live are in it. */
static bool is_complete(const struct ds_runtime *rt, struct ds_ledger_state *state,
			char missing[DS_NAME_SIZE])
{
	if (state->incomplete && ds_recall_missing(rt->config, state, missing))
		return false;
	state->incomplete = 0;
	return true;
}

void ds_follow_saw(struct ds_runtime *rt, const struct ds_ledger_state *state)
{
	if (ds_members_differ(&rt->seen, state))
		rt->all_watched = false;
	ds_ledger_copy(&rt->seen, state);
	ds_advance_saw(rt);
	rt->unwritten = true;
}

struct joining {
	struct ds_runtime *rt;
	bool too_early; /* others have to come back first */
};

/* Join, first removing what is dead, whose room we may need. */
static int change_join(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct joining *joining = arg;
	struct ds_runtime *rt = joining->rt;
	struct ds_ledger_resident resident = as_resident(rt);
	char missing[DS_NAME_SIZE];

	joining->too_early = !is_complete(rt, state, missing);
	if (joining->too_early)
		return ds_fail(
		    err,
		    "the ledger of GPU %s was lost and is made anew, and %s, which is on "
		    "that GPU, has not come back into it: begin again, or end that one",
		    state->gpu_uuid, missing);
	/* Joined in a ledger that was lost just then, and is back. */
	const struct ds_ledger_resident *self = ds_ledger_find(state, resident.name);
	if (self && ds_is_self(rt, &self->runtime))
		ds_ledger_leave(state, resident.name);
	if (settle_ledger(rt, state, err) < 0 || check_isolation(state, &resident, err) < 0 ||
	    ds_ledger_join(state, &resident, err) < 0 ||
	    ds_quota_fits(rt->config, rt->topology->memory_mib, state, resident.name,
			  resident.memory_mib, err) < 0 ||
	    settle_ledger(rt, state, err) < 0)
		return -1;
	ds_follow_saw(rt, state);
	return 0;
}

/* Wait until somebody changes the ledger, and take that as heard; or a moment, since some die silently. */
static void await_change(const struct ds_runtime *rt, ds_deadline deadline)
{
	const int left_ms = ds_deadline_left_ms(deadline);
	struct pollfd ledger = {.fd = -1, .events = POLLIN};
	char events[4096];

	for (const struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind == DS_WATCH_LEDGER)
			ledger.fd = w->fd;
	}
	if (poll(&ledger, 1, left_ms < LOOK_MS ? left_ms : LOOK_MS) == 1) {
		while (read(ledger.fd, events, sizeof(events)) > 0)
			;
	}
}

int ds_follow_change(struct ds_runtime *rt,
		     int (*change)(struct ds_ledger_state *state, void *arg, struct ds_error *err),
		     void *arg, struct ds_error *err)
{
	int rc = ds_ledger_change(rt->ledger, DS_LEDGER_MS, change, arg, err);

	if (rc >= 0)
		rt->unwritten = false;
	ds_advance_arm(rt);
	return rc;
}

int ds_follow_join(struct ds_runtime *rt, ds_deadline deadline, struct ds_error *err)
{
	struct joining joining = {.rt = rt};

	for (;;) {
		int rc = ds_follow_change(rt, change_join, &joining, err);
		if (rc == 0 || !joining.too_early || ds_deadline_left_ms(deadline) <= 0)
			return rc;
		await_change(rt, deadline);
	}
}

/* Our program's watch; NULL for another's, or one of a runtime before us, which keeps what it has. */
static struct ds_watch *find_ours(struct ds_runtime *rt, const struct ds_ledger_program *program)
{
	if (strcmp(program->resident, rt->allocation->name) != 0)
		return NULL;
	return ds_watch_find(rt, DS_WATCH_PROGRAM, &program->process);
}

/*
 * Whether this program is one that is not moved and has said where it is: what else is granted later is
 * nothing to it.
 */
static bool has_its_place(const struct ds_runtime *rt, const struct ds_port *port)
{
	return !rt->config->move_programs && port->acknowledged_epoch;
}

bool ds_note_acknowledged(const struct ds_runtime *rt, struct ds_watch *ours,
			  const struct ds_port *port, struct ds_ledger_program *program)
{
	static const struct ds_groups none;
	struct ds_groups in_use;
	bool changed;
	const struct ds_groups *granted = &rt->page.page->granted;
	uint64_t epoch = ds_page_epoch(&rt->page);

	/* What it said of any epoch, it keeps to. */
	if (has_its_place(rt, port)) {
		granted = &none;
		epoch = port->acknowledged_epoch < epoch ? port->acknowledged_epoch : epoch;
	}
	const bool suspended = rt->page.page->flags & DS_PAGE_SUSPENDED;
	switch (ds_port_understand(port, epoch, &program->groups, &in_use)) {
	case DS_PORT_SAID:
		if (suspended)
			changed = ds_whole_note_quiet(rt, port, &in_use, program);
		else
			changed = ds_ledger_shrink_program(program, &in_use, granted);
		return ds_turns_note_said(rt, &in_use, program) || changed;
	case DS_PORT_UNFIT:
		ours->unfit++;
		return false;
	case DS_PORT_SILENT:
		return ds_turns_note_silent(rt, port, program);
	}
	return false;
}

/*
 * Neighbours that have groups of their own back: enter their programs for those, so that their runtimes have nothing to
 * write before they grant them. Only what is their own: nobody else waits for that while such a runtime is stopped,
 * and its program has not heard of it.
 */
static void enter_neighbours(struct ds_runtime *rt, struct ds_ledger_state *state)
{
	for (uint32_t i = 0; i < state->n_programs && state->whole.phase == DS_WHOLE_NONE; i++) {
		struct ds_ledger_program *program = &state->programs[i];
		const struct ds_ledger_resident *r = ds_ledger_find(state, program->resident);

		/* Who neither lends nor borrows may be one whose programs stay where they are. */
		if (!r || ds_is_self(rt, &r->runtime) ||
		    !(ds_ledger_lends(r) || ds_ledger_borrows(r)) ||
		    ds_ledger_is_suspended(state, r) || !ds_lives(rt, &r->runtime))
			continue;
		const struct ds_groups back = ds_groups_intersection(r->held, r->own);
		program->groups = ds_groups_union(program->groups, back);
	}
}

int ds_follow_settle(struct ds_runtime *rt, struct ds_ledger_state *state, bool newcomer,
		     struct ds_error *err)
{
	static const struct ds_port unheard;
	struct ds_demand_sum sum = {.demand = {.active = newcomer}, .drain_unknown = newcomer};
	bool wants_whole = false;
	struct ds_port port;

	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_watch *ours = find_ours(rt, &state->programs[i]);
		if (ours && ds_port_copy(ours->port_fd, &port) == 0) {
			ds_note_acknowledged(rt, ours, &port, &state->programs[i]);
			ds_demand_add(&sum, &port);
			wants_whole |= ds_whole_is_wanted(&port);
		} else if (!strcmp(state->programs[i].resident, rt->allocation->name) &&
			   !ds_off_gpu_awaits(rt, &state->programs[i].process)) {
			ds_demand_add(&sum, &unheard); /* of a runtime before us, for example */
			state->programs[i].stays |= DS_STAYS_ORPHAN;
		}
	}
	struct ds_ledger_resident *self = ds_ledger_find(state, rt->allocation->name);
	if (self) {
		const bool was_active = self->demand.active;

		self->demand = ds_wants_next(rt, &sum, &self->demand);
		ds_advance_enter(rt, state, self, was_active);
	}
	/* What a window takes back, and who it goes to next, shows when that is settled. */
	for (uint32_t before = state->whole.phase, round = 0; round < DS_WHOLE_PHASES; round++) {
		if (!state->incomplete) /* who is missing would not be asked to make room */
			ds_whole_look(rt, state, self, wants_whole);
		if (settle_ledger(rt, state, err) < 0)
			return -1;
		self = ds_ledger_find(state, rt->allocation->name);
		if (state->whole.phase == before)
			break;
		before = state->whole.phase;
	}
	self = ds_ledger_find(state, rt->allocation->name);
	if (self)
		self->ended = rt->allocation->ended_programs;
	ds_orphans_settle(rt, state);
	const bool suspended = self && ds_ledger_is_suspended(state, self);
	/* Of one that waits for its turn the page grants nothing. */
	const bool waits = suspended && ds_turns_suspend(state, self);
	for (uint32_t i = 0; self && i < state->n_programs; i++) {
		struct ds_ledger_program *program = &state->programs[i];
		struct ds_watch *ours = find_ours(rt, program);
		if (ours)
			ds_late_enter(state, self, ours, program);
		/* Before the page lets it begin again. */
		if (ours && !suspended)
			ds_turns_wake(state, self, ours, program);
		if (ours && !waits &&
		    (rt->config->move_programs ||
		     !(ds_port_copy(ours->port_fd, &port) == 0 && has_its_place(rt, &port))))
			program->groups = ds_groups_union(program->groups, self->held);
	}
	enter_neighbours(rt, state);
	return 0;
}

/*
 * We were taken for dead, or the ledger was lost with all copies that had us: come back, with our programs,
 * rather than let others have the groups they run on.
 */
static int rejoin(struct ds_runtime *rt, struct ds_ledger_state *state, struct ds_error *err)
{
	struct ds_ledger_resident resident = as_resident(rt);
	const struct ds_ledger_state *old = &rt->seen;

	syslog(LOG_WARNING, "%s: is not in the ledger of GPU %s any more; joining again",
	       rt->allocation->name, rt->allocation->gpu_uuid);
	if (ds_ledger_join(state, &resident, err) < 0)
		return -1;
	struct ds_ledger_resident *self = ds_ledger_find(state, rt->allocation->name);
	if (rt->page.page)
		self->held = rt->page.page->granted; /* so that the plan leaves us there */
	for (uint32_t i = 0; i < state->n_programs; i++)
		self->held = ds_groups_difference(self->held, state->programs[i].groups);
	self->own = self->planned = self->held;
	for (uint32_t i = 0; i < old->n_programs && state->n_programs < DS_PROGRAMS_MAX; i++) {
		const struct ds_ledger_program *program = &old->programs[i];
		if (!strcmp(program->resident, rt->allocation->name) &&
		    !ds_ledger_find_program(state, &program->process))
			state->programs[state->n_programs++] = *program;
	}
	return 0;
}

/* Look, and settle what has changed. What does not differ is not written, so that nobody is woken. */
static int change_settle(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct ds_runtime *rt = arg;
	char missing[DS_NAME_SIZE];

	if (!ds_ledger_find(state, rt->allocation->name) && rejoin(rt, state, err) < 0)
		return -1;
	is_complete(rt, state, missing);
	if (ds_follow_settle(rt, state, false, err) < 0)
		return -1;
	ds_follow_saw(rt, state);
	return 0;
}

static bool has_programs(const struct ds_runtime *rt)
{
	for (const struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind == DS_WATCH_PROGRAM)
			return true;
	}
	return false;
}

/* Tell every program of a new epoch; what it is, it reads on the page. Waits for none of them. */
static void notify_programs(struct ds_runtime *rt)
{
	const uint64_t epoch = ds_page_epoch(&rt->page);

	for (struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind == DS_WATCH_WELCOMED && w->notified_epoch != epoch &&
		    ds_port_notify(w->fd, epoch) == 0)
			w->notified_epoch = epoch;
	}
}

uint32_t ds_hard_limit_mib(const void *arg)
{
	const struct ds_runtime *rt = arg;
	static struct ds_ledger_state now;

	if (ds_ledger_read(rt->gpu_dir, &now, NULL) < 0)
		now = rt->seen;
	return ds_quota_hard_limit(rt->config, rt->topology->memory_mib, &now);
}

void ds_note_memory(struct ds_runtime *rt)
{
	uint32_t mib = (uint32_t)(ds_quota_peak(&rt->quota) >> 20);

	if (mib > rt->allocation->memory_peak_mib)
		rt->allocation->memory_peak_mib = mib;
}

static void count_sms(struct ds_runtime *rt, const struct ds_ledger_resident *self)
{
	struct ds_held_sms held = {0};

	if (self)
		held = ds_allocation_sms(&rt->seen, self);
	if (memcmp(&held, &rt->allocation->held, sizeof(held)) != 0 || !rt->allocation->ready)
		ds_allocation_count(rt->allocation, ds_now_ns(CLOCK_BOOTTIME), &held);
}

/* Only what is another state than last time: groups may come and go a thousand times a second. */
static void save_state(struct ds_runtime *rt)
{
	if (rt->state_fd < 0 || !memcmp(&rt->saved, rt->allocation, sizeof(rt->saved)))
		return;
	if (ds_allocation_save(rt->state_fd, rt->allocation) < 0)
		syslog(LOG_ERR, "%s: cannot write its state: %s", rt->allocation->name,
		       strerror(errno));
	else
		rt->saved = *rt->allocation;
}

/* Whether our programs can be nowhere but on what the page grants, and none is suspended or to be. */
static bool are_within(const struct ds_runtime *rt, const struct ds_page_terms *terms)
{
	const struct ds_ledger_state *state = &rt->seen;

	if (terms->flags & (DS_PAGE_SUSPENDED | DS_PAGE_WHOLE))
		return false;
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *program = &state->programs[i];
		const struct ds_groups beyond =
		    ds_groups_difference(program->groups, terms->granted);

		if (!strcmp(program->resident, rt->allocation->name) &&
		    (program->quiet || !ds_groups_empty(&beyond)))
			return false;
	}
	return true;
}

void ds_publish(struct ds_runtime *rt)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&rt->seen, rt->allocation->name);
	struct ds_page_terms terms = {.flags = 0};

	if (self)
		ds_terms(&rt->seen, self, &terms);
	if (self && rt->config->hold_back) {
		if (ds_terms_is_held_for(&rt->seen, self))
			terms.flags |= DS_PAGE_TELL_IDLE;
		ds_page_step(&rt->page, ds_terms_neighbour_steps(&rt->seen, self));
	}
	if (!rt->config->move_programs)
		terms.flags = DS_PAGE_FIXED;
	else if (self)
		ds_whole_terms(rt, self, &terms);
	terms.unawaited = !(terms.flags & DS_PAGE_FIXED) && are_within(rt, &terms);
	if (self && rt->config->move_programs && ds_reclaim_of(&rt->seen, self) != DS_RECLAIM_NONE)
		terms.spin_us = rt->config->reclaim_spin_us;
	/*
	 * A program is never told to be nowhere without being told to stop: as long as there is nothing else,
	 * it keeps what it has.
	 */
	if (!rt->unwritten && (ds_groups_has_full(&terms.granted, &rt->seen.shape) ||
			       !has_programs(rt) || terms.flags & DS_PAGE_SUSPENDED))
		ds_page_publish(&rt->page, &terms);
	notify_programs(rt);
	ds_note_memory(rt);
	count_sms(rt, self);
	save_state(rt);
}

/* Once: from then on nobody asks it. */
static void complain_of_policy(struct ds_runtime *rt)
{
	if (!rt->site.failure.text[0])
		return;
	ds_fail_within(&rt->site.failure, "nothing is lent on GPU %s any more",
		       rt->allocation->gpu_uuid);
	ds_complain(rt, &rt->site.failure);
	rt->site.failure.text[0] = '\0';
}

/* For what others do for us, or our programs for others, each time that begins; no longer than until it is done. */
static void spin_for_reclaim(struct ds_runtime *rt)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&rt->seen, rt->allocation->name);
	const enum ds_reclaim was = rt->reclaim;
	const int64_t now_ns = ds_now_ns(CLOCK_MONOTONIC);

	rt->reclaim =
	    self && rt->config->move_programs ? ds_reclaim_of(&rt->seen, self) : DS_RECLAIM_NONE;
	if (rt->reclaim == was)
		return;
	ds_spin_end(&rt->spin, now_ns);
	if ((rt->reclaim == DS_RECLAIM_WAITS || rt->reclaim == DS_RECLAIM_GIVES) &&
	    ds_spin_has_cpus(rt->config->reclaim_spin_cpus))
		ds_spin_begin(&rt->spin, now_ns, rt->config->reclaim_spin_us);
}

static void follow_in(struct ds_runtime *rt, long ms)
{
	const struct itimerspec then = {.it_value = {.tv_nsec = ms * 1000000}};
	struct itimerspec armed;

	if (timerfd_gettime(rt->retry, &armed) == 0 && !armed.it_value.tv_nsec)
		timerfd_settime(rt->retry, 0, &then, NULL);
}

void ds_follow(struct ds_runtime *rt)
{
	struct ds_error reason;
	bool all_live = false;

	for (int round = 0; round < SETTLE_ROUNDS_MAX && !all_live; round++) {
		if (ds_follow_change(rt, change_settle, rt, &reason) < 0) {
			follow_in(rt, RETRY_MS);
			ds_complain(rt, &reason);
			return;
		}
		rt->followed = ds_ledger_generation(rt->ledger);
		complain_of_policy(rt);
		ds_publish(rt);
		all_live = rt->all_watched || ds_neighbours_watch(rt);
	}
	if (rt->look_again)
		follow_in(rt, LATER_MS);
	else if (rt->seen.incomplete)
		follow_in(rt, RETRY_MS); /* of who is not in it, nobody hears when it ends */
	ds_whole_arm(rt);
	ds_turns_arm(rt);
	ds_late_look(rt);
	ds_greet_waiting(rt);
	spin_for_reclaim(rt);
}
