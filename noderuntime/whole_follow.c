/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/whole_follow.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <syslog.h>

#include "noderuntime/deadline.h"

/* Of the owner of a window, so that its neighbours get back what it leaves soon after. */
enum { WINDOW_US = 10000 };

static struct ds_whole_rules rules_of(const struct ds_runtime *rt)
{
	return (struct ds_whole_rules){.deadline_ms = rt->config->whole_gpu_deadline_ms,
				       .patience_ms = rt->config->whole_gpu_patience_ms};
}

static uint64_t now_ns(void)
{
	return (uint64_t)ds_now_ns(CLOCK_BOOTTIME);
}

bool ds_whole_is_wanted(const struct ds_port *port)
{
	return port->magic == DS_PORT_MAGIC && port->version == DS_PORT_VERSION &&
	       atomic_load(&port->whole_wanted);
}

bool ds_whole_asks_anew(const struct ds_runtime *rt, const struct ds_ledger_resident *self,
			bool wanted)
{
	if (!wanted || !rt->config->move_programs || ds_whole_refuses(self, now_ns()))
		return self->whole.asked_ns && !wanted;
	return !self->whole.asked_ns;
}

bool ds_whole_note_quiet(const struct ds_runtime *rt, const struct ds_port *port,
			 const struct ds_groups *in_use, struct ds_ledger_program *program)
{
	const struct ds_ledger_resident *self =
	    ds_ledger_find((struct ds_ledger_state *)(uintptr_t)&rt->seen, rt->allocation->name);
	const bool was = program->quiet;
	const struct ds_groups kept = ds_groups_union(*in_use, port->pinned);
	bool shrunk = false;

	/*
	 * What nothing is planned for gives its groups away, but those that it has to come back to; and who takes
	 * turns where it is not any more.
	 */
	if (self && (ds_groups_empty(&self->planned) || ds_turns_suspend(&rt->seen, self)))
		shrunk = ds_ledger_shrink_program(program, &kept, &self->held);
	program->quiet = ds_groups_empty(in_use);
	return shrunk || program->quiet != was;
}

void ds_whole_look(const struct ds_runtime *rt, struct ds_ledger_state *state,
		   struct ds_ledger_resident *self, bool wanted)
{
	const struct ds_whole_rules rules = rules_of(rt);
	const uint64_t now = now_ns();

	if (self)
		ds_whole_enter(self, wanted && rt->config->move_programs, now);
	ds_whole_step(state, &rules, now, ds_process_alive, ds_process_stopped);
}

void ds_whole_terms(const struct ds_runtime *rt, const struct ds_ledger_resident *self,
		    struct ds_page_terms *terms)
{
	if (ds_ledger_is_suspended(&rt->seen, self)) {
		terms->granted = (struct ds_groups){{0, 0}};
		terms->flags = (terms->flags & DS_PAGE_TELL_IDLE) | DS_PAGE_SUSPENDED;
		terms->window_us = 0;
	} else if (ds_whole_is_open_for(&rt->seen, self)) {
		terms->flags |= DS_PAGE_WHOLE | DS_PAGE_WINDOW;
		terms->window_us = WINDOW_US;
	}
	if (ds_whole_refuses(self, now_ns()))
		terms->flags |= DS_PAGE_WHOLE_REFUSED;
}

/* A kernel of ours that runs for long, by its name, as far as a program says. */
static void name_kernel(const struct ds_runtime *rt, char *name, size_t size)
{
	struct ds_port port;

	*name = '\0';
	for (const struct ds_watch *w = rt->watches; w && !*name; w = w->next) {
		if (w->kind != DS_WATCH_PROGRAM || ds_port_copy(w->port_fd, &port) < 0 ||
		    !atomic_load(&port.overlong_since_ns))
			continue;
		for (size_t i = 0; i + 1 < size && i < sizeof(port.overlong_kernel) &&
				   port.overlong_kernel[i] > ' ' && port.overlong_kernel[i] <= '~';
		     i++) {
			name[i] = port.overlong_kernel[i];
			name[i + 1] = '\0';
		}
	}
}

static void tell(struct ds_runtime *rt, const struct ds_ledger_resident *self)
{
	const struct ds_whole_asking *now = &self->whole;
	char kernel[128];

	if (now->overruns > rt->said.overruns) {
		name_kernel(rt, kernel, sizeof(kernel));
		syslog(LOG_WARNING,
		       "%s: did not give the whole of GPU %s back within %" PRIu32
		       " ms of its deadline%s%s: it has to do without for a while",
		       rt->allocation->name, rt->allocation->gpu_uuid,
		       rt->config->whole_gpu_deadline_ms, *kernel ? ", in kernel " : "", kernel);
	} else if (now->refusals > rt->said.refusals) {
		syslog(LOG_WARNING,
		       "%s: did not get the whole of GPU %s within %" PRIu32
		       " ms: a neighbour does not stop, or others have it",
		       rt->allocation->name, rt->allocation->gpu_uuid,
		       rt->config->whole_gpu_patience_ms);
	}
	rt->said = *now;
}

void ds_whole_arm(struct ds_runtime *rt)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&rt->seen, rt->allocation->name);
	const struct ds_whole_rules rules = rules_of(rt);
	const uint64_t at_ns = ds_whole_next_ns(&rt->seen, &rules, now_ns());

	if (at_ns || rt->whole_is_set)
		ds_watch_at(rt->whole, at_ns);
	rt->whole_is_set = at_ns;
	if (self)
		tell(rt, self);
}
