/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/spawn.h"

static const char *const clean[] = {"PATH=/usr/bin:/bin", NULL};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

enum { LATE_MS = 1200 }; /* long enough for a shell to begin, on a busy machine */

static int shell(const char *script, unsigned deadline_ms, enum ds_spawn_late late, char *said,
		 size_t size, struct ds_error *err)
{
	const char *const argv[] = {"/bin/sh", "-c", script, NULL};
	const struct ds_spawn spawn = {
	    .argv = argv, .envp = clean, .deadline_ms = deadline_ms, .late = late};

	return ds_spawn(&spawn, said, size, err);
}

static void statuses_and_last_words(void **state)
{
	static const struct {
		const char *script;
		int status;
		const char *said;
	} cases[] = {
	    {"exit 0", 0, ""},
	    {"exit 255", 255, ""},
	    {"echo one >&2; echo two >&2; exit 1", 1, "two"},
	    {"printf 'no newline' >&2", 0, "no newline"},
	    {"echo sh: reason >&2", 0, "reason"},
	    {"echo sh: >&2", 0, "sh:"},
	    {"echo /bin/sh: reason >&2", 0, "/bin/sh: reason"},
	    {"printf 'first\\n\\n \\n' >&2", 0, "first"},
	    {"printf 'a\\tb\\033[1m\\n' >&2", 0, "a?b?[1m"},
	    {"echo lost; echo heard >&2", 0, "heard"},
	    {"i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done", 0, "line 2999"},
	    {"[ \"$(env | grep -v -e ^PWD -e ^_ -e ^SHLVL)\" = PATH=/usr/bin:/bin ]", 0, ""},
	    {"[ \"$(pwd)\" = / ] && ! read x", 0, ""},
	    {"for fd in /proc/self/fd/*; do [ ${fd##*/} -le 3 ] || exit 1; done", 0, ""},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char said[64];
		struct ds_error err = {0};
		int status = shell(cases[i].script, 20000, DS_SPAWN_KILL, said, sizeof(said), &err);

		if (status != cases[i].status)
			fprintf(stderr, "# %s: %d, %s, %s\n", cases[i].script, status, said,
				err.text);
		assert_int_equal(status, cases[i].status);
		assert_string_equal(said, cases[i].said);
	}
}

static void cut_at_the_buffer(void **state)
{
	char said[5];
	struct ds_error err = {0};

	assert_int_equal(
	    shell("echo 123456789 >&2", 20000, DS_SPAWN_KILL, said, sizeof(said), &err), 0);
	assert_string_equal(said, "1234");
	assert_int_equal(shell("echo 123456789 >&2", 20000, DS_SPAWN_KILL, NULL, 0, &err), 0);
}

static void not_executable(void **state)
{
	const char *const argv[] = {"/nowhere/program", NULL};
	const struct ds_spawn spawn = {.argv = argv, .envp = clean, .deadline_ms = 20000};
	struct ds_error err = {0};

	assert_int_equal(ds_spawn(&spawn, NULL, 0, &err), -1);
	assert_int_equal(errno, ENOENT);
	assert_string_equal(err.text, "cannot run /nowhere/program: No such file or directory");
}

static void killed_by_a_signal(void **state)
{
	struct ds_error err = {0};

	assert_int_equal(shell("kill -SEGV $$", 20000, DS_SPAWN_KILL, NULL, 0, &err), -1);
	assert_string_equal(err.text, "/bin/sh was killed by signal 11");
}

/* There, and not a zombie that init has yet to reap. */
static bool lives(pid_t pid)
{
	char path[32], stat[256] = "";

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	FILE *file = fopen(path, "r");
	if (!file)
		return false;
	size_t n = fread(stat, 1, sizeof(stat) - 1, file);
	fclose(file);
	return n > 0 && !strstr(stat, ") Z ");
}

static void late_and_killed_with_its_children(void **state)
{
	char said[64];
	struct ds_error err = {0};
	int64_t begin = now_ms();

	assert_int_equal(shell("trap '' TERM INT HUP; sleep 300 & echo $! >&2; wait; sleep 300",
			       LATE_MS, DS_SPAWN_KILL, said, sizeof(said), &err),
			 -1);
	assert_int_equal(errno, ETIMEDOUT);
	assert_true(now_ms() - begin >= LATE_MS);
	assert_true(now_ms() - begin < 30000); /* not as long as it would have lived */
	assert_string_equal(err.text, "/bin/sh did not end within 1200 ms and was killed");
	pid_t grandchild = (pid_t)atoi(said);
	assert_true(grandchild > 1);
	for (int i = 0; i < 2000 && lives(grandchild); i++)
		usleep(10000);
	assert_false(lives(grandchild));
}

static void late_and_left(void **state)
{
	char said[64];
	struct ds_error err = {0};

	assert_int_equal(
	    shell("echo $$ >&2; exec sleep 300", LATE_MS, DS_SPAWN_LEAVE, said, sizeof(said), &err),
	    -1);
	assert_int_equal(errno, ETIMEDOUT);
	assert_string_equal(err.text, "/bin/sh did not end within 1200 ms and was left running");
	assert_int_equal(kill((pid_t)atoi(said), SIGKILL), 0);
}

/* A daemon that forgot to close its stderr must not hold us up. */
static void a_daemon_keeps_the_pipe(void **state)
{
	char said[64];
	struct ds_error err = {0};
	int64_t begin = now_ms();

	assert_int_equal(
	    shell("setsid sleep 300 & echo $! >&2", 30000, DS_SPAWN_KILL, said, sizeof(said), &err),
	    0);
	assert_true(now_ms() - begin < 20000);
	assert_int_equal(kill((pid_t)atoi(said), SIGKILL), 0);
}

static void blocked_signals_are_not_inherited(void **state)
{
	sigset_t set, before;
	struct ds_error err = {0};

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &before);
	signal(SIGTERM, SIG_IGN);
	assert_int_equal(shell("kill -TERM $$; exit 3", 20000, DS_SPAWN_KILL, NULL, 0, &err), -1);
	assert_string_equal(err.text, "/bin/sh was killed by signal 15");
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &before, NULL);
}

static void another_mount_namespace(void **state)
{
	const char *const argv[] = {"/bin/true", NULL};
	struct ds_spawn spawn = {.argv = argv, .envp = clean, .deadline_ms = 20000};
	struct ds_error err = {0};

	spawn.mount_namespace = "/proc/self/ns/nothing";
	assert_int_equal(ds_spawn(&spawn, NULL, 0, &err), -1);
	assert_string_equal(err.text, "cannot run /bin/true: No such file or directory");
	if (geteuid() != 0)
		skip(); /* only root may enter one */
	spawn.mount_namespace = "/proc/self/ns/mnt";
	assert_int_equal(ds_spawn(&spawn, NULL, 0, &err), 0);
}

static void in_the_background(void **state)
{
	char path[] = "/tmp/detshare-spawn-XXXXXX";
	int fd = mkstemp(path);
	char script[128];
	const char *const argv[] = {"/bin/sh", "-c", script, NULL};
	struct ds_error err = {0};
	char byte = 0;

	assert_true(fd >= 0);
	snprintf(script, sizeof(script), "printf x > %s", path);
	assert_int_equal(ds_spawn_background(argv, clean, &err), 0);
	for (int i = 0; i < 500 && pread(fd, &byte, 1, 0) != 1; i++)
		usleep(10000);
	assert_int_equal(byte, 'x');
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(statuses_and_last_words),
	    cmocka_unit_test(cut_at_the_buffer),
	    cmocka_unit_test(not_executable),
	    cmocka_unit_test(killed_by_a_signal),
	    cmocka_unit_test(late_and_killed_with_its_children),
	    cmocka_unit_test(late_and_left),
	    cmocka_unit_test(a_daemon_keeps_the_pipe),
	    cmocka_unit_test(blocked_signals_are_not_inherited),
	    cmocka_unit_test(another_mount_namespace),
	    cmocka_unit_test(in_the_background),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
