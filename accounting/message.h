/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_MESSAGE_H
#define DETSHARE_ACCOUNTING_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "accounting/record.h"
#include "common/error.h"

/*
 * Between sender and collector, over TCP: frames of "DSU1", the body's length (32 bits, big endian)
 * and the body, which is a munge credential. In it: one JSON object, a record with a nonce one way,
 * the answer with the same nonce the other way. The sender may send the next record on the same
 * connection after the answer.
 */
enum {
	DS_MESSAGE_HEADER = 8,
	DS_MESSAGE_BODY_MAX = 16384, /* a record of DS_USAGE_RECORD_MAX, encoded: about 6 KiB */
	DS_NONCE_SIZE = 33,
};

/* Gathers one frame from pieces of any size. */
struct ds_message_reader {
	size_t used;
	char data[DS_MESSAGE_HEADER + DS_MESSAGE_BODY_MAX + 1];
};

enum ds_message_state {
	DS_MESSAGE_MORE,   /* not whole yet */
	DS_MESSAGE_WHOLE,  /* ds_message_body() has it */
	DS_MESSAGE_BROKEN, /* not ours, empty or too long: close the connection */
};

/* Start over, for the next frame. */
void ds_message_reset(struct ds_message_reader *reader);

/*
 * How many more bytes to read before the frame can be judged again: to the end of the header, then
 * to the end of the body. Never 0 while the state is DS_MESSAGE_MORE.
 */
size_t ds_message_wanted(const struct ds_message_reader *reader);

/* Where to read them to; then tell how many came. */
char *ds_message_room(struct ds_message_reader *reader);
enum ds_message_state ds_message_came(struct ds_message_reader *reader, size_t n);

/* The whole body, with a NUL behind it; valid until the next call on the reader. */
const char *ds_message_body(const struct ds_message_reader *reader, size_t *length);

/* Write the header of a body of `length` bytes (1..DS_MESSAGE_BODY_MAX). */
void ds_message_header(size_t length, char header[DS_MESSAGE_HEADER]);

/* The record with `nonce` as JSON, malloc'd; NULL: it cannot be formatted. */
char *ds_message_record_format(const char *nonce, const struct ds_usage_record *record);

/*
 * The reverse; validates everything. `nonce` is set as soon as it is known, so that even a refusal
 * can be answered ("": unknown). Returns 0 or -1.
 */
int ds_message_record_parse(const char *json, size_t length, char nonce[DS_NONCE_SIZE],
			    struct ds_usage_record *record, struct ds_error *err);

enum ds_verdict {
	DS_VERDICT_STORED,  /* safe with the collector: forget it */
	DS_VERDICT_LATER,   /* the collector cannot now: try again */
	DS_VERDICT_REFUSED, /* never: set it aside */
};

struct ds_answer {
	char nonce[DS_NONCE_SIZE];
	enum ds_verdict verdict;
	uint32_t job_id;
	uint32_t restart;
	char node[256];
	char reason[512]; /* "" when stored */
};

/* The answer as JSON, malloc'd; NULL: no memory. */
char *ds_answer_format(const struct ds_answer *answer);
int ds_answer_parse(const char *json, size_t length, struct ds_answer *answer,
		    struct ds_error *err);

#endif
