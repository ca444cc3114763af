/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/converse.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/process.h"
#include "noderuntime/cgroup.h"
#include "noderuntime/realtime.h"

extern char **environ;

enum {
	KILL_GRACE_MS = 200, /* how long a killed child may take to be gone */
};

static const char default_path[] =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* In the child: nothing of the caller's signal state may reach the program. */
static void reset_signals(void)
{
	sigset_t none;

	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the child: run, or tell why not through `report` (which exec closes). */
static void __attribute__((noreturn))
child(const struct ds_conversation *talk, pid_t caller, int in, int out, int report)
{
	setsid();
	ds_process_end_with(caller); /* a hung child must not outlive a killed caller */
	reset_signals();
	ds_realtime_end();
	if (talk->cgroup)
		ds_cgroup_join(talk->cgroup_root, talk->cgroup, NULL);
	if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(out, STDERR_FILENO) < 0)
		goto fail;
	if (report != 3) {
		if (dup3(report, 3, O_CLOEXEC) < 0)
			goto fail;
		report = 3;
	}
	close_range(4, ~0U, 0);
	if (!getenv("PATH"))
		putenv((char *)(uintptr_t)default_path);
	execvpe(talk->argv[0], talk->argv, talk->env ? talk->env : environ);
fail:;
	int reason = errno;
	ssize_t ignored = write(report, &reason, sizeof(reason));
	(void)ignored;
	_exit(127);
}

/* Write what the pipe takes; a child that does not read its input must not block us. */
static void feed(int *fd, const char **input)
{
	ssize_t n = write(*fd, *input, strlen(*input));

	if (n > 0)
		*input += n;
	if ((n < 0 && errno != EAGAIN && errno != EINTR) || !**input)
		close_fd(fd);
}

/* Read what is there into `output`, drop what does not fit. */
static void drain(int *fd, char *output, size_t size, size_t *used)
{
	char rest[512];

	for (;;) {
		bool keep = *used + 1 < size;
		ssize_t n = keep ? read(*fd, output + *used, size - 1 - *used)
				 : read(*fd, rest, sizeof(rest));
		if (n > 0 && keep)
			*used += (size_t)n;
		if (n > 0 || (n < 0 && errno == EINTR))
			continue;
		if (n == 0 || errno != EAGAIN)
			close_fd(fd);
		return;
	}
}

/* Wait for the child's end, feeding and draining meanwhile. False: the deadline came first. */
static bool converse(int pidfd, int *in, int *out, const struct ds_conversation *talk, char *output,
		     size_t size, size_t *used)
{
	const char *input = talk->input ? talk->input : "";

	for (;;) {
		struct pollfd fds[] = {{.fd = pidfd, .events = POLLIN},
				       {.fd = *out, .events = POLLIN},
				       {.fd = *in, .events = POLLOUT}};
		int left_ms = ds_deadline_left_ms(talk->deadline);
		if (poll(fds, 3, left_ms) < 0 && errno != EINTR)
			return false;
		if (fds[2].revents)
			feed(in, &input);
		if (fds[1].revents)
			drain(out, output, size, used);
		/* Its own end counts, not the pipe's: a daemon it started may keep that open. */
		if (fds[0].revents)
			return true;
		if (!ds_deadline_left_ms(talk->deadline))
			return false;
	}
}

/* Kill the child's process group; wait a moment for its end. */
static void put_down(pid_t pid, int pidfd)
{
	struct pollfd over = {.fd = pidfd, .events = POLLIN};

	kill(-pid, SIGKILL);
	kill(pid, SIGKILL); /* before its setsid() there is no such group */
	if (poll(&over, 1, KILL_GRACE_MS) == 1)
		waitpid(pid, NULL, 0);
}

/* What it said, as the end of our line: without line breaks, at most so much as is readable. */
static void one_line(char *text)
{
	size_t length = strlen(text);

	while (length && (unsigned char)text[length - 1] <= ' ')
		text[--length] = '\0';
	for (char *c = text; *c; c++) {
		if ((unsigned char)*c < ' ')
			*c = ' ';
	}
}

static int judge(const struct ds_conversation *talk, int status, const char *output,
		 struct ds_error *err)
{
	char said[256];

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	snprintf(said, sizeof(said), "%s", output);
	one_line(said);
	errno = ECHILD;
	if (WIFSIGNALED(status))
		return ds_fail(err, "%s was ended by signal %d%s%s", talk->argv[0],
			       WTERMSIG(status), *said ? ": " : "", said);
	return ds_fail(err, "%s ended with status %d%s%s", talk->argv[0], WEXITSTATUS(status),
		       *said ? ": " : "", said);
}

int ds_converse(const struct ds_conversation *talk, char *output, size_t size, struct ds_error *err)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1}, report[2] = {-1, -1};
	int pidfd = -1, rv = -1, reason = 0, status = 0;
	size_t used = 0;
	pid_t pid = -1;

	if (size)
		output[0] = '\0';
	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0 ||
	    (talk->input && pipe2(in, O_CLOEXEC) < 0)) {
		ds_fail(err, "cannot make a pipe for %s: %s", talk->argv[0], strerror(errno));
		goto fail;
	}
	if (!talk->input)
		in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (in[0] < 0) {
		ds_fail(err, "cannot open /dev/null: %s", strerror(errno));
		goto fail;
	}
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	if (in[1] >= 0)
		fcntl(in[1], F_SETFL, O_NONBLOCK);
	const pid_t caller = getpid();
	pid = fork();
	if (pid < 0) {
		ds_fail(err, "cannot fork for %s: %s", talk->argv[0], strerror(errno));
		goto fail;
	}
	if (pid == 0)
		child(talk, caller, in[0], out[1], report[1]);
	close_fd(&in[0]);
	close_fd(&out[1]);
	close_fd(&report[1]);
	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0) {
		ds_fail(err, "cannot watch %s: %s", talk->argv[0], strerror(errno));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		goto fail;
	}
	if (!converse(pidfd, &in[1], &out[0], talk, output, size, &used)) {
		put_down(pid, pidfd);
		ds_fail(err, "%s did not end in time and was killed", talk->argv[0]);
		errno = ETIMEDOUT;
		goto fail;
	}
	if (waitpid(pid, &status, 0) < 0) {
		ds_fail(err, "cannot wait for %s: %s", talk->argv[0], strerror(errno));
		goto fail;
	}
	if (out[0] >= 0)
		drain(&out[0], output, size, &used);
	if (size)
		output[used] = '\0';
	if (read(report[0], &reason, sizeof(reason)) == sizeof(reason)) {
		errno = reason;
		ds_fail(err, "cannot run %s: %s", talk->argv[0], strerror(reason));
		goto fail;
	}
	rv = judge(talk, status, size ? output : "", err);
fail:;
	int saved_errno = errno;
	for (int i = 0; i < 2; i++) {
		close_fd(&in[i]);
		close_fd(&out[i]);
		close_fd(&report[i]);
	}
	close_fd(&pidfd);
	errno = saved_errno;
	return rv;
}
