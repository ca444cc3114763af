/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_SIZE_H
#define DETSHARE_COMMON_SIZE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/*
 * Sizes of memory as people write them: the one parser for requests, site rules and node facts. Binary
 * units, as Slurm's own --mem has them. Pure, thread-safe.
 */
enum {
	DS_SIZE_TEXT_SIZE = 16,
	DS_SIZE_MIB_MAX = 1 << 26, /* 64 TiB */
};

/*
 * Parse "20G", "512M", "1T", "20480" (MiB when no unit stands behind it); the unit in either case.
 * Writes 1..DS_SIZE_MIB_MAX to `*mib`. Returns 0, or -1 with a reason that repeats the text: not such a
 * size, zero, or too large.
 */
int ds_size_parse(const char *text, uint32_t *mib, struct ds_error *err);

/* Write it the shortest way that loses nothing: 20480 -> "20G", 1536 -> "1536M". Returns `text`. */
const char *ds_size_format(uint32_t mib, char text[DS_SIZE_TEXT_SIZE]);

#endif
