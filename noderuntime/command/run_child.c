/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127, STATUS_SIGNAL = 128 };

static const int passed_on[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

void ds_run_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGCHLD);
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++)
		sigaddset(signals, passed_on[i]);
}

/* Does not return. */
static void become(char **argv, const struct ds_env_edits *edits, const sigset_t *mask,
		   pid_t parent)
{
	/* `detshare run` killed by -9 takes its share with it; the command should not go on without. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(STATUS_SIGNAL + SIGTERM);
	for (uint32_t i = 0; i < edits->n; i++) {
		if (edits->list[i].value)
			setenv(edits->list[i].name, edits->list[i].value, 1);
		else
			unsetenv(edits->list[i].name);
	}
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	fprintf(stderr, "detshare run: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE);
}

/* Take signals until the command has ended. */
static int attend(pid_t pid, const sigset_t *signals, int *status, struct ds_error *err)
{
	for (;;) {
		siginfo_t info;
		int signal_number = sigwaitinfo(signals, &info);
		if (signal_number < 0 && errno == EINTR)
			continue;
		if (signal_number < 0)
			return ds_fail(err, "cannot wait for signals: %s", strerror(errno));
		if (signal_number != SIGCHLD) {
			/* The terminal's (Ctrl-C) the command has had itself, being in our group. */
			if (info.si_code != SI_KERNEL)
				kill(pid, signal_number);
			continue;
		}
		pid_t ended = waitpid(pid, status, WNOHANG);
		if (ended == pid)
			return 0;
		if (ended < 0)
			return ds_fail(err, "cannot wait for process %d: %s", (int)pid,
				       strerror(errno));
	}
}

int ds_run_command(char **argv, const struct ds_env_edits *edits, const sigset_t *signals,
		   const sigset_t *mask, struct ds_error *err)
{
	pid_t parent = getpid();
	int status = 0;

	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		return ds_fail(err, "cannot fork for %s: %s", argv[0], strerror(errno));
	if (pid == 0)
		become(argv, edits, mask, parent);
	if (attend(pid, signals, &status, err) < 0)
		return -1;
	if (WIFSIGNALED(status))
		return STATUS_SIGNAL + WTERMSIG(status);
	return WEXITSTATUS(status);
}
