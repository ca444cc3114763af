/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/node.h"

#include <stdio.h>
#include <string.h>

int ds_spank_arguments(int argc, char *const *argv, const char **node_conf, struct ds_error *err)
{
	static const char key[] = "node_conf=";

	*node_conf = NULL;
	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], key, strlen(key)) != 0 || !argv[i][strlen(key)])
			return ds_fail(err,
				       "plugstack.conf: unknown argument \"%s\" of "
				       "spank_detshare.so: it takes node_conf=PATH",
				       argv[i]);
		*node_conf = argv[i] + strlen(key);
	}
	return 0;
}

int ds_spank_node_config(int argc, char *const *argv, const char *node_name,
			 struct ds_node_config *config, struct ds_error *err)
{
	const char *path;

	ds_node_config_defaults(config, node_name);
	if (ds_spank_arguments(argc, argv, &path, err) < 0)
		return -1;
	return ds_node_config_read(path, node_name, config, err);
}

void ds_spank_job_path(const struct ds_node_config *config, uint32_t job_id, const char *file,
		       char path[PATH_MAX])
{
	int n = snprintf(path, PATH_MAX, "%s/job-%u%s%s", config->runtime_dir, job_id,
			 file ? "/" : "", file ? file : "");

	if (n < 0 || n >= PATH_MAX)
		path[0] = '\0'; /* no file has that name: every use fails with ENOENT */
}

const char *ds_slurmd_node_name(const char *cmdline, size_t length)
{
	const char *end = cmdline + length;
	const char *found = NULL;

	if (length == 0 || end[-1] != '\0')
		return NULL;
	for (const char *argument = cmdline; argument < end; argument += strlen(argument) + 1) {
		/* Options without a value may stand before the N: "-DN node1". */
		size_t flags = argument[0] == '-' ? 1 + strspn(argument + 1, "bcCDGhMstvV") : 0;
		if (!flags || argument[flags] != 'N')
			continue;
		const char *name = argument + flags + 1;
		if (!*name) {
			argument += strlen(argument) + 1;
			name = argument;
		}
		if (name >= end)
			break;
		found = *name ? name : NULL;
	}
	return found;
}
