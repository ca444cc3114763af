/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/late_follow.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/errand.h"
#include "noderuntime/follow.h"
#include "noderuntime/notes.h"
#include "noderuntime/off_gpu.h"
#include "noderuntime/orphans.h"

static const int64_t S = 1000000000;

void ds_late_enter(const struct ds_ledger_state *state, const struct ds_ledger_resident *self,
		   const struct ds_watch *ours, struct ds_ledger_program *program)
{
	const struct ds_groups late = ds_late_groups(state, self, program);

	program->late_s =
	    ours->late.over && !ds_groups_empty(&late) ? (uint32_t)(ours->late.since_ns / S) : 0;
}

/* What the program keeps of others, as of our last look. */
static struct ds_groups kept_by(const struct ds_runtime *rt, const struct ds_watch *program)
{
	struct ds_ledger_state *seen = (struct ds_ledger_state *)(uintptr_t)&rt->seen;
	const struct ds_ledger_resident *self = ds_ledger_find(seen, rt->allocation->name);
	const struct ds_ledger_program *entry = ds_ledger_find_program(seen, &program->process);

	return self && entry ? ds_late_groups(seen, self, entry) : (struct ds_groups){{0, 0}};
}

void ds_late_look(struct ds_runtime *rt)
{
	const uint32_t deadline_s = rt->config->acknowledge_deadline_s;
	const int64_t now_ns = ds_now_ns(CLOCK_BOOTTIME);
	struct itimerspec armed;
	int64_t first_ns = 0;

	/* One that is not moved was not told to leave. */
	if (!deadline_s || !rt->config->move_programs)
		return;
	for (struct ds_watch *w = rt->watches; w; w = w->next) {
		const struct ds_ledger_program *entry;
		struct ds_groups kept;
		struct ds_port port;

		if (w->kind != DS_WATCH_PROGRAM)
			continue;
		entry = ds_ledger_find_program(&rt->seen, &w->process);
		kept = kept_by(rt, w);
		if ((ds_groups_empty(&kept) && !w->late.since_ns) ||
		    ds_port_copy(w->port_fd, &port) < 0)
			continue;
		ds_late_count(&w->late, entry && !ds_groups_empty(&kept), &port,
			      ds_page_epoch(&rt->page), entry ? &entry->groups : &kept, now_ns);
		int64_t at_ns = ds_late_at_ns(&w->late, deadline_s);
		/* That it can be moved again, it does not tell. */
		if (!w->late.since_ns && !ds_groups_empty(&kept) && atomic_load(&port.immovable))
			at_ns = now_ns + deadline_s * S;
		if (at_ns && (!first_ns || at_ns < first_ns))
			first_ns = at_ns;
	}
	const int64_t orphans_ns = ds_orphans_look(rt, now_ns);
	if (orphans_ns && (!first_ns || orphans_ns < first_ns))
		first_ns = orphans_ns;
	/* Mostly nobody is late, and nothing is armed: then one system call less. */
	if (first_ns || (timerfd_gettime(rt->late, &armed) == 0 &&
			 (armed.it_value.tv_sec || armed.it_value.tv_nsec)))
		ds_watch_at(rt->late, (uint64_t)first_ns);
}

/* Whose the groups are, for a message: "job-1 and job-4". */
static void name_owners(const struct ds_runtime *rt, const struct ds_groups *groups, char *text,
			size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < rt->seen.n_residents && used < size; i++) {
		const struct ds_ledger_resident *r = &rt->seen.residents[i];
		const struct ds_groups theirs = ds_groups_intersection(*groups, r->own);

		if (strcmp(r->name, rt->allocation->name) != 0 && !ds_groups_empty(&theirs))
			used += (size_t)snprintf(text + used, size - used, "%s%s",
						 used ? " and " : "", r->name);
	}
}

/* What an errand is sent for, and brings. */
struct ending {
	struct ds_process process;
	bool connected; /* one that is not, as after exec(), may use the GPU no more */
	bool off_gpu;   /* and then it is left alone */
};

/* In the child. */
static size_t end(const struct ds_runtime *rt, const void *arg, char brought[DS_ERRAND_BROUGHT_MAX])
{
	struct ending ending = *(const struct ending *)arg;

	ending.off_gpu = !ending.connected && ds_off_gpu_is(rt, ending.process.pid);
	if (!ending.off_gpu)
		ds_off_gpu_end(rt, &ending.process);
	memcpy(brought, &ending, sizeof(ending));
	return sizeof(ending);
}

static void ended(struct ds_runtime *rt, struct ds_watch *errand, const void *brought, size_t size)
{
	struct ending ending;

	(void)errand;
	if (size != sizeof(ending))
		return;
	memcpy(&ending, brought, sizeof(ending));
	if (!ending.off_gpu)
		rt->allocation->ended_programs++;
	else if (!ds_watch_find(rt, DS_WATCH_WELCOMED, &ending.process))
		ds_off_gpu_forget(rt, &ending.process);
	ds_follow(rt);
}

static void act(struct ds_runtime *rt, struct ds_watch *program)
{
	const struct ds_groups kept = kept_by(rt, program);
	const bool stopped = ds_process_stopped(&program->process);
	const struct ending ending = {
	    .process = program->process,
	    .connected = ds_watch_find(rt, DS_WATCH_WELCOMED, &program->process) != NULL};
	bool ends = !strcmp(rt->config->on_no_acknowledgement, "end");
	char groups[128], owners[96];
	struct ds_error reason;

	program->late.over = true;
	rt->allocation->late_programs++;
	name_owners(rt, &kept, owners, sizeof(owners));
	ds_groups_format(&kept, &rt->seen.shape, groups, sizeof(groups));
	if (ends && !ds_errand_start(rt, end, &ending, ended, -1, &reason)) {
		ds_complain(rt, &reason);
		ends = false;
	}
	ds_note(rt,
		"process %d%s has not left SM groups %s, guaranteed to %s, within %" PRIu32
		" s (acknowledge_deadline_s)%s%s",
		program->process.pid, stopped ? ", which is stopped," : "", groups, owners,
		rt->config->acknowledge_deadline_s, ends ? ": it is ended" : "",
		ends && !ending.connected ? " if it is still on the GPU" : "");
}

void ds_late_over(struct ds_runtime *rt)
{
	const int64_t now_ns = ds_now_ns(CLOCK_BOOTTIME);
	uint64_t times;

	if (read(rt->late, &times, sizeof(times)) < 0)
		return;
	ds_follow(rt); /* whose word has come, and was not read yet, is not late */
	for (struct ds_watch *w = rt->watches; w; w = w->next) {
		const int64_t at_ns = ds_late_at_ns(&w->late, rt->config->acknowledge_deadline_s);
		if (w->kind == DS_WATCH_PROGRAM && at_ns && at_ns <= now_ns)
			act(rt, w);
	}
	ds_orphans_over(rt, now_ns);
	ds_follow(rt);
}
