/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/realtime.h"

static rlim_t soft_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_RTTIME, &limit);
	return limit.rlim_cur;
}

/* Each test in a process of its own, whose exit status is the line of what is wrong; 0: nothing is. */
#define EXPECT(condition)                \
	do {                             \
		if (!(condition))        \
			_exit(__LINE__); \
	} while (0)

static void in_child(void (*body)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		alarm(60);
		body();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void what_it_starts_is_ordinary(void)
{
	const rlim_t before = soft_limit();
	int status;

	EXPECT(ds_realtime_begin(NULL) == 0);
	EXPECT(sched_getscheduler(0) == (SCHED_RR | SCHED_RESET_ON_FORK));
	EXPECT(soft_limit() <= DS_REALTIME_MOST_MS * 1000);
	pid_t pid = fork();
	if (!pid) {
		EXPECT(sched_getscheduler(0) == SCHED_OTHER);
		ds_realtime_end();
		EXPECT(soft_limit() == before);
		_exit(0);
	}
	EXPECT(waitpid(pid, &status, 0) == pid && status == 0);
}

static void who_never_sleeps_is_ordinary_again(void)
{
	const rlim_t before = soft_limit();

	EXPECT(ds_realtime_begin(NULL) == 0);
	while (sched_getscheduler(0) != SCHED_OTHER)
		;
	EXPECT(soft_limit() == before);
}

static void who_may_not_stays_as_it_was(void)
{
	const struct rlimit none = {0};
	const rlim_t before = soft_limit();
	struct ds_error err = {""};

	EXPECT(setrlimit(RLIMIT_RTPRIO, &none) == 0);
	EXPECT(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
	EXPECT(ds_realtime_begin(&err) == -1 && err.text[0]);
	EXPECT(sched_getscheduler(0) == SCHED_OTHER && soft_limit() == before);
}

static bool may(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(ds_realtime_begin(NULL) < 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

static void test_what_it_starts_is_ordinary(void **state)
{
	(void)state;
	if (!may())
		skip(); /* this process may not be scheduled in real time */
	in_child(what_it_starts_is_ordinary);
}

static void test_who_never_sleeps_is_ordinary_again(void **state)
{
	(void)state;
	if (!may())
		skip();
	in_child(who_never_sleeps_is_ordinary_again);
}

static void test_who_may_not_stays_as_it_was(void **state)
{
	(void)state;
	in_child(who_may_not_stays_as_it_was);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_it_starts_is_ordinary),
	    cmocka_unit_test(test_who_never_sleeps_is_ordinary_again),
	    cmocka_unit_test(test_who_may_not_stays_as_it_was),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
