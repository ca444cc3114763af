/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_DIRECTORY_H
#define DETSHARE_ACCOUNTING_DIRECTORY_H

#include <limits.h>
#include <stddef.h>
#include <sys/stat.h>

#include "common/error.h"

/*
 * A directory whose files are believed: only root and the running user can have written them. What
 * lies in a spool is signed with root's name, so a spool that others can write to is refused.
 * Not thread-safe for one and the same struct.
 */
struct ds_directory {
	int fd;              /* -1: closed */
	char path[PATH_MAX]; /* for messages */
};

#define DS_DIRECTORY_CLOSED ((struct ds_directory){.fd = -1})

/*
 * Open `path`, made with mode 0700 (parents 0755) if absent. Refused: not a directory, owner neither
 * root nor the effective user, writable by group or others. Returns 0, or -1 with a reason.
 */
int ds_directory_open(const char *path, struct ds_directory *directory, struct ds_error *err);

/* Open `name` below `parent`, made if absent, under the same rules. Returns 0 or -1. */
int ds_directory_open_below(const struct ds_directory *parent, const char *name,
			    struct ds_directory *directory, struct ds_error *err);

/* Close; a closed one may be closed again. */
void ds_directory_close(struct ds_directory *directory);

/*
 * Write the file `name` as a whole or not at all, and so that it is there after a power cut:
 * temporary file, fsync, rename, fsync of the directory. Mode 0600. Returns 0 or -1.
 */
int ds_directory_write(const struct ds_directory *directory, const char *name, const char *data,
		       size_t length, struct ds_error *err);

/*
 * Read the file `name`, at most `max` bytes (longer is an error), malloc'd, with a NUL behind it.
 * Symbolic links and anything that is not a regular file are refused. `length` and `status` may be
 * NULL. Returns NULL with a reason; errno tells the kind (ENOENT: no such file; EFBIG: longer;
 * EINVAL: not a regular file).
 */
char *ds_directory_read(const struct ds_directory *directory, const char *name, size_t max,
			size_t *length, struct stat *status, struct ds_error *err);

/*
 * The names of the files that do not begin with a dot, in byte order, in a NULL-terminated array to be
 * freed by ds_directory_names_free(). `count` may be NULL. Directories are left out. NULL with a
 * reason on error.
 */
char **ds_directory_names(const struct ds_directory *directory, size_t *count,
			  struct ds_error *err);
void ds_directory_names_free(char **names);

/*
 * Remove what ds_directory_write() left behind when it was killed: temporary files older than
 * `age_s` seconds. Never fails: they only cost room.
 */
void ds_directory_sweep(const struct ds_directory *directory, unsigned age_s);

/*
 * Move `name` into `other`, replacing what has that name there; both are durable on return. Same
 * file system. Returns 0 or -1.
 */
int ds_directory_move(const struct ds_directory *directory, const char *name,
		      const struct ds_directory *other, struct ds_error *err);

#endif
