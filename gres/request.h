/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_REQUEST_H
#define DETSHARE_GRES_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/*
 * The one parser of detshare requests: cli_filter, job_submit and the command all call it, so that a
 * request means the same everywhere. Pure: no Slurm, no files, no environment.
 */

enum {
	DS_SHARE_MILLI_MIN = 2,    /* "detshare:1" means one GPU, so 0.001 cannot be written */
	DS_SHARE_MILLI_MAX = 1000, /* one whole GPU, in thousandths */
	DS_CLASS_NAME_SIZE = 32,   /* with the terminator */
};

/* What a --gres list (or Slurm's tres_per_node form of it) says about sharing a GPU. */
struct ds_request {
	bool asks_share;                     /* the list has a detshare element */
	bool asks_shard;                     /* the list has a shard element */
	bool asks_gpu;                       /* the list has a gpu (or mps) element */
	char class_name[DS_CLASS_NAME_SIZE]; /* "" if the element names no class */
	uint32_t share_milli;                /* 2..1000 if asks_share, else 0 */
	uint64_t shard_count;                /* as written (summed), if asks_shard */
};

/* Whether `name` can name a class: a letter, then letters, digits, '-' and '_'; at most 31 bytes. */
bool ds_class_name_valid(const char *name);

/*
 * Parse one share: "0.5", ".25", "1", "1.0" (fractions and the integer 1 are parts of one GPU),
 * "2".."1000" (thousandths of a GPU). Writes 2..1000 to `*share_milli`. Returns 0, or -1 with a
 * reason: not a number, not above 0, above one GPU, or finer than a thousandth. Thread-safe, as is
 * everything here.
 */
int ds_share_parse(const char *text, uint32_t *share_milli, struct ds_error *err);

/*
 * Write a share as people read it: 500 -> "0.5", 1000 -> "1". Returns `text`.
 */
enum { DS_SHARE_TEXT_SIZE = 16 };
const char *ds_share_format(uint32_t share_milli, char text[DS_SHARE_TEXT_SIZE]);

/*
 * Write a gres list as the user typed it, for messages: without the "gres:" or "gres/" that Slurm's
 * clients put before each element; cut to `size`, without control characters. Returns `text`.
 */
const char *ds_gres_show(const char *gres, char *text, size_t size);

/*
 * Whether a TRES list of any form ("gres/gpu:1", "cpu:2,gres:shard=5") has `word` between its
 * separators. `list` may be NULL.
 */
bool ds_tres_mentions(const char *list, const char *word);

/*
 * Parse a gres list: "detshare:0.5", "detshare:latency:0.25,shard:250", "gres:detshare:500",
 * "gres/detshare:latency=500", mixed with other gres, "none", or NULL (asks nothing). "detshare" or
 * "detshare:CLASS" without a count means one GPU, as a gres without a count means one in Slurm.
 * Returns 0, or -1 with one line that starts with the element at fault; elements that are not ours are
 * never at fault. `*request` is cleared first.
 */
int ds_request_parse(const char *gres, struct ds_request *request, struct ds_error *err);

/*
 * Rewrite the list: the detshare element becomes detshare:CLASS:SHARE_MILLI, every shard element is
 * replaced by one shard:SHARD_COUNT behind it, all others stay as they are and where they are, each
 * with the prefix ("gres:", "gres/", none) that the detshare element had. With an empty class name
 * the class is left out. Empty elements are dropped. Idempotent. Returns a malloc'd string (the
 * caller frees it), or NULL when memory is out or the list holds no detshare element.
 */
char *ds_request_rewrite(const char *gres, const char *class_name, uint32_t share_milli,
			 uint32_t shard_count);

#endif
