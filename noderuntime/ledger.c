/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "noderuntime/deadline.h"
#include "noderuntime/gpu.h"
#include "noderuntime/ledger_file.h"
#include "noderuntime/ledger_image.h"

#define FILE_NAME   DS_LEDGER_FILE
#define BROKEN_NAME "ledger.broken"

enum {
	OPEN_WAIT_MS = 1000, /* a change takes well below a millisecond */
	REOPEN_ATTEMPTS = 8, /* somebody else may set the file aside between open and lock */
	/* A change that was lost with its file may have been kept: no later one has its generation. */
	GENERATIONS_LOST = 1000000,
};

struct ds_ledger {
	int dir_fd;
	int fd;
	int copy_fd;    /* see ds_ledger_keep_copy(); -1: none */
	pid_t fd_owner; /* an OFD lock would not hold against the other side of a fork */
	char gpu_dir[PATH_MAX];
	char gpu_uuid[48];
	struct ds_gpu_shape shape;
	char boot_id[40];
	const struct ds_ledger_past *past;       /* NULL: there is none */
	const struct ds_ledger_heralds *heralds; /* NULL: there are none */
	bool loaded; /* `state`, and its copy in `image`, are what `fd` had when it was unlocked */
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

static int unlock(int fd)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_SETLK, &lock);
}

static void let_go_of_file(struct ds_ledger *ledger)
{
	close_fd(&ledger->fd);
	ledger->loaded = false;
}

static bool has_the_name(const struct ds_ledger *ledger)
{
	return ds_ledger_has_name(ledger->dir_fd, ledger->fd, FILE_NAME);
}

/*
 * Open and lock the file that has the name now, which may be another one than last time. One that we know is
 * looked up after the change, which is enough. 1: there is none.
 */
static int acquire(struct ds_ledger *ledger, ds_deadline deadline, struct ds_error *err)
{
	for (int attempt = 0; attempt < REOPEN_ATTEMPTS; attempt++) {
		if (ledger->fd_owner != getpid())
			let_go_of_file(ledger);
		if (ledger->fd < 0) {
			ledger->fd = openat(ledger->dir_fd, FILE_NAME,
					    O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
			if (ledger->fd < 0 && errno == ENOENT)
				return 1;
			if (ledger->fd < 0)
				return ds_fail(err, "cannot open %s/" FILE_NAME ": %s",
					       ledger->gpu_dir, strerror(errno));
			ledger->fd_owner = getpid();
			if (ds_ledger_check_file(ledger->fd, ledger->gpu_dir, FILE_NAME, err))
				goto fail;
		}
		if (ds_ledger_lock(ledger->fd, deadline)) {
			ds_fail(err, "cannot lock %s/" FILE_NAME ": %s", ledger->gpu_dir,
				strerror(errno));
			goto fail;
		}
		if (ledger->loaded || has_the_name(ledger))
			return 0;
		let_go_of_file(ledger);
	}
	errno = EAGAIN;
	return ds_fail(err, "cannot open %s/" FILE_NAME ": it is replaced again and again",
		       ledger->gpu_dir);
fail:
	let_go_of_file(ledger);
	return -1;
}

/*
 * Make a ledger, with what is known of a former one, in the place of the file that is open and locked, or
 * where there is none. The new one is locked, too. 1: somebody else was faster.
 */
static int create(struct ds_ledger *ledger, ds_deadline deadline, struct ds_error *err)
{
	struct ds_ledger_image *image = &ledger->image;
	struct ds_ledger_state *state = &ledger->state;
	int fd = ds_ledger_new(ledger->dir_fd, ledger->gpu_dir, deadline, err);

	if (fd < 0)
		return errno == EAGAIN ? 1 : -1;
	/* From here on nobody else makes one. */
	if (ledger->fd >= 0 ? !has_the_name(ledger)
			    : !faccessat(ledger->dir_fd, FILE_NAME, F_OK, AT_SYMLINK_NOFOLLOW)) {
		ds_ledger_discard(ledger->dir_fd, fd);
		return 1;
	}
	ds_ledger_image_init(image, ledger->boot_id, ledger->gpu_uuid, &ledger->shape);
	*state = image->copies[0].state;
	if (ledger->past && ledger->past->recall(ledger->past->arg, state, err))
		goto fail;
	if (state->generation)
		state->generation += GENERATIONS_LOST;
	ds_ledger_image_store(image, state);
	image->words[DS_LEDGER_ACTIVE_OFFSET / 8] = state->generation;
	if (ds_ledger_publish(ledger->dir_fd, ledger->gpu_dir, fd, image, err))
		goto fail;
	close_fd(&ledger->fd);
	ledger->fd = fd;
	ledger->fd_owner = getpid();
	ledger->loaded = true;
	return 0;
fail:
	ds_ledger_discard(ledger->dir_fd, fd);
	return -1;
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

/* Whether the locked file still has what we left or found there; or has, by now, what others left. */
static bool knows(struct ds_ledger *ledger)
{
	struct ds_ledger_image *image = &ledger->image;
	uint64_t head[DS_LEDGER_ACTIVE_OFFSET / 8 + 1]; /* of the page, as far as we read it */

	if (!ledger->loaded || !ds_ledger_read_at(ledger->fd, head, sizeof(head), 0) ||
	    memcmp(head, &image->header, sizeof(image->header)) != 0)
		return false;
	const uint64_t active = head[DS_LEDGER_ACTIVE_OFFSET / 8];
	if (active == ledger->state.generation)
		return true;
	image->words[DS_LEDGER_ACTIVE_OFFSET / 8] = active;
	return ds_ledger_load_newer(ledger->fd, image, ledger->boot_id, &ledger->state) &&
	       is_ours(ledger, NULL);
}

/*
 * May a ledger of that verdict be set aside? One that is only opened now finds out what there is. Later it is
 * done if all that was in it can be had again; but a runtime of another version, or one that takes the GPU for
 * another one, would do the same to ours, and so on without an end.
 */
static bool may_set_aside(const struct ds_ledger *ledger, enum ds_ledger_verdict verdict,
			  bool opening)
{
	return opening ||
	       (ledger->past && (verdict == DS_LEDGER_BROKEN || verdict == DS_LEDGER_OUTDATED));
}

/* Give it the other name as well: it keeps its own until there is another one, so that it is never absent. */
static int set_aside(const struct ds_ledger *ledger, const char *reason, struct ds_error *err)
{
	const int dir_fd = ledger->dir_fd;

	if ((unlinkat(dir_fd, BROKEN_NAME, 0) && errno != ENOENT) ||
	    linkat(dir_fd, FILE_NAME, dir_fd, BROKEN_NAME, 0))
		return ds_fail(err, "cannot set %s/" FILE_NAME " aside (%s): %s", ledger->gpu_dir,
			       reason, strerror(errno));
	ds_fail(err, "%s/" FILE_NAME " was set aside as " BROKEN_NAME ": %s", ledger->gpu_dir,
		reason);
	return 0;
}

/* Load the file that is locked. 0: it is usable; 1: another one is to be made in its place; or -1. */
static int load(struct ds_ledger *ledger, bool opening, struct ds_error *err)
{
	struct ds_error reason = {""};
	enum ds_ledger_verdict verdict =
	    ds_ledger_load(ledger->fd, &ledger->image, ledger->boot_id, &ledger->state, &reason);

	ledger->loaded = verdict == DS_LEDGER_VALID && is_ours(ledger, &reason);
	if (ledger->loaded)
		return 0;
	if (verdict == DS_LEDGER_UNFINISHED)
		return 1;
	if (!may_set_aside(ledger, verdict, opening)) {
		errno = EIO;
		return ds_fail(err, "cannot use %s/" FILE_NAME ": %s", ledger->gpu_dir,
			       reason.text);
	}
	return set_aside(ledger, reason.text, err) ? -1 : 1;
}

/* Lock, load, make what is missing. What is broken is set aside if that may be, with a note in `err`. */
static int begin(struct ds_ledger *ledger, unsigned timeout_ms, bool opening, struct ds_error *err)
{
	ds_deadline deadline = ds_deadline_in(timeout_ms);

	for (int attempt = 0; attempt < REOPEN_ATTEMPTS; attempt++) {
		int rc = acquire(ledger, deadline, err);

		if (!rc && knows(ledger))
			return 0;
		if (!rc && ledger->loaded && !has_the_name(ledger)) {
			let_go_of_file(ledger);
			continue;
		}
		if (!rc)
			rc = load(ledger, opening, err);
		if (rc > 0)
			rc = create(ledger, deadline, err);
		if (!rc)
			return 0;
		let_go_of_file(ledger);
		if (rc < 0)
			return -1;
	}
	errno = EAGAIN;
	return ds_fail(err, "cannot make %s/" FILE_NAME ": it is replaced again and again",
		       ledger->gpu_dir);
}

int ds_ledger_open(const char *gpu_dir, const char *gpu_uuid, const struct ds_gpu_shape *shape,
		   struct ds_ledger **ledger, struct ds_error *err)
{
	return ds_ledger_open_with(gpu_dir, gpu_uuid, shape, NULL, ledger, err);
}

int ds_ledger_open_with(const char *gpu_dir, const char *gpu_uuid, const struct ds_gpu_shape *shape,
			const struct ds_ledger_past *past, struct ds_ledger **ledger,
			struct ds_error *err)
{
	struct ds_ledger *opened = calloc(1, sizeof(*opened));

	*ledger = NULL;
	if (err)
		err->text[0] = '\0';
	if (!opened)
		return ds_fail(err, "cannot open the ledger in %s: %s", gpu_dir, strerror(errno));
	opened->dir_fd = opened->fd = opened->copy_fd = -1;
	opened->past = past;
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
	close_fd(&ledger->copy_fd);
	close_fd(&ledger->dir_fd);
	free(ledger);
	errno = saved_errno;
}

static int write_copy(int fd, const struct ds_ledger_copy *copy)
{
	const off_t offset = ds_ledger_copy_offset(copy->state.generation);
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
static int write_state(int fd, const struct ds_ledger_copy *copy)
{
	const uint64_t generation = copy->state.generation;

	return write_copy(fd, copy) || ds_write_whole_at(fd, &generation, sizeof(generation),
							 DS_LEDGER_ACTIVE_OFFSET)
		   ? -1
		   : 0;
}

/* What nobody may forget is kept before it holds. */
static int commit(struct ds_ledger *ledger, struct ds_error *err)
{
	struct ds_ledger_state *state = &ledger->state;
	const struct ds_ledger_copy *copy = &ledger->image.copies[state->generation % 2];

	if (ds_ledger_state_check(state, err)) {
		errno = EINVAL;
		return ds_fail_within(err, "refused to write %s/" FILE_NAME, ledger->gpu_dir);
	}
	ds_ledger_image_store(&ledger->image, state);
	if (ledger->copy_fd >= 0 && write_state(ledger->copy_fd, copy))
		return ds_fail(err, "cannot keep a copy of %s/" FILE_NAME ": %s", ledger->gpu_dir,
			       strerror(errno));
	if (write_state(ledger->fd, copy))
		return ds_fail(err, "cannot write %s/" FILE_NAME ": %s", ledger->gpu_dir,
			       strerror(errno));
	return 0;
}

int ds_ledger_keep_copy(struct ds_ledger *ledger, const char *dir, struct ds_error *err)
{
	struct ds_ledger_image *image = calloc(1, sizeof(*image));
	int rv = -1;
	int fd = -1;
	int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (!image || dir_fd < 0) {
		ds_fail(err, "cannot keep a ledger's copy in %s: %s", dir, strerror(errno));
		goto fail;
	}
	fd = ds_ledger_new(dir_fd, dir, ds_deadline_in(OPEN_WAIT_MS), err);
	if (fd < 0)
		goto fail;
	ds_ledger_image_init(image, ledger->boot_id, ledger->gpu_uuid, &ledger->shape);
	if (ds_ledger_publish(dir_fd, dir, fd, image, err)) {
		ds_ledger_discard(dir_fd, fd);
		goto fail;
	}
	close_fd(&ledger->copy_fd);
	ledger->copy_fd = fd;
	rv = 0;
fail:
	close_fd(&dir_fd);
	free(image);
	return rv;
}

void ds_ledger_tell_by(struct ds_ledger *ledger, const struct ds_ledger_heralds *heralds)
{
	ledger->heralds = heralds;
}

void ds_ledger_doubt(struct ds_ledger *ledger)
{
	ledger->loaded = false;
}

uint64_t ds_ledger_generation(const struct ds_ledger *ledger)
{
	return ledger->state.generation;
}

const struct ds_ledger_state *ds_ledger_glance(struct ds_ledger *ledger)
{
	const uint64_t known = ledger->state.generation;

	if (!ledger->loaded || ledger->fd < 0 || ledger->fd_owner != getpid())
		return NULL;
	/* Else the next change begins with the whole of it. */
	ledger->loaded = knows(ledger) && has_the_name(ledger);
	return ledger->loaded && ledger->state.generation != known ? &ledger->state : NULL;
}

int ds_ledger_peek(const struct ds_ledger *ledger, uint64_t *generation)
{
	struct stat file;

	return ledger->fd >= 0 && !fstat(ledger->fd, &file) &&
		       file.st_size == (off_t)sizeof(ledger->image) &&
		       ds_ledger_read_at(ledger->fd, generation, sizeof(*generation),
					 DS_LEDGER_ACTIVE_OFFSET)
		   ? 0
		   : -1;
}

/* Write what was made of `before`. `*told`: our heralds are to tell who has to know of it. 0 or -1. */
static int make_valid(struct ds_ledger *ledger, const struct ds_ledger_state *before, bool *told,
		      struct ds_error *err)
{
	const struct ds_ledger_heralds *heralds = ledger->heralds;

	*told = heralds && heralds->decide(before, &ledger->state, heralds->arg);
	ledger->state.generation++;
	if (commit(ledger, err))
		return -1;
	if (!*told)
		futimens(ledger->fd, NULL); /* cannot fail for who may write to it */
	return 0;
}

/* 0 or as ds_ledger_change(); `*lost` if the file has not its name, so that the change is nowhere. */
static int change_once(struct ds_ledger *ledger, unsigned timeout_ms,
		       int (*change)(struct ds_ledger_state *state, void *arg,
				     struct ds_error *err),
		       void *arg, bool *lost, struct ds_error *err)
{
	bool told = false;

	*lost = false;
	if (begin(ledger, timeout_ms, false, err))
		return -1;

	const struct ds_ledger_state *before =
	    &ledger->image.copies[ledger->state.generation % 2].state;
	int rv = change(&ledger->state, arg, err);
	int saved_errno = errno;
	if (rv) {
		ds_ledger_copy(&ledger->state, before);
	} else if (!ds_ledger_same(before, &ledger->state)) {
		rv = make_valid(ledger, before, &told, err);
		saved_errno = errno;
		if (rv) {
			ds_ledger_copy(&ledger->state, before);
			ledger->loaded = false;
		}
	}
	*lost = !has_the_name(ledger);
	unlock(ledger->fd);
	if (*lost)
		let_go_of_file(ledger);
	if (told && !rv && !*lost)
		ledger->heralds->tell(ledger->heralds->arg);
	errno = saved_errno;
	return rv;
}

int ds_ledger_change(struct ds_ledger *ledger, unsigned timeout_ms,
		     int (*change)(struct ds_ledger_state *state, void *arg, struct ds_error *err),
		     void *arg, struct ds_error *err)
{
	bool lost = true;
	int rv = 0;

	for (int attempt = 0; lost && attempt < REOPEN_ATTEMPTS; attempt++)
		rv = change_once(ledger, timeout_ms, change, arg, &lost, err);
	if (lost) {
		errno = EAGAIN;
		return ds_fail(err, "cannot change %s/" FILE_NAME ": it is removed again and again",
			       ledger->gpu_dir);
	}
	return rv;
}
