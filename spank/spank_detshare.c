/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SPANK plugin: which function runs where. What is done there is in the file named after the
 * place: options.c (srun, sbatch, salloc), slurmd.c, job.c (prolog and epilog), task.c (slurmstepd).
 */
#include <slurm/spank.h>

#include "spank/job.h"
#include "spank/options.h"
#include "spank/slurmd.h"
#include "spank/task.h"

#pragma GCC visibility push(default)
SPANK_PLUGIN(detshare, 1)
spank_f slurm_spank_init, slurm_spank_init_post_opt, slurm_spank_job_prolog, slurm_spank_job_epilog,
    slurm_spank_task_init_privileged, slurm_spank_task_init, slurm_spank_task_exit;
#pragma GCC visibility pop

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
	case S_CTX_REMOTE:
		return ds_spank_options_register(spank);
	case S_CTX_SLURMD:
		return ds_spank_slurmd_start(argc, argv);
	default:
		return 0;
	}
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	switch (spank_context()) {
	case S_CTX_REMOTE:
		return ds_spank_step_begin(spank, argc, argv);
	default:
		return 0;
	}
}

int slurm_spank_job_prolog(spank_t spank, int argc, char **argv)
{
	return ds_spank_job_prolog(spank, argc, argv);
}

int slurm_spank_job_epilog(spank_t spank, int argc, char **argv)
{
	return ds_spank_job_epilog(spank, argc, argv);
}

int slurm_spank_task_init_privileged(spank_t spank, int argc, char **argv)
{
	return ds_spank_task_admit(spank);
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	return ds_spank_task_environment(spank);
}

int slurm_spank_task_exit(spank_t spank, int argc, char **argv)
{
	switch (spank_context()) {
	case S_CTX_REMOTE:
		ds_spank_task_ended();
		return 0;
	default:
		return 0;
	}
}
