/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_SETTLE_H
#define DETSHARE_ACCOUNTING_SETTLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "accounting/merge.h"
#include "accounting/record.h"

/*
 * Which line goes where in the accounting database, and when. Pure: the rows come from database.c, the
 * records from store.c.
 *
 * The database has one row per run of a job: a requeue ends a row and begins another with the same job
 * id. The line is the whole job's, and is in the row of its last run, which is what sacct shows.
 */

/* A row of the job table, as far as it matters here. */
struct ds_job_row {
	uint32_t job_id;
	uint32_t uid;
	uint32_t state; /* as stored */
	bool ended;     /* in a state that a run ends in; false: pending, running, suspended */
	time_t submit;
	time_t start;          /* 0: not started */
	time_t end;            /* 0: not ended */
	uint32_t array_job_id; /* 0: not of an array */
	uint32_t array_task_id;
	uint32_t het_job_id; /* 0: not of a heterogeneous job */
	uint32_t het_job_offset;
	char *name;
	char *comment;    /* AdminComment; NULL: none */
	uint32_t n_nodes; /* of the run */
};

struct ds_settle_rules {
	time_t now;
	time_t grace_s; /* after a job's end, for nodes that have not reported */
};

enum ds_settle_verdict {
	DS_SETTLE_UNKNOWN, /* the database has no such job, or not this run yet */
	DS_SETTLE_WAIT,    /* the job runs, or a node may still report */
	DS_SETTLE_WRITE,   /* `summary` goes to rows[target] */
};

struct ds_settle_decision {
	enum ds_settle_verdict verdict;
	size_t target;
	struct ds_usage_summary summary;
};

/*
 * Decide about one job. `rows`: all with its id, in order of `submit`; `records`: n >= 1 of its id and
 * cluster. Records of an earlier job with the same id (another user, or before the rows in question)
 * are left out of the summary. Thread-safe.
 */
struct ds_settle_decision ds_settle_decide(const struct ds_job_row *rows, size_t n_rows,
					   const struct ds_usage_record *records, size_t n,
					   const struct ds_settle_rules *rules);

#endif
