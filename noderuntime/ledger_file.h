/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEDGER_FILE_H
#define DETSHARE_NODERUNTIME_LEDGER_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "noderuntime/ledger.h"
#include "noderuntime/ledger_image.h"

/* Reading a ledger's file: what ledger.c has in common with those who only look. */

#define DS_LEDGER_FILE "ledger"

/* `size` bytes from `offset`; false if there are not so many, or on an error. */
bool ds_ledger_read_at(int fd, void *bytes, size_t size, off_t offset);

/* Where the copy of that generation lies. Pure. */
off_t ds_ledger_copy_offset(uint64_t generation);

/* Read as much of the file as is needed into `image`, and judge it: see ds_ledger_image_load(). */
enum ds_ledger_verdict ds_ledger_load(int fd, struct ds_ledger_image *image, const char *boot_id,
				      struct ds_ledger_state *state, struct ds_error *err);

#endif
