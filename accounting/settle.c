/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/settle.h"

#include <stdlib.h>
#include <string.h>

/* Clocks of nodes and controller differ, and a run is recorded a little before or after it happens. */
enum { CLOCK_SLACK_S = 120 };
/* A requeued job's next row begins when its epilogs are done. */
enum { REQUEUE_MAX_S = 3600 };

static const struct ds_usage_record *latest(const struct ds_usage_record *records, size_t n)
{
	const struct ds_usage_record *last = &records[0];

	for (size_t i = 1; i < n; i++) {
		if (records[i].begin_unix_s > last->begin_unix_s)
			last = &records[i];
	}
	return last;
}

/* Whether the record may be of this row's run. */
static bool covers(const struct ds_job_row *row, const struct ds_usage_record *record)
{
	return row->uid == record->uid && row->start != 0 &&
	       record->begin_unix_s >= (double)(row->start - CLOCK_SLACK_S) &&
	       (row->end == 0 || record->begin_unix_s <= (double)(row->end + CLOCK_SLACK_S));
}

/* How far the record's begin is from the row's: slack makes neighbouring short runs both "cover". */
static double distance(const struct ds_job_row *row, const struct ds_usage_record *record)
{
	double difference = record->begin_unix_s - (double)row->start;

	return difference < 0 ? -difference : difference;
}

/* Whether `next` is the same job run again, rather than another job that got the id much later. */
static bool is_continued_by(const struct ds_job_row *row, const struct ds_job_row *next)
{
	return row->end != 0 && next->uid == row->uid &&
	       strcmp(next->name ? next->name : "", row->name ? row->name : "") == 0 &&
	       next->submit <= row->end + REQUEUE_MAX_S;
}

struct ds_settle_decision ds_settle_decide(const struct ds_job_row *rows, size_t n_rows,
					   const struct ds_usage_record *records, size_t n,
					   const struct ds_settle_rules *rules)
{
	struct ds_settle_decision decision = {.verdict = DS_SETTLE_UNKNOWN};
	const struct ds_usage_record *last = latest(records, n);
	size_t row = n_rows;

	for (size_t i = 0; i < n_rows; i++) {
		if (covers(&rows[i], last) &&
		    (row == n_rows || distance(&rows[i], last) < distance(&rows[row], last)))
			row = i;
	}
	if (row == n_rows)
		return decision;

	size_t first = row;
	while (first > 0 && is_continued_by(&rows[first - 1], &rows[first]))
		first--;
	while (row + 1 < n_rows && is_continued_by(&rows[row], &rows[row + 1]))
		row++;

	const struct ds_job_row *target = &rows[row];
	decision.target = row;
	decision.verdict = DS_SETTLE_WAIT;
	if (target->end == 0 || !target->ended)
		return decision;

	struct ds_usage_record *ours = calloc(n, sizeof(*ours));
	size_t n_ours = 0;
	if (!ours)
		return decision;
	for (size_t i = 0; i < n; i++) {
		if (records[i].uid == target->uid &&
		    records[i].begin_unix_s >= (double)(rows[first].submit - CLOCK_SLACK_S))
			ours[n_ours++] = records[i];
	}
	if (ds_usage_merge(ours, n_ours, &decision.summary, NULL) == 0) {
		struct ds_usage_summary *summary = &decision.summary;
		if (target->n_nodes > summary->nodes)
			summary->nodes_missing = target->n_nodes - summary->nodes;
		if (summary->nodes_missing == 0 || rules->now >= target->end + rules->grace_s)
			decision.verdict = DS_SETTLE_WRITE;
	}
	free(ours);
	return decision;
}
