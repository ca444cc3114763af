/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/errand.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/process.h"

enum { OUT_FD = 3 };

static void __attribute__((noreturn))
child(const struct ds_runtime *rt, pid_t runtime, ds_errand_work work, const void *arg, int out)
{
	static char brought[DS_ERRAND_BROUGHT_MAX];
	sigset_t none;

	ds_process_end_with(runtime);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* A connection that the runtime closes must not stay open in here. */
	if (out != OUT_FD)
		dup2(out, OUT_FD);
	fcntl(OUT_FD, F_SETFD, FD_CLOEXEC);
	close_range(OUT_FD + 1, ~0U, 0);
	size_t size = work(rt, arg, brought);
	if (size)
		_exit(write(OUT_FD, brought, size) != (ssize_t)size);
	_exit(0);
}

struct ds_watch *ds_errand_start(struct ds_runtime *rt, ds_errand_work work, const void *arg,
				 ds_errand_done done, int answer_fd, struct ds_error *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0) {
		ds_fail(err, "cannot make a pipe: %s", strerror(errno));
		return NULL;
	}
	struct ds_watch *errand = ds_watch_add(rt, DS_WATCH_ERRAND, fds[0], EPOLLIN);
	if (!errand) {
		ds_fail(err, "cannot watch a pipe: %s", strerror(errno));
		close(fds[0]);
		close(fds[1]);
		return NULL;
	}
	const pid_t runtime = getpid();
	pid_t pid = fork();
	if (pid == 0)
		child(rt, runtime, work, arg, fds[1]);
	close(fds[1]);
	if (pid < 0) {
		ds_fail(err, "cannot fork: %s", strerror(errno));
		ds_unwatch(rt, errand);
		return NULL;
	}
	errand->child = pid;
	errand->done = done;
	errand->answer_fd = answer_fd;
	return errand;
}

void ds_errand_back(struct ds_runtime *rt, struct ds_watch *errand)
{
	static char brought[DS_ERRAND_BROUGHT_MAX];
	ssize_t n = read(errand->fd, brought, sizeof(brought));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	errand->done(rt, errand, brought, n > 0 ? (size_t)n : 0);
	ds_unwatch(rt, errand);
}
