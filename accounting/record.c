/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/record.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accounting/directory.h"
#include "accounting/record_json.h"

enum { RECORD_VERSION = 1 };

/* Slurm's NO_VAL and INFINITE lie above; written out to keep Slurm's headers off this file. */
#define JOB_ID_MAX 4294967293.0
/* Beyond the year 5000, or a thousand years of an H200: not a measurement. */
#define SECONDS_MAX    1e11
#define SM_SECONDS_MAX 1e13
#define STEP_US_MAX    1e10
#define COUNT_MAX      9.0e15

enum kind { NAME, NAME_OR_EMPTY, UINT32, UINT64, REAL };

/* One row per key: formatting and parsing both follow from it, so they cannot disagree. */
struct field {
	const char *key;
	size_t offset;
	size_t size;
	enum kind kind;
	double min;
	double max;
};

/* clang-format off */
#define AT(member) offsetof(struct ds_usage_record, member), \
		   sizeof(((struct ds_usage_record *)NULL)->member)
static const struct field FIELDS[] = {
	{"cluster",                AT(cluster),                NAME_OR_EMPTY, 0, 0},
	{"node",                   AT(node),                   NAME,          0, 0},
	{"job_id",                 AT(job_id),                 UINT32,        1, JOB_ID_MAX},
	{"restart",                AT(restart),                UINT32,        0, 65535},
	{"uid",                    AT(uid),                    UINT32,        0, JOB_ID_MAX},
	{"class",                  AT(class_name),             NAME,          0, 0},
	{"share_milli",            AT(share_milli),            UINT32,        1, 1000},
	{"gpu_uuid",               AT(gpu_uuid),               NAME,          0, 0},
	{"begin_unix_s",           AT(begin_unix_s),           REAL,          0, SECONDS_MAX},
	{"end_unix_s",             AT(end_unix_s),             REAL,          0, SECONDS_MAX},
	{"granted_sm_s",           AT(granted_sm_s),           REAL,          0, SM_SECONDS_MAX},
	{"programs",               AT(programs),               UINT64,        0, COUNT_MAX},
	{"step_granted_max_milli", AT(step_granted_max_milli), UINT32,        0, 1000},
};
/* Each is there if it is not zero. */
static const struct field OPTIONAL[] = {
	{"borrowed_sm_s",          AT(borrowed_sm_s),          REAL,          0, SM_SECONDS_MAX},
	{"lent_sm_s",              AT(lent_sm_s),              REAL,          0, SM_SECONDS_MAX},
	{"late_programs",          AT(late_programs),          UINT32,        0, UINT32_MAX},
	{"ended_programs",         AT(ended_programs),         UINT32,        0, UINT32_MAX},
	{"fault_code",             AT(fault_code),             UINT32,        0, 99999},
	{"fault_suspect",          AT(fault_suspect),          UINT32,        0, JOB_ID_MAX},
};
#undef AT

/* The object "reported_by_program": each key is there if it is not zero. */
#define AT(member) offsetof(struct ds_usage_reported, member), \
		   sizeof(((struct ds_usage_reported *)NULL)->member)
static const struct field REPORTED[] = {
	{"launches",               AT(launches),               UINT64,        0, COUNT_MAX},
	{"remaps",                 AT(remaps),                 UINT64,        0, COUNT_MAX},
	{"stalls",                 AT(stalls),                 UINT64,        0, COUNT_MAX},
	{"held_back",              AT(held_back),              UINT64,        0, COUNT_MAX},
	{"held_back_s",            AT(held_back_s),            REAL,          0, SECONDS_MAX},
	{"samples",                AT(samples),                UINT64,        0, COUNT_MAX},
	{"busy_gpu_s",             AT(busy_gpu_s),             REAL,          0, SECONDS_MAX},
	{"steps",                  AT(steps),                  UINT64,        0, COUNT_MAX},
	{"step_p50_us",            AT(step_p50_us),            REAL,          0, STEP_US_MAX},
	{"step_p99_us",            AT(step_p99_us),            REAL,          0, STEP_US_MAX},
	{"memory_peak_mib",        AT(memory_peak_mib),        UINT64,        0, COUNT_MAX},
};
#undef AT
/* clang-format on */
enum {
	N_FIELDS = sizeof(FIELDS) / sizeof(FIELDS[0]),
	N_OPTIONAL = sizeof(OPTIONAL) / sizeof(OPTIONAL[0]),
	N_REPORTED = sizeof(REPORTED) / sizeof(REPORTED[0]),
};

static const char REPORTED_KEY[] = "reported_by_program";

static json_t *field_to_json(const struct field *field, const void *value)
{
	switch (field->kind) {
	case NAME:
	case NAME_OR_EMPTY:
		return json_stringn(value, strnlen(value, field->size));
	case UINT32:
		return json_integer(*(const uint32_t *)value);
	case UINT64:
		return json_integer((json_int_t) * (const uint64_t *)value);
	case REAL:
		return json_real(*(const double *)value);
	}
	return NULL;
}

static bool is_zero(const struct field *field, const void *value)
{
	switch (field->kind) {
	case UINT32:
		return *(const uint32_t *)value == 0;
	case UINT64:
		return *(const uint64_t *)value == 0;
	case REAL:
		return *(const double *)value == 0;
	case NAME:
	case NAME_OR_EMPTY:
		return *(const char *)value == '\0';
	}
	return false;
}

/* Put those of the n `fields` of `values` that are not zero into `object`. 0 or -1. */
static int set_unless_zero(json_t *object, const struct field *fields, size_t n, const void *values)
{
	for (size_t i = 0; i < n; i++) {
		const char *value = (const char *)values + fields[i].offset;

		if (!is_zero(&fields[i], value) &&
		    json_object_set_new(object, fields[i].key, field_to_json(&fields[i], value)) <
			0)
			return -1;
	}
	return 0;
}

int ds_usage_reported_to_json(const struct ds_usage_reported *reported, json_t *object)
{
	json_t *inner = json_object();

	if (set_unless_zero(inner, REPORTED, N_REPORTED, reported) < 0) {
		json_decref(inner);
		return -1;
	}
	if (inner && json_object_size(inner) == 0) {
		json_decref(inner);
		return 0;
	}
	return json_object_set_new(object, REPORTED_KEY, inner);
}

json_t *ds_usage_record_to_json(const struct ds_usage_record *record)
{
	json_t *object = json_object();

	if (json_object_set_new(object, "v", json_integer(RECORD_VERSION)) < 0)
		goto fail;
	for (size_t i = 0; i < N_FIELDS; i++) {
		const char *value = (const char *)record + FIELDS[i].offset;
		if (json_object_set_new(object, FIELDS[i].key, field_to_json(&FIELDS[i], value)) <
		    0)
			goto fail;
	}
	if (set_unless_zero(object, OPTIONAL, N_OPTIONAL, record) < 0 ||
	    ds_usage_reported_to_json(&record->reported, object) < 0)
		goto fail;
	return object;
fail:
	json_decref(object);
	return NULL;
}

char *ds_usage_record_format(const struct ds_usage_record *record)
{
	json_t *object = ds_usage_record_to_json(record);
	char *text = object ? json_dumps(object, DS_JSON_FORMAT) : NULL;

	json_decref(object);
	return text;
}

/* Names become file names, Slurm conditions and words of messages: nothing else is let through. */
static bool name_is_plain(const char *name)
{
	static const char PLAIN[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

	return name[0] != '.' && name[strspn(name, PLAIN)] == '\0';
}

static int name_from_json(const struct field *field, const json_t *json, char *value,
			  struct ds_error *err)
{
	const char *name = json_string_value(json);

	if (!name)
		return ds_fail(err, "broken usage record: %s is not a string", field->key);
	if (name[0] == '\0' && field->kind == NAME)
		return ds_fail(err, "broken usage record: %s is empty", field->key);
	if (strlen(name) >= field->size)
		return ds_fail(err, "broken usage record: %s is longer than %zu characters",
			       field->key, field->size - 1);
	if (!name_is_plain(name))
		return ds_fail(err,
			       "broken usage record: %s has a character other than letters, "
			       "digits, '.', '_' and '-', or begins with '.'",
			       field->key);
	strcpy(value, name);
	return 0;
}

static int number_from_json(const struct field *field, const json_t *json, void *value,
			    struct ds_error *err)
{
	bool real = field->kind == REAL;

	if (real ? !json_is_number(json) : !json_is_integer(json))
		return ds_fail(err, "broken usage record: %s is not %s", field->key,
			       real ? "a number" : "an integer");

	double number = json_number_value(json);
	if (!(number >= field->min && number <= field->max))
		return ds_fail(err, "broken usage record: %s = %.16g is not within %.16g..%.16g",
			       field->key, number, field->min, field->max);
	if (field->kind == UINT32)
		*(uint32_t *)value = (uint32_t)json_integer_value(json);
	else if (field->kind == UINT64)
		*(uint64_t *)value = (uint64_t)json_integer_value(json);
	else
		*(double *)value = number;
	return 0;
}

/* Those of the n `fields` that are in `object`, into `values`. 0 or -1. */
static int get_if_there(const json_t *object, const struct field *fields, size_t n, void *values,
			struct ds_error *err)
{
	for (size_t i = 0; i < n; i++) {
		const json_t *json = json_object_get(object, fields[i].key);

		if (json &&
		    number_from_json(&fields[i], json, (char *)values + fields[i].offset, err) < 0)
			return -1;
	}
	return 0;
}

static int reported_from_json(const json_t *object, struct ds_usage_reported *reported,
			      struct ds_error *err)
{
	const json_t *inner = json_object_get(object, REPORTED_KEY);

	if (!inner)
		return 0;
	if (!json_is_object(inner))
		return ds_fail(err, "broken usage record: %s is not a JSON object", REPORTED_KEY);
	return get_if_there(inner, REPORTED, N_REPORTED, reported, err);
}

static int fields_from_json(const json_t *object, struct ds_usage_record *record,
			    struct ds_error *err)
{
	if (!json_is_object(object))
		return ds_fail(err, "broken usage record: it is not a JSON object");

	const json_t *version = json_object_get(object, "v");
	if (!json_is_integer(version) || json_integer_value(version) != RECORD_VERSION)
		return ds_fail(err, "broken usage record: v is not %d; it is of another version",
			       RECORD_VERSION);

	for (size_t i = 0; i < N_FIELDS; i++) {
		const struct field *field = &FIELDS[i];
		const json_t *json = json_object_get(object, field->key);
		char *value = (char *)record + field->offset;
		int rc;

		if (!json)
			return ds_fail(err, "broken usage record: %s is missing", field->key);
		if (field->kind == NAME || field->kind == NAME_OR_EMPTY)
			rc = name_from_json(field, json, value, err);
		else
			rc = number_from_json(field, json, value, err);
		if (rc < 0)
			return -1;
	}
	if (get_if_there(object, OPTIONAL, N_OPTIONAL, record, err) < 0)
		return -1;
	if (record->end_unix_s < record->begin_unix_s)
		return ds_fail(err,
			       "broken usage record: end_unix_s = %.16g is before "
			       "begin_unix_s = %.16g",
			       record->end_unix_s, record->begin_unix_s);
	return reported_from_json(object, &record->reported, err);
}

int ds_usage_record_from_json(const json_t *json, struct ds_usage_record *record,
			      struct ds_error *err)
{
	struct ds_usage_record parsed = {0};
	int rc = fields_from_json(json, &parsed, err);

	*record = rc == 0 ? parsed : (struct ds_usage_record){0};
	return rc;
}

int ds_usage_record_parse(const char *json, size_t length, struct ds_usage_record *record,
			  struct ds_error *err)
{
	json_error_t error;

	*record = (struct ds_usage_record){0};
	if (length > DS_USAGE_RECORD_MAX)
		return ds_fail(err, "broken usage record: %zu bytes, more than %d", length,
			       DS_USAGE_RECORD_MAX);

	json_t *object = json_loadb(json, length, JSON_REJECT_DUPLICATES, &error);
	if (!object)
		return ds_fail(err, "broken usage record: not JSON: %s at byte %d", error.text,
			       error.position);

	int rc = ds_usage_record_from_json(object, record, err);
	json_decref(object);
	return rc;
}

int ds_usage_record_spool(const char *spool_dir, const struct ds_usage_record *record,
			  struct ds_error *err)
{
	struct ds_directory spool = DS_DIRECTORY_CLOSED;
	struct ds_usage_record checked;
	char name[64];
	int rc = -1;
	char *line = ds_usage_record_format(record);

	if (!line) {
		ds_fail(err,
			"cannot format the usage record of job %u: text that is not UTF-8, "
			"a number that is not finite, or no memory",
			record->job_id);
		goto out;
	}
	/* Said here, where the mistake is, rather than by a collector far away. */
	if (ds_usage_record_parse(line, strlen(line), &checked, err) < 0)
		goto out;
	if (ds_directory_open(spool_dir, &spool, err) < 0)
		goto out;
	snprintf(name, sizeof(name), "job-%u.%u.json", record->job_id, record->restart);
	rc = ds_directory_write(&spool, name, line, strlen(line), err);
out:
	ds_directory_close(&spool);
	free(line);
	return rc;
}
