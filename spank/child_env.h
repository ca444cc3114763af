/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_CHILD_ENV_H
#define DETSHARE_SPANK_CHILD_ENV_H

enum { DS_CHILD_ENV_MAX = 3 };

/*
 * The environment of a program that the plugin starts as root: a fixed PATH, and SLURM_CONF if
 * `slurm_conf` ("SLURM_CONF=PATH", borrowed) is given. Nothing else: a prolog's environment holds
 * text of the user's (SPANK_*, SLURM_JOB_COMMENT), slurmd's own is not there to pass on, and what
 * the node runtime needs to know (where libcuda is, the MPS program) is in detshare-node.conf. In
 * particular CUDA_* of whoever started slurmd must not decide what the probe sees.
 */
void ds_child_env(const char *slurm_conf, const char *env[DS_CHILD_ENV_MAX]);

#endif
