/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "noderuntime/mps_talk.h"

enum {
	QUIT_MS = 1000, /* a server without clients takes about 300 ms to go */
	KILL_MS = 200,  /* for a killed daemon to be gone */
	LOCK_POLL_MS = 2,
};

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

static int ensure_locked(const struct ds_mps *mps, const struct ds_mps_need *need,
			 ds_deadline deadline, struct ds_error *err)
{
	char answer[DS_MPS_ANSWER_SIZE];

	pid_t left[DS_MPS_DAEMONS_MAX];

	if (ds_mps_has_pipes(mps)) {
		if (ds_mps_ask(mps, "get_server_list\n", answer, sizeof(answer), deadline, err) ==
		    0)
			return 0;
		/* Its servers may still serve the neighbours, whose work would die with them. */
		if (!need->alone && ds_mps_find(mps, left, DS_MPS_DAEMONS_MAX))
			return ds_fail_within(err,
					      "MPS of GPU %s does not answer, and cannot be "
					      "started anew under running jobs",
					      mps->uuid);
	}
	/* None runs, or one that hangs, or the remains of one: begin from nothing. */
	if (!ds_mps_kill(mps, ds_deadline_in(KILL_MS)))
		return ds_fail(err, "MPS of GPU %s hangs and cannot be killed", mps->uuid);
	remove_dirs(mps);
	if (start(mps, need->multiuser, deadline, err) < 0)
		goto fail;
	if (ds_mps_ask(mps, "get_server_list\n", answer, sizeof(answer), deadline, err) < 0) {
		ds_fail_within(err, "MPS of GPU %s was started but does not answer", mps->uuid);
		goto fail;
	}
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
	if (access(mps.dir, F_OK) < 0)
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
