/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_JOB_H
#define DETSHARE_SPANK_JOB_H

#include <slurm/spank.h>

/*
 * The job's prolog and epilog on this node, as root in a process of their own that slurmd waits for.
 * Both return 0 whatever happens, since anything else drains the node, and within 5 seconds:
 *
 *   prolog   begin 3000 ms, its killed child 80 ms, giving the job back 1000 ms
 *   epilog   end 3100 ms, its killed child 80 ms
 */
int ds_spank_job_prolog(spank_t spank, int argc, char **argv);
int ds_spank_job_epilog(spank_t spank, int argc, char **argv);

#endif
