/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/status_whole.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "noderuntime/deadline.h"

#define NS_PER_MS UINT64_C(1000000)

static const char *const phases[] = {
    [DS_WHOLE_NONE] = "none",
    [DS_WHOLE_GATHERING] = "gathering",
    [DS_WHOLE_OPEN] = "open",
    [DS_WHOLE_RETURNING] = "returning",
};

static uint64_t ms_since(uint64_t then_ns)
{
	const uint64_t now_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME);

	return now_ns > then_ns ? (now_ns - then_ns) / NS_PER_MS : 0;
}

static bool waits(const struct ds_ledger_state *state, const struct ds_ledger_resident *r)
{
	return r->whole.asked_ns && strcmp(state->whole.owner, r->name) != 0;
}

json_t *ds_status_window_json(const struct ds_ledger_state *state)
{
	const struct ds_whole_window *window = &state->whole;

	if (window->phase == DS_WHOLE_NONE)
		return json_null();
	return json_pack("{s:s, s:s, s:I, s:I}", "owner", window->owner, "phase",
			 phases[window->phase], "phase_ms", (json_int_t)ms_since(window->since_ns),
			 "ms", (json_int_t)ms_since(window->begun_ns));
}

json_t *ds_status_whole_json(const struct ds_ledger_state *state, uint32_t i)
{
	const struct ds_ledger_resident *r = &state->residents[i];
	const uint64_t now_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME);

	return json_pack(
	    "{s:I, s:I, s:I, s:I, s:b, s:b, s:b}", "windows", (json_int_t)r->whole.windows, "ms",
	    (json_int_t)(r->whole.total_ns / NS_PER_MS), "overruns", (json_int_t)r->whole.overruns,
	    "refusals", (json_int_t)r->whole.refusals, "waits", waits(state, r), "refused",
	    ds_whole_refuses(r, now_ns), "suspended", ds_ledger_is_suspended(state, r));
}

static void print_window(const struct ds_ledger_state *state)
{
	const struct ds_whole_window *window = &state->whole;
	const uint64_t ms = ms_since(window->since_ns);

	switch ((enum ds_whole_phase)window->phase) {
	case DS_WHOLE_NONE:
		break;
	case DS_WHOLE_GATHERING:
		printf("%s waits for the others to stop, to have the whole GPU, for %" PRIu64
		       " ms\n",
		       window->owner, ms);
		break;
	case DS_WHOLE_OPEN:
		printf("%s has the whole GPU, for %" PRIu64 " ms\n", window->owner, ms);
		break;
	case DS_WHOLE_RETURNING:
		printf("%s has to give the whole GPU back, for %" PRIu64
		       " ms: the others wait for it\n",
		       window->owner, ms);
		break;
	}
}

/* Those that have not stopped, while somebody waits for that. */
static void print_unquiet(const struct ds_ledger_state *state)
{
	if (state->whole.phase != DS_WHOLE_GATHERING)
		return;
	for (uint32_t p = 0; p < state->n_programs; p++) {
		const struct ds_ledger_program *program = &state->programs[p];

		if (!program->quiet && strcmp(program->resident, state->whole.owner) != 0)
			printf("%s: process %" PRId32 " %s\n", program->resident,
			       program->process.pid,
			       ds_process_stopped(&program->process)
				   ? "is stopped, and cannot leave the GPU"
				   : "has not left the GPU yet");
	}
}

void ds_status_print_whole(const struct ds_ledger_state *state)
{
	const uint64_t now_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME);

	print_window(state);
	print_unquiet(state);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		if (waits(state, r))
			printf("%s wants the whole GPU, for %" PRIu64 " ms\n", r->name,
			       ms_since(r->whole.asked_ns));
		if (r->whole.windows)
			printf("%s had the whole GPU %" PRIu32 " times, and others waited %" PRIu64
			       " ms for it\n",
			       r->name, r->whole.windows, r->whole.total_ns / NS_PER_MS);
		if (r->whole.overruns)
			printf("%s did not give the whole GPU back in time, %" PRIu32 " times\n",
			       r->name, r->whole.overruns);
		if (r->whole.barred_ns > now_ns)
			printf("%s does not get the whole GPU for another %" PRIu64 " ms\n",
			       r->name, (r->whole.barred_ns - now_ns) / NS_PER_MS);
	}
}
