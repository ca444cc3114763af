/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_IO_H
#define DETSHARE_COMMON_IO_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Whole reads and writes: they go on after a short one and after a signal. errno says why one failed.
 * Thread-safe.
 */

/* Read up to `size` bytes. Returns how many there were: fewer only at the end of the file; or -1. */
ssize_t ds_read_whole(int fd, void *bytes, size_t size);

/*
 * Read the file at `path` as text, terminated; what does not fit into `size` is left out. `flags` for
 * open() beside O_RDONLY | O_CLOEXEC. Returns its length, or -1.
 */
ssize_t ds_read_text(const char *path, int flags, char *text, size_t size);

/* Write all of it where the descriptor stands. Returns 0 or -1. */
int ds_write_whole(int fd, const void *bytes, size_t size);

/* The same at an offset. */
int ds_write_whole_at(int fd, const void *bytes, size_t size, off_t offset);

#endif
