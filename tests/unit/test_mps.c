/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/converse.h"
#include "noderuntime/mps.h"

#define UUID "GPU-aaaaaaaa-0000-4000-8000-000000000001"

enum {
	WELL_MS = 20000,  /* for what does not hang, on a busy machine */
	HANGS_MS = 10000, /* it does, for 30 s, but nobody waited for its end */
};

/* A control program whose every word is written down, and that hangs when told to. */
static const char script[] =
    "#!/bin/sh\n"
    "dir=${0%/*}\n"
    "[ -e $dir/hang ] && sleep 30\n"
    "if [ \"$1\" = -d ]; then\n"
    "  env > $dir/env\n"
    "  [ -e $dir/fail ] && { echo 'no such device'; exit 3; }\n"
    "  echo start >> $dir/log\n"
    "  : > $CUDA_MPS_PIPE_DIRECTORY/control\n"
    "  { while [ -e $CUDA_MPS_PIPE_DIRECTORY/control ]; do sleep 0.02; done; } "
    "</dev/null >/dev/null 2>&1 &\n"
    "  exit 0\n"
    "fi\n"
    "read line\n"
    "echo \"$line\" >> $dir/log\n"
    "case $line in\n"
    "get_server_list) echo 77; echo 88;;\n"
    "get_client_list\\ 77) for c in 1234 4321 5432; do [ -e $dir/gone-$c ] || echo $c; done;;\n"
    "terminate_client*) [ -e $dir/stuck ] || : > $dir/gone-${line##* };;\n"
    "quit*) [ -e $dir/deaf ] || rm $CUDA_MPS_PIPE_DIRECTORY/control;;\n"
    "esac\n";

static char dir[64];
static struct ds_node_config config;

static void touch(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void drop(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
}

/* The file's whole text; valid until the next call. */
static const char *text_of(const char *name)
{
	static char text[65536];
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *file = fopen(path, "r");
	size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
	if (file)
		fclose(file);
	text[n] = '\0';
	return text;
}

static bool exists(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

static int set_up(void **state)
{
	char path[128];

	strcpy(dir, "/tmp/ds-mps-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	ds_node_config_defaults(&config, "n");
	snprintf(config.runtime_dir, sizeof(config.runtime_dir), "%s", dir);
	snprintf(config.mps_control, sizeof(config.mps_control), "%s/nvidia-cuda-mps-control", dir);
	snprintf(config.cgroup_root, sizeof(config.cgroup_root), "%s/nowhere", dir);
	snprintf(path, sizeof(path), "%s/gpu-" UUID, dir);
	mkdir(path, 0711);
	touch("nvidia-cuda-mps-control", script);
	return chmod(config.mps_control, 0755);
}

static bool yes(void *arg)
{
	return true;
}

static bool no(void *arg)
{
	return false;
}

static int tear_down(void **state)
{
	char command[128];

	drop("hang");
	ds_mps_stop(&config, UUID, yes, NULL, ds_deadline_in(2000), NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static int ensure(bool alone, int deadline_ms, struct ds_error *err)
{
	const struct ds_mps_need need = {.alone = alone};

	return ds_mps_ensure(&config, UUID, &need, ds_deadline_in(deadline_ms), err);
}

static void started_once_and_ended_when_unused(void **state)
{
	struct ds_error err;
	char pipe[PATH_MAX];

	setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50", 1);
	assert_int_equal(ensure(true, WELL_MS, &err), 0);
	assert_string_equal(text_of("log"), "start\nget_server_list\n");
	const char *env = text_of("env");
	assert_null(strstr(env, "PERCENTAGE"));
	assert_non_null(strstr(env, "CUDA_VISIBLE_DEVICES=" UUID "\n"));
	assert_int_equal(ds_mps_pipe_dir(&config, UUID, pipe), 0);
	assert_non_null(strstr(env, pipe));
	assert_int_equal(ensure(false, WELL_MS, &err), 0);
	assert_string_equal(text_of("log"), "start\nget_server_list\nget_server_list\n");

	assert_int_equal(ds_mps_stop(&config, UUID, no, NULL, ds_deadline_in(WELL_MS), &err), 0);
	assert_true(exists("gpu-" UUID "/mps/pipe/control"));
	assert_int_equal(ds_mps_stop(&config, UUID, yes, NULL, ds_deadline_in(WELL_MS), &err), 0);
	assert_false(exists("gpu-" UUID "/mps"));
	assert_non_null(strstr(text_of("log"), "quit"));
	assert_int_equal(ds_mps_stop(&config, UUID, yes, NULL, ds_deadline_in(WELL_MS), &err), 0);
}

static void no_mps(void **state)
{
	struct ds_error err;

	config.mps_control[0] = '\0';
	assert_int_equal(ensure(true, WELL_MS, &err), 0);
	assert_int_equal(ds_mps_stop(&config, UUID, yes, NULL, ds_deadline_in(WELL_MS), &err), 0);
	assert_false(exists("gpu-" UUID "/mps"));
}

static void what_fails_is_named(void **state)
{
	struct ds_error err;

	touch("fail", "");
	assert_int_equal(ensure(true, WELL_MS, &err), -1);
	assert_non_null(strstr(err.text, "cannot start MPS for GPU " UUID));
	assert_non_null(strstr(err.text, "status 3: no such device"));
	assert_false(exists("gpu-" UUID "/mps"));
	strcpy(config.mps_control, "/nonexistent/control");
	assert_int_equal(ensure(true, WELL_MS, &err), -1);
	assert_non_null(strstr(err.text, "there is no program /nonexistent/control"));
}

static void what_hangs_is_killed(void **state)
{
	struct ds_error err;
	int64_t began = ds_now_ns(CLOCK_MONOTONIC);

	touch("hang", "");
	assert_int_equal(ensure(true, 300, &err), -1);
	assert_non_null(strstr(err.text, "did not end in time and was killed"));
	assert_true(ds_now_ns(CLOCK_MONOTONIC) - began < HANGS_MS * INT64_C(1000000));
}

static void a_daemon_that_hangs_is_replaced_only_when_nobody_needs_it(void **state)
{
	struct ds_error err;

	assert_int_equal(ensure(true, WELL_MS, &err), 0);
	touch("hang", "");
	assert_int_equal(ensure(false, 400, &err), -1);
	assert_non_null(strstr(err.text, "under running jobs"));
	assert_int_equal(ensure(true, 400, &err), -1); /* it hangs when started anew, too */
	assert_false(exists("gpu-" UUID "/mps"));
	drop("hang");
	assert_int_equal(ensure(true, WELL_MS, &err), 0);
}

static void a_daemon_that_does_not_quit_is_killed(void **state)
{
	struct ds_error err;

	assert_int_equal(ensure(true, WELL_MS, &err), 0);
	touch("deaf", "");
	assert_int_equal(ds_mps_stop(&config, UUID, yes, NULL, ds_deadline_in(300), &err), 0);
	assert_false(exists("gpu-" UUID "/mps"));
}

static void only_listed_clients_are_terminated(void **state)
{
	static const pid_t pids[] = {4321, 999, 5432};
	pid_t clients[4];
	struct ds_error err;

	/* No daemon: nothing. */
	assert_int_equal(ds_mps_terminate(&config, UUID, pids, 3, ds_deadline_in(1000)), 0);
	assert_int_equal(ensure(true, WELL_MS, &err), 0);
	assert_int_equal(ds_mps_clients(&config, UUID, clients, 4, ds_deadline_in(WELL_MS)), 3);
	/* This control program reads one command a run: they are asked for one by one then. */
	assert_int_equal(ds_mps_terminate(&config, UUID, pids, 3, ds_deadline_in(WELL_MS)), 0);
	const char *log = text_of("log");
	assert_non_null(strstr(log, "terminate_client 77 4321\n"));
	assert_non_null(strstr(log, "terminate_client 77 5432\n"));
	assert_null(strstr(log, "999"));
	assert_null(strstr(log, "1234"));
	assert_int_equal(ds_mps_clients(&config, UUID, clients, 4, ds_deadline_in(WELL_MS)), 1);
	assert_int_equal(clients[0], 1234);
}

static void a_client_that_mps_cannot_end_is_told_of(void **state)
{
	static const pid_t pids[] = {4321, 1234};
	struct ds_error err;

	assert_int_equal(ensure(true, WELL_MS, &err), 0);
	touch("stuck", "");
	assert_int_equal(ds_mps_terminate(&config, UUID, pids, 2, ds_deadline_in(1000)), 2);
	touch("hang", "");
	assert_int_equal(ds_mps_terminate(&config, UUID, pids, 2, ds_deadline_in(200)), 2);
	assert_int_equal(ds_mps_clients(&config, UUID, NULL, 0, ds_deadline_in(200)), -1);
}

static void pid_lists(void **state)
{
	static const struct {
		const char *text;
		size_t n;
		pid_t pids[3];
	} cases[] = {
	    {"", 0, {0}},
	    {"1\n", 1, {1}},
	    {"12\n34\n56\n78\n", 3, {12, 34, 56}},
	    {"  12 \r\n\n\t34", 2, {12, 34}},
	    {"Server 12 is not active\n34\n", 1, {34}},
	    {"12 is wrong\n0\n-5\n99999999999999\n7\n", 1, {7}},
	};
	pid_t pids[3];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(ds_mps_parse_pids(cases[i].text, pids, 3), cases[i].n);
		assert_memory_equal(pids, cases[i].pids, cases[i].n * sizeof(pids[0]));
	}
}

static void limits_and_visible_gpus(void **state)
{
	static const struct {
		const char *devices;
		bool visible;
	} cases[] = {
	    {NULL, true},
	    {"", true},
	    {UUID, true},
	    {"GPU-aaaaaaaa", true},
	    {"GPU-b," UUID, true},
	    {"0", true}, /* may be any */
	    {"GPU-b,1", true},
	    {"GPU-b", false},
	    {"GPU-b,,GPU-c,", false},
	    {UUID "0", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (ds_mps_visible(cases[i].devices, UUID) != cases[i].visible)
			fail_msg("case %zu", i);
	}
	assert_true(ds_mps_percentage_low("50.0\n"));
	assert_true(ds_mps_percentage_low("99.9"));
	assert_false(ds_mps_percentage_low("100.0\n"));
	assert_false(ds_mps_percentage_low(""));
	assert_false(ds_mps_percentage_low("Unknown command\n"));
	assert_int_equal(ds_mps_clients_max(13000), 48);
	assert_int_equal(ds_mps_clients_max(13010), 60);
}

static void conversations(void **state)
{
	static const struct {
		const char *command, *input, *output, *reason; /* NULL reason: status 0 */
	} cases[] = {
	    {"cat", "hello\n", "hello\n", NULL},
	    {"cat", NULL, "", NULL},
	    {"echo out; echo err >&2", NULL, "out\nerr\n", NULL},
	    {"exec <&-; sleep 0.05; echo deaf", "unread", "deaf\n", NULL},
	    {"echo why; exit 3", NULL, "why\n", "status 3: why"},
	    {"kill -9 $$", NULL, "", "signal 9"},
	    {"sleep 30 & echo done", NULL, "done\n", NULL},
	    {"echo before; sleep 30", NULL, NULL, "did not end in time"},
	    {"trap '' TERM INT; while :; do sleep 1; done", NULL, NULL, "did not end in time"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *argv[] = {"sh", "-c", (char *)(uintptr_t)cases[i].command, NULL};
		struct ds_conversation talk = {.argv = argv,
					       .input = cases[i].input,
					       .deadline =
						   ds_deadline_in(cases[i].output ? WELL_MS : 500)};
		struct ds_error err = {""};
		char output[64];
		int rc = ds_converse(&talk, output, sizeof(output), &err);
		assert_int_equal(rc, cases[i].reason ? -1 : 0);
		if (cases[i].reason && !strstr(err.text, cases[i].reason))
			fail_msg("%s: %s", cases[i].command, err.text);
		if (cases[i].output)
			assert_string_equal(output, cases[i].output);
	}
	char *argv[] = {"/nonexistent", NULL};
	struct ds_conversation talk = {.argv = argv, .deadline = ds_deadline_in(500)};
	assert_int_equal(ds_converse(&talk, NULL, 0, NULL), -1);
	assert_int_equal(errno, ENOENT);
}

static void more_output_than_room_is_cut(void **state)
{
	char *argv[] = {"sh", "-c", "yes | head -c 200000", NULL};
	struct ds_conversation talk = {.argv = argv, .deadline = ds_deadline_in(5000)};
	char output[16];

	assert_int_equal(ds_converse(&talk, output, sizeof(output), NULL), 0);
	assert_int_equal(strlen(output), sizeof(output) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(started_once_and_ended_when_unused, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(no_mps, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(what_fails_is_named, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(what_hangs_is_killed, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(
		a_daemon_that_hangs_is_replaced_only_when_nobody_needs_it, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_daemon_that_does_not_quit_is_killed, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(only_listed_clients_are_terminated, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_client_that_mps_cannot_end_is_told_of, set_up,
					    tear_down),
	    cmocka_unit_test(pid_lists),
	    cmocka_unit_test(limits_and_visible_gpus),
	    cmocka_unit_test(conversations),
	    cmocka_unit_test(more_output_than_room_is_cut),
	};

	alarm(60);
	return cmocka_run_group_tests_name("mps", tests, NULL, NULL);
}
