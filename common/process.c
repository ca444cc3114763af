/* SPDX-License-Identifier: Apache-2.0 */
#include "common/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/*
 * The fields of /proc/PID/stat behind the command name: the name may hold blanks and brackets, so
 * what counts is the last closing one.
 */
static int parse_stat(const char *text, char *state, long *n_threads, uint64_t *start_ticks)
{
	const char *fields = strrchr(text, ')');

	if (!fields)
		return -1;
	int n =
	    sscanf(fields + 1,
		   " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d "
		   "%" SCNu64,
		   state, n_threads, start_ticks);
	return n == 3 ? 0 : -1;
}

static int identify(pid_t pid, struct ds_process *process, char *state, struct ds_error *err)
{
	char path[64];
	char text[1024];
	long n_threads;
	uint64_t start_ticks;

	*process = (struct ds_process){0};
	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ds_fail(err, "cannot open %s: %s", path, strerror(errno));

	ssize_t n = read(fd, text, sizeof(text) - 1);
	int read_errno = errno;
	close(fd);
	errno = read_errno;
	if (n < 0)
		return ds_fail(err, "cannot read %s: %s", path, strerror(errno));
	text[n] = '\0';
	if (parse_stat(text, state, &n_threads, &start_ticks)) {
		errno = EIO;
		return ds_fail(err, "cannot understand %s: no state and start time in it", path);
	}
	/* The first thread may be a zombie while others go on. */
	if ((*state == 'Z' || *state == 'X') && n_threads <= 1) {
		errno = ESRCH;
		return ds_fail(err, "process %ld has ended", (long)pid);
	}
	process->pid = pid;
	process->start_ticks = start_ticks;
	return 0;
}

int ds_process_identify(pid_t pid, struct ds_process *process, struct ds_error *err)
{
	char state;

	return identify(pid, process, &state, err);
}

int ds_process_stopped(const struct ds_process *process)
{
	struct ds_process now;
	char state = '?';

	return process->pid > 0 && identify(process->pid, &now, &state, NULL) == 0 &&
	       now.start_ticks == process->start_ticks && (state == 'T' || state == 't');
}

int ds_process_alive(const struct ds_process *process)
{
	struct ds_process now;

	if (process->pid <= 0)
		return 0;
	if (ds_process_identify(process->pid, &now, NULL)) {
		if (errno == ESRCH)
			return 0;
		/* Not in /proc: gone, or hidden from us by its mount option hidepid. */
		return errno != ENOENT || !kill(process->pid, 0) || errno == EPERM;
	}
	return now.start_ticks == process->start_ticks;
}

void ds_process_end_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(127);
}
