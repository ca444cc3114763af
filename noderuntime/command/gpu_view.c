/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/gpu_view.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "noderuntime/command/reported.h"

enum { ANSWER_MS = 200, PATIENCE_TIMES = 5 };

static const char PREFIX[] = "gpu-";

static int is_gpu(const struct dirent *entry)
{
	return !strncmp(entry->d_name, PREFIX, sizeof(PREFIX) - 1);
}

static void read_faults(const char *path, struct ds_gpu_view *view)
{
	static struct ds_fault all[DS_FAULTS_MAX]; /* 32 KiB */
	size_t n = ds_faults_read(path, all);

	for (size_t i = n; i-- > 0 && view->n_faults < DS_VIEW_FAULTS_MAX;) {
		if (all[i].code)
			view->faults[view->n_faults++] = all[i];
	}
}

static void view_gpu(const char *runtime_dir, const char *folder, struct ds_gpu_view *view)
{
	char path[PATH_MAX];

	snprintf(view->uuid, sizeof(view->uuid), "%s", folder + sizeof(PREFIX) - 1);
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", runtime_dir, folder) >= sizeof(path)) {
		ds_fail(&view->reason, "the path of %s in %s is too long", folder, runtime_dir);
		return;
	}
	read_faults(path, view);
	if (!ds_ledger_read(path, &view->state, &view->reason))
		return;
	if (errno == ENOENT) {
		view->unused = true;
		view->reason.text[0] = '\0';
		return;
	}
	if (errno != EIO && errno != ENODATA)
		return;
	const size_t used = strlen(view->reason.text);
	snprintf(view->reason.text + used, sizeof(view->reason.text) - used,
		 "; whoever joins or leaves next, or a node runtime that goes on, sets it aside as "
		 "ledger.broken and has it made anew from the runtimes' copies; until then nobody "
		 "gets groups");
}

int ds_gpu_list_read(const char *runtime_dir, struct ds_gpu_list *list, struct ds_error *err)
{
	struct dirent **entries = NULL;
	int rv = -1;

	*list = (struct ds_gpu_list){0};
	int n = scandir(runtime_dir, &entries, is_gpu, alphasort);
	if (n < 0 && errno == ENOENT)
		return 0;
	if (n < 0)
		return ds_fail(err, "cannot read %s: %s", runtime_dir, strerror(errno));
	if (n) {
		list->gpus = calloc((size_t)n, sizeof(*list->gpus));
		if (!list->gpus) {
			ds_fail(err, "cannot read %s: %s", runtime_dir, strerror(errno));
			goto fail;
		}
	}
	for (int i = 0; i < n; i++)
		view_gpu(runtime_dir, entries[i]->d_name, &list->gpus[list->n++]);
	rv = 0;
fail:
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return rv;
}

int ds_gpu_list_ask(const char *runtime_dir, struct ds_gpu_list *list, struct ds_error *err)
{
	unsigned patience = PATIENCE_TIMES;

	for (uint32_t i = 0; i < list->n; i++) {
		struct ds_gpu_view *view = &list->gpus[i];
		if (!view->state.n_residents)
			continue;
		view->reports = calloc(view->state.n_residents, sizeof(*view->reports));
		if (!view->reports)
			return ds_fail(err, "cannot ask node runtimes: %s", strerror(errno));
		for (uint32_t r = 0; patience && r < view->state.n_residents; r++) {
			const struct ds_ledger_resident *resident = &view->state.residents[r];
			/* Those without a program, too: they may have one without a port. */
			if (ds_process_alive(&resident->runtime) &&
			    !ds_reported_read(runtime_dir, resident->name, ANSWER_MS,
					      &view->reports[r]))
				patience--;
		}
	}
	return 0;
}

const struct ds_port_report *ds_gpu_view_report(const struct ds_gpu_view *view, uint32_t i)
{
	return view->reports && view->reports[i].magic == DS_PORT_MAGIC ? &view->reports[i] : NULL;
}

const struct ds_port_reported *ds_gpu_view_reported(const struct ds_gpu_view *view, uint32_t p)
{
	const struct ds_ledger_program *program = &view->state.programs[p];

	for (uint32_t i = 0; view->reports && i < view->state.n_residents; i++) {
		if (!strcmp(view->state.residents[i].name, program->resident))
			return ds_reported_find(&view->reports[i], program->process.pid);
	}
	return NULL;
}

void ds_gpu_list_free(struct ds_gpu_list *list)
{
	for (uint32_t i = 0; i < list->n; i++)
		free(list->gpus[i].reports);
	free(list->gpus);
	*list = (struct ds_gpu_list){0};
}

struct ds_groups ds_gpu_view_free(const struct ds_ledger_state *state)
{
	uint32_t end = state->shape.n_groups + (state->shape.rest_sms ? 1 : 0);
	struct ds_groups set = {{0, 0}};

	for (uint32_t g = 0; g < end; g++)
		ds_groups_add(&set, g);
	for (uint32_t i = 0; i < state->n_residents; i++)
		set = ds_groups_difference(set, state->residents[i].own);
	return set;
}

uint32_t ds_gpu_view_free_milli(const struct ds_ledger_state *state)
{
	uint32_t granted_milli = 0;

	for (uint32_t i = 0; i < state->n_residents; i++)
		granted_milli += state->residents[i].grant.share_milli;
	return granted_milli < DS_SHARE_MILLI_MAX ? DS_SHARE_MILLI_MAX - granted_milli : 0;
}

struct ds_groups ds_gpu_view_missing(const struct ds_ledger_state *state, uint32_t i)
{
	return ds_groups_difference(state->residents[i].planned, state->residents[i].held);
}

static bool owns(const struct ds_ledger_state *state, uint32_t i, uint32_t p)
{
	return !strcmp(state->programs[p].resident, state->residents[i].name);
}

struct ds_groups ds_gpu_view_blocked(const struct ds_ledger_state *state, uint32_t i,
				     const struct ds_groups *missing, uint32_t p)
{
	if (owns(state, i, p))
		return (struct ds_groups){{0, 0}};
	return ds_groups_intersection(*missing, state->programs[p].groups);
}

struct ds_groups ds_gpu_view_lent(const struct ds_ledger_state *state, uint32_t owner, uint32_t i)
{
	const struct ds_groups *own = &state->residents[owner].own;
	const struct ds_ledger_resident *r = &state->residents[i];

	/* One that is both's is shared in time. */
	if (owner == i)
		return (struct ds_groups){{0, 0}};
	return ds_groups_difference(ds_groups_intersection(r->held, *own), r->own);
}

struct ds_groups ds_gpu_view_advance(const struct ds_ledger_state *state, uint32_t owner,
				     uint32_t i)
{
	const struct ds_ledger_resident *r = &state->residents[i];
	const struct ds_groups lent = ds_gpu_view_lent(state, owner, i);

	if (!(r->owing >> owner & 1) || !state->residents[owner].demand.active)
		return (struct ds_groups){{0, 0}};
	return ds_groups_intersection(lent, r->planned);
}

bool ds_gpu_view_owed(const struct ds_gpu_view *view, uint32_t i, uint32_t debtor,
		      int64_t *group_us)
{
	const struct ds_port_report *report = ds_gpu_view_report(view, i);

	for (uint32_t o = 0; report && o < report->n_owing; o++) {
		if (report->owing[o].arrival == view->state.residents[debtor].arrival) {
			*group_us = report->owing[o].group_us;
			return true;
		}
	}
	return false;
}

struct ds_groups ds_gpu_view_found(const struct ds_ledger_state *state, uint32_t i)
{
	struct ds_groups found = state->residents[i].held;

	for (uint32_t owner = 0; owner < state->n_residents; owner++)
		found = ds_groups_difference(found, state->residents[owner].own);
	return found;
}

const char *ds_gpu_view_demand(const struct ds_ledger_state *state, uint32_t i)
{
	const struct ds_demand *demand = &state->residents[i].demand;

	if (demand->overlong)
		return "overlong";
	return demand->active ? "active" : "idle";
}

uint32_t ds_gpu_view_programs(const struct ds_ledger_state *state, uint32_t i)
{
	uint32_t n = 0;

	for (uint32_t p = 0; p < state->n_programs; p++)
		n += owns(state, i, p);
	return n;
}

struct ds_groups ds_gpu_view_used(const struct ds_ledger_state *state, uint32_t i)
{
	struct ds_groups used = {{0, 0}};

	for (uint32_t p = 0; p < state->n_programs; p++) {
		if (owns(state, i, p))
			used = ds_groups_union(used, state->programs[p].groups);
	}
	return used;
}

bool ds_gpu_view_orphaned(const struct ds_ledger_state *state, uint32_t p)
{
	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (owns(state, i, p))
			return false;
	}
	return true;
}

int64_t ds_gpu_view_since_unix_s(const struct ds_ledger_state *state, uint32_t i)
{
	struct timespec boot;
	struct timespec real;

	clock_gettime(CLOCK_BOOTTIME, &boot);
	clock_gettime(CLOCK_REALTIME, &real);
	int64_t now_ns = (int64_t)boot.tv_sec * 1000000000 + boot.tv_nsec;
	int64_t ago_ns = now_ns - (int64_t)state->residents[i].joined_ns;
	return (int64_t)real.tv_sec - ago_ns / 1000000000;
}

const char *ds_gpu_view_user(uint32_t uid, char *name, unsigned long size)
{
	char buffer[4096];
	struct passwd entry;
	struct passwd *found = NULL;

	if (!getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found) && found)
		snprintf(name, size, "%s", found->pw_name);
	else
		snprintf(name, size, "%u", (unsigned)uid);
	return name;
}
