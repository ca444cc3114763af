/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/neighbours.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "noderuntime/bell.h"
#include "noderuntime/concern.h"

bool ds_is_self(const struct ds_runtime *rt, const struct ds_process *process)
{
	const struct ds_process *self = &rt->allocation->runtime;

	return process->pid == self->pid && process->start_ticks == self->start_ticks;
}

int ds_lives(struct ds_runtime *rt, const struct ds_process *process)
{
	if (ds_is_self(rt, process))
		return 1;
	return ds_watch_find(rt, DS_WATCH_PROGRAM, process) ||
	       ds_watch_find(rt, DS_WATCH_NEIGHBOUR, process) || ds_process_alive(process);
}

/* True if a runtime other than ours looks after the programs of that allocation. */
static bool is_looked_after(struct ds_runtime *rt, const struct ds_ledger_state *state,
			    const char *name)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (!strcmp(state->residents[i].name, name))
			return ds_lives(rt, &state->residents[i].runtime);
	}
	return false;
}

/* Watch one more process. False: it is dead, so that the ledger must be settled again. */
static bool watch_neighbour(struct ds_runtime *rt, const struct ds_process *process)
{
	struct ds_watch *known = ds_watch_find(rt, DS_WATCH_NEIGHBOUR, process);

	if (known) {
		known->wanted = true;
		return true;
	}
	int fd = pidfd_open(process->pid, 0);
	if (fd < 0) {
		rt->all_watched = false;
		return errno != ESRCH;
	}
	if (!ds_process_alive(process)) {
		close(fd);
		return false;
	}
	known = ds_watch_add(rt, DS_WATCH_NEIGHBOUR, fd, EPOLLIN);
	if (!known) {
		close(fd);
		rt->all_watched = false;
		return true;
	}
	known->process = *process;
	known->wanted = true;
	return true;
}

bool ds_neighbours_watch(struct ds_runtime *rt)
{
	const struct ds_ledger_state *state = &rt->seen;
	bool all_live = true;

	rt->all_watched = true;
	rt->has_orphans = false;
	for (struct ds_watch *w = rt->watches; w; w = w->next)
		w->wanted = false;
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *resident = &state->residents[i];
		if (strcmp(resident->name, rt->allocation->name) != 0 &&
		    ds_lives(rt, &resident->runtime))
			all_live &= watch_neighbour(rt, &resident->runtime);
	}
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *program = &state->programs[i];
		if (strcmp(program->resident, rt->allocation->name) != 0 &&
		    !is_looked_after(rt, state, program->resident)) {
			all_live &= watch_neighbour(rt, &program->process);
			rt->has_orphans = true;
		}
	}
	for (struct ds_watch *w = rt->watches, *next; w; w = next) {
		next = w->next;
		if (w->kind == DS_WATCH_NEIGHBOUR && !w->wanted)
			ds_unwatch(rt, w); /* of who is in it no more */
	}
	rt->all_watched &= all_live;
	return all_live;
}

/* The bell of that resident's runtime, opened when it is first needed; -1: it cannot be rung. */
static int bell_of(struct ds_runtime *rt, const struct ds_ledger_resident *resident)
{
	struct ds_watch *neighbour = ds_watch_find(rt, DS_WATCH_NEIGHBOUR, &resident->runtime);
	char path[PATH_MAX];

	if (neighbour && neighbour->bell_fd < 0 &&
	    ds_allocation_path(rt->config, resident->name, "bell", path, NULL) == 0)
		neighbour->bell_fd = ds_bell_open(path);
	return neighbour ? neighbour->bell_fd : -1;
}

static bool decide_who_is_told(const struct ds_ledger_state *before,
			       const struct ds_ledger_state *after, void *arg)
{
	struct ds_runtime *rt = arg;

	rt->to_ring.n = 0;
	if (ds_concerns_all(before, after))
		return false;
	for (uint32_t i = 0; i < after->n_residents; i++) {
		const struct ds_ledger_resident *resident = &after->residents[i];

		if (!ds_concerns(before, after, i) || ds_is_self(rt, &resident->runtime))
			continue;
		const int bell = bell_of(rt, resident);
		if (bell < 0)
			return false;
		rt->to_ring.bells[rt->to_ring.n++] = bell;
	}
	return true;
}

/* Who hears its bell no more is ending, which we hear of. */
static void ring_bells(void *arg)
{
	const struct ds_runtime *rt = arg;

	for (unsigned i = 0; i < rt->to_ring.n; i++)
		ds_bell_ring(rt->to_ring.bells[i]);
}

void ds_neighbours_tell(struct ds_runtime *rt)
{
	rt->heralds =
	    (struct ds_ledger_heralds){.decide = decide_who_is_told, .tell = ring_bells, .arg = rt};
	ds_ledger_tell_by(rt->ledger, &rt->heralds);
}
