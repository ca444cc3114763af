/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEDGER_FILE_H
#define DETSHARE_NODERUNTIME_LEDGER_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "noderuntime/deadline.h"
#include "noderuntime/ledger.h"
#include "noderuntime/ledger_image.h"

/* A ledger's file: reading it, which ledger.c has in common with those who only look, and making it. */

#define DS_LEDGER_FILE "ledger"

/* `size` bytes from `offset`; false if there are not so many, or on an error. */
bool ds_ledger_read_at(int fd, void *bytes, size_t size, off_t offset);

/* Where the copy of that generation lies. Pure. */
off_t ds_ledger_copy_offset(uint64_t generation);

/* Read as much of the file as is needed into `image`, and judge it: see ds_ledger_image_load(). */
enum ds_ledger_verdict ds_ledger_load(int fd, struct ds_ledger_image *image, const char *boot_id,
				      struct ds_ledger_state *state, struct ds_error *err);

/*
 * The same when the page in the image is that of the file now. False: it has to be read from its beginning,
 * to learn why.
 */
bool ds_ledger_load_newer(int fd, struct ds_ledger_image *image, const char *boot_id,
			  struct ds_ledger_state *state);

/* Lock for writing, by the deadline. 0, or -1 (errno ETIMEDOUT: somebody else has it). */
int ds_ledger_lock(int fd, ds_deadline deadline);

/* Whether that file has the name in the directory, still or again. */
bool ds_ledger_has_name(int dir_fd, int fd, const char *name);

/* Refuse what somebody else may have planted or could write to. 0, or -1 (errno EPERM) with a reason. */
int ds_ledger_check_file(int fd, const char *dir, const char *name, struct ds_error *err);

/*
 * A ledger, or a copy, comes to its name as a whole: it is made under another one, which only the holder of
 * that file's lock may take away. So a reader never meets half of one, however long its maker takes; and one
 * whose maker died is taken over by the next.
 *
 * Open the file for that, empty and locked. Returns its descriptor, or -1 (errno EAGAIN: another maker was
 * there before, so there may be a ledger now). `dir` is for error texts.
 */
int ds_ledger_new(int dir_fd, const char *dir, ds_deadline deadline, struct ds_error *err);

/*
 * Fill it and give it the name of a ledger, in the place of one that has it. The lock stays. 0, or -1 with a
 * reason: then discard it.
 */
int ds_ledger_publish(int dir_fd, const char *dir, int fd, const struct ds_ledger_image *image,
		      struct ds_error *err);

/* Remove and close it. Keeps errno. */
void ds_ledger_discard(int dir_fd, int fd);

#endif
