/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/orphans.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "noderuntime/deadline.h"
#include "noderuntime/errand.h"
#include "noderuntime/follow.h"
#include "noderuntime/neighbours.h"
#include "noderuntime/off_gpu.h"

static const int64_t S = 1000000000;

/* What the program keeps from us. Of a live runtime's programs that is that runtime's business. */
static struct ds_groups kept_from_us(const struct ds_runtime *rt, struct ds_ledger_state *state,
				     const struct ds_ledger_program *program)
{
	const struct ds_ledger_resident *self = ds_ledger_find(state, rt->allocation->name);

	if (!self)
		return (struct ds_groups){{0, 0}};
	return ds_late_orphan_groups(state, ds_ledger_find(state, program->resident), program,
				     self);
}

void ds_orphans_settle(struct ds_runtime *rt, struct ds_ledger_state *state)
{
	for (uint32_t i = 0; rt->has_orphans && i < state->n_programs; i++) {
		struct ds_ledger_program *program = &state->programs[i];
		const struct ds_ledger_resident *keeper = ds_ledger_find(state, program->resident);
		bool keeps = false;

		if (!program->late_s || !strcmp(program->resident, rt->allocation->name) ||
		    (keeper && ds_lives(rt, &keeper->runtime)))
			continue;
		for (uint32_t k = 0; k < state->n_residents && !keeps; k++) {
			const struct ds_groups kept =
			    ds_late_orphan_groups(state, keeper, program, &state->residents[k]);

			keeps = !ds_groups_empty(&kept);
		}
		if (!keeps)
			program->late_s = 0;
	}
}

int64_t ds_orphans_look(struct ds_runtime *rt, int64_t now_ns)
{
	int64_t first_ns = 0;

	for (struct ds_watch *w = rt->has_orphans ? rt->watches : NULL; w; w = w->next) {
		const struct ds_ledger_program *program;
		struct ds_groups kept = {{0, 0}};

		if (w->kind != DS_WATCH_NEIGHBOUR)
			continue;
		program = ds_ledger_find_program(&rt->seen, &w->process);
		if (program)
			kept = kept_from_us(rt, &rt->seen, program);
		ds_late_count_orphan(&w->late, !ds_groups_empty(&kept),
				     program ? program->late_s : 0, now_ns);
		const int64_t at_ns = ds_late_at_ns(&w->late, rt->config->acknowledge_deadline_s);
		if (at_ns && (!first_ns || at_ns < first_ns))
			first_ns = at_ns;
	}
	return first_ns;
}

/* To act on a deadline for all who wait. */
struct claim {
	struct ds_runtime *rt;
	const struct ds_watch *orphan;
	bool ends;
	char keeper[DS_NAME_SIZE];
	struct ds_groups kept;
	uint32_t late_s;
	bool others; /* act on it, or it was shown */
};

/* 1: there is nothing to do. */
static int change_claim(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct claim *claim = arg;
	struct ds_ledger_program *program = ds_ledger_find_program(state, &claim->orphan->process);

	(void)err;
	claim->others =
	    program && !ds_late_may_act(&claim->orphan->late, program->late_s, claim->ends);
	if (!program || claim->others)
		return 1;
	claim->kept = kept_from_us(claim->rt, state, program);
	if (ds_groups_empty(&claim->kept))
		return 1;
	claim->late_s = (uint32_t)(claim->orphan->late.since_ns / S);
	if (claim->late_s <= program->late_s)
		claim->late_s = program->late_s + 1;
	program->late_s = claim->late_s;
	memcpy(claim->keeper, program->resident, sizeof(claim->keeper));
	return 0;
}

/* What an errand is sent with: what is to be kept for the job's user, and done. */
struct last_word {
	struct ds_process process;
	char keeper[DS_NAME_SIZE];
	char text[DS_PORT_NOTE_SIZE];
	bool ends;
};

/* What it brings. */
struct brought {
	struct ds_process process;
	bool off_gpu; /* so it was left alone */
};

/* In the child: locks and MPS may take their time. */
static size_t say_and_end(const struct ds_runtime *rt, const void *arg,
			  char brought[DS_ERRAND_BROUGHT_MAX])
{
	const struct last_word *word = arg;
	struct brought made = {.process = word->process};
	struct ds_error reason;

	made.off_gpu = word->ends && !ds_page_may_be_in(word->process.pid) &&
		       ds_off_gpu_is(rt, word->process.pid);
	if (ds_allocation_note_late(rt->config, word->keeper, word->text,
				    word->ends && !made.off_gpu, &reason) < 0)
		ds_complain(rt, &reason);
	if (word->ends && !made.off_gpu)
		ds_off_gpu_end(rt, &word->process);
	memcpy(brought, &made, sizeof(made));
	return sizeof(made);
}

/* It could not be done: again, a deadline later. */
static void once_more(struct ds_watch *orphan)
{
	orphan->late.over = false;
	orphan->late.since_ns = ds_now_ns(CLOCK_BOOTTIME);
}

static void done(struct ds_runtime *rt, struct ds_watch *errand, const void *brought, size_t size)
{
	struct brought made;

	if (size != sizeof(made)) {
		struct ds_watch *orphan = ds_watch_find(rt, DS_WATCH_NEIGHBOUR, &errand->process);

		if (orphan)
			once_more(orphan);
	} else {
		memcpy(&made, brought, sizeof(made));
		if (made.off_gpu)
			ds_off_gpu_forget(rt, &made.process);
	}
	ds_follow(rt);
}

/* Its own runtime cannot say it any more. */
static void describe(const struct ds_runtime *rt, const struct claim *claim, struct last_word *word)
{
	char groups[128];

	*word = (struct last_word){.process = claim->orphan->process, .ends = claim->ends};
	memcpy(word->keeper, claim->keeper, sizeof(word->keeper));
	ds_groups_format(&claim->kept, &rt->seen.shape, groups, sizeof(groups));
	snprintf(
	    word->text, sizeof(word->text),
	    "process %d%s has not left SM groups %s, guaranteed to %s, within %" PRIu32
	    " s (acknowledge_deadline_s): its node runtime was killed, so nobody could tell it "
	    "to%s",
	    word->process.pid, ds_process_stopped(&word->process) ? ", which is stopped," : "",
	    groups, rt->allocation->name, rt->config->acknowledge_deadline_s,
	    claim->ends ? "; it is ended if it is still on the GPU" : "");
}

static void act(struct ds_runtime *rt, struct ds_watch *orphan)
{
	struct claim claim = {
	    .rt = rt, .orphan = orphan, .ends = !strcmp(rt->config->on_no_acknowledgement, "end")};
	struct last_word word;
	struct ds_error reason;
	struct ds_watch *errand = NULL;
	int rc = ds_ledger_change(rt->ledger, DS_LEDGER_MS, change_claim, &claim, &reason);

	orphan->late.over = true; /* until the ledger says anything else of it */
	if (rc == 1 && !claim.others)
		orphan->late = (struct ds_late){.since_ns = 0}; /* keeps nothing, just now */
	if (rc == 0) {
		orphan->late.said_s = claim.late_s;
		describe(rt, &claim, &word);
		syslog(LOG_WARNING, "%s: %s", word.keeper, word.text);
		errand = ds_errand_start(rt, say_and_end, &word, done, -1, &reason);
		if (errand)
			errand->process = word.process;
		else
			rc = -1;
	}
	if (rc < 0) {
		ds_complain(rt, &reason);
		once_more(orphan);
	}
}

void ds_orphans_over(struct ds_runtime *rt, int64_t now_ns)
{
	for (struct ds_watch *w = rt->has_orphans ? rt->watches : NULL; w; w = w->next) {
		const int64_t at_ns = ds_late_at_ns(&w->late, rt->config->acknowledge_deadline_s);

		if (w->kind == DS_WATCH_NEIGHBOUR && at_ns && at_ns <= now_ns)
			act(rt, w);
	}
}
