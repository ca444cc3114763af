/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_PROLOG_ENV_H
#define DETSHARE_SPANK_PROLOG_ENV_H

#include "common/error.h"
#include "gres/grant.h"

/*
 * What slurmd tells a prolog or epilog in its environment. There is no other source: Slurm's API
 * must not be called from a prolog, and SPANK's items are the job id and the uid alone.
 */
struct ds_prolog_env {
	const char *grant_text; /* NULL: the job shares no GPU, the rest is not filled in */
	const char *node_name;  /* NULL: slurmd did not say */
	const char *slurm_conf; /* "SLURM_CONF=PATH", or NULL */
	char restart[12];       /* SLURM_JOB_RESTART_COUNT; "0" for a first run */
	char gpu[12];           /* the one GPU, by its minor number; "" if not exactly one */
	char slurm_conf_entry[4352];
};

/*
 * Read it with `get` (getenv, or a test's). The strings live as long as the environment. No check but
 * of form: see ds_prolog_env_check().
 */
void ds_prolog_env_read(const char *(*get)(const char *name), struct ds_prolog_env *env);

/*
 * Can this job be served? The grant must parse, and there must be exactly one GPU. Returns 0, or -1
 * with the reason.
 */
int ds_prolog_env_check(const struct ds_prolog_env *env, const char *(*get)(const char *name),
			struct ds_grant *grant, struct ds_error *err);

#endif
