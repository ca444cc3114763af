/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/merge.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "accounting/record_json.h"

/* What makes a line of AdminComment ours; ds_usage_summary_format() writes nothing else. */
static const char OUR_LINE[] = "{\"detshare\":";

static bool same_place(const struct ds_usage_record *a, const struct ds_usage_record *b)
{
	return a->restart == b->restart && strcmp(a->node, b->node) == 0;
}

/* Whether another record of the same node and run stands for records[i]. */
static bool is_superseded(const struct ds_usage_record *records, size_t n, size_t i)
{
	for (size_t j = 0; j < n; j++) {
		if (j == i || !same_place(&records[i], &records[j]))
			continue;
		if (records[j].end_unix_s > records[i].end_unix_s ||
		    (j < i && records[j].end_unix_s == records[i].end_unix_s))
			return true;
	}
	return false;
}

static uint32_t last_run(const struct ds_usage_record *records, size_t n)
{
	uint32_t last = 0;

	for (size_t i = 0; i < n; i++) {
		if (records[i].restart > last)
			last = records[i].restart;
	}
	return last;
}

/* From the first begin to the last end over the nodes of run `restart`; 0 when it has no record. */
static double run_seconds(const struct ds_usage_record *records, size_t n, uint32_t restart)
{
	double begin = INFINITY;
	double end = -INFINITY;

	for (size_t i = 0; i < n; i++) {
		if (records[i].restart != restart || is_superseded(records, n, i))
			continue;
		begin = fmin(begin, records[i].begin_unix_s);
		end = fmax(end, records[i].end_unix_s);
	}
	return end > begin ? end - begin : 0;
}

static bool is_first_of_run(const struct ds_usage_record *records, size_t i)
{
	for (size_t j = 0; j < i; j++) {
		if (records[j].restart == records[i].restart)
			return false;
	}
	return true;
}

static int check_same_job(const struct ds_usage_record *records, size_t n, struct ds_error *err)
{
	if (n == 0)
		return ds_fail(err, "cannot merge usage records: there are none");
	for (size_t i = 1; i < n; i++) {
		if (records[i].job_id != records[0].job_id ||
		    strcmp(records[i].cluster, records[0].cluster) != 0)
			return ds_fail(err, "cannot merge usage records: of job %u and of job %u",
				       records[0].job_id, records[i].job_id);
		if (records[i].uid != records[0].uid)
			return ds_fail(err,
				       "cannot merge usage records of job %u: of uid %u and of "
				       "uid %u; the job id was used twice",
				       records[0].job_id, records[0].uid, records[i].uid);
	}
	return 0;
}

/* Quantiles of several nodes cannot be added: a job waits for its slowest node. */
static void add_reported(struct ds_usage_reported *sum, const struct ds_usage_reported *one)
{
	sum->launches += one->launches;
	sum->remaps += one->remaps;
	sum->stalls += one->stalls;
	sum->held_back += one->held_back;
	sum->held_back_s += one->held_back_s;
	sum->samples += one->samples;
	if (one->memory_peak_mib > sum->memory_peak_mib)
		sum->memory_peak_mib = one->memory_peak_mib;
	sum->busy_gpu_s += one->busy_gpu_s;
	sum->steps += one->steps;
	sum->step_p50_us = fmax(sum->step_p50_us, one->step_p50_us);
	sum->step_p99_us = fmax(sum->step_p99_us, one->step_p99_us);
}

int ds_usage_merge(const struct ds_usage_record *records, size_t n,
		   struct ds_usage_summary *summary, struct ds_error *err)
{
	double class_end = -INFINITY;

	*summary = (struct ds_usage_summary){0};
	if (check_same_job(records, n, err) < 0)
		return -1;
	summary->restarts = last_run(records, n);
	for (size_t i = 0; i < n; i++) {
		const struct ds_usage_record *record = &records[i];

		if (is_first_of_run(records, i))
			summary->seconds += run_seconds(records, n, record->restart);
		if (is_superseded(records, n, i))
			continue;
		summary->granted_sm_s += record->granted_sm_s;
		summary->borrowed_sm_s += record->borrowed_sm_s;
		summary->lent_sm_s += record->lent_sm_s;
		summary->programs += record->programs;
		summary->late_programs += record->late_programs;
		summary->ended_programs += record->ended_programs;
		add_reported(&summary->reported, &record->reported);
		if (record->step_granted_max_milli > summary->step_granted_max_milli)
			summary->step_granted_max_milli = record->step_granted_max_milli;
		if (record->restart != summary->restarts)
			continue;
		summary->nodes++;
		/* A fault of its own explains more than a neighbour's on another node. */
		if (record->fault_code &&
		    (!summary->fault_code || record->fault_suspect == record->job_id)) {
			summary->fault_code = record->fault_code;
			summary->fault_suspect = record->fault_suspect;
			summary->fault_by_other =
			    record->fault_suspect && record->fault_suspect != record->job_id;
		}
		if (record->share_milli > summary->share_milli)
			summary->share_milli = record->share_milli;
		if (record->end_unix_s > class_end) {
			class_end = record->end_unix_s;
			memcpy(summary->class_name, record->class_name,
			       sizeof(summary->class_name));
		}
	}
	return 0;
}

static double milliseconds(double seconds)
{
	return round(seconds * 1000) / 1000;
}

static int set_sm_s(json_t *object, const char *key, double sm_s)
{
	return sm_s > 0 ? json_object_set_new(object, key, json_real(milliseconds(sm_s))) : 0;
}

static int set_count(json_t *object, const char *key, uint64_t n)
{
	return n ? json_object_set_new(object, key, json_integer((json_int_t)n)) : 0;
}

static int set_fault(json_t *object, const struct ds_usage_summary *summary)
{
	if (!summary->fault_code)
		return 0;
	json_t *fault = json_pack("{s:I}", "cuda_error", (json_int_t)summary->fault_code);
	if (fault && summary->fault_suspect)
		json_object_set_new(fault, "suspected_job", json_integer(summary->fault_suspect));
	if (fault && summary->fault_suspect)
		json_object_set_new(fault, "by_neighbour", json_boolean(summary->fault_by_other));
	return json_object_set_new(object, "fault", fault);
}

char *ds_usage_summary_format(const struct ds_usage_summary *summary)
{
	json_t *line = json_pack(
	    "{s:{s:i, s:s, s:I, s:I, s:I, s:f, s:f, s:I, s:I}}", "detshare", "v", 1, "class",
	    summary->class_name, "share_milli", (json_int_t)summary->share_milli, "nodes",
	    (json_int_t)summary->nodes, "restarts", (json_int_t)summary->restarts, "seconds",
	    milliseconds(summary->seconds), "granted_sm_s", milliseconds(summary->granted_sm_s),
	    "programs", (json_int_t)summary->programs, "step_granted_max_milli",
	    (json_int_t)summary->step_granted_max_milli);
	struct ds_usage_reported reported = summary->reported;
	char *text = NULL;

	if (!line)
		return NULL;
	json_t *object = json_object_get(line, "detshare");
	reported.busy_gpu_s = milliseconds(reported.busy_gpu_s);
	reported.held_back_s = milliseconds(reported.held_back_s);
	if ((summary->nodes_missing == 0 ||
	     json_object_set_new(object, "nodes_missing", json_integer(summary->nodes_missing)) ==
		 0) &&
	    set_sm_s(object, "borrowed_sm_s", summary->borrowed_sm_s) == 0 &&
	    set_sm_s(object, "lent_sm_s", summary->lent_sm_s) == 0 &&
	    set_count(object, "late_programs", summary->late_programs) == 0 &&
	    set_count(object, "ended_programs", summary->ended_programs) == 0 &&
	    set_fault(object, summary) == 0 && ds_usage_reported_to_json(&reported, object) == 0)
		text = json_dumps(line, DS_JSON_FORMAT);
	json_decref(line);
	return text;
}

char *ds_usage_comment(const char *comment, const char *line)
{
	size_t kept = 0;
	const char *from = comment ? comment : "";
	char *text = malloc(strlen(from) + strlen(line) + 2);

	if (!text)
		return NULL;
	while (*from) {
		size_t length = strcspn(from, "\n");
		length += from[length] == '\n';
		if (strncmp(from, OUR_LINE, sizeof(OUR_LINE) - 1) != 0) {
			memcpy(text + kept, from, length);
			kept += length;
		}
		from += length;
	}
	if (kept > 0 && text[kept - 1] != '\n')
		text[kept++] = '\n';
	strcpy(text + kept, line);
	return text;
}
