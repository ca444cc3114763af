/* SPDX-License-Identifier: Apache-2.0 */
/* Settling, by tables: who lives is one, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/ledger.h"
#include "tests/unit/ledger_tests.h"

static void settle_two_halves(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 500, 1);
	expect(state, "a", "0-7", "0-7");
	add(state, "b", 500, 2);
	expect(state, "a", "0-7", "0-7");
	expect(state, "b", "8-14+rest", "8-14+rest");
	welcome(state, "a", 11);
	welcome(state, "b", 12);
	settle(state);
	expect(state, "a", "0-7", "0-7");
	expect(state, "b", "8-14+rest", "8-14+rest");
	assert_int_equal(state->n_programs, 2);
}

/* Groups go over in two steps: planned at once, held when their programs are gone. */
static void settle_waits_for_programs(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 600, 1);
	expect(state, "a", "0-8+rest", "0-8+rest");
	welcome(state, "a", 11);
	assert_int_equal(ds_ledger_leave(state, "a"), 1);
	assert_int_equal(ds_ledger_leave(state, "a"), 0);
	add(state, "b", 1000, 2);
	expect(state, "b", "0-14+rest", "9-14");
	settle(state);
	expect(state, "b", "0-14+rest", "9-14");
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "b", "0-14+rest", "0-14+rest");
	assert_int_equal(state->n_programs, 0);
}

/* A holder that must give up a group keeps nobody from what it never had. */
static void settle_newcomer_takes_what_is_given_up(void **unused)
{
	struct ds_ledger_state *state = new_state();

	/* 14.7 groups are 15 while alone, 14 and the remainder beside another. */
	add(state, "a", 980, 1);
	expect(state, "a", "0-14", "0-14");
	welcome(state, "a", 11);
	add(state, "b", 20, 2);
	expect(state, "a", "0-13+rest", "0-13+rest");
	expect(state, "b", "14", "none");
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "a", "0-13+rest", "0-13+rest");
	expect(state, "b", "14", "14");
}

/* Nobody waits for a group that another gives up while there are groups that nobody uses. */
static void settle_newcomer_avoids_what_is_given_up(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 350, 1);
	welcome(state, "a", 11);
	add(state, "b", 250, 2);
	expect(state, "a", "0-4+rest", "0-4+rest");
	expect(state, "b", "6-9", "6-9");
}

static struct ds_groups range(unsigned first, unsigned last)
{
	struct ds_groups set = {{0, 0}};

	for (unsigned g = first; g <= last; g++)
		ds_groups_add(&set, g);
	return set;
}

/* What a program acknowledges not to use any more goes to who waits for it, while both run. */
static void settle_moves_what_is_acknowledged(void **unused)
{
	struct ds_ledger_state *state = new_state();
	const struct ds_groups none = {{0, 0}};

	add(state, "a", 950, 1);
	welcome(state, "a", 11);
	add(state, "b", 50, 2);
	expect(state, "b", "14", "none");
	struct ds_ledger_program *program = &state->programs[0];
	struct ds_groups pinned = range(13, 14), granted = range(0, 13);
	assert_false(ds_ledger_shrink_program(program, &pinned, &granted));
	settle(state);
	expect(state, "b", "14", "none");
	granted = range(0, 15); /* the remainder was not its: it gains nothing */
	assert_false(ds_ledger_shrink_program(program, &none, &granted));
	assert_false(ds_groups_has(&program->groups, 15));
	granted = range(0, 13);
	assert_true(ds_ledger_shrink_program(program, &none, &granted));
	settle(state);
	expect(state, "b", "14", "14");
	assert_int_equal(ds_ledger_leave(state, "b"), 1);
	settle(state);
	expect(state, "a", "0-14", "0-14");
}

/* However a broken ledger was put together again: who runs keeps a group until it gets another. */
static void settle_leaves_nobody_without_a_group(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 900, 1);
	add(state, "b", 50, 2);
	welcome(state, "a", 11);
	welcome(state, "b", 12);
	ds_ledger_find(state, "a")->held = range(0, 13);
	state->programs[0].groups = range(14, 14);
	ds_ledger_find(state, "b")->held = state->programs[1].groups = range(3, 3);
	settle(state);
	expect(state, "b", "14", "3");
	state->programs[0].groups = range(0, 2);
	settle(state);
	expect(state, "b", "14", "14");
}

/* A runtime that died leaves its place to its programs; the last of them gives it back. */
static void settle_removes_the_dead(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 500, 1);
	add(state, "b", 500, 2);
	welcome(state, "a", 11);
	welcome(state, "a", 12);
	dead_pids[n_dead++] = 1;
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "a", "0-7", "0-7");
	assert_int_equal(state->n_programs, 1);
	dead_pids[n_dead++] = 12;
	settle(state);
	assert_null(ds_ledger_find(state, "a"));
	assert_int_equal(state->n_programs, 0);
	expect(state, "b", "0,8-14", "0,8-14");
}

/* Those who share a group in time do not wait for each other; others wait for all of them. */
static void settle_shared_groups(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 20, 1);
	expect(state, "a", "0", "0");
	assert_int_equal(ds_ledger_find(state, "a")->weight_milli, 1000);
	welcome(state, "a", 11);
	add(state, "b", 20, 2);
	expect(state, "a", "0", "0");
	expect(state, "b", "0", "0");
	assert_int_equal(ds_ledger_find(state, "a")->weight_milli, 300);
	assert_int_equal(ds_ledger_find(state, "b")->weight_milli, 300);
	welcome(state, "b", 12);
	assert_int_equal(ds_ledger_leave(state, "a"), 1);
	settle(state);
	/* Alone now, beside a's last program: what b had it keeps. */
	expect(state, "b", "0", "0");
	assert_int_equal(ds_ledger_find(state, "b")->weight_milli, 1000);
	ds_ledger_leave(state, "b");
	add(state, "c", 1000, 3);
	expect(state, "c", "0-14+rest", "1-14+rest");
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "c", "0-14+rest", "1-14+rest");
	dead_pids[n_dead++] = 12;
	settle(state);
	expect(state, "c", "0-14+rest", "0-14+rest");
}

/* Ten groups; each of two residents owns the group that a program of the other one is on, and holds none. */
static struct ds_ledger_state *exchanged(uint32_t share_milli)
{
	static const char *const names[] = {"a", "b"};
	struct ds_ledger_state *state = new_state();

	state->shape = (struct ds_gpu_shape){.n_groups = 10, .group_sms = 8};
	for (int i = 0; i < 2; i++)
		add(state, names[i], share_milli, 1 + i);
	for (int i = 0; i < 2; i++) {
		struct ds_ledger_resident *r = ds_ledger_find(state, names[i]);

		r->held = range(0, 9);
		welcome(state, names[i], 11 + i);
		r->own = r->planned = range(1 - i, 1 - i);
		r->held = (struct ds_groups){{0, 0}};
		state->programs[i].groups = range(i, i);
	}
	return state;
}

/*
 * It comes about when plans change twice before programs hear of the first. Neither may wait for the
 * other: nobody would ever move, and no program of theirs be let in.
 */
static void settle_two_that_changed_places(void **unused)
{
	struct ds_ledger_state *state = exchanged(100);

	settle(state);
	expect(state, "a", "0", "0");
	expect(state, "b", "1", "1");

	state = exchanged(60);
	settle(state);
	expect(state, "a", "1", "1");
	expect(state, "b", "0", "0");
}

/* A runtime that was taken for dead comes back with its programs: who was given their groups waits. */
static void settle_one_that_came_back(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 500, 1);
	add(state, "b", 500, 2);
	settle(state);
	expect(state, "a", "0-7", "0-7");
	welcome(state, "b", 12);
	state->programs[0].groups = range(0, 9);
	settle(state);
	expect(state, "a", "0-7", "none");
	state->programs[0].groups = range(8, 9);
	settle(state);
	expect(state, "a", "0-7", "0-7");
}

static void limits(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_ledger_resident r = resident("big", 501);
	struct ds_error err;

	add(state, "a", 500, 1);
	assert_int_equal(ds_ledger_join(state, &r, &err), -1);
	assert_int_equal(errno, ENOSPC);
	assert_string_equal(err.text, "big does not fit on GPU " GPU
				      ": it is granted 501 thousandths and 500 are left");
	for (unsigned i = 1; i < DS_RESIDENTS_MAX; i++) {
		r = resident("", 1);
		snprintf(r.name, sizeof(r.name), "job-%u", i);
		assert_int_equal(ds_ledger_join(state, &r, &err), 0);
	}
	r = resident("one-more", 1);
	assert_int_equal(ds_ledger_join(state, &r, &err), -1);
	assert_int_equal(errno, ENOSPC);
	settle(state);

	for (int32_t i = 0; i < DS_PROGRAMS_MAX; i++)
		welcome(state, "a", 100 + i);
	struct ds_process process = {.pid = 99, .start_ticks = 5};
	struct ds_groups first = {{1, 0}};
	assert_int_equal(ds_ledger_add_program(state, "a", &process, &first, &err), -1);
	assert_int_equal(errno, ENOSPC);
	process.pid = 100;
	assert_int_equal(ds_ledger_add_program(state, "a", &process, &first, &err), 0);
	assert_int_equal(ds_ledger_add_program(state, "job-1", &process, &first, &err), -1);
	assert_int_equal(ds_ledger_add_program(state, "nobody", &process, &first, &err), -1);
	process.start_ticks = 6; /* the same pid, another process */
	assert_null(ds_ledger_find_program(state, &process));
	assert_int_equal(ds_ledger_remove_program(state, &process), 0);
	process.start_ticks = 5;
	assert_int_equal(ds_ledger_remove_program(state, &process), 1);
	first.bits[0] = 1 << 14;
	assert_int_equal(ds_ledger_add_program(state, "a", &process, &first, &err), -1);
	assert_int_equal(errno, EBUSY);
	assert_string_equal(err.text, "process 100 cannot run on group 14 of GPU " GPU
				      ": a does not hold it");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(settle_two_halves),
	    cmocka_unit_test(settle_waits_for_programs),
	    cmocka_unit_test(settle_newcomer_takes_what_is_given_up),
	    cmocka_unit_test(settle_newcomer_avoids_what_is_given_up),
	    cmocka_unit_test(settle_moves_what_is_acknowledged),
	    cmocka_unit_test(settle_leaves_nobody_without_a_group),
	    cmocka_unit_test(settle_removes_the_dead),
	    cmocka_unit_test(settle_shared_groups),
	    cmocka_unit_test(settle_two_that_changed_places),
	    cmocka_unit_test(settle_one_that_came_back),
	    cmocka_unit_test(limits),
	};

	alarm(60);
	return cmocka_run_group_tests_name("settle", tests, NULL, NULL);
}
