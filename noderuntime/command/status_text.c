/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/reported.h"
#include "noderuntime/command/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/size.h"
#include "noderuntime/command/status_turns.h"
#include "noderuntime/command/status_whole.h"
#include "noderuntime/command/table.h"

enum { GROUPS_TEXT_SIZE = 512 };

static void describe_since(int64_t unix_s, char *text, size_t size)
{
	time_t since = (time_t)unix_s;
	struct tm local;

	text[0] = '\0';
	if (localtime_r(&since, &local))
		strftime(text, size, "%Y-%m-%dT%H:%M:%S", &local);
}

/* "512M/20G": used of the quota; used is "?" where the runtime did not say. */
static void describe_memory(const struct ds_gpu_view *view, uint32_t i, char *text, size_t size)
{
	const struct ds_port_report *report = ds_gpu_view_report(view, i);
	char used[DS_SIZE_TEXT_SIZE] = "?", quota[DS_SIZE_TEXT_SIZE];

	if (report || !ds_gpu_view_programs(&view->state, i))
		ds_size_format(report ? (uint32_t)(report->memory_used >> 20) : 0, used);
	snprintf(text, size, "%s/%s", used,
		 ds_size_format(view->state.residents[i].memory_mib, quota));
}

static int add_row(struct libscols_table *table, const struct ds_gpu_view *view, uint32_t i)
{
	const struct ds_ledger_state *state = &view->state;
	const struct ds_ledger_resident *r = &state->residents[i];
	char job[16] = "-";
	char user[64];
	char share[DS_SHARE_TEXT_SIZE];
	char planned[GROUPS_TEXT_SIZE];
	char held[GROUPS_TEXT_SIZE];
	char sms[16];
	char weight[DS_SHARE_TEXT_SIZE];
	char memory[2 * DS_SIZE_TEXT_SIZE];
	char since[32];
	char programs[16];

	if (r->job_id)
		snprintf(job, sizeof(job), "%" PRIu32, r->job_id);
	snprintf(sms, sizeof(sms), "%u", ds_groups_sms(&r->held, &state->shape));
	describe_memory(view, i, memory, sizeof(memory));
	describe_since(ds_gpu_view_since_unix_s(state, i), since, sizeof(since));
	snprintf(programs, sizeof(programs), "%" PRIu32, ds_gpu_view_programs(state, i));

	const char *cells[] = {
	    r->name,
	    job,
	    ds_gpu_view_user(r->uid, user, sizeof(user)),
	    r->grant.class_name,
	    ds_share_format(r->grant.share_milli, share),
	    ds_groups_format(&r->planned, &state->shape, planned, sizeof(planned)),
	    ds_groups_format(&r->held, &state->shape, held, sizeof(held)),
	    sms,
	    ds_share_format(r->weight_milli, weight),
	    memory,
	    since,
	    programs,
	    ds_process_alive(&r->runtime) ? "alive" : "dead",
	};
	return ds_table_add(table, cells, sizeof(cells) / sizeof(cells[0]));
}

static int print_residents(const struct ds_gpu_view *view, struct ds_error *err)
{
	static const struct ds_table_column columns[] = {
	    {"ALLOCATION", false}, {"JOB", true},      {"USER", false},  {"CLASS", false},
	    {"SHARE", true},       {"PLANNED", false}, {"HELD", false},  {"SMS", true},
	    {"WEIGHT", true},      {"MEMORY", true},   {"SINCE", false}, {"PROGRAMS", true},
	    {"RUNTIME", false},
	};
	struct libscols_table *table = ds_table_new(columns, sizeof(columns) / sizeof(columns[0]));
	int rc = table ? 0 : -1;

	for (uint32_t i = 0; !rc && i < view->state.n_residents; i++)
		rc = add_row(table, view, i);
	if (!rc)
		rc = scols_print_table(table);
	scols_unref_table(table);
	return rc ? ds_fail(err, "cannot make the table: out of memory") : 0;
}

static void print_loan(const struct ds_ledger_state *state, const struct ds_groups *lent,
		       const char *owner, const char *borrower, const char *how)
{
	char text[GROUPS_TEXT_SIZE];

	if (!ds_groups_empty(lent))
		printf("%s has groups %s of %s%s\n", borrower,
		       ds_groups_format(lent, &state->shape, text, sizeof(text)), owner, how);
}

/* What resident `i` has in advance of `owner`, and what it is owed, by its runtime's word. */
static void print_advance(const struct ds_gpu_view *view, uint32_t i, uint32_t owner)
{
	const struct ds_ledger_state *state = &view->state;
	const char *names[] = {state->residents[owner].name, state->residents[i].name};
	const struct ds_groups lent = ds_gpu_view_lent(state, owner, i);
	const struct ds_groups taken = ds_gpu_view_advance(state, owner, i);
	const struct ds_groups rest = ds_groups_difference(lent, taken);
	int64_t group_us;

	print_loan(state, &rest, names[0], names[1], "");
	print_loan(state, &taken, names[0], names[1], " in advance");
	if (!ds_gpu_view_owed(view, i, owner, &group_us))
		return;
	if (group_us >= 0)
		printf("%s owes %s %.3f group seconds for what it was lent\n", names[0], names[1],
		       (double)group_us / 1e6);
	else
		printf("%s owes %s %.3f group seconds, which it had in advance for too long\n",
		       names[1], names[0], (double)-group_us / 1e6);
}

/* Who works in whose groups, and what each says that it needs. */
static void print_lending(const struct ds_gpu_view *view)
{
	const struct ds_ledger_state *state = &view->state;
	const struct ds_policy_id *policy = &state->residents[0].policy;

	if (state->n_residents && policy->failed) {
		printf("policy: static, because %s failed; the node's log says how\n",
		       policy->name);
		return;
	}
	if (!ds_ledger_is_lending(state))
		return;
	printf("policy: %s\n", policy->name);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		struct ds_groups found = ds_gpu_view_found(state, i);

		printf("%s is %s", state->residents[i].name, ds_gpu_view_demand(state, i));
		if (state->residents[i].demand.drain_us)
			printf(", and off a group within %" PRIu32 " us",
			       state->residents[i].demand.drain_us);
		putchar('\n');
		for (uint32_t owner = 0; owner < state->n_residents; owner++)
			print_advance(view, i, owner);
		print_loan(state, &found, "nobody", state->residents[i].name, "");
	}
}

static void print_waits(const struct ds_ledger_state *state, uint32_t i)
{
	struct ds_groups missing = ds_gpu_view_missing(state, i);
	struct ds_groups unexplained = missing;
	char text[GROUPS_TEXT_SIZE];

	for (uint32_t p = 0; p < state->n_programs; p++) {
		const struct ds_ledger_program *program = &state->programs[p];
		struct ds_groups blocked = ds_gpu_view_blocked(state, i, &missing, p);

		if (ds_groups_empty(&blocked))
			continue;
		unexplained = ds_groups_difference(unexplained, blocked);
		printf("%s waits for groups %s of %s, whose process %" PRId32 " %s\n",
		       state->residents[i].name,
		       ds_groups_format(&blocked, &state->shape, text, sizeof(text)),
		       program->resident, program->process.pid,
		       ds_process_alive(&program->process) ? "still runs there" : "has just ended");
	}
	if (!ds_groups_empty(&unexplained))
		printf(
		    "%s waits for groups %s, which nobody uses: it has them with the next change\n",
		    state->residents[i].name,
		    ds_groups_format(&unexplained, &state->shape, text, sizeof(text)));
}

static int64_t boottime_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec;
}

/* Programs whose deadline to leave what is guaranteed to others has come, and what became of such. */
static void print_late(const struct ds_ledger_state *state)
{
	for (uint32_t p = 0; p < state->n_programs; p++) {
		const struct ds_ledger_program *program = &state->programs[p];

		if (program->late_s)
			printf("%s: process %" PRId32
			       "%s does not leave groups that are guaranteed "
			       "to others, for %" PRId64 " s\n",
			       program->resident, program->process.pid,
			       ds_process_stopped(&program->process) ? ", which is stopped," : "",
			       boottime_s() - program->late_s);
	}
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const uint32_t ended = state->residents[i].ended;

		if (ended)
			printf("%s: %" PRIu32
			       " of its programs ended for not leaving groups that are guaranteed "
			       "to others\n",
			       state->residents[i].name, ended);
	}
}

/* What follows for the programs of a runtime that was killed, and for who waits for what they have. */
static void print_unled(const struct ds_ledger_state *state)
{
	char text[GROUPS_TEXT_SIZE];

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];
		const struct ds_groups used = ds_gpu_view_used(state, i);

		if (ds_process_alive(&r->runtime) || !ds_gpu_view_programs(state, i))
			continue;
		printf("%s: its node runtime, process %" PRId32
		       ", was killed: its programs go on where they are, on groups %s, and no "
		       "other can begin; those that keep what an active neighbour is guaranteed "
		       "have acknowledge_deadline_s (detshare-node.conf)\n",
		       r->name, r->runtime.pid,
		       ds_groups_format(&used, &state->shape, text, sizeof(text)));
	}
}

/* By their runtimes' word. */
static void print_fixed(const struct ds_gpu_view *view)
{
	for (uint32_t i = 0; view->reports && i < view->state.n_residents; i++)
		if (view->reports[i].flags & DS_PAGE_FIXED)
			printf("%s: its programs are not moved (move_programs = no): groups follow "
			       "when they end\n",
			       view->state.residents[i].name);
}

static void print_faults(const struct ds_gpu_view *view)
{
	const int64_t now_s = boottime_s();

	for (uint32_t i = 0; i < view->n_faults; i++) {
		const struct ds_fault *fault = &view->faults[i];
		const int64_t at_s = (int64_t)(fault->at_ns / 1000000000);
		printf("%s: process %" PRId32 " had CUDA error %" PRIu32 " %" PRId64 " s ago\n",
		       fault->allocation, fault->pid, fault->code, now_s - at_s);
	}
}

/* By their runtimes' word. */
static void print_strays(const struct ds_gpu_view *view)
{
	for (uint32_t i = 0; view->reports && i < view->state.n_residents; i++) {
		const int32_t *pids = view->reports[i].strays;
		if (view->reports[i].magic != DS_PORT_MAGIC)
			continue;
		for (uint32_t s = 0; s < DS_PORT_STRAYS_MAX && pids[s]; s++)
			printf("%s: process %" PRId32 " uses the GPU without detshare's library, "
			       "in nobody's partition\n",
			       view->state.residents[i].name, pids[s]);
	}
}

/* Programs that moved, or cannot: by their own word. */
static void print_reported(const struct ds_gpu_view *view)
{
	char text[GROUPS_TEXT_SIZE];

	for (uint32_t p = 0; p < view->state.n_programs; p++) {
		const struct ds_ledger_program *program = &view->state.programs[p];
		const struct ds_port_reported *said = ds_gpu_view_reported(view, p);

		if (!said)
			continue;
		if (said->remaps)
			printf("%s: process %" PRId32 " reports %" PRIu64 " remaps\n",
			       program->resident, program->process.pid, said->remaps);
		if (!ds_groups_empty(&said->pinned))
			printf("%s: process %" PRId32 " reports work that cannot be moved (%" PRIu64
			       " graphs) on groups %s\n",
			       program->resident, program->process.pid, said->pinned_graphs,
			       ds_groups_format(&said->pinned, &view->state.shape, text,
						sizeof(text)));
		if (said->overlong_since_ns)
			printf("%s: process %" PRId32 " reports kernel %s to run for %.0f s: its "
			       "groups are not lent, and come back when it ends\n",
			       program->resident, program->process.pid, said->overlong_kernel,
			       ds_reported_overlong_s(said));
		if (said->held_back)
			printf("%s: process %" PRId32 " reports %" PRIu64
			       " launches held back for a neighbour, %.3f s in all\n",
			       program->resident, program->process.pid, said->held_back,
			       (double)said->held_back_ns / 1e9);
		if (said->unfit)
			printf("%s: process %" PRId32 " said %" PRIu32
			       " times what cannot be, and was not believed\n",
			       program->resident, program->process.pid, said->unfit);
	}
}

static void print_orphans(const struct ds_ledger_state *state)
{
	char text[GROUPS_TEXT_SIZE];

	for (uint32_t p = 0; p < state->n_programs; p++) {
		const struct ds_ledger_program *program = &state->programs[p];

		if (!ds_gpu_view_orphaned(state, p))
			continue;
		printf("%s is gone, but its process %" PRId32 " %s on groups %s\n",
		       program->resident, program->process.pid,
		       ds_process_alive(&program->process) ? "still runs" : "ran until now",
		       ds_groups_format(&program->groups, &state->shape, text, sizeof(text)));
	}
}

static int print_gpu(const struct ds_gpu_view *view, struct ds_error *err)
{
	const struct ds_ledger_state *state = &view->state;
	const struct ds_gpu_shape *shape = &state->shape;
	char text[GROUPS_TEXT_SIZE];
	char share[DS_SHARE_TEXT_SIZE];

	if (view->reason.text[0])
		return 0;
	if (view->unused) {
		printf("GPU %s: not shared since the machine started\n", view->uuid);
		return 0;
	}
	printf("GPU %s: %" PRIu32 " SMs, %" PRIu32 " groups of %" PRIu32, view->uuid,
	       shape->n_groups * shape->group_sms + shape->rest_sms, shape->n_groups,
	       shape->group_sms);
	if (shape->rest_sms)
		printf(" and a rest of %" PRIu32, shape->rest_sms);
	putchar('\n');
	if (state->incomplete)
		printf("its ledger was lost, and allocations that live are not back in it: until "
		       "they are, "
		       "or have ended, nobody gains groups and nobody can join\n");
	if (state->n_residents && print_residents(view, err))
		return -1;
	print_lending(view);
	ds_status_print_whole(state);
	ds_status_print_turns(state);
	for (uint32_t i = 0; i < state->n_residents; i++)
		print_waits(state, i);
	print_unled(state);
	print_late(state);
	print_orphans(state);
	print_fixed(view);
	print_strays(view);
	print_faults(view);
	print_reported(view);

	struct ds_groups free_groups = ds_gpu_view_free(state);
	uint32_t free_milli = ds_gpu_view_free_milli(state);
	if (ds_groups_empty(&free_groups) && !free_milli)
		printf("free: nothing\n");
	else
		printf("free: share %s, groups %s (%u SMs)\n", ds_share_format(free_milli, share),
		       ds_groups_format(&free_groups, shape, text, sizeof(text)),
		       ds_groups_sms(&free_groups, shape));
	return 0;
}

int ds_status_text(const struct ds_gpu_list *list, const char *runtime_dir, struct ds_error *err)
{
	if (!list->n)
		printf("No GPU of this node is shared: there is none in %s.\n", runtime_dir);
	for (uint32_t i = 0; i < list->n; i++) {
		if (i)
			putchar('\n');
		if (print_gpu(&list->gpus[i], err))
			return -1;
	}
	return 0;
}
