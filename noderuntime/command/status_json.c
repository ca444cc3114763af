/* SPDX-License-Identifier: Apache-2.0 */
/* The keys are described in detshare-status(1): adding one is fine, changing one is not. */
#include "noderuntime/command/reported.h"
#include "noderuntime/command/status.h"

#include <jansson.h>

#include "noderuntime/command/status_turns.h"
#include "noderuntime/command/status_whole.h"
#include "noderuntime/coroutine/bound.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { GROUPS_TEXT_SIZE = 512 };

static json_t *groups(const struct ds_groups *set, const struct ds_gpu_shape *shape)
{
	char text[GROUPS_TEXT_SIZE];

	return json_string(ds_groups_format(set, shape, text, sizeof(text)));
}

/* JSON's integers end where a program may have written on. */
static json_int_t count(uint64_t said)
{
	return said < INT64_MAX ? (json_int_t)said : INT64_MAX;
}

/* Kernels of which it is known what bounds them. */
static json_t *kernels(const struct ds_port_reported *said)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < DS_PORT_KERNELS; i++) {
		const struct ds_port_kernel *kernel = &said->kernels[i];
		const char *by = kernel->by == DS_BOUND_BY_MEMORY ? "memory" : "sms";

		if (kernel->key)
			json_array_append_new(
			    list,
			    json_pack("{s:s, s:I, s:I, s:s, s:f}", "kernel", kernel->name, "blocks",
				      count(kernel->blocks), "threads", (json_int_t)kernel->threads,
				      "bound_by", by, "gain", kernel->gain_milli / 1000.0));
	}
	return list;
}

static json_t *reported(const struct ds_port_reported *said, const struct ds_gpu_shape *shape)
{
	json_t *overlong = json_null();

	if (said->overlong_since_ns)
		overlong = json_pack("{s:s, s:f}", "kernel", said->overlong_kernel, "seconds",
				     ds_reported_overlong_s(said));
	return json_pack(
	    "{s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o, "
	    "s:o}",
	    "acknowledged_epoch", count(said->acknowledged_epoch), "in_use",
	    groups(&said->in_use, shape), "pinned", groups(&said->pinned, shape), "launches",
	    count(said->launches), "remaps", count(said->remaps), "pinned_graphs",
	    count(said->pinned_graphs), "own_contexts", count(said->own_contexts),
	    "cooperative_too_large", count(said->cooperative_too_large), "export_tables",
	    count(said->export_tables), "launching_modules", count(said->launching_modules),
	    "unread_modules", count(said->unread_modules), "not_believed", count(said->unfit),
	    "window_waits", count(said->window_waits), "window_expired",
	    count(said->window_expired), "held_back", count(said->held_back), "held_back_s",
	    (double)said->held_back_ns / 1e9, "overlong", overlong, "kernels", kernels(said));
}

/* Seconds for which it has not left what is guaranteed to others, once its deadline has come; or null. */
static json_t *late(const struct ds_ledger_program *program)
{
	struct timespec now;

	if (!program->late_s)
		return json_null();
	clock_gettime(CLOCK_BOOTTIME, &now);
	return json_integer((json_int_t)now.tv_sec - program->late_s);
}

static json_t *program(const struct ds_gpu_view *view, uint32_t p)
{
	const struct ds_ledger_program *program = &view->state.programs[p];
	const struct ds_port_reported *said = ds_gpu_view_reported(view, p);
	json_t *object =
	    json_pack("{s:s, s:i, s:b, s:o}", "allocation", program->resident, "pid",
		      (int)program->process.pid, "alive", ds_process_alive(&program->process),
		      "groups", groups(&program->groups, &view->state.shape));

	json_object_set_new(object, "late_s", late(program));
	if (said)
		json_object_set_new(object, "reported_by_program",
				    reported(said, &view->state.shape));
	return object;
}

static json_t *waits(const struct ds_gpu_view *view, uint32_t i)
{
	const struct ds_ledger_state *state = &view->state;
	struct ds_groups missing = ds_gpu_view_missing(state, i);
	json_t *list = json_array();

	for (uint32_t p = 0; p < state->n_programs; p++) {
		struct ds_groups blocked = ds_gpu_view_blocked(state, i, &missing, p);
		json_t *wait;

		if (ds_groups_empty(&blocked) && state->residents[i].turn.active &&
		    ds_turns_wait_for(state, &state->residents[i], &state->programs[p]))
			blocked = ds_groups_intersection(state->residents[i].held,
							 state->programs[p].groups);
		if (ds_groups_empty(&blocked))
			continue;
		wait = program(view, p);
		json_object_set_new(wait, "groups", groups(&blocked, &state->shape));
		json_array_append_new(list, wait);
	}
	return list;
}

/* Add {KEY: name or null, "groups": ...} to `list`, unless there are no groups. */
static void add_loan(json_t *list, const char *key, const char *name, const struct ds_groups *lent,
		     const struct ds_gpu_shape *shape)
{
	if (!ds_groups_empty(lent))
		json_array_append_new(
		    list, json_pack("{s:s?, s:o}", key, name, "groups", groups(lent, shape)));
}

/* What resident `i` may have in advance, has, and is owed; null if its class has nothing of that. */
static json_t *advance(const struct ds_gpu_view *view, uint32_t i)
{
	const struct ds_ledger_state *state = &view->state;
	const struct ds_ledger_resident *r = &state->residents[i];
	json_t *of = json_array(), *owed = json_array();

	for (uint32_t other = 0; other < state->n_residents; other++) {
		const char *name = state->residents[other].name;
		const struct ds_groups taken = ds_gpu_view_advance(state, other, i);
		int64_t group_us;

		add_loan(of, "of", name, &taken, &state->shape);
		if (ds_gpu_view_owed(view, i, other, &group_us))
			json_array_append_new(owed, json_pack("{s:s, s:f}", "by", name, "group_s",
							      (double)group_us / 1e6));
	}
	if (r->grant.advance_milli)
		return json_pack("{s:f, s:o, s:o}", "share", r->grant.advance_milli / 1000.0, "has",
				 of, "owed", owed);
	json_decref(of);
	json_decref(owed);
	return json_null();
}

/* What is lent of what resident `i` owns, and what it borrows. */
static void add_lending(json_t *object, const struct ds_ledger_state *state, uint32_t i)
{
	const struct ds_ledger_resident *r = &state->residents[i];
	struct ds_groups found = ds_gpu_view_found(state, i);
	json_t *lends_to = json_array(), *borrows_from = json_array();

	for (uint32_t other = 0; other < state->n_residents; other++) {
		const char *name = state->residents[other].name;
		struct ds_groups lent = ds_gpu_view_lent(state, i, other);
		struct ds_groups borrowed = ds_gpu_view_lent(state, other, i);

		add_loan(lends_to, "to", name, &lent, &state->shape);
		add_loan(borrows_from, "from", name, &borrowed, &state->shape);
	}
	add_loan(borrows_from, "from", NULL, &found, &state->shape);
	json_object_set_new(object, "groups_own", groups(&r->own, &state->shape));
	json_object_set_new(object, "demand", json_string(ds_gpu_view_demand(state, i)));
	json_object_set_new(object, "drain_us", json_integer(r->demand.drain_us));
	json_object_set_new(object, "wish", json_real(r->wish_milli / 1000.0));
	json_object_set_new(object, "lends_to", lends_to);
	json_object_set_new(object, "borrows_from", borrows_from);
}

/* Of the GPU: that of its earliest resident. */
static json_t *policy(const struct ds_ledger_state *state)
{
	const struct ds_policy_id *id = &state->residents[0].policy;

	if (!state->n_residents)
		return json_null();
	return json_pack("{s:s, s:b, s:b}", "name", id->name, "built_in", !id->digest, "failed",
			 id->failed);
}

/* MiB; what is used and was used at most is known of those whose runtime answered. */
static void add_memory(json_t *object, const struct ds_gpu_view *view, uint32_t i)
{
	const struct ds_port_report *report = ds_gpu_view_report(view, i);

	json_object_set_new(object, "memory_quota_mib",
			    json_integer(view->state.residents[i].memory_mib));
	if (report || !ds_gpu_view_programs(&view->state, i))
		json_object_set_new(
		    object, "memory_used_mib",
		    json_integer(report ? (json_int_t)(report->memory_used >> 20) : 0));
	if (report)
		json_object_set_new(object, "memory_peak_mib",
				    json_integer((json_int_t)(report->memory_peak >> 20)));
}

static json_t *strays(const int32_t pids[DS_PORT_STRAYS_MAX])
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < DS_PORT_STRAYS_MAX && pids[i]; i++)
		json_array_append_new(list, json_integer(pids[i]));
	return list;
}

static json_t *resident(const struct ds_gpu_view *view, uint32_t i)
{
	const struct ds_ledger_state *state = &view->state;
	const struct ds_ledger_resident *r = &state->residents[i];
	char user[64];
	json_t *programs = json_array();

	for (uint32_t p = 0; p < state->n_programs; p++) {
		if (!strcmp(state->programs[p].resident, r->name))
			json_array_append_new(programs, program(view, p));
	}
	json_t *object = json_pack(
	    "{s:s, s:I, s:I, s:s, s:s, s:s, s:f, s:I, s:o, s:o, s:I, s:f, s:I, s:o, s:i, s:b, s:o}",
	    "allocation", r->name, "job_id", (json_int_t)r->job_id, "uid", (json_int_t)r->uid,
	    "user", ds_gpu_view_user(r->uid, user, sizeof(user)), "class", r->grant.class_name,
	    "kind", ds_class_kind_name(r->grant.kind), "share", r->grant.share_milli / 1000.0,
	    "share_milli", (json_int_t)r->grant.share_milli, "groups_planned",
	    groups(&r->planned, &state->shape), "groups_held", groups(&r->held, &state->shape),
	    "sms", (json_int_t)ds_groups_sms(&r->held, &state->shape), "weight",
	    r->weight_milli / 1000.0, "since_unix_s",
	    (json_int_t)ds_gpu_view_since_unix_s(state, i), "programs", programs, "runtime_pid",
	    (int)r->runtime.pid, "runtime_alive", ds_process_alive(&r->runtime), "waits_for",
	    waits(view, i));
	/* Of one whose runtime answered. */
	if (view->reports && view->reports[i].magic == DS_PORT_MAGIC) {
		json_object_set_new(object, "programs_are_moved",
				    json_boolean(!(view->reports[i].flags & DS_PAGE_FIXED)));
		json_object_set_new(object, "programs_without_port",
				    strays(view->reports[i].strays));
	}
	if (object) {
		add_lending(object, state, i);
		json_object_set_new(object, "advance", advance(view, i));
		add_memory(object, view, i);
		json_object_set_new(object, "whole_gpu", ds_status_whole_json(state, i));
		json_object_set_new(object, "turn", ds_status_turn_json(state, i));
		json_object_set_new(object, "programs_ended", json_integer(r->ended));
	}
	return object;
}

static json_t *faults(const struct ds_gpu_view *view)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < view->n_faults; i++) {
		const struct ds_fault *fault = &view->faults[i];
		json_array_append_new(
		    list, json_pack("{s:s, s:I, s:i, s:I, s:I}", "allocation", fault->allocation,
				    "job_id", (json_int_t)fault->job_id, "pid", (int)fault->pid,
				    "cuda_error", (json_int_t)fault->code, "at_boottime_ns",
				    (json_int_t)fault->at_ns));
	}
	return list;
}

/* NULL when an entry could not be made. */
static json_t *ledger(const struct ds_gpu_view *view)
{
	const struct ds_ledger_state *state = &view->state;
	const struct ds_gpu_shape *shape = &state->shape;
	struct ds_groups free_groups = ds_gpu_view_free(state);
	json_t *residents = json_array();
	json_t *orphans = json_array();
	int rc = 0;

	for (uint32_t i = 0; i < state->n_residents; i++)
		rc |= json_array_append_new(residents, resident(view, i));
	for (uint32_t p = 0; p < state->n_programs; p++) {
		if (ds_gpu_view_orphaned(state, p))
			rc |= json_array_append_new(orphans, program(view, p));
	}
	if (rc) {
		json_decref(residents);
		json_decref(orphans);
		return NULL;
	}
	return json_pack(
	    "{s:s, s:b, s:{s:I, s:I, s:I, s:I}, s:I, s:o, s:I, s:f, s:o, s:o, s:o, s:o, s:o}",
	    "uuid", view->uuid, "incomplete", (int)state->incomplete, "shape", "sms",
	    (json_int_t)shape->n_groups * shape->group_sms + shape->rest_sms, "groups",
	    (json_int_t)shape->n_groups, "group_sms", (json_int_t)shape->group_sms, "rest_sms",
	    (json_int_t)shape->rest_sms, "generation", (json_int_t)state->generation, "free_groups",
	    groups(&free_groups, shape), "free_sms", (json_int_t)ds_groups_sms(&free_groups, shape),
	    "free_share", ds_gpu_view_free_milli(state) / 1000.0, "residents", residents,
	    "programs_left", orphans, "policy", policy(state), "whole_gpu",
	    ds_status_window_json(state), "faults", faults(view));
}

static json_t *gpu(const struct ds_gpu_view *view)
{
	if (view->reason.text[0])
		return json_pack("{s:s, s:s}", "uuid", view->uuid, "error", view->reason.text);
	if (view->unused)
		return json_pack("{s:s, s:n, s:[]}", "uuid", view->uuid, "shape", "residents");
	return ledger(view);
}

int ds_status_json(const struct ds_gpu_list *list, const char *runtime_dir, struct ds_error *err)
{
	json_t *gpus = json_array();

	for (uint32_t i = 0; i < list->n; i++) {
		if (json_array_append_new(gpus, gpu(&list->gpus[i]))) {
			json_decref(gpus);
			return ds_fail(err, "cannot describe GPU %s as JSON", list->gpus[i].uuid);
		}
	}
	json_t *all = json_pack("{s:s, s:o}", "runtime_dir", runtime_dir, "gpus", gpus);
	if (!all || json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6))) {
		json_decref(all);
		return ds_fail(err, "cannot write the JSON");
	}
	json_decref(all);
	putchar('\n');
	return 0;
}
