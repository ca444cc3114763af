/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes ledgers for tests of programs that read them: `ledger_fixture DIR` reads lines from stdin.
 *   gpu UUID GROUPS GROUP_SMS REST_SMS      opens DIR/gpu-UUID/ledger
 *   join NAME JOB UID CLASS SHARE_MILLI PID
 *   program NAME PID                        on all that NAME holds
 *   leave NAME
 * And what no runtime does:
 *   steal own|planned|held|program NAME OTHER   NAME has OTHER's groups, too
 *   shrink own|planned NAME                     NAME has the first of its groups only, and says it is active
 *   clear NAME                                  NAME is planned to have none
 * Everybody counts as alive while the plan is settled.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "noderuntime/ledger.h"

static int all_live(const struct ds_ledger_state *state, const struct ds_process *process,
		    void *arg)
{
	return 1;
}

static struct ds_process identify(int pid)
{
	struct ds_process process;

	if (ds_process_identify(pid, &process, NULL))
		process = (struct ds_process){.pid = pid, .start_ticks = 1};
	return process;
}

static uint64_t boot_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* 1: the line is one of those that break the rules, and is done; 0: it is none; -1. */
static int break_rules(struct ds_ledger_state *state, const char *line, struct ds_error *err)
{
	char what[16] = "", name[DS_NAME_SIZE], other_name[DS_NAME_SIZE];

	if (sscanf(line, "shrink %15s %31s", what, name) == 2 ||
	    sscanf(line, "clear %31s", name) == 1) {
		struct ds_ledger_resident *r = ds_ledger_find(state, name);
		if (!r)
			return ds_fail(err, "no %s", name);
		struct ds_groups *groups = strcmp(what, "own") ? &r->planned : &r->own;
		groups->bits[0] &= *line == 's' ? -groups->bits[0] : 0;
		r->demand.active = *line == 's';
		return 1;
	}
	if (sscanf(line, "steal %15s %31s %31s", what, name, other_name) != 3)
		return 0;
	struct ds_ledger_resident *r = ds_ledger_find(state, name);
	const struct ds_ledger_resident *other = ds_ledger_find(state, other_name);
	if (!r || !other)
		return ds_fail(err, "no %s or no %s", name, other_name);
	if (!strcmp(what, "own"))
		r->own = ds_groups_union(r->own, other->own);
	else if (!strcmp(what, "planned"))
		r->planned = ds_groups_union(r->planned, other->planned);
	else if (!strcmp(what, "held"))
		r->held = ds_groups_union(r->held, other->held);
	for (uint32_t i = 0; !strcmp(what, "program") && i < state->n_programs; i++)
		if (!strcmp(state->programs[i].resident, name))
			state->programs[i].groups =
			    ds_groups_union(state->programs[i].groups, other->held);
	return 1;
}

static int apply(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	const char *line = arg;
	struct ds_ledger_resident r = {.joined_ns = boot_ns()};
	char name[DS_NAME_SIZE];
	int pid, broken = break_rules(state, line, err);

	if (broken)
		return broken < 0 ? -1 : 0;
	if (sscanf(line, "join %31s %" SCNu32 " %" SCNu32 " %31s %" SCNu32 " %d", r.name, &r.job_id,
		   &r.uid, r.grant.class_name, &r.grant.share_milli, &pid) == 6) {
		r.runtime = identify(pid);
		if (ds_ledger_join(state, &r, err))
			return -1;
	} else if (sscanf(line, "program %31s %d", name, &pid) == 2) {
		const struct ds_ledger_resident *owner = ds_ledger_find(state, name);
		struct ds_process process = identify(pid);

		if (!owner || ds_ledger_add_program(state, name, &process, &owner->held, err))
			return ds_fail_within(err, "program of %s", name);
	} else if (sscanf(line, "leave %31s", name) == 1) {
		ds_ledger_leave(state, name);
	} else {
		return ds_fail(err, "cannot understand %s", line);
	}
	return ds_ledger_settle(state, all_live, NULL, NULL, err);
}

static int open_gpu(const char *dir, const char *line, struct ds_ledger **ledger,
		    struct ds_error *err)
{
	struct ds_gpu_shape shape;
	char uuid[48];
	char path[512];

	if (sscanf(line, "gpu %47s %" SCNu32 " %" SCNu32 " %" SCNu32, uuid, &shape.n_groups,
		   &shape.group_sms, &shape.rest_sms) != 4)
		return ds_fail(err, "no GPU in %s", line);
	snprintf(path, sizeof(path), "%s/gpu-%s", dir, uuid);
	if (mkdir(path, 0711) && errno != EEXIST)
		return ds_fail(err, "cannot make %s: %s", path, strerror(errno));
	ds_ledger_close(*ledger);
	return ds_ledger_open(path, uuid, &shape, ledger, err);
}

int main(int argc, char **argv)
{
	struct ds_ledger *ledger = NULL;
	struct ds_error err = {""};
	char line[512];
	int rc = argc == 2 ? 0 : -1;

	while (!rc && fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "gpu ", 4))
			rc = open_gpu(argv[1], line, &ledger, &err);
		else if (ledger)
			rc = ds_ledger_change(ledger, 1000, apply, line, &err);
	}
	if (rc)
		fprintf(stderr, "ledger_fixture: %s\n", err.text);
	ds_ledger_close(ledger);
	return rc ? 1 : 0;
}
