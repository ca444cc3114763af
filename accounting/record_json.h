/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_RECORD_JSON_H
#define DETSHARE_ACCOUNTING_RECORD_JSON_H

#include <jansson.h>

#include "accounting/record.h"

/* The record as a JSON object (a new reference), or NULL: no memory, bad UTF-8, not finite. */
json_t *ds_usage_record_to_json(const struct ds_usage_record *record);

/* Put what programs reported into `object`, if they reported anything. Returns 0 or -1. */
int ds_usage_reported_to_json(const struct ds_usage_reported *reported, json_t *object);

/* As ds_usage_record_parse(), from a JSON value. Returns 0 or -1; `record` is whole or zeroed. */
int ds_usage_record_from_json(const json_t *json, struct ds_usage_record *record,
			      struct ds_error *err);

/* How numbers are written: 16 digits keep a microsecond of Unix time and show no binary noise. */
#define DS_JSON_FORMAT (JSON_COMPACT | JSON_REAL_PRECISION(16))

#endif
