/* SPDX-License-Identifier: Apache-2.0 */
/* Whole-GPU windows by the ledger alone: no clock, no process, no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/ledger.h"

#define MS UINT64_C(1000000)

static const struct ds_whole_rules rules = {.deadline_ms = 100, .patience_ms = 5000};
static struct ds_ledger_state state;
static uint64_t now_ns;
static int dead_pid, stopped_pid;

static int alive(const struct ds_process *process)
{
	return process->pid != dead_pid;
}

static int may_use_gpu(const struct ds_ledger_state *of, const struct ds_process *process,
		       void *arg)
{
	(void)of;
	(void)arg;
	return alive(process);
}

static int stopped(const struct ds_process *process)
{
	return process->pid == stopped_pid;
}

static struct ds_ledger_resident *job(const char *name)
{
	struct ds_ledger_resident *r = ds_ledger_find(&state, name);

	assert_non_null(r);
	return r;
}

static void settle(void)
{
	struct ds_error err;

	ds_whole_step(&state, &rules, now_ns, alive, stopped);
	assert_int_equal(ds_ledger_settle(&state, may_use_gpu, NULL, NULL, &err), 0);
}

static void wait_ms(uint64_t ms)
{
	now_ns += ms * MS;
	settle();
}

/* Its runtime is pid 100 + n, its program 200 + n. */
static void join(const char *name, uint32_t share_milli, enum ds_class_kind kind, int n)
{
	struct ds_ledger_resident r = {.grant = {.kind = kind, .share_milli = share_milli},
				       .runtime = {.pid = 100 + n}};
	struct ds_process program = {.pid = 200 + n};
	struct ds_error err;

	snprintf(r.name, sizeof(r.name), "%s", name);
	snprintf(r.grant.class_name, sizeof(r.grant.class_name), "c");
	snprintf(r.grant.config_digest, sizeof(r.grant.config_digest), "0123456789abcdef");
	assert_int_equal(ds_ledger_join(&state, &r, &err), 0);
	settle();
	assert_int_equal(ds_ledger_add_program(&state, name, &program, &job(name)->held, &err), 0);
}

/* Two jobs with half of a GPU of 4 groups and a rest each. */
static int begin(void **unused)
{
	alarm(60);
	memset(&state, 0, sizeof(state));
	snprintf(state.gpu_uuid, sizeof(state.gpu_uuid), "GPU-1");
	state.shape = (struct ds_gpu_shape){.n_groups = 4, .group_sms = 8, .rest_sms = 4};
	now_ns = 1000 * MS;
	dead_pid = stopped_pid = 0;
	join("a", 500, DS_KIND_THROUGHPUT, 1);
	join("b", 500, DS_KIND_THROUGHPUT, 2);
	return 0;
}

static struct ds_ledger_program *program_of(const char *name)
{
	for (uint32_t i = 0; i < state.n_programs; i++)
		if (!strcmp(state.programs[i].resident, name))
			return &state.programs[i];
	fail_msg("%s has no program", name);
	return NULL;
}

static void ask(const char *name)
{
	ds_whole_enter(job(name), true, now_ns);
	settle();
}

static void drop(const char *name)
{
	ds_whole_enter(job(name), false, now_ns);
	settle();
}

static void be_quiet(const char *name)
{
	program_of(name)->quiet = 1;
	settle();
}

/* Its runtime lets it begin again: what ds_follow_settle() does before the page does. */
static void resume(const char *name)
{
	assert_false(ds_ledger_is_suspended(&state, job(name)));
	program_of(name)->quiet = 0;
}

/* It has followed its page. */
static void move_back(const char *name)
{
	program_of(name)->groups = job(name)->held;
	settle();
}

static void follow_window(const char *name)
{
	program_of(name)->groups = job(name)->held;
}

static void assert_phase(enum ds_whole_phase phase, const char *owner)
{
	assert_int_equal(state.whole.phase, phase);
	assert_string_equal(state.whole.owner, owner);
	assert_int_equal(ds_groups_count(&job("a")->own) + ds_groups_count(&job("b")->own), 5);
}

static void a_window(void **unused)
{
	const struct ds_groups own = job("a")->held, others = job("b")->held;

	ask("a");
	assert_phase(DS_WHOLE_GATHERING, "a");
	assert_true(ds_ledger_is_suspended(&state, job("b")));
	assert_false(ds_ledger_is_suspended(&state, job("a")));
	assert_true(ds_groups_equal(&job("a")->held, &own));
	be_quiet("b");
	assert_phase(DS_WHOLE_OPEN, "a");
	assert_int_equal(ds_groups_count(&job("a")->held), 5);
	assert_true(ds_groups_equal(&job("b")->held, &others));
	follow_window("a");
	wait_ms(10);
	assert_phase(DS_WHOLE_OPEN, "a");
	drop("a");
	assert_phase(DS_WHOLE_RETURNING, "a");
	assert_true(ds_groups_equal(&job("a")->held, &own));
	wait_ms(1);
	assert_phase(DS_WHOLE_RETURNING, "a");
	assert_true(ds_ledger_is_suspended(&state, job("b")));
	move_back("a");
	assert_phase(DS_WHOLE_NONE, "");
	resume("b");
	assert_int_equal(job("a")->whole.windows, 1);
	assert_int_equal(job("a")->whole.total_ns, 11 * MS);
	assert_int_equal(job("a")->whole.overruns + job("a")->whole.refusals, 0);
}

static void others_have_their_turn(void **unused)
{
	ask("a");
	be_quiet("b");
	wait_ms(40);
	drop("a");
	settle();
	assert_phase(DS_WHOLE_NONE, "");
	resume("b");
	ask("a");
	assert_phase(DS_WHOLE_NONE, "");
	assert_int_equal(ds_whole_next_ns(&state, &rules, now_ns), now_ns + 40 * MS);
	wait_ms(39);
	assert_phase(DS_WHOLE_NONE, "");
	wait_ms(1);
	assert_phase(DS_WHOLE_GATHERING, "a");
}

static void besteffort_waits_longer(void **unused)
{
	job("a")->grant.kind = DS_KIND_BESTEFFORT;
	ask("a");
	be_quiet("b");
	wait_ms(40);
	drop("a");
	settle();
	resume("b");
	ask("a");
	wait_ms(359);
	assert_phase(DS_WHOLE_NONE, "");
	wait_ms(1);
	assert_phase(DS_WHOLE_GATHERING, "a");
}

static void in_the_order_in_which_they_asked(void **unused)
{
	ask("b");
	wait_ms(1);
	ask("a");
	assert_phase(DS_WHOLE_GATHERING, "b");
	be_quiet("a");
	assert_phase(DS_WHOLE_OPEN, "b");
	wait_ms(10);
	drop("b");
	settle();
	assert_phase(DS_WHOLE_NONE, "");
	resume("a");
	wait_ms(11);
	assert_phase(DS_WHOLE_GATHERING, "a");
}

static void a_deadline_ends_it_and_a_long_kernel_is_an_overrun(void **unused)
{
	ask("a");
	be_quiet("b");
	follow_window("a");
	wait_ms(99);
	assert_phase(DS_WHOLE_OPEN, "a");
	wait_ms(1);
	assert_phase(DS_WHOLE_RETURNING, "a");
	wait_ms(500);
	assert_phase(DS_WHOLE_RETURNING, "a");
	move_back("a");
	assert_phase(DS_WHOLE_NONE, "");
	resume("b");
	assert_int_equal(job("a")->whole.overruns, 1);
	assert_true(ds_whole_refuses(job("a"), now_ns));
	ask("a");
	assert_int_equal(job("a")->whole.asked_ns, 0);
	wait_ms(10000);
	assert_false(ds_whole_refuses(job("a"), now_ns));
	ask("a");
	assert_phase(DS_WHOLE_GATHERING, "a");
}

static void back_in_time_is_no_overrun(void **unused)
{
	ask("a");
	be_quiet("b");
	follow_window("a");
	wait_ms(100);
	wait_ms(50);
	move_back("a");
	assert_phase(DS_WHOLE_NONE, "");
	assert_int_equal(job("a")->whole.overruns, 0);
	assert_true(job("a")->whole.asked_ns); /* it asks still, behind the others */
}

static void who_does_not_stop_is_not_waited_for_long(void **unused)
{
	ask("a");
	wait_ms(99);
	assert_phase(DS_WHOLE_GATHERING, "a");
	wait_ms(1);
	assert_phase(DS_WHOLE_NONE, "");
	assert_false(ds_ledger_is_suspended(&state, job("b")));
	wait_ms(100);
	assert_phase(DS_WHOLE_GATHERING, "a");
	wait_ms(199);
	assert_phase(DS_WHOLE_GATHERING, "a");
	wait_ms(1);
	assert_phase(DS_WHOLE_NONE, "");
	wait_ms(5000);
	assert_true(ds_whole_refuses(job("a"), now_ns));
	assert_int_equal(job("a")->whole.refusals, 1);
}

static void nobody_is_suspended_for_one_that_is_stopped(void **unused)
{
	stopped_pid = 202;
	ask("a");
	assert_phase(DS_WHOLE_NONE, "");
	assert_int_equal(ds_whole_next_ns(&state, &rules, now_ns), now_ns + 500 * MS);
	wait_ms(500);
	assert_phase(DS_WHOLE_NONE, "");
	stopped_pid = 0;
	wait_ms(500);
	assert_phase(DS_WHOLE_GATHERING, "a");
}

static void one_without_a_runtime_is_never_quiet(void **unused)
{
	ask("a");
	be_quiet("b");
	assert_phase(DS_WHOLE_OPEN, "a");
	dead_pid = 102;
	settle();
	assert_phase(DS_WHOLE_RETURNING, "a");
	assert_int_equal(program_of("b")->quiet, 0);
}

static void none_begins_beside_one_without_a_runtime(void **unused)
{
	ask("a");
	assert_phase(DS_WHOLE_GATHERING, "a");
	dead_pid = 102;
	settle();
	assert_phase(DS_WHOLE_NONE, "");
	wait_ms(4999);
	assert_phase(DS_WHOLE_NONE, "");
	wait_ms(1);
	assert_true(ds_whole_refuses(job("a"), now_ns));
	/* Its program has ended. */
	assert_int_equal(ds_ledger_remove_program(&state, &(struct ds_process){.pid = 202}), 1);
	wait_ms(10000);
	ds_whole_enter(ds_ledger_find(&state, "a"), true, now_ns);
	settle();
	assert_int_equal(state.whole.phase, DS_WHOLE_OPEN);
}

/*
 * What is left to the owner after its window, when nothing planned for it is free, must not be what
 * another one holds and has no program on yet.
 */
static void the_floor_after_a_window_is_nobody_elses(void **unused)
{
	struct ds_groups all;

	/* The program of b may be where a is at home, and a third one is where nobody runs yet. */
	program_of("b")->groups = job("a")->own;
	ask("a");
	be_quiet("b");
	follow_window("a");
	all = program_of("a")->groups;
	drop("a");
	assert_int_equal(ds_groups_count(&all), 5);
	struct ds_groups shared = ds_groups_intersection(job("a")->held, job("b")->held);
	assert_true(ds_groups_empty(&shared));
}

static void the_owners_runtime_dies(void **unused)
{
	const struct ds_groups own = job("a")->own;

	ask("a");
	be_quiet("b");
	follow_window("a");
	dead_pid = 101;
	settle();
	assert_phase(DS_WHOLE_RETURNING, "a");
	settle();
	wait_ms(9999);
	assert_phase(DS_WHOLE_RETURNING, "a");
	assert_int_equal(ds_whole_next_ns(&state, &rules, now_ns), now_ns + 1 * MS);
	wait_ms(1);
	assert_phase(DS_WHOLE_NONE, "");
	assert_true(ds_groups_equal(&program_of("a")->groups, &own));
}

static void the_owners_program_dies(void **unused)
{
	ask("a");
	be_quiet("b");
	follow_window("a");
	dead_pid = 201;
	drop("a");
	settle();
	assert_phase(DS_WHOLE_NONE, "");
}

static void the_owner_leaves(void **unused)
{
	ask("a");
	be_quiet("b");
	follow_window("a");
	assert_int_equal(ds_ledger_leave(&state, "a"), 1);
	settle();
	assert_int_equal(state.whole.phase, DS_WHOLE_RETURNING);
	assert_true(ds_ledger_is_suspended(&state, job("b")));
	dead_pid = 201;
	settle();
	assert_int_equal(state.whole.phase, DS_WHOLE_NONE);
	assert_false(ds_ledger_is_suspended(&state, job("b")));
}

/* What the plan does meanwhile must not let the owner keep a group that others come back to. */
static void what_changes_in_a_window_lets_nobody_in(void **unused)
{
	ask("a");
	be_quiet("b");
	follow_window("a");
	job("b")->grant.share_milli = 200;
	job("a")->grant.share_milli = 800;
	settle();
	drop("a");
	struct ds_groups shared = ds_groups_intersection(job("a")->held, program_of("b")->groups);
	assert_true(ds_groups_empty(&shared));
}

static void a_site_may_forbid_it(void **unused)
{
	job("a")->grant.whole_ms = DS_WHOLE_NEVER;
	ask("a");
	assert_phase(DS_WHOLE_NONE, "");
	assert_int_equal(job("a")->whole.asked_ns, 0);
	assert_true(ds_whole_refuses(job("a"), now_ns));
}

static void alone_it_opens_at_once(void **unused)
{
	assert_int_equal(ds_ledger_remove_program(&state, &(struct ds_process){.pid = 202}), 1);
	ask("a");
	assert_phase(DS_WHOLE_OPEN, "a");
}

/*
 * Its own group is one that a program of a neighbour, quiet now, may be on. The owner comes back to a group
 * that nobody is on; and who was to have that one does not let anybody in there.
 */
static void who_comes_back_elsewhere_is_alone_there(void **unused)
{
	ask("a");
	be_quiet("b");
	assert_phase(DS_WHOLE_OPEN, "a");
	follow_window("a");
	program_of("b")->groups = job("a")->own;
	drop("a");
	assert_phase(DS_WHOLE_RETURNING, "a");
	struct ds_groups both = ds_groups_intersection(job("a")->held, job("b")->held);
	assert_true(ds_groups_has_full(&job("a")->held, &state.shape));
	assert_true(ds_groups_empty(&both));
	move_back("a");
	assert_phase(DS_WHOLE_NONE, "");
	for (int round = 0; round < 4; round++) {
		both = ds_groups_intersection(program_of("a")->groups, job("b")->held);
		assert_true(ds_groups_empty(&both));
		both = ds_groups_intersection(program_of("b")->groups, job("a")->held);
		assert_true(ds_groups_empty(&both));
		if (!ds_ledger_is_suspended(&state, job("b")))
			resume("b");
		/* As pages go: nobody is told to be nowhere. */
		if (ds_groups_has_full(&job("b")->held, &state.shape))
			move_back("b");
		if (ds_groups_has_full(&job("a")->held, &state.shape))
			move_back("a");
	}
	assert_true(ds_groups_equal(&job("a")->held, &job("a")->own));
	assert_true(ds_groups_equal(&job("b")->held, &job("b")->own));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, begin)
	const struct CMUnitTest tests[] = {
	    TEST(a_window),
	    TEST(others_have_their_turn),
	    TEST(besteffort_waits_longer),
	    TEST(in_the_order_in_which_they_asked),
	    TEST(a_deadline_ends_it_and_a_long_kernel_is_an_overrun),
	    TEST(back_in_time_is_no_overrun),
	    TEST(who_does_not_stop_is_not_waited_for_long),
	    TEST(nobody_is_suspended_for_one_that_is_stopped),
	    TEST(one_without_a_runtime_is_never_quiet),
	    TEST(none_begins_beside_one_without_a_runtime),
	    TEST(the_floor_after_a_window_is_nobody_elses),
	    TEST(the_owners_runtime_dies),
	    TEST(the_owners_program_dies),
	    TEST(the_owner_leaves),
	    TEST(what_changes_in_a_window_lets_nobody_in),
	    TEST(a_site_may_forbid_it),
	    TEST(alone_it_opens_at_once),
	    TEST(who_comes_back_elsewhere_is_alone_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
