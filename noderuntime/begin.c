/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "common/spawn.h"
#include "noderuntime/allocation.h"
#include "noderuntime/environment.h"
#include "noderuntime/gpu.h"
#include "noderuntime/leave.h"
#include "noderuntime/runtime.h"

enum {
	KILL_RESERVE_MS = 300, /* of the deadline, to kill a hung daemon and undo its work */
	UNDO_RESERVE_MS = 300, /* before that, for the daemon to undo its work itself */
	PIPE_FD = 3,
};

/* What the daemon tells begin, once it lives and once more when it is ready or has failed. */
struct report {
	pid_t pid;
	bool failed;
	char reason[512];
};

/* -- in the daemon ------------------------------------------------------------------------- */

static bool send_report(int fd, const char *failure)
{
	struct report report = {.pid = getpid(), .failed = failure != NULL};

	if (failure)
		snprintf(report.reason, sizeof(report.reason), "%s", failure);
	return write(fd, &report, sizeof(report)) == (ssize_t)sizeof(report);
}

static bool on_ready(void *arg, const char *failure)
{
	int *fd = arg;
	bool heard = send_report(*fd, failure);

	close(*fd);
	return heard;
}

/* Nothing of the caller's may stay open or be written to: a prolog's pipes, a user's terminal. */
static void detach(int pipe_fd)
{
	int null = open("/dev/null", O_RDWR);

	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	if (pipe_fd != PIPE_FD)
		dup2(pipe_fd, PIPE_FD);
	close_range(PIPE_FD + 1, ~0U, 0);
	fcntl(PIPE_FD, F_SETFD, FD_CLOEXEC);
	if (chdir("/") < 0)
		syslog(LOG_WARNING, "cannot go to /: %s", strerror(errno));
	umask(022);
}

static int daemon_main(const struct ds_begin *begin, struct ds_allocation *allocation,
		       const struct ds_topology *topology, int pipe_fd)
{
	struct ds_runtime_start start = {
	    .config = begin->config,
	    .allocation = allocation,
	    .topology = topology,
	    .owner = begin->owner,
	    .deadline = begin->deadline - (KILL_RESERVE_MS + UNDO_RESERVE_MS) * INT64_C(1000000)};
	int fd = PIPE_FD;

	detach(pipe_fd);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	if (!send_report(fd, NULL))
		return 1;
	return ds_runtime_run(&start, on_ready, &fd);
}

/* -- in begin ------------------------------------------------------------------------------ */

/* Read one report by the deadline. 1: read; 0: the daemon died; -1: too late. */
static int read_report(int fd, struct report *report, ds_deadline deadline)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	for (;;) {
		int n = poll(&wait, 1, ds_deadline_left_ms(deadline));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		return read(fd, report, sizeof(*report)) == (ssize_t)sizeof(*report);
	}
}

static void kill_daemon(pid_t pid)
{
	int fd = pidfd_open(pid, 0);
	struct pollfd over = {.fd = fd, .events = POLLIN};

	if (fd < 0)
		return;
	pidfd_send_signal(fd, SIGKILL, NULL, 0);
	poll(&over, 1, KILL_RESERVE_MS / 3);
	close(fd);
}

/* Follow the daemon until it is ready. What it does not undo itself is undone here. */
static int await_daemon(const struct ds_begin *begin, struct ds_allocation *allocation, int fd,
			struct ds_error *err)
{
	ds_deadline patience = begin->deadline - KILL_RESERVE_MS * INT64_C(1000000);
	struct report report = {0};
	pid_t pid = 0;

	int heard = read_report(fd, &report, patience);
	if (heard == 1) {
		pid = report.pid;
		heard = read_report(fd, &report, patience);
	}
	if (heard == 1 && !report.failed)
		return 0;
	if (heard == 1)
		return ds_fail(err, "%s", report.reason);
	if (pid)
		kill_daemon(pid);
	ds_leave(begin->config, allocation, begin->deadline, NULL);
	return ds_fail(err,
		       heard < 0 ? "%s: its node runtime was not ready in time"
				 : "%s: its node runtime died while it started",
		       begin->allocation);
}

static int start_daemon(const struct ds_begin *begin, struct ds_allocation *allocation,
			const struct ds_topology *topology, struct ds_error *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return ds_fail(err, "cannot make a pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid < 0) {
		ds_fail(err, "cannot fork: %s", strerror(errno));
		close(fds[0]);
		close(fds[1]);
		return -1;
	}
	if (pid == 0) {
		/* Twice, with a session between: nobody's child, and never a terminal. */
		setsid();
		if (fork() != 0)
			_exit(0);
		exit(daemon_main(begin, allocation, topology, fds[1]));
	}
	close(fds[1]);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	int rc = await_daemon(begin, allocation, fds[0], err);
	close(fds[0]);
	return rc;
}

/* Ask the driver, in a process that may hang. */
static int run_probe(const struct ds_begin *begin, struct ds_error *err)
{
	char said[400], self[PATH_MAX];
	const char *argv[9];
	int n = 0;

	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (length < 0)
		return ds_fail(err, "cannot read /proc/self/exe: %s", strerror(errno));
	self[length] = '\0';
	argv[n++] = self;
	argv[n++] = "probe";
	argv[n++] = "--node-name";
	argv[n++] = begin->config->node_name;
	argv[n++] = "--runtime-dir";
	argv[n++] = begin->config->runtime_dir;
	if (*begin->config->file) {
		argv[n++] = "--config";
		argv[n++] = begin->config->file;
	}
	argv[n] = NULL;

	int left_ms = ds_deadline_left_ms(begin->deadline) - KILL_RESERVE_MS;
	char **env = ds_environment_own();
	if (!env)
		return ds_fail(err, "out of memory");
	struct ds_spawn spawn = {.argv = argv,
				 .envp = (const char *const *)env,
				 .deadline_ms = left_ms > 0 ? (unsigned)left_ms : 1,
				 .late = DS_SPAWN_KILL};
	int status = ds_spawn(&spawn, said, sizeof(said), err);
	free(env);
	if (status < 0)
		return ds_fail_within(err, "the probe of the GPUs failed");
	if (status > 0)
		return ds_fail(err, "%s", *said ? said : "the probe failed and did not say why");
	return 0;
}

/* Which GPU it is and what it looks like; the driver is asked once per boot. */
static int find_topology(const struct ds_begin *begin, struct ds_topology *topology,
			 struct ds_error *err)
{
	char gpu_dir[PATH_MAX];
	struct ds_error probe_error = {""};
	struct ds_gpu gpu;
	int probed = 1;

	for (int attempt = 0; attempt < 2; attempt++) {
		if (ds_gpu_find(begin->config->gpu_info_dir, begin->gpu, &gpu, err) < 0 ||
		    ds_gpu_dir(begin->config->runtime_dir, gpu.uuid, gpu_dir, sizeof(gpu_dir)) < 0)
			return -1;
		if (ds_gpu_uuid_valid(gpu.uuid) &&
		    ds_topology_read(gpu_dir, gpu.uuid, topology, err) == 0)
			return 0;
		if (attempt == 0)
			probed = run_probe(begin, &probe_error);
	}
	/* The probe may have failed for another GPU only: hence this late. */
	return probed < 0 ? ds_fail(err, "%s", probe_error.text) : -1;
}

/* 1: runs already, as asked; 0: go on, nothing is there now; -1: in the way. */
static int make_way(const struct ds_begin *begin, struct ds_error *err)
{
	struct ds_allocation old;
	char path[PATH_MAX];

	if (ds_allocation_path(begin->config, begin->allocation, NULL, path, err) < 0)
		return -1;
	if (access(path, F_OK) < 0)
		return 0;
	if (ds_allocation_read(begin->config, begin->allocation, &old, NULL) == 0 &&
	    ds_process_alive(&old.runtime)) {
		if (old.ready && old.uid == begin->uid && old.restart == begin->restart &&
		    old.job_id == begin->job_id &&
		    !strcmp(old.grant.class_name, begin->grant.class_name) &&
		    old.grant.share_milli == begin->grant.share_milli &&
		    old.grant.memory_mib == begin->grant.memory_mib)
			return 1;
		return ds_fail(err,
			       "%s runs here already, with another grant (node runtime %d): end "
			       "it first",
			       begin->allocation, old.runtime.pid);
	}
	/* What an earlier one left that was killed and never ended. */
	return ds_end(begin->config, begin->allocation,
		      begin->deadline - (KILL_RESERVE_MS + UNDO_RESERVE_MS) * INT64_C(1000000),
		      err);
}

int ds_begin(const struct ds_begin *begin, struct ds_error *err)
{
	struct ds_allocation allocation = {.job_id = begin->job_id,
					   .restart = begin->restart,
					   .uid = begin->uid,
					   .grant = begin->grant};
	struct ds_topology topology;

	int way = make_way(begin, err);
	if (way)
		return way < 0 ? -1 : 0;
	if (find_topology(begin, &topology, err) < 0 || ds_boot_id(allocation.boot_id, err) < 0 ||
	    ds_allocation_create(begin->config, begin->allocation, err) < 0)
		return -1;
	snprintf(allocation.name, sizeof(allocation.name), "%s", begin->allocation);
	snprintf(allocation.gpu_uuid, sizeof(allocation.gpu_uuid), "%s", topology.uuid);
	allocation.shape = topology.shape;
	if (start_daemon(begin, &allocation, &topology, err) < 0) {
		ds_allocation_remove(begin->config, begin->allocation, NULL);
		return -1;
	}
	return 0;
}
