/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_NODE_H
#define DETSHARE_SPANK_NODE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/node_config.h"

/*
 * The plugin's arguments in plugstack.conf: `node_conf=PATH` or nothing. Writes the path, or NULL
 * for the default; it points into `argv`. Returns 0, or -1 with the argument at fault.
 */
int ds_spank_arguments(int argc, char *const *argv, const char **node_conf, struct ds_error *err);

/* Read detshare-node.conf as the arguments say. Returns 0 or -1. */
int ds_spank_node_config(int argc, char *const *argv, const char *node_name,
			 struct ds_node_config *config, struct ds_error *err);

/* RUNTIME_DIR/job-N, or a file in it (`file` NULL: the directory). */
void ds_spank_job_path(const struct ds_node_config *config, uint32_t job_id, const char *file,
		       char path[PATH_MAX]);

/*
 * The node name in slurmd's command line (`-N NAME` or `-NNAME`), given as /proc/PID/cmdline has it:
 * `length` bytes, arguments ended by NUL. Returns a pointer into `cmdline`, or NULL. slurmd tells
 * its plugins in no other way which of several nodes of one machine it is.
 */
const char *ds_slurmd_node_name(const char *cmdline, size_t length);

#endif
