/* SPDX-License-Identifier: Apache-2.0 */
#include "common/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

enum {
	REAP_MS = 80,     /* for a killed child to be gone */
	TAIL_SIZE = 1024, /* of what the child says, its end is kept */
	/* A pipe's room, 64 KiB, several times over: a grandchild could go on writing for ever. */
	REST_READS = 256,
	OPEN_FILES_TRIED = 65536,
};

/* What the parent hears of a child: what it says, and the errno if it could not be executed. */
struct ears {
	int said_fd;
	int exec_fd;
	char tail[TAIL_SIZE];
	size_t tail_length;
	int exec_errno;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Between fork and exec in a process with threads: async-signal-safe calls only. */
static void close_from(int first)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, (unsigned)first, ~0U, 0U) == 0)
		return;
#endif
	struct rlimit limit;
	int end = OPEN_FILES_TRIED;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < OPEN_FILES_TRIED)
		end = (int)limit.rlim_cur;
	for (int fd = first; fd < end; fd++)
		close(fd);
}

static int enter_mount_namespace(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -1 : setns(fd, CLONE_NEWNS);
}

/* Does not return. `stderr_fd` may be -1 (/dev/null); errno of a failure goes to `exec_fd`. */
static void become(const char *const *argv, const char *const *envp, const char *mount_namespace,
		   int stderr_fd, int exec_fd)
{
	enum { SAFE = 16 }; /* above 0..3, so that no dup2 below hits a descriptor still needed */
	sigset_t none;
	int failure;

	setsid();
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);

	int null_fd = open("/dev/null", O_RDWR);
	int safe_null = fcntl(null_fd, F_DUPFD, SAFE);
	int safe_stderr = stderr_fd >= 0 ? fcntl(stderr_fd, F_DUPFD, SAFE) : safe_null;
	int safe_exec = exec_fd >= 0 ? fcntl(exec_fd, F_DUPFD, SAFE) : -1;
	if ((mount_namespace && enter_mount_namespace(mount_namespace) < 0) || chdir("/") < 0 ||
	    dup2(safe_null, STDIN_FILENO) < 0 || dup2(safe_null, STDOUT_FILENO) < 0 ||
	    dup2(safe_stderr, STDERR_FILENO) < 0)
		goto fail;
	if (safe_exec >= 0) {
		if (dup2(safe_exec, 3) < 0 || fcntl(3, F_SETFD, FD_CLOEXEC) < 0)
			goto fail;
		safe_exec = 3;
	}
	close_from(safe_exec >= 0 ? 4 : 3);
	execve(argv[0], (char *const *)argv, (char *const *)envp);
fail:
	failure = errno;
	if (safe_exec >= 0 && write(safe_exec, &failure, sizeof(failure)) < 0)
		_exit(126);
	_exit(127);
}

/* Keep the end of what comes, whatever its length. Closes `said_fd` at its end. */
static void hear_said(struct ears *ears)
{
	char piece[TAIL_SIZE];
	ssize_t n = read(ears->said_fd, piece, sizeof(piece));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		close_fd(&ears->said_fd);
		return;
	}
	size_t keep = ears->tail_length;
	if (keep + (size_t)n > TAIL_SIZE)
		keep = TAIL_SIZE - (size_t)n;
	memmove(ears->tail, ears->tail + ears->tail_length - keep, keep);
	memcpy(ears->tail + keep, piece, (size_t)n);
	ears->tail_length = keep + (size_t)n;
}

static void hear_exec(struct ears *ears)
{
	int failure;
	ssize_t n = read(ears->exec_fd, &failure, sizeof(failure));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n == (ssize_t)sizeof(failure))
		ears->exec_errno = failure;
	close_fd(&ears->exec_fd);
}

static void listen_for(struct ears *ears, int timeout_ms)
{
	struct pollfd fds[2] = {{.fd = ears->said_fd, .events = POLLIN},
				{.fd = ears->exec_fd, .events = POLLIN}};

	if (poll(fds, 2, timeout_ms) <= 0)
		return;
	if (fds[0].revents)
		hear_said(ears);
	if (fds[1].revents)
		hear_exec(ears);
}

/*
 * Wait until the child has ended or `end_ms` is reached. The child's last breath closes its stderr,
 * which wakes us at once; a grandchild that kept it open costs one look every 10 ms.
 */
static pid_t wait_until(pid_t child, struct ears *ears, int64_t end_ms, int *status)
{
	for (;;) {
		pid_t got = waitpid(child, status, WNOHANG);

		if (got == child || (got < 0 && errno != EINTR))
			return got;
		int64_t left_ms = end_ms - ds_now_ms(CLOCK_MONOTONIC);
		if (left_ms <= 0)
			return 0;
		int pause_ms = ears->said_fd >= 0 ? 10 : 1;
		listen_for(ears, left_ms < pause_ms ? (int)left_ms : pause_ms);
	}
}

/* The last line with something on it, without "NAME: " of the program at `path`. */
static void last_line(const struct ears *ears, const char *path, char *line, size_t size)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	size_t name_length = strlen(name);
	size_t end = ears->tail_length;
	size_t length = 0;

	while (end > 0 && (unsigned char)ears->tail[end - 1] <= ' ')
		end--;
	size_t begin = end;
	while (begin > 0 && ears->tail[begin - 1] != '\n')
		begin--;
	if (end - begin > name_length + 2 && !memcmp(ears->tail + begin, name, name_length) &&
	    !memcmp(ears->tail + begin + name_length, ": ", 2))
		begin += name_length + 2;
	for (size_t i = begin; i < end && length + 1 < size; i++) {
		unsigned char c = (unsigned char)ears->tail[i];
		line[length++] = c < ' ' || c == 0x7f ? '?' : (char)c;
	}
	line[length] = '\0';
}

/* Outputs everything that is in the pipe already; the child is gone. */
static void hear_rest(struct ears *ears)
{
	struct pollfd fd = {.fd = ears->said_fd, .events = POLLIN};

	for (int reads = 0; reads < REST_READS && ears->said_fd >= 0 && poll(&fd, 1, 0) > 0;
	     reads++)
		hear_said(ears);
	if (ears->exec_fd >= 0) {
		fd.fd = ears->exec_fd;
		if (poll(&fd, 1, 0) > 0)
			hear_exec(ears);
	}
}

int ds_spawn(const struct ds_spawn *spawn, char *said, size_t said_size, struct ds_error *err)
{
	int64_t end_ms = ds_now_ms(CLOCK_MONOTONIC) + spawn->deadline_ms;
	int said_pipe[2] = {-1, -1};
	int exec_pipe[2] = {-1, -1};
	struct ears ears = {.said_fd = -1, .exec_fd = -1};
	const char *program = spawn->argv[0];
	int status = 0;
	int rv = -1;

	if (said && said_size > 0)
		said[0] = '\0';
	if (pipe2(said_pipe, O_CLOEXEC) < 0 || pipe2(exec_pipe, O_CLOEXEC) < 0) {
		ds_fail(err, "cannot run %s: no pipe: %s", program, strerror(errno));
		goto fail;
	}
	pid_t child = fork();
	if (child < 0) {
		ds_fail(err, "cannot run %s: no process: %s", program, strerror(errno));
		goto fail;
	}
	if (child == 0)
		become(spawn->argv, spawn->envp, spawn->mount_namespace, said_pipe[1],
		       exec_pipe[1]);
	close_fd(&said_pipe[1]);
	close_fd(&exec_pipe[1]);
	ears.said_fd = said_pipe[0];
	ears.exec_fd = exec_pipe[0];

	pid_t ended = wait_until(child, &ears, end_ms, &status);
	bool late = ended == 0;
	if (late && spawn->late == DS_SPAWN_KILL) {
		kill(-child, SIGKILL);
		kill(child, SIGKILL); /* in case it had not come to setsid yet */
		wait_until(child, &ears, ds_now_ms(CLOCK_MONOTONIC) + REAP_MS, &status);
	}
	hear_rest(&ears);
	if (said && said_size > 0)
		last_line(&ears, program, said, said_size);
	said_pipe[0] = ears.said_fd;
	exec_pipe[0] = ears.exec_fd;

	if (late) {
		errno = ETIMEDOUT;
		ds_fail(err, "%s did not end within %u ms and was %s", program, spawn->deadline_ms,
			spawn->late == DS_SPAWN_KILL ? "killed" : "left running");
	} else if (ears.exec_errno) {
		errno = ears.exec_errno;
		ds_fail(err, "cannot run %s: %s", program, strerror(errno));
	} else if (ended < 0) {
		ds_fail(err, "lost track of %s: %s", program, strerror(errno));
	} else if (WIFSIGNALED(status)) {
		errno = EINTR;
		ds_fail(err, "%s was killed by signal %d", program, WTERMSIG(status));
	} else {
		rv = WEXITSTATUS(status);
	}
fail:;
	int saved_errno = errno;
	close_fd(&said_pipe[0]);
	close_fd(&said_pipe[1]);
	close_fd(&exec_pipe[0]);
	close_fd(&exec_pipe[1]);
	errno = saved_errno;
	return rv;
}

int ds_spawn_background(const char *const *argv, const char *const *envp, struct ds_error *err)
{
	pid_t middle = fork();

	if (middle < 0)
		return ds_fail(err, "cannot run %s: no process: %s", argv[0], strerror(errno));
	if (middle == 0) {
		pid_t child = fork();
		if (child == 0)
			become(argv, envp, NULL, -1, -1);
		_exit(child < 0);
	}
	int status = 0;
	while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		return ds_fail(err, "cannot run %s: no second process", argv[0]);
	return 0;
}
