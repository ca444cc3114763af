/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_NODE_CHECK_H
#define DETSHARE_GRES_NODE_CHECK_H

#include <stdint.h>

/*
 * Whether gres.conf tells the truth about a node: what it configures there, against the GPUs that
 * the driver lists. Reports, never decides. Slurm keeps its own reading of gres.conf private, so
 * this reads the file again, and only what it needs of it.
 */
struct ds_node_gpus {
	const char *info_dir;      /* gpu_info_dir of detshare-node.conf */
	const char *device_prefix; /* gpu_device_prefix of detshare-node.conf */
	uint64_t minors;           /* bit i: the driver lists a GPU of minor number i */
};

/* Read the minors of all GPUs below `info_dir`. 0 where there is no driver. */
uint64_t ds_node_gpu_minors(const char *info_dir);

/*
 * Check `text`, a gres.conf, for `node_name`; call `warn` with one line per finding. Needs Slurm's
 * slurm_hostlist_*. Pure but for those. Returns the number of findings.
 */
unsigned ds_node_check(const char *text, const char *node_name, const struct ds_node_gpus *gpus,
		       void (*warn)(void *arg, const char *line), void *arg);

#endif
