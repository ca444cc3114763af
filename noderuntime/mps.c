/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/mps_talk.h"

enum {
	QUIT_MS = 1000, /* a server without clients takes about 300 ms to go */
	KILL_MS = 200,  /* for a killed daemon to be gone */
	LOCK_POLL_MS = 2,
};

/* Where a daemon has its pipes that was started without a word about them. */
static const char FOREIGN_PIPE_DIR[] = "/tmp/nvidia-mps";

int ds_mps_pipe_dir(const struct ds_node_config *config, const char *gpu_uuid, char path[PATH_MAX])
{
	struct ds_mps mps;

	if (ds_mps_locate(config, gpu_uuid, &mps, NULL) < 0)
		return -1;
	snprintf(path, PATH_MAX, "%s", mps.pipe);
	return 0;
}

/* Take the lock. Returns a descriptor that holds it, or -1. */
static int take_lock(const struct ds_mps *mps, ds_deadline deadline, struct ds_error *err)
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

static void remove_dirs(const struct ds_mps *mps)
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

static int start(const struct ds_mps *mps, bool multiuser, ds_deadline deadline,
		 struct ds_error *err)
{
	const char *const options[2] = {"-d", multiuser ? "-M" : NULL};
	char answer[DS_MPS_ANSWER_SIZE];

	/* Clients, whoever they are, must reach the pipes; nobody else has business in the log. */
	if (make_dir(mps->dir, 0711, err) < 0 || make_dir(mps->pipe, 0755, err) < 0 ||
	    make_dir(mps->log, 0755, err) < 0)
		return -1;
	if (ds_mps_control(mps, options, NULL, answer, sizeof(answer), deadline, err) == 0)
		return 0;
	if (errno == ENOENT)
		return ds_fail(err,
			       "cannot start MPS for GPU %s: there is no program %s; install it "
			       "with the driver, or name it as mps_control in detshare-node.conf",
			       mps->uuid, mps->config->mps_control);
	return ds_fail_within(err, "cannot start MPS for GPU %s", mps->uuid);
}

uint32_t ds_mps_clients_max(uint32_t cuda)
{
	return cuda >= 13010 ? 60 : 48;
}

bool ds_mps_visible(const char *devices, const char *gpu_uuid)
{
	if (!devices || !*devices)
		return true;
	while (*devices) {
		size_t length = strcspn(devices, ",");
		/* An ordinal may be any GPU; of a UUID, a beginning is enough. */
		if (length &&
		    (strncmp(devices, "GPU-", 4) != 0 || !strncmp(devices, gpu_uuid, length)))
			return true;
		devices += length + (devices[length] == ',');
	}
	return false;
}

bool ds_mps_percentage_low(const char *answer)
{
	char *end;
	double percentage = strtod(answer, &end);

	return end != answer && percentage < 100;
}

int ds_mps_daemon(const struct ds_node_config *config, const char *gpu_uuid,
		  struct ds_process *daemon)
{
	struct ds_mps mps;

	if (!*config->mps_control || ds_mps_locate(config, gpu_uuid, &mps, NULL) < 0)
		return -1;
	return ds_mps_pid_file(mps.pipe, daemon);
}

/* The site's daemon: whether it can be worked with. */
static int check_site(const struct ds_mps *mps, ds_deadline deadline, struct ds_error *err)
{
	char answer[DS_MPS_ANSWER_SIZE];

	if (ds_mps_ask(mps, "get_default_active_thread_percentage\n", answer, sizeof(answer),
		       deadline, err) < 0)
		return ds_fail_within(err,
				      "the site's MPS daemon at %s (mps_pipe_dir in "
				      "detshare-node.conf) does not answer",
				      mps->pipe);
	if (ds_mps_percentage_low(answer))
		return ds_fail(err,
			       "the site's MPS daemon at %s has a default thread percentage of "
			       "%.10s, under which programs compute other results: set it to 100",
			       mps->pipe, answer);
	return 0;
}

/* A daemon that somebody else started for this GPU: two of them would fight for it. */
static int check_foreign(const struct ds_mps *mps, struct ds_error *err)
{
	struct ds_process daemon;

	if (ds_mps_pid_file(FOREIGN_PIPE_DIR, &daemon) < 0)
		return 0;
	char *devices = ds_mps_variable(daemon.pid, "CUDA_VISIBLE_DEVICES");
	bool ours = ds_mps_visible(devices, mps->uuid);
	free(devices);
	if (!ours)
		return 0;
	return ds_fail(err,
		       "MPS daemon %d, with its pipes in %s, serves GPU %s already: end it, or "
		       "name its pipes as mps_pipe_dir in detshare-node.conf",
		       daemon.pid, FOREIGN_PIPE_DIR, mps->uuid);
}

/*
 * The hard stop for programs without the library, at the largest quota: MPS has one limit for all clients
 * of a server. The default is for servers to come; those that run are told themselves, and heed it for
 * clients to come. `servers` is what get_server_list said. An older MPS that does not know the commands says
 * so, and goes on without a limit.
 */
static void limit_memory(const struct ds_mps *mps, const struct ds_mps_need *need,
			 const char *servers, ds_deadline deadline)
{
	char commands[512], answer[DS_MPS_ANSWER_SIZE];
	pid_t pids[DS_MPS_SERVERS_MAX];
	struct ds_error reason;

	if (!need->memory_mib)
		return;
	const uint32_t mib = need->memory_mib(need->arg);
	size_t n = ds_mps_parse_pids(servers, pids, DS_MPS_SERVERS_MAX);
	/* The daemon has one GPU, so that is its number 0. */
	int used = snprintf(commands, sizeof(commands),
			    "set_default_device_pinned_mem_limit 0 %uM\n", mib);
	for (size_t i = 0; i < n && used < (int)sizeof(commands) - 64; i++)
		used += snprintf(commands + used, sizeof(commands) - (size_t)used,
				 "set_device_pinned_mem_limit %d 0 %uM\n", (int)pids[i], mib);
	if (ds_mps_ask(mps, commands, answer, sizeof(answer), deadline, &reason) < 0)
		syslog(LOG_WARNING, "MPS of GPU %s has no limit of memory: %s", mps->uuid,
		       reason.text);
}

static int ensure_locked(const struct ds_mps *mps, const struct ds_mps_need *need,
			 ds_deadline deadline, struct ds_error *err)
{
	char answer[DS_MPS_ANSWER_SIZE];
	pid_t left[DS_MPS_DAEMONS_MAX];

	if (ds_mps_has_pipes(mps)) {
		/* Its servers may still serve the neighbours, whose work would die with them. */
		const bool needed = !need->alone && ds_mps_find(mps, left, DS_MPS_DAEMONS_MAX);
		if ((needed ? ds_mps_ask_until : ds_mps_ask)(mps, "get_server_list\n", answer,
							     sizeof(answer), deadline, err) == 0) {
			limit_memory(mps, need, answer, deadline);
			return 0;
		}
		if (needed)
			return ds_fail_within(err,
					      "MPS of GPU %s does not answer, and cannot be "
					      "started anew under running jobs",
					      mps->uuid);
	}
	/* None runs, or one that hangs, or the remains of one: begin from nothing. */
	if (!ds_mps_kill(mps, ds_deadline_in(KILL_MS)))
		return ds_fail(err, "MPS of GPU %s hangs and cannot be killed", mps->uuid);
	remove_dirs(mps);
	if (check_foreign(mps, err) < 0)
		return -1;
	if (start(mps, need->multiuser, deadline, err) < 0)
		goto fail;
	if (ds_mps_ask_until(mps, "get_server_list\n", answer, sizeof(answer), deadline, err) < 0) {
		ds_fail_within(err, "MPS of GPU %s was started but does not answer", mps->uuid);
		goto fail;
	}
	limit_memory(mps, need, answer, deadline);
	return 0;
fail:
	ds_mps_kill(mps, ds_deadline_in(KILL_MS));
	remove_dirs(mps);
	return -1;
}

int ds_mps_ensure(const struct ds_node_config *config, const char *gpu_uuid,
		  const struct ds_mps_need *need, ds_deadline deadline, struct ds_error *err)
{
	struct ds_mps mps;

	if (!*config->mps_control)
		return 0;
	if (ds_mps_locate(config, gpu_uuid, &mps, err) < 0)
		return -1;
	if (mps.site)
		return check_site(&mps, deadline, err);
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
	struct ds_mps mps;
	char answer[DS_MPS_ANSWER_SIZE];
	int rv = 0;

	if (!*config->mps_control || ds_mps_locate(config, gpu_uuid, &mps, err) < 0)
		return 0;
	if (mps.site || access(mps.dir, F_OK) < 0)
		return 0;
	int lock = take_lock(&mps, deadline, err);
	if (lock < 0)
		return -1;
	if (unused(arg)) {
		ds_deadline quit = ds_deadline_part(deadline, QUIT_MS);
		bool asked = ds_mps_has_pipes(&mps) && ds_mps_ask(&mps, "quit -t 1\n", answer,
								  sizeof(answer), quit, NULL) == 0;
		if (!(asked && ds_mps_wait_gone(&mps, quit)) &&
		    !ds_mps_kill(&mps, ds_deadline_in(KILL_MS)))
			rv = ds_fail(err, "MPS of GPU %s hangs and cannot be killed", gpu_uuid);
		if (rv == 0)
			remove_dirs(&mps);
	}
	close(lock);
	return rv;
}
