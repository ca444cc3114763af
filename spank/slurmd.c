/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/slurmd.h"

#include <string.h>
#include <unistd.h>

#include <slurm/spank.h>

#include "common/io.h"
#include "common/spawn.h"
#include "spank/child_env.h"
#include "spank/node.h"

/* Own command line; NUL-terminated even when it is longer than the buffer. */
static size_t read_cmdline(char *text, size_t size)
{
	ssize_t n = ds_read_text("/proc/self/cmdline", 0, text, size);

	if (n <= 0)
		return 0;
	return text[n - 1] == '\0' ? (size_t)n : (size_t)n + 1;
}

int ds_spank_slurmd_start(int argc, char **argv)
{
	char cmdline[4096];
	const char *node_name =
	    ds_slurmd_node_name(cmdline, read_cmdline(cmdline, sizeof(cmdline)));
	struct ds_node_config config;
	struct ds_error err = {0};
	const char *node_conf;
	const char *probe[8];
	const char *env[DS_CHILD_ENV_MAX];
	int n = 0;

	if (ds_spank_arguments(argc, argv, &node_conf, &err) < 0 ||
	    ds_spank_node_config(argc, argv, node_name, &config, &err) < 0) {
		slurm_error("detshare: %s; jobs that share a GPU will be given back", err.text);
		return 0;
	}
	if (access(config.noderuntime, X_OK) < 0) {
		/* Nodes without GPUs may have the plugin alone. */
		slurm_info("detshare: no %s here: jobs that share a GPU will be given back",
			   config.noderuntime);
		return 0;
	}
	probe[n++] = config.noderuntime;
	probe[n++] = "probe";
	if (node_conf) {
		probe[n++] = "--config";
		probe[n++] = node_conf;
	}
	if (node_name) {
		probe[n++] = "--node-name";
		probe[n++] = node_name;
	}
	probe[n] = NULL;
	ds_child_env(NULL, env);
	if (ds_spawn_background(probe, env, &err) < 0)
		slurm_error("detshare: %s; the first job on each GPU will wait for the probe",
			    err.text);
	return 0;
}
