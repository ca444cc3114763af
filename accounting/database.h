/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_DATABASE_H
#define DETSHARE_ACCOUNTING_DATABASE_H

#include <stddef.h>
#include <stdint.h>

#include "accounting/settle.h"
#include "common/error.h"

/*
 * slurmdbd, through libslurm's public interface. libslurm ends the process when slurm.conf is broken
 * and waits when slurmdbd does not answer: only for the settling process, which may die. Not
 * thread-safe.
 */
struct ds_database;

/* Connect. `slurm_conf`: path, NULL or "": libslurm's own choice. Returns 0 or -1. */
int ds_database_open(const char *slurm_conf, struct ds_database **database, struct ds_error *err);
void ds_database_close(struct ds_database *database);

/* ClusterName of slurm.conf. */
const char *ds_database_cluster(const struct ds_database *database);

/*
 * All rows of the given jobs, ordered by job id and submission. More rows may come (tasks of an
 * array whose id is asked for). Free with ds_database_rows_free(). Returns 0 or -1.
 */
int ds_database_rows(struct ds_database *database, const char *cluster, const uint32_t *job_ids,
		     size_t n_jobs, struct ds_job_row **rows, size_t *n_rows, struct ds_error *err);
void ds_database_rows_free(struct ds_job_row *rows, size_t n_rows);

/*
 * Set the AdminComment of exactly that row; if the condition would hit another number of rows than
 * one, nothing is changed. Returns 0 or -1.
 */
int ds_database_set_comment(struct ds_database *database, const char *cluster,
			    const struct ds_job_row *row, const char *comment,
			    struct ds_error *err);

#endif
