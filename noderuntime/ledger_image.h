/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEDGER_IMAGE_H
#define DETSHARE_NODERUNTIME_LEDGER_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "noderuntime/ledger.h"

/*
 * The bytes of a ledger file. Pure. A page with the header, whose last word says which generation
 * is valid; then two copies, generation g in copy g mod 2, each with a checksum.
 *
 * A commit writes the other copy, then that one word: 8 aligned bytes in one page, which a killed
 * writer has written or not. So the word, not the checksum, protects against kill -9. The checksum
 * tells a reader without a lock that two commits overtook it, and everybody that somebody else wrote
 * or cut the file. It is no protection against somebody who means to forge a ledger: permissions
 * are.
 */
enum {
	DS_LEDGER_VERSION = 5,
	DS_LEDGER_HEADER_SIZE = 4096,
	DS_LEDGER_ACTIVE_OFFSET = 2048,
};

struct ds_ledger_header {
	uint64_t magic;
	uint32_t version;
	uint32_t copy_size;
	char boot_id[40]; /* /proc/sys/kernel/random/boot_id, without the newline */
};

struct ds_ledger_copy {
	uint64_t checksum; /* of `state` */
	struct ds_ledger_state state;
};

struct ds_ledger_image {
	union {
		unsigned char page[DS_LEDGER_HEADER_SIZE];
		struct ds_ledger_header header;
		uint64_t words[DS_LEDGER_HEADER_SIZE / 8];
	};
	struct ds_ledger_copy copies[2];
};

/*
 * A state is large and mostly empty. What is in use are its head with its residents, and its programs;
 * only these are read, written, compared and in the checksum. The rest is whatever it was before.
 */
enum { DS_LEDGER_PARTS = 2 };
struct ds_ledger_part {
	size_t offset; /* in struct ds_ledger_state */
	size_t size;
};

/* The parts of a state whose head is there. 0, or -1: it cannot have so many residents or programs. */
int ds_ledger_parts(const struct ds_ledger_state *state,
		    struct ds_ledger_part parts[DS_LEDGER_PARTS]);

enum ds_ledger_verdict {
	DS_LEDGER_VALID,
	DS_LEDGER_UNFINISHED, /* whoever created it did not get as far as the header */
	DS_LEDGER_OUTDATED,   /* of another boot: nothing in it lives */
	DS_LEDGER_FOREIGN,    /* of another version */
	DS_LEDGER_BROKEN,
	DS_LEDGER_ABSENT, /* there is no file to load */
};

/* Make `image` that of a new ledger, generation 0, nobody in it. */
void ds_ledger_image_init(struct ds_ledger_image *image, const char *boot_id, const char *gpu_uuid,
			  const struct ds_gpu_shape *shape);

/* Put `state` into the copy that its generation goes to, with its checksum. */
void ds_ledger_image_store(struct ds_ledger_image *image, const struct ds_ledger_state *state);

/*
 * Judge the first `size` bytes of `image`, of which the parts of the valid state are there, and copy that
 * out. `err` says what is wrong
 * unless DS_LEDGER_VALID.
 */
enum ds_ledger_verdict ds_ledger_image_load(const struct ds_ledger_image *image, size_t size,
					    const char *boot_id, struct ds_ledger_state *state,
					    struct ds_error *err);

/* 0 if every field of `state` is in its range, else -1 with the first that is not. */
int ds_ledger_state_check(const struct ds_ledger_state *state, struct ds_error *err);

#endif
