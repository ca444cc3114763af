/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detshare-usage-settle: one pass over the collector's waiting records: writes what can be written
 * into the accounting database. A process of its own, because libslurm may block or exit; the
 * collector listens on meanwhile. Started by `detshare-usaged collect`.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "accounting/database.h"
#include "accounting/log.h"
#include "accounting/settle.h"
#include "accounting/store.h"
#include "config.h"

enum {
	STALL_MAX_S = 120, /* for one answer of slurmdbd; then SIGALRM ends us */
	JOBS_PER_QUERY = 100,
	COMMENT_MAX = 60000, /* bytes; the column holds 65535 */
};

struct pass {
	const char *state_dir;
	const char *slurm_conf;
	const char *cluster; /* of records that do not name one; "": slurm.conf's */
	time_t grace_s;
	time_t keep_s;
	struct ds_store store;
	struct ds_database *database;
	struct ds_stored *stored;
	size_t n_stored;
	size_t n_waiting; /* left when the pass is over */
};

/* The records [from, to) are of one job. */
struct job {
	size_t from, to;
};

static void leave(struct pass *pass, const struct job *job,
		  int (*move)(const struct ds_store *, const struct ds_stored *, struct ds_error *))
{
	struct ds_error err;

	for (size_t i = job->from; i < job->to; i++) {
		if (pass->stored[i].waiting && move(&pass->store, &pass->stored[i], &err) < 0) {
			ds_log("%s", err.text);
			pass->n_waiting++;
		}
	}
}

static void keep_waiting(struct pass *pass, const struct job *job)
{
	for (size_t i = job->from; i < job->to; i++)
		pass->n_waiting += pass->stored[i].waiting;
}

static bool is_old(const struct pass *pass, const struct job *job, time_t now)
{
	for (size_t i = job->from; i < job->to; i++) {
		if (pass->stored[i].waiting && now - pass->stored[i].stored.tv_sec <= pass->keep_s)
			return false;
	}
	return true;
}

static void give_up_or_wait(struct pass *pass, const struct job *job, time_t now)
{
	if (!is_old(pass, job, now)) {
		keep_waiting(pass, job);
		return;
	}
	ds_log("job %u: not written for so long that its usage was put into %s",
	       pass->stored[job->from].record.job_id, pass->store.unclaimed.path);
	leave(pass, job, ds_store_unclaim);
}

/* Returns 0 when the row's comment has the line, -1 when it is to be tried again. */
static int write_line(struct pass *pass, const char *cluster, const struct ds_job_row *row,
		      const struct ds_usage_summary *summary, struct ds_error *err)
{
	char *line = ds_usage_summary_format(summary);
	char *comment = line ? ds_usage_comment(row->comment, line) : NULL;
	int rv = -1;

	if (!comment)
		ds_fail(err, "cannot write to job %u: memory is out", row->job_id);
	else if (row->comment && strcmp(comment, row->comment) == 0)
		rv = 0;
	else if (strlen(comment) > COMMENT_MAX)
		ds_fail(err, "cannot write to job %u: its AdminComment would have %zu bytes",
			row->job_id, strlen(comment));
	else
		rv = ds_database_set_comment(pass->database, cluster, row, comment, err);
	free(comment);
	free(line);
	return rv;
}

static void settle_job(struct pass *pass, const struct job *job, const char *cluster,
		       const struct ds_job_row *rows, size_t n_rows)
{
	size_t n = job->to - job->from;
	struct ds_usage_record *records = calloc(n, sizeof(*records));
	struct ds_settle_rules rules = {.now = time(NULL), .grace_s = pass->grace_s};
	struct ds_error err;

	alarm(STALL_MAX_S);
	if (!records) {
		keep_waiting(pass, job);
		return;
	}
	for (size_t i = 0; i < n; i++)
		records[i] = pass->stored[job->from + i].record;

	struct ds_settle_decision decision = ds_settle_decide(rows, n_rows, records, n, &rules);
	switch (decision.verdict) {
	case DS_SETTLE_UNKNOWN:
		give_up_or_wait(pass, job, rules.now);
		break;
	case DS_SETTLE_WAIT:
		keep_waiting(pass, job);
		break;
	case DS_SETTLE_WRITE:
		if (write_line(pass, cluster, &rows[decision.target], &decision.summary, &err) ==
		    0) {
			leave(pass, job, ds_store_settle);
		} else {
			ds_log("%s", err.text);
			give_up_or_wait(pass, job, rules.now);
		}
		break;
	}
	free(records);
}

static const char *cluster_of(const struct pass *pass, const struct job *job)
{
	const char *cluster = pass->stored[job->from].record.cluster;

	if (*cluster)
		return cluster;
	return *pass->cluster ? pass->cluster : ds_database_cluster(pass->database);
}

/* Jobs of one cluster, at most JOBS_PER_QUERY. */
static int settle_jobs(struct pass *pass, const struct job *jobs, size_t n, struct ds_error *err)
{
	const char *cluster = cluster_of(pass, &jobs[0]);
	uint32_t ids[JOBS_PER_QUERY];
	struct ds_job_row *rows;
	size_t n_rows;

	alarm(STALL_MAX_S);
	for (size_t i = 0; i < n; i++)
		ids[i] = pass->stored[jobs[i].from].record.job_id;
	if (ds_database_rows(pass->database, cluster, ids, n, &rows, &n_rows, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		size_t from = 0, to;
		while (from < n_rows && rows[from].job_id != ids[i])
			from++;
		for (to = from; to < n_rows && rows[to].job_id == ids[i];)
			to++;
		settle_job(pass, &jobs[i], cluster, rows + from, to - from);
	}
	ds_database_rows_free(rows, n_rows);
	return 0;
}

/* The next jobs from record `from` on that one query can ask for. Returns the record behind them. */
static size_t next_jobs(const struct pass *pass, size_t from, struct job *jobs, size_t *n)
{
	const struct ds_stored *stored = pass->stored;

	*n = 0;
	while (from < pass->n_stored && *n < JOBS_PER_QUERY &&
	       (*n == 0 ||
		strcmp(stored[from].record.cluster, stored[jobs[0].from].record.cluster) == 0)) {
		struct job *job = &jobs[(*n)++];
		job->from = from;
		do {
			from++;
		} while (from < pass->n_stored &&
			 ds_store_same_job(&stored[from], &stored[job->from]));
		job->to = from;
	}
	return from;
}

static int settle_all(struct pass *pass, struct ds_error *err)
{
	struct job jobs[JOBS_PER_QUERY];
	size_t n;

	for (size_t from = 0; from < pass->n_stored;) {
		from = next_jobs(pass, from, jobs, &n);
		if (settle_jobs(pass, jobs, n, err) < 0)
			return -1;
	}
	return 0;
}

static int run(struct pass *pass)
{
	struct ds_error err = {""};
	int rv = EXIT_FAILURE;

	pass->store = DS_STORE_CLOSED;
	if (ds_store_open(pass->state_dir, &pass->store, &err) < 0)
		goto out;
	int only = ds_store_only_one(&pass->store, "settle", &err);
	if (only < 0) {
		rv = EX_TEMPFAIL;
		goto out;
	}
	ds_store_expire(&pass->store, pass->keep_s);
	if (ds_store_load(&pass->store, &pass->stored, &pass->n_stored, &err) < 0)
		goto out;
	if (pass->n_stored == 0) {
		rv = EXIT_SUCCESS;
		goto out;
	}
	rv = EX_TEMPFAIL;
	if (ds_database_open(pass->slurm_conf, &pass->database, &err) < 0)
		goto out;
	if (settle_all(pass, &err) == 0 && pass->n_waiting == 0)
		rv = EXIT_SUCCESS;
out:
	if (err.text[0])
		ds_log("%s", err.text);
	ds_database_close(pass->database);
	ds_store_free(pass->stored, pass->n_stored);
	ds_store_close(&pass->store);
	return rv;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct pass *pass = state->input;

	switch (key) {
	case 's':
		pass->state_dir = arg;
		break;
	case 'f':
		pass->slurm_conf = arg;
		break;
	case 'c':
		pass->cluster = arg;
		break;
	case 'g':
		pass->grace_s = (time_t)strtoul(arg, NULL, 10);
		break;
	case 'k':
		pass->keep_s = (time_t)strtoul(arg, NULL, 10);
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "%s: no arguments are expected", arg);
		break;
	case ARGP_KEY_END:
		if (!pass->state_dir)
			argp_error(state, "--state-dir is missing");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* argp looks for it: it must be seen from libc. */
__attribute__((visibility("default"))) const char *argp_program_version =
    "detshare-usage-settle " PACKAGE_VERSION;

int main(int argc, char **argv)
{
	static const struct argp_option options[] = {
	    {"state-dir", 's', "DIR", 0, "Where the collector keeps its records", 0},
	    {"slurm-conf", 'f', "FILE", 0, "slurm.conf, if not Slurm's own", 0},
	    {"cluster", 'c', "NAME", 0, "Cluster of records that do not name one", 0},
	    {"grace", 'g', "SECONDS", 0, "How long after a job's end to wait for silent nodes", 0},
	    {"keep", 'k', "SECONDS", 0, "How long to keep settled records", 0},
	    {0},
	};
	static const struct argp argp = {
	    .options = options,
	    .parser = parse_option,
	    .doc =
		"Write what `detshare-usaged collect` has stored into Slurm's accounting database. "
		"Ends 0 when nothing waits, 75 when something still does.",
	};
	struct pass pass = {.slurm_conf = "", .cluster = "", .grace_s = 600, .keep_s = 30 * 86400};

	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, &pass);
	alarm(STALL_MAX_S);
	return run(&pass);
}
