/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "noderuntime/converse.h"
#include "noderuntime/environment.h"
#include "noderuntime/gpu.h"

enum {
	ANSWER_MS = 700, /* the control program answers within 20 ms when it is well */
	QUIT_MS = 1000,  /* a server without clients takes about 300 ms to go */
	KILL_MS = 200,   /* for a killed daemon to be gone */
	LOCK_POLL_MS = 2,
	ANSWER_SIZE = 8192,
	SERVERS_MAX = 16, /* one per user, of which there is one at a time by default */
	DAEMONS_MAX = 64,
};

/* Paths of one GPU's MPS. */
struct mps {
	const struct ds_node_config *config;
	const char *uuid;
	char lock[PATH_MAX];
	char dir[PATH_MAX];
	char pipe[PATH_MAX];
	char log[PATH_MAX];
};

static int locate(const struct ds_node_config *config, const char *gpu_uuid, struct mps *mps,
		  struct ds_error *err)
{
	char gpu_dir[PATH_MAX];

	mps->config = config;
	mps->uuid = gpu_uuid;
	if (ds_gpu_dir(config->runtime_dir, gpu_uuid, gpu_dir, sizeof(gpu_dir) - 16) < 0)
		return ds_fail(err, "runtime_dir %s is too long", config->runtime_dir);
	snprintf(mps->lock, PATH_MAX, "%.4080s/mps.lock", gpu_dir);
	snprintf(mps->dir, PATH_MAX, "%.4080s/mps", gpu_dir);
	snprintf(mps->pipe, PATH_MAX, "%.4080s/mps/pipe", gpu_dir);
	snprintf(mps->log, PATH_MAX, "%.4080s/mps/log", gpu_dir);
	return 0;
}

int ds_mps_pipe_dir(const struct ds_node_config *config, const char *gpu_uuid, char path[PATH_MAX])
{
	struct mps mps;

	if (locate(config, gpu_uuid, &mps, NULL) < 0)
		return -1;
	snprintf(path, PATH_MAX, "%s", mps.pipe);
	return 0;
}

size_t ds_mps_parse_pids(const char *text, pid_t *pids, size_t max)
{
	size_t n = 0;

	while (*text && n < max) {
		char *end;
		text += strspn(text, " \t\r\n");
		long pid = strtol(text, &end, 10);
		size_t rest = strcspn(end, "\n");
		/* A line that is not just a number is a message, not a list. */
		if (end != text && pid > 0 && pid <= 0x7fffffff && strspn(end, " \t\r") >= rest)
			pids[n++] = (pid_t)pid;
		text = end + rest;
	}
	return n;
}

/*
 * Run the control program for this GPU with up to two options, or, if there are none, to give it the
 * command `input`.
 */
static int control(const struct mps *mps, const char *const options[2], const char *input,
		   char *answer, size_t size, ds_deadline deadline, struct ds_error *err)
{
	/* Whatever the caller's environment says about CUDA, thread percentages above all, must
	 * not reach MPS. */
	static const char *const without[] = {"CUDA_", "LD_PRELOAD=", NULL};
	char devices[64], pipe[PATH_MAX + 32], log[PATH_MAX + 32];
	const char *const with[] = {devices, pipe, log, NULL};
	char *argv[] = {(char *)(uintptr_t)mps->config->mps_control, (char *)(uintptr_t)options[0],
			(char *)(uintptr_t)options[1], NULL};

	snprintf(devices, sizeof(devices), "CUDA_VISIBLE_DEVICES=%s", mps->uuid);
	snprintf(pipe, sizeof(pipe), "CUDA_MPS_PIPE_DIRECTORY=%s", mps->pipe);
	snprintf(log, sizeof(log), "CUDA_MPS_LOG_DIRECTORY=%s", mps->log);
	char **env = ds_environment(without, with);
	if (!env)
		return ds_fail(err, "out of memory");
	struct ds_conversation talk = {.argv = argv,
				       .env = env,
				       .input = input,
				       .cgroup_root = mps->config->cgroup_root,
				       .cgroup = input ? NULL : "mps",
				       .deadline = deadline};
	int rc = ds_converse(&talk, answer, size, err);
	int saved_errno = errno;
	free(env);
	errno = saved_errno;
	return rc;
}

/* Take the lock. Returns a descriptor that holds it, or -1. */
static int take_lock(const struct mps *mps, ds_deadline deadline, struct ds_error *err)
{
	int fd = open(mps->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return ds_fail(err, "cannot create %s: %s", mps->lock, strerror(errno));
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if ((errno != EWOULDBLOCK && errno != EINTR) || !ds_deadline_left_ms(deadline)) {
			ds_fail(err,
				"cannot lock %s: %s; another node runtime is busy with MPS there",
				mps->lock, strerror(errno));
			close(fd);
			return -1;
		}
		poll(NULL, 0, LOCK_POLL_MS);
	}
	return fd;
}

/* True if one of the first words of the process's command line is a program of MPS. */
static bool is_mps_program(const char *proc_dir)
{
	static const char prefix[] = "nvidia-cuda-mps";
	char path[64], words[1024];

	snprintf(path, sizeof(path), "%.40s/cmdline", proc_dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, words, sizeof(words) - 1);
	close(fd);
	if (n <= 0)
		return false;
	words[n] = '\0';
	/* The second word, too: a stand-in may be a script, run by its interpreter. */
	const char *word = words;
	for (int i = 0; i < 2 && word < words + n; i++) {
		const char *slash = strrchr(word, '/');
		if (!strncmp(slash ? slash + 1 : word, prefix, sizeof(prefix) - 1))
			return true;
		word += strlen(word) + 1;
	}
	return false;
}

/* True if the process was started with that assignment in its environment. */
static bool has_variable(const char *proc_dir, const char *assignment)
{
	char path[64], *variable = NULL;
	size_t size = 0;
	bool found = false;

	snprintf(path, sizeof(path), "%.40s/environ", proc_dir);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && getdelim(&variable, &size, '\0', file) > 0)
		found = !strcmp(variable, assignment);
	free(variable);
	fclose(file);
	return found;
}

/*
 * The daemon and servers of this GPU: programs of MPS with our pipe directory in their environment.
 * From /proc, since a daemon that hangs cannot be asked, and its pid file may be stale.
 */
static size_t find_daemons(const struct mps *mps, pid_t *pids, size_t max)
{
	char assignment[PATH_MAX + 32], proc_dir[32];
	const struct dirent *entry;
	size_t n = 0;

	snprintf(assignment, sizeof(assignment), "CUDA_MPS_PIPE_DIRECTORY=%s", mps->pipe);
	DIR *dir = opendir("/proc");
	if (!dir)
		return 0;
	while (n < max && (entry = readdir(dir))) {
		long pid = strtol(entry->d_name, NULL, 10);
		if (pid <= 0)
			continue;
		snprintf(proc_dir, sizeof(proc_dir), "/proc/%ld", pid);
		if (is_mps_program(proc_dir) && has_variable(proc_dir, assignment))
			pids[n++] = (pid_t)pid;
	}
	closedir(dir);
	return n;
}

/* Wait until none of them is left. */
static bool wait_gone(const struct mps *mps, ds_deadline deadline)
{
	pid_t pids[DAEMONS_MAX];

	while (find_daemons(mps, pids, DAEMONS_MAX) > 0) {
		int fd = pidfd_open(pids[0], 0);
		struct pollfd over = {.fd = fd, .events = POLLIN};
		int left_ms = ds_deadline_left_ms(deadline);
		if (!left_ms) {
			if (fd >= 0)
				close(fd);
			return false;
		}
		if (fd >= 0) {
			poll(&over, 1, left_ms);
			close(fd);
		}
	}
	return true;
}

static bool kill_daemons(const struct mps *mps, ds_deadline deadline)
{
	pid_t pids[DAEMONS_MAX];
	size_t n = find_daemons(mps, pids, DAEMONS_MAX);

	for (size_t i = 0; i < n; i++) {
		int fd = pidfd_open(pids[i], 0);
		char proc_dir[32];
		snprintf(proc_dir, sizeof(proc_dir), "/proc/%d", (int)pids[i]);
		/* Once more, now that the pid cannot become another process's behind the fd. */
		if (fd >= 0 && is_mps_program(proc_dir))
			pidfd_send_signal(fd, SIGKILL, NULL, 0);
		if (fd >= 0)
			close(fd);
	}
	return wait_gone(mps, deadline);
}

/* Remove `path` if it is a directory of files. */
static void remove_dir(const char *path)
{
	const struct dirent *entry;
	DIR *dir = opendir(path);

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	rmdir(path);
}

static void remove_dirs(const struct mps *mps)
{
	remove_dir(mps->pipe);
	remove_dir(mps->log);
	rmdir(mps->dir);
}

static int make_dir(const char *path, mode_t mode, struct ds_error *err)
{
	if ((mkdir(path, mode) < 0 && errno != EEXIST) || chmod(path, mode) < 0)
		return ds_fail(err, "cannot create %s: %s", path, strerror(errno));
	return 0;
}

static int start(const struct mps *mps, bool multiuser, ds_deadline deadline, struct ds_error *err)
{
	const char *const options[2] = {"-d", multiuser ? "-M" : NULL};
	char answer[ANSWER_SIZE];

	/* Clients, whoever they are, must reach the pipes; nobody else has business in the log. */
	if (make_dir(mps->dir, 0711, err) < 0 || make_dir(mps->pipe, 0755, err) < 0 ||
	    make_dir(mps->log, 0755, err) < 0)
		return -1;
	if (control(mps, options, NULL, answer, sizeof(answer), deadline, err) == 0)
		return 0;
	if (errno == ENOENT)
		return ds_fail(err,
			       "cannot start MPS for GPU %s: there is no program %s; install it "
			       "with the driver, or name it as mps_control in detshare-node.conf",
			       mps->uuid, mps->config->mps_control);
	return ds_fail_within(err, "cannot start MPS for GPU %s", mps->uuid);
}

static int ask(const struct mps *mps, const char *command, char *answer, size_t size,
	       ds_deadline deadline, struct ds_error *err)
{
	static const char *const no_options[2];

	/* At most half of what is left: no answer is an answer, too, and must be acted upon. */
	int patience_ms = ds_deadline_left_ms(deadline) / 2;
	if (patience_ms > ANSWER_MS)
		patience_ms = ANSWER_MS;
	return control(mps, no_options, command, answer, size, ds_deadline_in(patience_ms), err);
}

/* True if somebody listens on the daemon's pipe, or might. Saves asking when nobody can answer. */
static bool has_pipes(const struct mps *mps)
{
	char path[PATH_MAX + 16];

	snprintf(path, sizeof(path), "%s/control", mps->pipe);
	return access(path, F_OK) == 0;
}

static int ensure_locked(const struct mps *mps, const struct ds_mps_need *need,
			 ds_deadline deadline, struct ds_error *err)
{
	char answer[ANSWER_SIZE];

	pid_t left[DAEMONS_MAX];

	if (has_pipes(mps)) {
		if (ask(mps, "get_server_list\n", answer, sizeof(answer), deadline, err) == 0)
			return 0;
		/* Its servers may still serve the neighbours, whose work would die with them. */
		if (!need->alone && find_daemons(mps, left, DAEMONS_MAX))
			return ds_fail_within(err,
					      "MPS of GPU %s does not answer, and cannot be "
					      "started anew under running jobs",
					      mps->uuid);
	}
	/* None runs, or one that hangs, or the remains of one: begin from nothing. */
	if (!kill_daemons(mps, ds_deadline_in(KILL_MS)))
		return ds_fail(err, "MPS of GPU %s hangs and cannot be killed", mps->uuid);
	remove_dirs(mps);
	if (start(mps, need->multiuser, deadline, err) < 0)
		goto fail;
	if (ask(mps, "get_server_list\n", answer, sizeof(answer), deadline, err) < 0) {
		ds_fail_within(err, "MPS of GPU %s was started but does not answer", mps->uuid);
		goto fail;
	}
	return 0;
fail:
	kill_daemons(mps, ds_deadline_in(KILL_MS));
	remove_dirs(mps);
	return -1;
}

int ds_mps_ensure(const struct ds_node_config *config, const char *gpu_uuid,
		  const struct ds_mps_need *need, ds_deadline deadline, struct ds_error *err)
{
	struct mps mps;

	if (!*config->mps_control)
		return 0;
	if (locate(config, gpu_uuid, &mps, err) < 0)
		return -1;
	int lock = take_lock(&mps, deadline, err);
	if (lock < 0)
		return -1;
	int rc = ensure_locked(&mps, need, deadline, err);
	close(lock);
	return rc;
}

int ds_mps_stop(const struct ds_node_config *config, const char *gpu_uuid,
		bool (*unused)(void *arg), void *arg, ds_deadline deadline, struct ds_error *err)
{
	struct mps mps;
	char answer[ANSWER_SIZE];
	int rv = 0;

	if (!*config->mps_control || locate(config, gpu_uuid, &mps, err) < 0)
		return 0;
	if (access(mps.dir, F_OK) < 0)
		return 0;
	int lock = take_lock(&mps, deadline, err);
	if (lock < 0)
		return -1;
	if (unused(arg)) {
		ds_deadline quit = ds_deadline_part(deadline, QUIT_MS);
		bool asked = has_pipes(&mps) &&
			     ask(&mps, "quit -t 1\n", answer, sizeof(answer), quit, NULL) == 0;
		if (!(asked && wait_gone(&mps, quit)) &&
		    !kill_daemons(&mps, ds_deadline_in(KILL_MS)))
			rv = ds_fail(err, "MPS of GPU %s hangs and cannot be killed", gpu_uuid);
		if (rv == 0)
			remove_dirs(&mps);
	}
	close(lock);
	return rv;
}

void ds_mps_terminate(const struct ds_node_config *config, const char *gpu_uuid, const pid_t *pids,
		      size_t n, ds_deadline deadline)
{
	struct mps mps;
	char answer[ANSWER_SIZE] = "", command[64];
	pid_t servers[SERVERS_MAX], clients[256];

	if (!n || !*config->mps_control || locate(config, gpu_uuid, &mps, NULL) < 0 ||
	    !has_pipes(&mps) ||
	    ask(&mps, "get_server_list\n", answer, sizeof(answer), deadline, NULL) < 0)
		return;
	size_t n_servers = ds_mps_parse_pids(answer, servers, SERVERS_MAX);
	for (size_t s = 0; s < n_servers; s++) {
		snprintf(command, sizeof(command), "get_client_list %d\n", (int)servers[s]);
		if (ask(&mps, command, answer, sizeof(answer), deadline, NULL) < 0)
			return;
		size_t n_clients = ds_mps_parse_pids(answer, clients, 256);
		for (size_t c = 0; c < n_clients; c++) {
			for (size_t i = 0; i < n; i++) {
				if (clients[c] != pids[i])
					continue;
				snprintf(command, sizeof(command), "terminate_client %d %d\n",
					 (int)servers[s], (int)pids[i]);
				ask(&mps, command, answer, sizeof(answer), deadline, NULL);
			}
		}
	}
}
