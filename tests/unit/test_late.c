/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/late.h"

#define S INT64_C(1000000000)

static struct ds_ledger_state state;

static struct ds_ledger_resident *add(const char *name, uint32_t share_milli, uint64_t own,
				      uint64_t held)
{
	struct ds_ledger_resident *r = &state.residents[state.n_residents++];

	*r = (struct ds_ledger_resident){.grant = {.share_milli = share_milli},
					 .own = {{own, 0}},
					 .planned = {{own, 0}},
					 .held = {{held, 0}}};
	strcpy(r->name, name);
	return r;
}

/* A lender of half of the GPU with one group left, and a borrower whose program is on the other seven. */
static struct ds_ledger_resident *lender, *borrower;
static struct ds_ledger_program *program;

static int set_up(void **unused)
{
	memset(&state, 0, sizeof(state));
	state.shape = (struct ds_gpu_shape){.n_groups = 15, .group_sms = 8, .rest_sms = 12};
	lender = add("job-1", 500, 0xff, 0x01);
	borrower = add("job-2", 500, 0xff00, 0xff00);
	program = &state.programs[state.n_programs++];
	*program = (struct ds_ledger_program){.groups = {{0xfffe, 0}}};
	strcpy(program->resident, "job-2");
	return 0;
}

static void expect(uint64_t groups)
{
	const struct ds_groups late = ds_late_groups(&state, borrower, program);

	assert_int_equal(late.bits[0], groups);
	assert_int_equal(late.bits[1], 0);
}

static void what_is_guaranteed_to_others(void **unused)
{
	expect(0xfe);
	/* Its owner does not want to be there. */
	lender->planned.bits[0] = 0x01;
	expect(0);
	lender->planned.bits[0] = 0x0f;
	expect(0x0e);
}

static void what_is_not_guaranteed(void **unused)
{
	/* The group more that rounding gives: 0.4 of 15 groups are 6, and here 7 are planned. */
	lender->grant.share_milli = 400;
	lender->own.bits[0] = lender->planned.bits[0] = 0x7f;
	lender->held.bits[0] = 0x3f;
	program->groups.bits[0] = 0xff40;
	expect(0);
	lender->held.bits[0] = 0x1f;
	program->groups.bits[0] = 0xff60;
	expect(0x60);
	/* The GPU's remainder is no whole group. */
	lender->own.bits[0] = lender->planned.bits[0] = 0x803f;
	lender->held.bits[0] = 0x801f;
	program->groups.bits[0] = 0xff20;
	expect(0x20);
	/* Nothing at all is too little for anybody. */
	lender->grant.share_milli = 10;
	lender->own.bits[0] = lender->planned.bits[0] = 0x01;
	lender->held.bits[0] = 0;
	program->groups.bits[0] = 0xff01;
	expect(0x01);
	/* But small ones share a group. */
	borrower->grant.share_milli = 10;
	expect(0);
}

static void who_is_excused(void **unused)
{
	program->quiet = 1;
	expect(0);
	program->quiet = 0;
	state.incomplete = 1;
	expect(0);
	state.incomplete = 0;
	/* What it still may use. */
	borrower->held.bits[0] = 0xfffe;
	expect(0);
}

static void the_owner_of_a_window_has_to_leave_what_others_hold(void **unused)
{
	lender->held.bits[0] = 0xff;
	expect(0);
	state.whole.phase = DS_WHOLE_RETURNING;
	strcpy(state.whole.owner, "job-1");
	expect(0);
	strcpy(state.whole.owner, "job-2");
	expect(0xfe);
	state.whole.phase = DS_WHOLE_OPEN;
	expect(0);
}

static struct ds_port port_of(uint64_t epoch)
{
	struct ds_port port = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};

	atomic_store(&port.acknowledged_epoch, epoch);
	return port;
}

static void how_long(void **unused)
{
	const struct ds_groups had = {{0xff, 0}};
	struct ds_late late = {.since_ns = 0};
	struct ds_port port = port_of(4);

	assert_int_equal(ds_late_at_ns(&late, 300), 0);
	ds_late_count(&late, true, &port, 8, &had, 10 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 310 * S);
	assert_int_equal(ds_late_at_ns(&late, 0), 0);
	ds_late_count(&late, true, &port, 10, &had, 20 * S);
	assert_int_equal(late.since_ns, 10 * S);
	/* On its way: an older epoch, but a newer one than before. */
	port = port_of(6);
	ds_late_count(&late, true, &port, 10, &had, 30 * S);
	assert_int_equal(late.since_ns, 30 * S);
	/* Acted on: not again. */
	late.over = true;
	assert_int_equal(ds_late_at_ns(&late, 300), 0);
	ds_late_count(&late, true, &port, 10, &had, 40 * S);
	assert_true(late.over);
	/* It acknowledges, though it keeps something: that is pinned. */
	port = port_of(10);
	ds_late_count(&late, true, &port, 10, &had, 50 * S);
	assert_int_equal(late.since_ns, 0);
	assert_false(late.over);
}

static void whose_word_counts(void **unused)
{
	const struct ds_groups had = {{0xff, 0}};
	struct ds_late late = {.since_ns = 0};
	struct ds_port port = port_of(4), nothing = {.magic = 0};

	/* An epoch that is still to come, groups it never had, or no port at all: as if it were silent. */
	port = port_of(12);
	ds_late_count(&late, true, &port, 10, &had, S);
	port = port_of(10);
	port.in_use.bits[0] = 0x100;
	ds_late_count(&late, true, &port, 10, &had, 2 * S);
	memset(&port, 0xff, sizeof(port));
	ds_late_count(&late, true, &port, 10, &had, 3 * S);
	ds_late_count(&late, true, &nothing, 10, &had, 4 * S);
	assert_int_equal(late.since_ns, S);
	/* One that cannot be moved is not late; one that writes nonsense is not believed that either. */
	port = port_of(4);
	atomic_store(&port.immovable, 1);
	ds_late_count(&late, true, &port, 10, &had, 5 * S);
	assert_int_equal(late.since_ns, 0);
	port.magic = 0;
	ds_late_count(&late, true, &port, 10, &had, 6 * S);
	assert_int_equal(late.since_ns, 6 * S);
	/* Nobody waits any more. */
	ds_late_count(&late, false, &port, 10, &had, 7 * S);
	assert_int_equal(late.since_ns, 0);
}

static void expect_of_orphan(uint64_t groups)
{
	const struct ds_groups late = ds_late_orphan_groups(&state, borrower, program, lender);

	assert_int_equal(late.bits[0], groups);
	assert_int_equal(late.bits[1], 0);
}

static void what_an_orphan_keeps_from_one_who_waits(void **unused)
{
	struct ds_ledger_resident *third;

	/* Its owner is idle, and has something to run on. */
	expect(0xfe);
	expect_of_orphan(0);
	lender->demand.active = 1;
	expect_of_orphan(0xfe);
	/* Only what is planned for it. */
	lender->planned.bits[0] = 0x0f;
	expect_of_orphan(0x0e);
	/* Nothing of it can run, whatever it says: the remainder is no group. */
	lender->demand.active = 0;
	lender->held.bits[0] = 0x8000;
	lender->planned.bits[0] = 0xff;
	program->groups.bits[0] = 0xffff;
	expect_of_orphan(0xff);
	/* What others are guaranteed, they see to themselves. */
	third = add("job-3", 200, 0x3800, 0);
	borrower->held.bits[0] = 0xc700;
	borrower->own.bits[0] = 0xc700;
	third->demand.active = 1;
	expect(0x38ff);
	expect_of_orphan(0xff);
	/* Its allocation is gone: nothing is its own. */
	lender->demand.active = 1;
	assert_int_equal(ds_late_orphan_groups(&state, NULL, program, lender).bits[0], 0xff);
	assert_int_equal(ds_late_orphan_groups(&state, NULL, program, third).bits[0], 0x3800);
	state.incomplete = 1;
	expect_of_orphan(0);
	assert_int_equal(ds_late_orphan_groups(&state, NULL, program, lender).bits[0], 0);
}

static void how_long_an_orphan_has(void **unused)
{
	struct ds_late late = {.since_ns = 0};

	ds_late_count_orphan(&late, false, 0, 5 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 0);
	ds_late_count_orphan(&late, true, 0, 10 * S);
	ds_late_count_orphan(&late, true, 0, 20 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 310 * S);
	/* Another one has acted, and may have died of it. */
	ds_late_count_orphan(&late, true, 9, 311 * S);
	ds_late_count_orphan(&late, true, 9, 312 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 611 * S);
	/* So have we. */
	late.over = true;
	late.said_s = 311;
	ds_late_count_orphan(&late, true, 311, 612 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 0);
	assert_true(late.over);
	ds_late_count_orphan(&late, true, 620, 900 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 1200 * S);
	ds_late_count_orphan(&late, false, 0, 901 * S);
	assert_int_equal(ds_late_at_ns(&late, 300), 0);
}

static void one_of_those_who_wait_acts(void **unused)
{
	struct ds_late late = {.since_ns = S};

	assert_true(ds_late_may_act(&late, 0, true));
	assert_true(ds_late_may_act(&late, 0, false));
	/* Another one was quicker. */
	assert_false(ds_late_may_act(&late, 300, true));
	assert_false(ds_late_may_act(&late, 300, false));
	/* It was, long ago, and the program is still there. */
	late.said_s = 300;
	assert_true(ds_late_may_act(&late, 300, true));
	assert_false(ds_late_may_act(&late, 300, false));
	late.since_ns = 0;
	assert_false(ds_late_may_act(&late, 300, true));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(what_is_guaranteed_to_others, set_up),
	    cmocka_unit_test_setup(what_is_not_guaranteed, set_up),
	    cmocka_unit_test_setup(who_is_excused, set_up),
	    cmocka_unit_test_setup(the_owner_of_a_window_has_to_leave_what_others_hold, set_up),
	    cmocka_unit_test(how_long),
	    cmocka_unit_test(whose_word_counts),
	    cmocka_unit_test_setup(what_an_orphan_keeps_from_one_who_waits, set_up),
	    cmocka_unit_test(how_long_an_orphan_has),
	    cmocka_unit_test(one_of_those_who_wait_acts),
	};

	alarm(60);
	return cmocka_run_group_tests_name("late", tests, NULL, NULL);
}
