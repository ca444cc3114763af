/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/ledger_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"

#define NEW_NAME "ledger.new"

enum {
	LOCK_YIELDS = 20,
	LOCK_PAUSE_MIN_US = 100,
	LOCK_PAUSE_MAX_US = 5000,
};

static void pause_us(int64_t us)
{
	struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	nanosleep(&t, NULL);
}

/*
 * The wait is by short sleeps that grow, since the blocking form knows no timeout and a signal for
 * one would be the whole process's. A lock is held for some 10 us, and who is woken by a change comes
 * when its writer is about to let go: the first tries only let others run.
 */
int ds_ledger_lock(int fd, ds_deadline deadline)
{
	int64_t pause = LOCK_PAUSE_MIN_US;

	for (int attempt = 0;; attempt++) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

		if (!fcntl(fd, F_OFD_SETLK, &lock))
			return 0;
		if (errno != EAGAIN && errno != EACCES && errno != EINTR)
			return -1;
		if (attempt < LOCK_YIELDS) {
			sched_yield();
			continue;
		}
		int64_t left = (deadline - ds_now_ns(CLOCK_MONOTONIC)) / 1000;
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		pause_us(pause < left ? pause : left);
		pause = 2 * pause < LOCK_PAUSE_MAX_US ? 2 * pause : LOCK_PAUSE_MAX_US;
	}
}

bool ds_ledger_has_name(int dir_fd, int fd, const char *name)
{
	struct stat file;
	struct stat named;

	return !fstat(fd, &file) && !fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) &&
	       file.st_dev == named.st_dev && file.st_ino == named.st_ino;
}

int ds_ledger_check_file(int fd, const char *dir, const char *name, struct ds_error *err)
{
	struct stat file;

	if (fstat(fd, &file))
		return ds_fail(err, "cannot look at %s/%s: %s", dir, name, strerror(errno));
	errno = EPERM;
	if (!S_ISREG(file.st_mode))
		return ds_fail(err, "%s/%s is no plain file: remove it", dir, name);
	if (file.st_uid != geteuid() || (file.st_mode & (S_IWGRP | S_IWOTH)))
		return ds_fail(
		    err, "%s/%s belongs to uid %u with mode %03o, not to uid %u alone: remove it",
		    dir, name, (unsigned)file.st_uid, file.st_mode & 0777, (unsigned)geteuid());
	return 0;
}

void ds_ledger_discard(int dir_fd, int fd)
{
	const int saved_errno = errno;

	unlinkat(dir_fd, NEW_NAME, 0);
	close(fd);
	errno = saved_errno;
}

int ds_ledger_new(int dir_fd, const char *dir, ds_deadline deadline, struct ds_error *err)
{
	int fd =
	    openat(dir_fd, NEW_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);

	if (fd < 0)
		return ds_fail(err, "cannot create %s/" NEW_NAME ": %s", dir, strerror(errno));
	if (ds_ledger_check_file(fd, dir, NEW_NAME, err))
		goto fail;
	if (ds_ledger_lock(fd, deadline)) {
		ds_fail(err, "cannot lock %s/" NEW_NAME ": %s", dir, strerror(errno));
		goto fail;
	}
	/* Its maker was done with it, or died while he was at it. */
	if (!ds_ledger_has_name(dir_fd, fd, NEW_NAME)) {
		errno = EAGAIN;
		goto fail;
	}
	if (ftruncate(fd, 0)) {
		ds_fail(err, "cannot empty %s/" NEW_NAME ": %s", dir, strerror(errno));
		goto fail;
	}
	return fd;
fail:;
	const int reason = errno;
	close(fd);
	errno = reason;
	return -1;
}

int ds_ledger_publish(int dir_fd, const char *dir, int fd, const struct ds_ledger_image *image,
		      struct ds_error *err)
{
	int rc;

	/* All of its room is taken first. */
	do
		rc = posix_fallocate(fd, 0, sizeof(*image));
	while (rc == EINTR);
	errno = rc;
	if (rc || fchmod(fd, 0644) || ds_write_whole_at(fd, image, sizeof(*image), 0))
		return ds_fail(err, "cannot write the %zu bytes of %s/" DS_LEDGER_FILE ": %s",
			       sizeof(*image), dir, strerror(errno));
	if (renameat(dir_fd, NEW_NAME, dir_fd, DS_LEDGER_FILE))
		return ds_fail(err, "cannot rename %s/" NEW_NAME " to " DS_LEDGER_FILE ": %s", dir,
			       strerror(errno));
	return 0;
}
