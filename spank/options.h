/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_OPTIONS_H
#define DETSHARE_SPANK_OPTIONS_H

#include <slurm/spank.h>

/*
 * Add --detshare-class=CLASS and --detshare-mem=SIZE to srun, sbatch and salloc (and to slurmstepd,
 * which complains of options that it does not know). What they ask is judged by cli_filter and
 * job_submit, which know the site's classes and see --gres beside them. Returns 0, or -1 logged.
 */
int ds_spank_options_register(spank_t spank);

#endif
