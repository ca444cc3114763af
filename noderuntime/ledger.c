/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "noderuntime/deadline.h"
#include "noderuntime/gpu.h"
#include "noderuntime/ledger_image.h"

#define FILE_NAME   "ledger"
#define BROKEN_NAME "ledger.broken"

enum {
	OPEN_WAIT_MS = 1000, /* a change takes well below a millisecond */
	REOPEN_ATTEMPTS = 8, /* somebody else may set the file aside between open and lock */
	READ_ATTEMPTS = 20,  /* a reader may be overtaken by two commits */
	RESIDENTS_PROBABLE = 4,
	LOCK_YIELDS = 20,
	LOCK_PAUSE_MIN_US = 100,
	LOCK_PAUSE_MAX_US = 5000,
};

struct ds_ledger {
	int dir_fd;
	int fd;
	pid_t fd_owner; /* an OFD lock would not hold against the other side of a fork */
	char gpu_dir[PATH_MAX];
	char gpu_uuid[48];
	struct ds_gpu_shape shape;
	char boot_id[40];
	struct ds_ledger_image image;
	struct ds_ledger_state state;
};

static void close_fd(int *fd)
{
	int saved_errno = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved_errno;
}

static void pause_us(int64_t us)
{
	struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	nanosleep(&t, NULL);
}

/* Returns the bytes read: fewer than `size` only at the end of the file; -1 on an error. */
static ssize_t read_all(int fd, void *bytes, size_t size)
{
	char *next = bytes;
	size_t used = 0;

	while (used < size) {
		ssize_t n = pread(fd, next + used, size - used, (off_t)used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n)
			break;
		used += (size_t)n;
	}
	return (ssize_t)used;
}

static bool read_whole_at(int fd, void *bytes, size_t size, off_t offset)
{
	ssize_t n;

	do
		n = pread(fd, bytes, size, offset);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)size;
}

static off_t copy_offset(uint64_t generation)
{
	return (off_t)(offsetof(struct ds_ledger_image, copies) +
		       generation % 2 * sizeof(struct ds_ledger_copy));
}

/*
 * As much of the image as is needed: a state is mostly empty. Returns the file's size up to that of an
 * image, or -1.
 */
static ssize_t read_image(int fd, struct ds_ledger_image *image)
{
	struct ds_ledger_part parts[DS_LEDGER_PARTS];
	struct stat file;

	if (fstat(fd, &file) < 0)
		return -1;
	if (file.st_size < (off_t)sizeof(*image) ||
	    !read_whole_at(fd, image->page, sizeof(image->page), 0))
		return read_all(fd, image, sizeof(*image));
	const uint64_t active = image->words[DS_LEDGER_ACTIVE_OFFSET / 8];
	const off_t offset = copy_offset(active);
	struct ds_ledger_copy *copy = &image->copies[active % 2];
	/* As many residents as there probably are, then what is missing. */
	const size_t guess = offsetof(struct ds_ledger_copy, state.residents[RESIDENTS_PROBABLE]);
	if (!read_whole_at(fd, copy, guess, offset))
		return -1;
	if (ds_ledger_parts(&copy->state, parts) < 0)
		return sizeof(*image); /* is found to be broken */
	for (int i = 0; i < DS_LEDGER_PARTS; i++) {
		size_t begin = offsetof(struct ds_ledger_copy, state) + parts[i].offset;
		size_t end = begin + parts[i].size;
		if (begin < guess)
			begin = guess;
		if (begin < end &&
		    !read_whole_at(fd, (char *)copy + begin, end - begin, offset + (off_t)begin))
			return -1;
	}
	return sizeof(*image);
}

static int unlock(int fd)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_SETLK, &lock);
}

/*
 * The wait is by short sleeps that grow, since the blocking form knows no timeout and a signal for
 * one would be the whole process's. A lock is held for some 10 us, and who is woken by a change comes
 * when its writer is about to let go: the first tries only let others run.
 */
static int lock_until(int fd, ds_deadline deadline)
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

/* Refuse what somebody else may have planted or could write to. */
static int check_file(const struct ds_ledger *ledger, int fd, struct stat *file,
		      struct ds_error *err)
{
	if (fstat(fd, file))
		return ds_fail(err, "cannot look at %s/" FILE_NAME ": %s", ledger->gpu_dir,
			       strerror(errno));
	errno = EPERM;
	if (!S_ISREG(file->st_mode))
		return ds_fail(err, "%s/" FILE_NAME " is no plain file: remove it",
			       ledger->gpu_dir);
	if (file->st_uid != geteuid() || (file->st_mode & (S_IWGRP | S_IWOTH)))
		return ds_fail(err,
			       "%s/" FILE_NAME " belongs to uid %u with mode %03o, not to uid %u "
			       "alone: remove it",
			       ledger->gpu_dir, (unsigned)file->st_uid, file->st_mode & 0777,
			       (unsigned)geteuid());
	return 0;
}

/* Open and lock the file that has the name now, which may be another one than last time. */
static int acquire(struct ds_ledger *ledger, ds_deadline deadline, struct ds_error *err)
{
	for (int attempt = 0; attempt < REOPEN_ATTEMPTS; attempt++) {
		struct stat file;
		struct stat named;

		if (ledger->fd_owner != getpid())
			close_fd(&ledger->fd);
		if (ledger->fd < 0) {
			ledger->fd =
			    openat(ledger->dir_fd, FILE_NAME,
				   O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
			if (ledger->fd < 0)
				return ds_fail(err, "cannot open %s/" FILE_NAME ": %s",
					       ledger->gpu_dir, strerror(errno));
			ledger->fd_owner = getpid();
			if (check_file(ledger, ledger->fd, &file, err))
				goto fail;
		}
		if (lock_until(ledger->fd, deadline)) {
			ds_fail(err, "cannot lock %s/" FILE_NAME ": %s", ledger->gpu_dir,
				strerror(errno));
			goto fail;
		}
		if (!fstat(ledger->fd, &file) &&
		    !fstatat(ledger->dir_fd, FILE_NAME, &named, AT_SYMLINK_NOFOLLOW) &&
		    file.st_dev == named.st_dev && file.st_ino == named.st_ino)
			return 0;
		close_fd(&ledger->fd);
	}
	errno = EAGAIN;
	return ds_fail(err, "cannot open %s/" FILE_NAME ": it is replaced again and again",
		       ledger->gpu_dir);
fail:
	close_fd(&ledger->fd);
	return -1;
}

static enum ds_ledger_verdict load(int fd, struct ds_ledger_image *image, const char *boot_id,
				   struct ds_ledger_state *state, struct ds_error *err)
{
	ssize_t size = read_image(fd, image);

	if (size < 0) {
		ds_fail(err, "it cannot be read: %s", strerror(errno));
		return DS_LEDGER_BROKEN;
	}
	return ds_ledger_image_load(image, (size_t)size, boot_id, state, err);
}

/*
 * Fill the locked, empty file. All of its room is taken first. The header comes last: a creator that
 * dies before leaves an unfinished file, which the next one fills.
 */
static int create(struct ds_ledger *ledger, struct ds_error *err)
{
	struct ds_ledger_image *image = &ledger->image;
	off_t header_size = sizeof(image->page);
	int rc;

	ds_ledger_image_init(image, ledger->boot_id, ledger->gpu_uuid, &ledger->shape);
	do
		rc = posix_fallocate(ledger->fd, 0, sizeof(*image));
	while (rc == EINTR);
	errno = rc;
	if (rc || fchmod(ledger->fd, 0644) ||
	    ds_write_whole_at(ledger->fd, image->copies, sizeof(image->copies), header_size) ||
	    ds_write_whole_at(ledger->fd, image->page, sizeof(image->page), 0)) {
		ds_fail(err, "cannot write the %zu bytes of %s/" FILE_NAME ": %s", sizeof(*image),
			ledger->gpu_dir, strerror(errno));
		if (ftruncate(ledger->fd, 0))
			return ds_fail_within(err, "and not give their room back");
		return -1;
	}
	ledger->state = image->copies[0].state;
	return 0;
}

/* Is the state that of our GPU? A UUID may change its shape: MIG, another driver. */
static bool is_ours(const struct ds_ledger *ledger, struct ds_error *err)
{
	const struct ds_ledger_state *state = &ledger->state;

	if (strcmp(state->gpu_uuid, ledger->gpu_uuid)) {
		ds_fail(err, "it is of GPU %s", state->gpu_uuid);
		return false;
	}
	if (memcmp(&state->shape, &ledger->shape, sizeof(ledger->shape))) {
		ds_fail(err,
			"it is of a GPU of %" PRIu32 " groups of %" PRIu32 " SMs and %" PRIu32
			" more, not %" PRIu32 " of %" PRIu32 " and %" PRIu32,
			state->shape.n_groups, state->shape.group_sms, state->shape.rest_sms,
			ledger->shape.n_groups, ledger->shape.group_sms, ledger->shape.rest_sms);
		return false;
	}
	return true;
}

/* Lock, load, make what is missing. What is broken is set aside if `repair`, with a note in `err`. */
static int begin(struct ds_ledger *ledger, unsigned timeout_ms, bool repair, struct ds_error *err)
{
	ds_deadline deadline = ds_deadline_in(timeout_ms);
	struct ds_error reason = {""};

	for (int attempt = 0; attempt < REOPEN_ATTEMPTS; attempt++) {
		if (acquire(ledger, deadline, err))
			return -1;

		enum ds_ledger_verdict verdict =
		    load(ledger->fd, &ledger->image, ledger->boot_id, &ledger->state, &reason);
		if (verdict == DS_LEDGER_VALID && is_ours(ledger, &reason))
			return 0;
		if (verdict == DS_LEDGER_UNFINISHED) {
			if (!create(ledger, err))
				return 0;
			goto fail;
		}
		if (!repair) {
			errno = EIO;
			ds_fail(err, "cannot use %s/" FILE_NAME ": %s", ledger->gpu_dir,
				reason.text);
			goto fail;
		}
		if (renameat(ledger->dir_fd, FILE_NAME, ledger->dir_fd, BROKEN_NAME)) {
			ds_fail(err, "cannot set %s/" FILE_NAME " aside (%s): %s", ledger->gpu_dir,
				reason.text, strerror(errno));
			goto fail;
		}
		ds_fail(err, "%s/" FILE_NAME " was set aside as " BROKEN_NAME ": %s",
			ledger->gpu_dir, reason.text);
		close_fd(&ledger->fd);
	}
	errno = EIO;
	return -1;
fail:
	close_fd(&ledger->fd);
	return -1;
}

int ds_ledger_open(const char *gpu_dir, const char *gpu_uuid, const struct ds_gpu_shape *shape,
		   struct ds_ledger **ledger, struct ds_error *err)
{
	struct ds_ledger *opened = calloc(1, sizeof(*opened));

	*ledger = NULL;
	if (err)
		err->text[0] = '\0';
	if (!opened)
		return ds_fail(err, "cannot open the ledger in %s: %s", gpu_dir, strerror(errno));
	opened->dir_fd = opened->fd = -1;
	opened->shape = *shape;
	snprintf(opened->gpu_dir, sizeof(opened->gpu_dir), "%s", gpu_dir);
	if (strlen(gpu_uuid) >= sizeof(opened->gpu_uuid)) {
		errno = EINVAL;
		ds_fail(err, "cannot keep a ledger of GPU %s: the name is too long", gpu_uuid);
		goto fail;
	}
	memcpy(opened->gpu_uuid, gpu_uuid, strlen(gpu_uuid));
	if (ds_boot_id(opened->boot_id, err))
		goto fail;
	opened->dir_fd = open(gpu_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (opened->dir_fd < 0) {
		ds_fail(err, "cannot open %s: %s", gpu_dir, strerror(errno));
		goto fail;
	}
	ds_ledger_image_init(&opened->image, opened->boot_id, gpu_uuid, shape);
	if (ds_ledger_state_check(&opened->image.copies[0].state, err)) {
		errno = EINVAL;
		ds_fail_within(err, "cannot make %s/" FILE_NAME, gpu_dir);
		goto fail;
	}
	if (begin(opened, OPEN_WAIT_MS, true, err))
		goto fail;
	unlock(opened->fd);
	*ledger = opened;
	return 0;
fail:
	ds_ledger_close(opened);
	return -1;
}

void ds_ledger_close(struct ds_ledger *ledger)
{
	int saved_errno = errno;

	if (!ledger)
		return;
	close_fd(&ledger->fd);
	close_fd(&ledger->dir_fd);
	free(ledger);
	errno = saved_errno;
}

int ds_ledger_read(const char *gpu_dir, struct ds_ledger_state *state, struct ds_error *err)
{
	char boot_id[40];
	struct ds_ledger_image *image = NULL;
	int dir_fd = -1;
	int fd = -1;
	int rv = -1;

	if (ds_boot_id(boot_id, err))
		return -1;
	dir_fd = open(gpu_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir_fd >= 0)
		fd = openat(dir_fd, FILE_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		ds_fail(err, "cannot open %s/" FILE_NAME ": %s", gpu_dir, strerror(errno));
		goto fail;
	}
	image = malloc(sizeof(*image));
	if (!image) {
		ds_fail(err, "cannot read %s/" FILE_NAME ": %s", gpu_dir, strerror(errno));
		goto fail;
	}
	for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
		enum ds_ledger_verdict verdict = load(fd, image, boot_id, state, err);

		if (verdict == DS_LEDGER_VALID) {
			rv = 0;
			break;
		}
		if (verdict != DS_LEDGER_BROKEN) {
			ds_fail_within(err, "no ledger in %s", gpu_dir);
			errno = ENOENT;
			goto fail;
		}
		/* A writer may have been at it. */
		pause_us(LOCK_PAUSE_MIN_US);
	}
	if (rv) {
		errno = EIO;
		ds_fail_within(err, "cannot use %s/" FILE_NAME, gpu_dir);
	}
fail:
	free(image);
	close_fd(&fd);
	close_fd(&dir_fd);
	return rv;
}

static int write_copy(int fd, const struct ds_ledger_copy *copy)
{
	const off_t offset = copy_offset(copy->state.generation);
	struct ds_ledger_part parts[DS_LEDGER_PARTS];

	ds_ledger_parts(&copy->state, parts);
	for (int i = 0; i < DS_LEDGER_PARTS; i++) {
		size_t at = offsetof(struct ds_ledger_copy, state) + parts[i].offset;
		size_t size = parts[i].size;
		if (i == 0) { /* with the checksum, which lies before it */
			size += at;
			at = 0;
		}
		if (size &&
		    ds_write_whole_at(fd, (const char *)copy + at, size, offset + (off_t)at))
			return -1;
	}
	return 0;
}

/* The copy first; then, in one store, the word that makes it valid. */
static int commit(struct ds_ledger *ledger, struct ds_error *err)
{
	struct ds_ledger_state *state = &ledger->state;
	const struct ds_ledger_copy *copy = &ledger->image.copies[state->generation % 2];

	if (ds_ledger_state_check(state, err)) {
		errno = EINVAL;
		return ds_fail_within(err, "refused to write %s/" FILE_NAME, ledger->gpu_dir);
	}
	ds_ledger_image_store(&ledger->image, state);
	if (write_copy(ledger->fd, copy) ||
	    ds_write_whole_at(ledger->fd, &state->generation, sizeof(state->generation),
			      DS_LEDGER_ACTIVE_OFFSET))
		return ds_fail(err, "cannot write %s/" FILE_NAME ": %s", ledger->gpu_dir,
			       strerror(errno));
	return 0;
}

uint64_t ds_ledger_generation(const struct ds_ledger *ledger)
{
	return ledger->state.generation;
}

int ds_ledger_peek(const struct ds_ledger *ledger, uint64_t *generation)
{
	return ledger->fd >= 0 && read_whole_at(ledger->fd, generation, sizeof(*generation),
						DS_LEDGER_ACTIVE_OFFSET)
		   ? 0
		   : -1;
}

int ds_ledger_change(struct ds_ledger *ledger, unsigned timeout_ms,
		     int (*change)(struct ds_ledger_state *state, void *arg, struct ds_error *err),
		     void *arg, struct ds_error *err)
{
	if (begin(ledger, timeout_ms, false, err))
		return -1;

	uint64_t generation = ledger->state.generation;
	const struct ds_ledger_state *before = &ledger->image.copies[generation % 2].state;
	int rv = change(&ledger->state, arg, err);
	if (!rv && !ds_ledger_same(before, &ledger->state)) {
		ledger->state.generation = generation + 1;
		rv = commit(ledger, err);
		if (rv)
			ledger->state.generation = generation;
	}

	int saved_errno = errno;
	unlock(ledger->fd);
	errno = saved_errno;
	return rv;
}
