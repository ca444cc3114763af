/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/prolog_env.h"

#include <stdio.h>
#include <string.h>

#define GPUS_VARIABLE    "SLURM_JOB_GPUS"
#define RESTART_VARIABLE "SLURM_JOB_RESTART_COUNT"

/* One decimal number of at most 9 digits, or nothing. */
static void copy_number(const char *text, char number[12])
{
	size_t length = text ? strspn(text, "0123456789") : 0;

	number[0] = '\0';
	if (length == 0 || length > 9 || text[length])
		return;
	memcpy(number, text, length + 1);
}

void ds_prolog_env_read(const char *(*get)(const char *name), struct ds_prolog_env *env)
{
	memset(env, 0, sizeof(*env));
	env->grant_text = get(DS_GRANT_PROLOG_VARIABLE);
	if (!env->grant_text)
		return;
	env->node_name = get("SLURMD_NODENAME");
	const char *conf = get("SLURM_CONF");
	if (conf) {
		int n = snprintf(env->slurm_conf_entry, sizeof(env->slurm_conf_entry),
				 "SLURM_CONF=%s", conf);
		if (n > 0 && (size_t)n < sizeof(env->slurm_conf_entry))
			env->slurm_conf = env->slurm_conf_entry;
	}
	copy_number(get(GPUS_VARIABLE), env->gpu);
	copy_number(get(RESTART_VARIABLE), env->restart);
	if (!env->restart[0])
		strcpy(env->restart, "0");
}

int ds_prolog_env_check(const struct ds_prolog_env *env, const char *(*get)(const char *name),
			struct ds_grant *grant, struct ds_error *err)
{
	const char *gpus = get(GPUS_VARIABLE);

	if (ds_grant_parse(env->grant_text, grant, err) < 0)
		return ds_fail_within(err,
				      "the controller's grant cannot be read (are its detshare "
				      "and the node's of one version?)");
	if (!env->gpu[0])
		return ds_fail(
		    err,
		    "a share lies on exactly one GPU, but Slurm gave the job \"%s\" on this "
		    "node (" GPUS_VARIABLE "; see gres/shard in gres.conf)",
		    gpus ? gpus : "");
	return 0;
}
