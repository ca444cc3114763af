/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/database.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/slurmdb.h>

/* Exported by libslurm and filled by slurm_init(); its type is public. Slurm's own commands read
 * ClusterName there, too. */
extern slurm_conf_t slurm_conf;

/* Slurm renamed the pointer types List and ListIterator over the years, never what they point to. */
typedef struct xlist *slurm_list;
typedef struct listIterator *slurm_iterator;

struct ds_database {
	void *connection;
};

/* libslurm frees nothing that is ours: lists of ours have no destructor, strings live in `job`. */
struct condition {
	slurmdb_job_cond_t job;
	slurm_selected_step_t *steps;
	char state[16];
};

int ds_database_open(const char *conf, struct ds_database **database, struct ds_error *err)
{
	uint16_t flags = 0;

	*database = calloc(1, sizeof(**database));
	if (!*database)
		return ds_fail(err, "cannot connect to slurmdbd: memory is out");
	slurm_init(conf && *conf ? conf : NULL);
	errno = 0;
	(*database)->connection = slurmdb_connection_get(&flags);
	if ((*database)->connection && errno == 0)
		return 0;
	ds_fail(err, "cannot connect to slurmdbd: %s; tried again later",
		slurm_strerror(errno ? errno : ESLURM_DB_CONNECTION));
	ds_database_close(*database);
	*database = NULL;
	return -1;
}

void ds_database_close(struct ds_database *database)
{
	if (database && database->connection)
		slurmdb_connection_close(&database->connection);
	free(database);
}

const char *ds_database_cluster(const struct ds_database *database)
{
	return slurm_conf.cluster_name ? slurm_conf.cluster_name : "";
}

static void condition_clear(struct condition *condition)
{
	if (condition->job.cluster_list)
		slurm_list_destroy(condition->job.cluster_list);
	if (condition->job.step_list)
		slurm_list_destroy(condition->job.step_list);
	if (condition->job.state_list)
		slurm_list_destroy(condition->job.state_list);
	free(condition->steps);
}

/* For `n` jobs of `cluster`, every row of each: requeued runs, but not other parts of het jobs. */
static int condition_init(struct condition *condition, const char *cluster, size_t n,
			  struct ds_error *err)
{
	*condition = (struct condition){.steps = calloc(n, sizeof(*condition->steps))};
	condition->job.db_flags = SLURMDB_JOB_FLAG_NOTSET;
	condition->job.flags = JOBCOND_FLAG_DUP | JOBCOND_FLAG_NO_STEP | JOBCOND_FLAG_NO_TRUNC |
			       JOBCOND_FLAG_NO_WHOLE_HETJOB | JOBCOND_FLAG_NO_DEFAULT_USAGE;
	condition->job.cluster_list = slurm_list_create(NULL);
	condition->job.step_list = slurm_list_create(NULL);
	condition->job.state_list = slurm_list_create(NULL);
	if (!condition->steps || !condition->job.cluster_list || !condition->job.step_list ||
	    !condition->job.state_list) {
		condition_clear(condition);
		ds_fail(err, "cannot ask slurmdbd: memory is out");
		return -1;
	}
	slurm_list_append(condition->job.cluster_list, (char *)cluster);
	for (size_t i = 0; i < n; i++) {
		condition->steps[i].array_task_id = NO_VAL;
		condition->steps[i].het_job_offset = NO_VAL;
		condition->steps[i].step_id.step_id = NO_VAL;
		condition->steps[i].step_id.step_het_comp = NO_VAL;
		slurm_list_append(condition->job.step_list, &condition->steps[i]);
	}
	return 0;
}

/*
 * Nodes of a row. For seconds after the end of a short job the columns for nodes may hold less than
 * all of them (seen on 22.05); what was allocated and is billed, "1=2,4=2" by TRES number, is right.
 */
static uint32_t count_nodes(const slurmdb_job_rec_t *job)
{
	enum { TRES_NUMBER_OF_NODES = 4 }; /* fixed in Slurm's database */
	const char *at = job->tres_alloc_str;
	uint32_t nodes = job->alloc_nodes;

	while (at && *at) {
		char *value;
		unsigned long number = strtoul(at, &value, 10);
		if (number == TRES_NUMBER_OF_NODES && *value == '=') {
			unsigned long allocated = strtoul(value + 1, NULL, 10);
			return allocated > nodes ? (uint32_t)allocated : nodes;
		}
		at = strchr(at, ',');
		at += at != NULL;
	}
	return nodes;
}

static int row_from_slurm(const slurmdb_job_rec_t *job, struct ds_job_row *row)
{
	*row = (struct ds_job_row){
	    .job_id = job->jobid,
	    .uid = job->uid,
	    .state = job->state,
	    .ended = (job->state & JOB_STATE_BASE) >= JOB_COMPLETE,
	    .submit = job->submit,
	    .start = job->start == (time_t)NO_VAL ? 0 : job->start,
	    .end = job->end,
	    .array_job_id = job->array_job_id,
	    .array_task_id = job->array_task_id,
	    .het_job_id = job->het_job_id,
	    .het_job_offset = job->het_job_offset,
	    .n_nodes = count_nodes(job),
	};
	if (job->jobname && !(row->name = strdup(job->jobname)))
		return -1;
	if (job->admin_comment && !(row->comment = strdup(job->admin_comment)))
		return -1;
	return 0;
}

static int compare_rows(const void *a, const void *b)
{
	const struct ds_job_row *x = a, *y = b;

	if (x->job_id != y->job_id)
		return x->job_id < y->job_id ? -1 : 1;
	if (x->submit != y->submit)
		return x->submit < y->submit ? -1 : 1;
	return (x->start > y->start) - (x->start < y->start);
}

int ds_database_rows(struct ds_database *database, const char *cluster, const uint32_t *job_ids,
		     size_t n_jobs, struct ds_job_row **rows, size_t *n_rows, struct ds_error *err)
{
	struct condition condition;
	slurm_list list = NULL;
	slurm_iterator iterator = NULL;
	slurmdb_job_rec_t *job;
	int rv = -1;

	*rows = NULL;
	*n_rows = 0;
	if (condition_init(&condition, cluster, n_jobs, err) < 0)
		return -1;
	for (size_t i = 0; i < n_jobs; i++)
		condition.steps[i].step_id.job_id = job_ids[i];

	errno = 0;
	list = slurmdb_jobs_get(database->connection, &condition.job);
	if (!list) {
		ds_fail(err, "cannot get %zu jobs of cluster %s from slurmdbd: %s", n_jobs, cluster,
			slurm_strerror(errno ? errno : ESLURM_DB_CONNECTION));
		goto out;
	}
	*rows = calloc((size_t)slurm_list_count(list) + 1, sizeof(**rows));
	iterator = slurm_list_iterator_create(list);
	while (*rows && iterator && (job = slurm_list_next(iterator))) {
		struct ds_job_row *row = &(*rows)[(*n_rows)++];
		if (row_from_slurm(job, row) < 0)
			goto no_memory;
	}
	if (*rows && iterator) {
		qsort(*rows, *n_rows, sizeof(**rows), compare_rows);
		rv = 0;
		goto out;
	}
no_memory:
	ds_fail(err, "cannot get %zu jobs from slurmdbd: memory is out", n_jobs);
	ds_database_rows_free(*rows, *n_rows);
	*rows = NULL;
	*n_rows = 0;
out:
	if (iterator)
		slurm_list_iterator_destroy(iterator);
	if (list)
		slurm_list_destroy(list);
	condition_clear(&condition);
	return rv;
}

void ds_database_rows_free(struct ds_job_row *rows, size_t n_rows)
{
	for (size_t i = 0; i < n_rows; i++) {
		free(rows[i].name);
		free(rows[i].comment);
	}
	free(rows);
}

/*
 * One row, although the interface knows only jobs: the task of an array by its number (its leader's
 * job id means the whole array), and the run by its state and the second it ended in.
 */
static void pin(struct condition *condition, const struct ds_job_row *row)
{
	slurm_selected_step_t *step = &condition->steps[0];

	step->step_id.job_id = row->job_id;
	if (row->array_job_id != 0) {
		step->step_id.job_id = row->array_job_id;
		step->array_task_id = row->array_task_id;
	}
	snprintf(condition->state, sizeof(condition->state), "%" PRIu32, row->state);
	slurm_list_append(condition->job.state_list, condition->state);
	condition->job.usage_start = row->end;
	condition->job.usage_end = row->end;
}

int ds_database_set_comment(struct ds_database *database, const char *cluster,
			    const struct ds_job_row *row, const char *comment, struct ds_error *err)
{
	slurmdb_job_rec_t change = {
	    .admin_comment = (char *)comment,
	    .array_task_id = NO_VAL,
	    .derived_ec = NO_VAL,
	    .resvid = NO_VAL,
	};
	struct condition condition;
	slurm_list hit = NULL;
	int rv = -1;

	if (condition_init(&condition, cluster, 1, err) < 0)
		return -1;
	pin(&condition, row);
	change.steps = slurm_list_create(NULL);
	if (!change.steps) {
		ds_fail(err, "cannot write to job %u: memory is out", row->job_id);
		goto out;
	}

	errno = 0;
	hit = slurmdb_job_modify(database->connection, &condition.job, &change);
	int n = hit ? slurm_list_count(hit) : 0;
	if (n == 1 && slurmdb_connection_commit(database->connection, true) == SLURM_SUCCESS) {
		rv = 0;
		goto out;
	}
	int error = errno;
	if (hit)
		slurmdb_connection_commit(database->connection, false);
	ds_fail(err,
		"cannot set the AdminComment of job %u: slurmdbd changed %d rows instead of 1%s%s",
		row->job_id, n, error ? ": " : "", error ? slurm_strerror(error) : "");
out:
	if (hit)
		slurm_list_destroy(hit);
	if (change.steps)
		slurm_list_destroy(change.steps);
	condition_clear(&condition);
	return rv;
}
