/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/list.h"

#include <jansson.h>
#include <limits.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accounting/directory.h"
#include "accounting/record.h"
#include "accounting/record_json.h"

/* Where a record can be, and what that means for whoever reads the list. */
static const struct place {
	const char *name;
	bool of_collector;
	const char *below; /* "": the directory itself */
} PLACES[] = {
    {"spool", false, ""},
    {"spool/refused", false, "refused"},
    {"spool/broken", false, "broken"},
    {"collector", true, "waiting"},
    {"collector/unclaimed", true, "unclaimed"},
    {"collector/broken", true, "broken"},
};

static int list_file(const struct ds_directory *directory, const char *name,
		     const struct place *place, json_t *list)
{
	struct ds_usage_record record;
	struct ds_error reason;
	size_t length;
	json_t *entry =
	    json_pack("{s:s, s:s++}", "where", place->name, "file", directory->path, "/", name);
	char *data =
	    ds_directory_read(directory, name, DS_USAGE_RECORD_MAX, &length, NULL, &reason);

	if (data && ds_usage_record_parse(data, length, &record, &reason) == 0)
		json_object_set_new(entry, "record", ds_usage_record_to_json(&record));
	else
		json_object_set_new(entry, "broken", json_string(reason.text));
	free(data);
	return json_array_append_new(list, entry);
}

static int list_place(const char *top, const struct place *place, json_t *list,
		      struct ds_error *err)
{
	struct ds_directory directory;
	char path[PATH_MAX];
	int rv = 0;

	if (snprintf(path, sizeof(path), "%s%s%s", top, *place->below ? "/" : "", place->below) >=
	    (int)sizeof(path))
		return ds_fail(err, "cannot list %.64s...: its path is too long", top);
	if (access(path, F_OK) < 0)
		return 0;
	if (ds_directory_open(path, &directory, err) < 0)
		return -1;

	char **names = ds_directory_names(&directory, NULL, err);
	if (!names)
		rv = -1;
	for (size_t i = 0; names && names[i]; i++) {
		if (list_file(&directory, names[i], place, list) < 0)
			rv = ds_fail(err, "cannot list %s: memory is out", path);
	}
	ds_directory_names_free(names);
	ds_directory_close(&directory);
	return rv;
}

static void fill_line(struct libscols_line *line, const json_t *entry)
{
	const json_t *record = json_object_get(entry, "record");
	char text[64];

	scols_line_set_data(line, 0, json_string_value(json_object_get(entry, "where")));
	if (!record) {
		scols_line_set_data(line, 6, json_string_value(json_object_get(entry, "file")));
		return;
	}
	snprintf(text, sizeof(text), "%lld",
		 (long long)json_integer_value(json_object_get(record, "job_id")));
	scols_line_set_data(line, 1, text);
	snprintf(text, sizeof(text), "%lld",
		 (long long)json_integer_value(json_object_get(record, "restart")));
	scols_line_set_data(line, 2, text);
	scols_line_set_data(line, 3, json_string_value(json_object_get(record, "node")));
	scols_line_set_data(line, 4, json_string_value(json_object_get(record, "class")));
	snprintf(text, sizeof(text), "%.3g",
		 (double)json_integer_value(json_object_get(record, "share_milli")) / 1000);
	scols_line_set_data(line, 5, text);
	scols_line_set_data(line, 6, json_string_value(json_object_get(entry, "file")));
}

static int print_table(const json_t *list, struct ds_error *err)
{
	static const char *const HEADS[] = {"WHERE", "JOB",   "RESTART", "NODE",
					    "CLASS", "SHARE", "FILE"};
	struct libscols_table *table = scols_new_table();
	size_t i;
	json_t *entry;
	int rv = -1;

	if (!table)
		goto out;
	for (size_t h = 0; h < sizeof(HEADS) / sizeof(HEADS[0]); h++) {
		if (!scols_table_new_column(table, HEADS[h], 0, 0))
			goto out;
	}
	json_array_foreach(list, i, entry)
	{
		struct libscols_line *line = scols_table_new_line(table, NULL);
		if (!line)
			goto out;
		fill_line(line, entry);
	}
	rv = json_array_size(list) ? scols_print_table(table) : 0;
out:
	scols_unref_table(table);
	return rv == 0 ? 0 : ds_fail(err, "cannot print the list: memory is out");
}

int ds_list(const char *spool_dir, const char *state_dir, bool as_json, struct ds_error *err)
{
	json_t *list = json_array();
	int rv = -1;

	if (!list)
		return ds_fail(err, "cannot list: memory is out");
	for (size_t i = 0; i < sizeof(PLACES) / sizeof(PLACES[0]); i++) {
		if (list_place(PLACES[i].of_collector ? state_dir : spool_dir, &PLACES[i], list,
			       err) < 0)
			goto out;
	}
	if (as_json) {
		json_t *object = json_pack("{s:O}", "records", list);
		rv = object ? json_dumpf(object, stdout, DS_JSON_FORMAT) : -1;
		putchar('\n');
		json_decref(object);
	} else {
		rv = print_table(list, err);
	}
out:
	json_decref(list);
	return rv;
}
