/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/status_turns.h"

#include <inttypes.h>
#include <stdio.h>

static const char *state_of(const struct ds_ledger_resident *r)
{
	switch (r->turn.state) {
	case DS_TURN_HAS:
		return "has";
	case DS_TURN_WAITS:
		return r->turn.active ? "waits" : "idle";
	default:
		return "beside";
	}
}

json_t *ds_status_turn_json(const struct ds_ledger_state *state, uint32_t i)
{
	const struct ds_ledger_resident *r = &state->residents[i];
	const struct ds_ledger_resident *whose = ds_turns_whose(state, r);

	if (r->turn.state == DS_TURN_ALONE || !r->turn.set)
		return json_null();
	return json_pack("{s:s, s:I, s:s?, s:I, s:s?}", "state", state_of(r), "group",
			 (json_int_t)r->turn.set - 1, "whose", whose ? whose->name : NULL, "turns",
			 (json_int_t)r->turn.count, "side_by_side_because", ds_turns_why(r));
}

static const char *words_for(const struct ds_ledger_resident *r)
{
	switch (r->turn.state) {
	case DS_TURN_HAS:
		return " (its turn)";
	case DS_TURN_WAITS:
		return r->turn.active ? " (waits for its turn)" : " (idle)";
	default:
		return "";
	}
}

static void print_group(const struct ds_ledger_state *state, uint32_t set)
{
	const struct ds_ledger_resident *members[DS_RESIDENTS_MAX];
	uint32_t n = 0;

	for (uint32_t i = 0; i < state->n_residents; i++)
		if (state->residents[i].turn.set == set)
			members[n++] = &state->residents[i];
	if (n < 2)
		return;
	printf("group %" PRIu32 " is shared %s by ", set - 1,
	       ds_turns_why(members[0]) ? "side by side, without turns," : "in turns");
	for (uint32_t i = 0; i < n; i++)
		printf("%s%s%s",
		       i == 0       ? ""
		       : i == n - 1 ? " and "
				    : ", ",
		       members[i]->name, words_for(members[i]));
	if (ds_turns_why(members[0]))
		printf(": %s", ds_turns_why(members[0]));
	putchar('\n');
}

void ds_status_print_turns(const struct ds_ledger_state *state)
{
	for (uint32_t set = 1; set <= state->shape.n_groups; set++)
		print_group(state, set);
	for (uint32_t i = 0; i < state->n_residents; i++) {
		for (uint32_t p = 0; p < state->n_programs; p++) {
			const struct ds_ledger_program *program = &state->programs[p];

			if (state->residents[i].turn.active &&
			    ds_turns_wait_for(state, &state->residents[i], program))
				printf("%s has its turn when process %" PRId32
				       " of %s%s is off the group\n",
				       state->residents[i].name, program->process.pid,
				       program->resident,
				       ds_process_stopped(&program->process) ? ", which is stopped,"
									     : "");
		}
	}
}
