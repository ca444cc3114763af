/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/child_env.h"

#include <stddef.h>

void ds_child_env(const char *slurm_conf, const char *env[DS_CHILD_ENV_MAX])
{
	int n = 0;

	env[n++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	if (slurm_conf)
		env[n++] = slurm_conf;
	env[n] = NULL;
}
