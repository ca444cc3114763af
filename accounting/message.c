/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/message.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "accounting/record_json.h"

enum { MESSAGE_VERSION = 1 };
static const char MAGIC[4] = {'D', 'S', 'U', '1'};
static const char *const VERDICTS[] = {
    [DS_VERDICT_STORED] = "stored",
    [DS_VERDICT_LATER] = "later",
    [DS_VERDICT_REFUSED] = "refused",
};
enum { N_VERDICTS = sizeof(VERDICTS) / sizeof(VERDICTS[0]) };

void ds_message_reset(struct ds_message_reader *reader)
{
	reader->used = 0;
}

static size_t body_length(const struct ds_message_reader *reader)
{
	const unsigned char *length = (const unsigned char *)reader->data + sizeof(MAGIC);

	return (size_t)length[0] << 24 | (size_t)length[1] << 16 | (size_t)length[2] << 8 |
	       (size_t)length[3];
}

size_t ds_message_wanted(const struct ds_message_reader *reader)
{
	if (reader->used < DS_MESSAGE_HEADER)
		return DS_MESSAGE_HEADER - reader->used;
	return DS_MESSAGE_HEADER + body_length(reader) - reader->used;
}

char *ds_message_room(struct ds_message_reader *reader)
{
	return reader->data + reader->used;
}

enum ds_message_state ds_message_came(struct ds_message_reader *reader, size_t n)
{
	reader->used += n;
	/* Judged before the header is whole: a stranger is told from a slow friend at once. */
	size_t magic = reader->used < sizeof(MAGIC) ? reader->used : sizeof(MAGIC);
	if (memcmp(reader->data, MAGIC, magic) != 0)
		return DS_MESSAGE_BROKEN;
	if (reader->used < DS_MESSAGE_HEADER)
		return DS_MESSAGE_MORE;

	size_t length = body_length(reader);
	if (length == 0 || length > DS_MESSAGE_BODY_MAX)
		return DS_MESSAGE_BROKEN;
	if (reader->used < DS_MESSAGE_HEADER + length)
		return DS_MESSAGE_MORE;
	reader->data[reader->used] = '\0';
	return DS_MESSAGE_WHOLE;
}

const char *ds_message_body(const struct ds_message_reader *reader, size_t *length)
{
	*length = body_length(reader);
	return reader->data + DS_MESSAGE_HEADER;
}

void ds_message_header(size_t length, char header[DS_MESSAGE_HEADER])
{
	memcpy(header, MAGIC, sizeof(MAGIC));
	for (int i = 0; i < 4; i++)
		header[sizeof(MAGIC) + i] = (char)(length >> (24 - 8 * i) & 0xff);
}

/* Copy a string member of at most size - 1 bytes. */
static int get_string(const json_t *object, const char *key, char *value, size_t size,
		      struct ds_error *err)
{
	const char *string = json_string_value(json_object_get(object, key));

	if (!string || strlen(string) >= size)
		return ds_fail(err, "broken message: %s is not a string of at most %zu bytes", key,
			       size - 1);
	strcpy(value, string);
	return 0;
}

static int get_uint32(const json_t *object, const char *key, uint32_t *value, struct ds_error *err)
{
	const json_t *number = json_object_get(object, key);

	if (!json_is_integer(number) || json_integer_value(number) < 0 ||
	    json_integer_value(number) > UINT32_MAX)
		return ds_fail(err, "broken message: %s is not a number of 32 bits", key);
	*value = (uint32_t)json_integer_value(number);
	return 0;
}

/* A message of kind `kind`: an object whose "detshare_KIND" is our version. NULL with a reason. */
static json_t *load(const char *json, size_t length, const char *kind, struct ds_error *err)
{
	json_error_t error;
	json_t *object = json_loadb(json, length, JSON_REJECT_DUPLICATES, &error);

	if (!object) {
		ds_fail(err, "broken message: not JSON: %s at byte %d", error.text, error.position);
		return NULL;
	}

	const json_t *version = json_object_get(object, kind);
	if (!json_is_integer(version) || json_integer_value(version) != MESSAGE_VERSION) {
		ds_fail(err, "broken message: it is not a %s of version %d", kind, MESSAGE_VERSION);
		json_decref(object);
		return NULL;
	}
	return object;
}

char *ds_message_record_format(const char *nonce, const struct ds_usage_record *record)
{
	json_t *object = json_pack("{s:i, s:s, s:o}", "detshare_usage", MESSAGE_VERSION, "nonce",
				   nonce, "record", ds_usage_record_to_json(record));
	char *text = object ? json_dumps(object, DS_JSON_FORMAT) : NULL;

	json_decref(object);
	return text;
}

int ds_message_record_parse(const char *json, size_t length, char nonce[DS_NONCE_SIZE],
			    struct ds_usage_record *record, struct ds_error *err)
{
	int rc = -1;

	nonce[0] = '\0';
	*record = (struct ds_usage_record){0};
	json_t *object = load(json, length, "detshare_usage", err);
	if (!object)
		return -1;
	if (get_string(object, "nonce", nonce, DS_NONCE_SIZE, err) == 0)
		rc = ds_usage_record_from_json(json_object_get(object, "record"), record, err);
	json_decref(object);
	return rc;
}

char *ds_answer_format(const struct ds_answer *answer)
{
	/* Whatever bytes a reason has quoted, the answer must get out: '?' keeps the rest. */
	json_t *reason = json_string(answer->reason);
	if (!reason)
		reason = json_string("?");

	json_t *object =
	    json_pack("{s:i, s:s, s:s, s:I, s:I, s:s, s:o}", "detshare_answer", MESSAGE_VERSION,
		      "nonce", answer->nonce, "verdict", VERDICTS[answer->verdict], "job_id",
		      (json_int_t)answer->job_id, "restart", (json_int_t)answer->restart, "node",
		      answer->node, "reason", reason);
	char *text = object ? json_dumps(object, DS_JSON_FORMAT) : NULL;

	json_decref(object);
	return text;
}

static int get_verdict(const json_t *object, enum ds_verdict *verdict, struct ds_error *err)
{
	const char *name = json_string_value(json_object_get(object, "verdict"));

	for (int i = 0; name && i < N_VERDICTS; i++) {
		if (strcmp(name, VERDICTS[i]) == 0) {
			*verdict = (enum ds_verdict)i;
			return 0;
		}
	}
	return ds_fail(err, "broken message: no verdict that this version knows");
}

int ds_answer_parse(const char *json, size_t length, struct ds_answer *answer, struct ds_error *err)
{
	int rc = -1;

	*answer = (struct ds_answer){.verdict = DS_VERDICT_LATER};
	json_t *object = load(json, length, "detshare_answer", err);
	if (!object)
		return -1;
	if (get_string(object, "nonce", answer->nonce, sizeof(answer->nonce), err) == 0 &&
	    get_verdict(object, &answer->verdict, err) == 0 &&
	    get_uint32(object, "job_id", &answer->job_id, err) == 0 &&
	    get_uint32(object, "restart", &answer->restart, err) == 0 &&
	    get_string(object, "node", answer->node, sizeof(answer->node), err) == 0 &&
	    get_string(object, "reason", answer->reason, sizeof(answer->reason), err) == 0)
		rc = 0;
	json_decref(object);
	return rc;
}
