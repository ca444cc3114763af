/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/reclaim.h"

static struct ds_ledger_state state;
static struct ds_ledger_resident *decode, *training, *other;

static struct ds_ledger_resident *add(const char *name, enum ds_class_kind kind, uint64_t groups)
{
	struct ds_ledger_resident *r = &state.residents[state.n_residents++];

	*r = (struct ds_ledger_resident){
	    .grant = {.kind = kind, .policy = DS_POLICY_LEND, .lends = 1, .borrows = 1},
	    .demand = {.active = 1},
	    .own = {{groups, 0}},
	    .planned = {{groups, 0}},
	    .held = {{groups, 0}},
	    .weight_milli = 1000};
	strcpy(r->name, name);
	strcpy(r->policy.name, "lend");
	return r;
}

static void program_on(const char *name, uint64_t groups)
{
	struct ds_ledger_program *program = &state.programs[state.n_programs++];

	*program = (struct ds_ledger_program){.groups = {{groups, 0}}};
	strcpy(program->resident, name);
}

static int three(void **unused)
{
	memset(&state, 0, sizeof(state));
	state.shape = (struct ds_gpu_shape){.n_groups = 16, .group_sms = 8};
	decode = add("job-1", DS_KIND_LATENCY, 0xff);
	training = add("job-2", DS_KIND_THROUGHPUT, 0xf00);
	other = add("job-3", DS_KIND_THROUGHPUT, 0xf000);
	program_on("job-1", 0xff);
	program_on("job-2", 0xf00);
	program_on("job-3", 0xf000);
	return 0;
}

static void expect(enum ds_reclaim of_decode, enum ds_reclaim of_training)
{
	assert_int_equal(ds_reclaim_of(&state, decode), of_decode);
	assert_int_equal(ds_reclaim_of(&state, training), of_training);
	assert_int_equal(ds_reclaim_of(&state, other), DS_RECLAIM_NONE);
}

/* The decode is idle, and the training works on most of its groups. */
static void lend(void)
{
	decode->demand.active = 0;
	decode->planned.bits[0] = decode->held.bits[0] = 0x1;
	training->planned.bits[0] = training->held.bits[0] = 0xffe;
	state.programs[0].groups.bits[0] = 0x1;
	state.programs[1].groups.bits[0] = 0xffe;
}

/* The decode is active again, and the training's program does not know yet. */
static void ask_back(void)
{
	decode->demand.active = 1;
	decode->planned.bits[0] = 0xff;
	training->planned.bits[0] = training->held.bits[0] = 0xf00;
}

static void one_after_the_other(void **unused)
{
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	lend();
	expect(DS_RECLAIM_LENT, DS_RECLAIM_NONE);
	ask_back();
	expect(DS_RECLAIM_WAITS, DS_RECLAIM_GIVES);
	/* What it cannot leave, and nothing else. */
	state.programs[1].groups.bits[0] = 0xf10;
	expect(DS_RECLAIM_WAITS, DS_RECLAIM_GIVES);
	state.programs[1].groups.bits[0] = 0xf00;
	expect(DS_RECLAIM_WAITS, DS_RECLAIM_NONE);
	decode->held.bits[0] = 0xff;
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
}

/* What has no budget to keep, or takes another course. */
static void nothing_of_the_kind(void **unused)
{
	lend();
	ask_back();
	decode->grant.kind = DS_KIND_THROUGHPUT;
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	decode->grant.kind = DS_KIND_LATENCY;
	decode->grant.lends = 0;
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	decode->grant.lends = 1;
	decode->weight_milli = 500; /* in time */
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	decode->weight_milli = 1000;
	state.incomplete = 1;
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	state.incomplete = 0;
	state.whole.phase = DS_WHOLE_OPEN;
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	state.whole.phase = DS_WHOLE_NONE;
	strcpy(state.residents[0].policy.name, "static");
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
	strcpy(state.residents[0].policy.name, "lend");
	expect(DS_RECLAIM_WAITS, DS_RECLAIM_GIVES);
	/* Of what it gets beyond its own nothing was lent. */
	decode->planned.bits[0] = 0xfff;
	decode->held.bits[0] = 0xff;
	expect(DS_RECLAIM_NONE, DS_RECLAIM_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(one_after_the_other, three),
	    cmocka_unit_test_setup(nothing_of_the_kind, three),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
