/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proctrack/deadly.h"

static void signals_that_can_kill(void **state)
{
	static const int kill[] = {SIGTERM, SIGKILL, SIGINT, SIGHUP, SIGUSR1, SIGXCPU, 64};
	static const int spare[] = {0, -1, 65, 991, SIGCONT, SIGSTOP, SIGTSTP, SIGCHLD, SIGWINCH};

	for (size_t i = 0; i < sizeof(kill) / sizeof(kill[0]); i++)
		assert_true(ds_signal_can_kill(kill[i]));
	for (size_t i = 0; i < sizeof(spare) / sizeof(spare[0]); i++)
		assert_false(ds_signal_can_kill(spare[i]));
}

static void states(void **state)
{
	static const struct {
		const char *text;
		bool whole, term_kills;
	} cases[] = {
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n", true, true},
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0", true, true},
	    {"PPid:\t7\nSigBlk:\t4000\nSigIgn:\t0\nSigCgt:\t0\n", true, false},
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t0000000000004000\nSigCgt:\t0\n", true, false},
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\tfffffffe7ffbfeff\n", true, false},
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t2\nSigCgt:\t1\n", true, true},
	    {"PPid:\t7\nNSpid:\t9\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n", true, true},
	    {"PPid:\t7\nNSpid:\t9\t1\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n", true, false},
	    {"PPid:\t7\nNSpid:\t1\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n", true, true},
	    /* A name that looks like a field, on a line of another. */
	    {"Name:\tSigIgn: 4000\nPPid:\t7\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n", true, true},
	    {"", false, false},
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t0\n", false, false},
	    {"PPid:\t7\nSigBlk:\tx\nSigIgn:\t0\nSigCgt:\t0\n", false, false},
	    {"PPid:\t7\nSigBlk:\t0\nSigIgn:\t12345678901234567\nSigCgt:\t0\n", false, false},
	};
	struct ds_signal_state seen;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool whole = ds_signal_state_parse(cases[i].text, &seen);
		if (whole != cases[i].whole)
			fail_msg("case %zu", i);
		if (!whole)
			continue;
		assert_int_equal(seen.parent, 7);
		if (ds_signal_kills(&seen, SIGTERM) != cases[i].term_kills)
			fail_msg("case %zu", i);
		assert_true(ds_signal_kills(&seen, SIGKILL));
	}
}

static void *wait_for_ever(void *arg)
{
	sigset_t term;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	pthread_sigmask(SIG_UNBLOCK, &term, NULL);
	if (write(*(int *)arg, "", 1) != 1)
		_exit(1);
	pause();
	return NULL;
}

enum manner { BY_DEFAULT, HANDLES, IGNORES, BLOCKS, BLOCKS_IN_ONE_THREAD };

static void handle(int signal_number)
{
}

/* A process that treats SIGTERM in that manner, and has begun to. */
static pid_t child(enum manner manner)
{
	int ready[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		sigset_t term;
		pthread_t other;
		sigemptyset(&term);
		sigaddset(&term, SIGTERM);
		if (manner == HANDLES)
			signal(SIGTERM, handle);
		if (manner == IGNORES)
			signal(SIGTERM, SIG_IGN);
		if (manner == BLOCKS || manner == BLOCKS_IN_ONE_THREAD)
			sigprocmask(SIG_BLOCK, &term, NULL);
		if (manner == BLOCKS_IN_ONE_THREAD)
			pthread_create(&other, NULL, wait_for_ever, &ready[1]);
		else if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void whom_a_signal_dooms(void **state)
{
	enum { N = 5 };
	pid_t all[N], pids[N + 2];

	for (int i = 0; i < N; i++)
		all[i] = child((enum manner)i);
	for (int kind = 0; kind < 3; kind++) {
		static const int signals[] = {SIGTERM, SIGKILL, SIGTERM};
		for (int i = 0; i < N; i++)
			pids[i] = all[i];
		pids[N] = getpid();
		pids[N + 1] = 1;
		/* The third time as if another process than we had started them. */
		pid_t self = kind == 2 ? getppid() : getpid();
		int n = ds_doomed(pids, kind == 2 ? N : N + 2, self, signals[kind],
				  kind == 1 ? DS_REACH_ALL : DS_REACH_CHILDREN);
		assert_int_equal(n, kind == 0 ? 2 : kind == 1 ? N : 0);
		if (kind == 0) {
			assert_int_equal(pids[0], all[BY_DEFAULT]);
			assert_int_equal(pids[1], all[BLOCKS_IN_ONE_THREAD]);
		}
	}
	for (int i = 0; i < N; i++) {
		kill(all[i], SIGKILL);
		waitpid(all[i], NULL, 0);
	}
	/* Gone: not for anything but SIGKILL, which asks nobody. */
	assert_int_equal(ds_doomed(all, N, getpid(), SIGTERM, DS_REACH_ALL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(signals_that_can_kill),
	    cmocka_unit_test(states),
	    cmocka_unit_test(whom_a_signal_dooms),
	};

	alarm(60);
	return cmocka_run_group_tests_name("deadly", tests, NULL, NULL);
}
