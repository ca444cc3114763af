/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/giveback.h"

#include <stdio.h>
#include <sysexits.h>

#include "common/spawn.h"
#include "spank/child_env.h"

int ds_give_back(uint32_t job_id, const char *restart, const char *node_name,
		 const char *slurm_conf, const char *reason, enum ds_giveback_from from,
		 unsigned deadline_ms, struct ds_error *err)
{
	char job[12], said[256];
	const char *env[DS_CHILD_ENV_MAX];
	const char *const argv[] = {PKGLIBEXECDIR "/detshare-giveback",
				    "--job",
				    job,
				    "--restart",
				    restart,
				    "--node",
				    node_name ? node_name : "",
				    "--reason",
				    reason,
				    "--from",
				    from == DS_FROM_TASK ? "task" : "prolog",
				    NULL};
	const struct ds_spawn spawn = {
	    .argv = argv, .envp = env, .deadline_ms = deadline_ms, .late = DS_SPAWN_LEAVE};

	snprintf(job, sizeof(job), "%u", job_id);
	ds_child_env(slurm_conf, env);
	int status = ds_spawn(&spawn, said, sizeof(said), err);
	if (status == 0)
		return 0;
	if (status == EX_TEMPFAIL)
		return ds_fail(err, "%s; detshare-giveback goes on trying", said);
	if (status > 0)
		ds_fail(err, "%s", said[0] ? said : "detshare-giveback failed");
	return ds_fail_within(err, "cannot give the job back");
}
