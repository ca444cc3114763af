/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/ledger_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/gpu.h"

enum {
	/*
	 * A reader may be overtaken by two commits: then it looks again, in pauses that grow, for so long, and
	 * so often if it loses the CPU itself. What is broken may be replaced meanwhile.
	 */
	READ_MS = 150,
	LOOKS_MIN = 10,
	PAUSE_MIN_NS = 100000,
	PAUSE_MAX_NS = 5000000,
	RESIDENTS_PROBABLE = 4,
};

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

bool ds_ledger_read_at(int fd, void *bytes, size_t size, off_t offset)
{
	ssize_t n;

	do
		n = pread(fd, bytes, size, offset);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)size;
}

off_t ds_ledger_copy_offset(uint64_t generation)
{
	return (off_t)(offsetof(struct ds_ledger_image, copies) +
		       generation % 2 * sizeof(struct ds_ledger_copy));
}

/* The copy that the page in the image says is valid, as much of it as is in use: a state is mostly empty. */
static bool read_copy(int fd, struct ds_ledger_image *image)
{
	const uint64_t active = image->words[DS_LEDGER_ACTIVE_OFFSET / 8];
	const off_t offset = ds_ledger_copy_offset(active);
	struct ds_ledger_copy *copy = &image->copies[active % 2];
	struct ds_ledger_part parts[DS_LEDGER_PARTS];
	/* As many residents as there probably are, then what is missing. */
	const size_t guess = offsetof(struct ds_ledger_copy, state.residents[RESIDENTS_PROBABLE]);

	if (!ds_ledger_read_at(fd, copy, guess, offset))
		return false;
	if (ds_ledger_parts(&copy->state, parts) < 0)
		return true; /* is found to be broken */
	for (int i = 0; i < DS_LEDGER_PARTS; i++) {
		size_t begin = offsetof(struct ds_ledger_copy, state) + parts[i].offset;
		size_t end = begin + parts[i].size;
		if (begin < guess)
			begin = guess;
		if (begin < end && !ds_ledger_read_at(fd, (char *)copy + begin, end - begin,
						      offset + (off_t)begin))
			return false;
	}
	return true;
}

/* As much of the image as is needed. Returns the file's size up to that of an image, or -1. */
static ssize_t read_image(int fd, struct ds_ledger_image *image)
{
	struct stat file;

	if (fstat(fd, &file) < 0)
		return -1;
	if (file.st_size < (off_t)sizeof(*image) ||
	    !ds_ledger_read_at(fd, image->page, sizeof(image->page), 0))
		return read_all(fd, image, sizeof(*image));
	return read_copy(fd, image) ? (ssize_t)sizeof(*image) : -1;
}

enum ds_ledger_verdict ds_ledger_load(int fd, struct ds_ledger_image *image, const char *boot_id,
				      struct ds_ledger_state *state, struct ds_error *err)
{
	ssize_t size = read_image(fd, image);

	if (size < 0) {
		ds_fail(err, "it cannot be read: %s", strerror(errno));
		return DS_LEDGER_BROKEN;
	}
	return ds_ledger_image_load(image, (size_t)size, boot_id, state, err);
}

bool ds_ledger_load_newer(int fd, struct ds_ledger_image *image, const char *boot_id,
			  struct ds_ledger_state *state)
{
	return read_copy(fd, image) &&
	       ds_ledger_image_load(image, sizeof(*image), boot_id, state, NULL) == DS_LEDGER_VALID;
}
/* Look once at the file that has the name now. DS_LEDGER_ABSENT: it cannot be opened, with errno. */
static enum ds_ledger_verdict look(int dir_fd, struct ds_ledger_image *image, const char *boot_id,
				   struct ds_ledger_state *state, struct ds_error *reason)
{
	int fd = openat(dir_fd, DS_LEDGER_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0) {
		ds_fail(reason, "%s", strerror(errno));
		return DS_LEDGER_ABSENT;
	}
	enum ds_ledger_verdict verdict = ds_ledger_load(fd, image, boot_id, state, reason);
	close(fd);
	return verdict;
}

static bool may_change_soon(enum ds_ledger_verdict verdict)
{
	return verdict != DS_LEDGER_VALID && verdict != DS_LEDGER_ABSENT &&
	       verdict != DS_LEDGER_OUTDATED;
}

/* `err` is left as it is where nothing failed in the end: callers take a text for a failure. */
int ds_ledger_read(const char *gpu_dir, struct ds_ledger_state *state, struct ds_error *err)
{
	const ds_deadline deadline = ds_deadline_in(READ_MS);
	struct timespec pause = {.tv_nsec = PAUSE_MIN_NS};
	enum ds_ledger_verdict verdict = DS_LEDGER_ABSENT;
	struct ds_error reason = {""};
	char boot_id[40];
	int rv = -1;

	if (ds_boot_id(boot_id, err))
		return -1;
	memset(state, 0, sizeof(*state));
	struct ds_ledger_image *image = malloc(sizeof(*image));
	int dir_fd = open(gpu_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (!image || dir_fd < 0) {
		ds_fail(err, "cannot open %s/" DS_LEDGER_FILE ": %s", gpu_dir, strerror(errno));
		goto fail;
	}
	for (int n = 1;; n++) {
		verdict = look(dir_fd, image, boot_id, state, &reason);
		if (!may_change_soon(verdict) || (n >= LOOKS_MIN && !ds_deadline_left_ms(deadline)))
			break;
		nanosleep(&pause, NULL);
		pause.tv_nsec = 2 * pause.tv_nsec < PAUSE_MAX_NS ? 2 * pause.tv_nsec : PAUSE_MAX_NS;
	}
	switch (verdict) {
	case DS_LEDGER_VALID:
		rv = 0;
		break;
	case DS_LEDGER_ABSENT:
		ds_fail(err, "cannot open %s/" DS_LEDGER_FILE ": %s", gpu_dir, reason.text);
		break;
	case DS_LEDGER_OUTDATED:
		errno = ENOENT;
		ds_fail(err, "no ledger in %s: %s", gpu_dir, reason.text);
		break;
	case DS_LEDGER_UNFINISHED:
	case DS_LEDGER_BROKEN:
	case DS_LEDGER_FOREIGN:
		errno = verdict == DS_LEDGER_UNFINISHED ? ENODATA : EIO;
		ds_fail(err, "cannot use %s/" DS_LEDGER_FILE ": %s", gpu_dir, reason.text);
		break;
	}
fail:
	free(image);
	if (dir_fd >= 0)
		close(dir_fd);
	return rv;
}
