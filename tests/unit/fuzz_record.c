/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever is parsed as a usage record must survive being written and read again. The input is tried
 * as it is, and line by line as the values of a record's keys: libFuzzer cannot see into the JSON
 * library and would not find the keys by itself.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accounting/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
	const char *key;
	const char *value; /* when the input has no line for it, or an empty one */
} KEYS[] = {
    {"node", "\"n1\""},
    {"cluster", "\"\""},
    {"job_id", "7"},
    {"begin_unix_s", "1"},
    {"end_unix_s", "2"},
    {"granted_sm_s", "3"},
    {"programs", "1"},
    {"class", "\"latency\""},
    {"share_milli", "500"},
    {"uid", "0"},
    {"restart", "0"},
    {"gpu_uuid", "\"GPU-1\""},
    {"step_granted_max_milli", "0"},
    {"v", "1"},
};
enum { N_KEYS = sizeof(KEYS) / sizeof(KEYS[0]) };

static void try(const char *json, size_t length)
{
	struct ds_usage_record record, again;
	struct ds_error err;

	if (ds_usage_record_parse(json, length, &record, &err) < 0)
		return;

	char *line = ds_usage_record_format(&record);
	if (!line || ds_usage_record_parse(line, strlen(line), &again, &err) < 0 ||
	    again.job_id != record.job_id || again.programs != record.programs ||
	    strcmp(again.node, record.node) != 0)
		abort();
	free(line);
}

static void try_values(const char *data, size_t size)
{
	char json[2 * DS_USAGE_RECORD_MAX];
	size_t used = 0;
	const char *end = data + size;

	for (size_t i = 0; i < N_KEYS; i++) {
		const char *newline = memchr(data, '\n', (size_t)(end - data));
		size_t length = (size_t)((newline ? newline : end) - data);
		int n = snprintf(json + used, sizeof(json) - used, "%s\"%s\":%.*s", i ? "," : "{",
				 KEYS[i].key, (int)length, data);
		if (length == 0)
			n = snprintf(json + used, sizeof(json) - used, "%s\"%s\":%s", i ? "," : "{",
				     KEYS[i].key, KEYS[i].value);
		if (n < 0 || (size_t)n >= sizeof(json) - used - 1)
			return;
		used += (size_t)n;
		data = newline ? newline + 1 : end;
	}
	json[used++] = '}';
	try(json, used);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	try((const char *)data, size);
	try_values((const char *)data, size);
	return 0;
}
