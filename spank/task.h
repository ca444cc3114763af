/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_TASK_H
#define DETSHARE_SPANK_TASK_H

#include <slurm/spank.h>

/*
 * In slurmstepd. Only ds_spank_task_admit() may refuse: failing in any earlier hook drains the node.
 */

/*
 * Root, once per step, before its tasks: learn what the step was granted (granted.h), announce it to
 * the node runtime and read task.env. Always returns 0; what went wrong is kept for the tasks.
 */
int ds_spank_step_begin(spank_t spank, int argc, char **argv);

/*
 * Root, in each task's process: refuse a task that was granted part of a GPU whose node runtime is
 * not there (-1, after one line on the task's stderr: it would run on the whole GPU, beside others).
 * If the job's very begin failed on this node, the batch script's task also gives the job back.
 */
int ds_spank_task_admit(spank_t spank);

/*
 * The user, in each task's process, after Slurm's own gres plugins have had their say: put the
 * allocation into the environment, or remove what must not be there. Returns 0, or -1 logged.
 */
int ds_spank_task_environment(spank_t spank);

/*
 * Root, when a task has ended: write to the job's output what its node runtime has to say of what became of
 * the job's programs, such as a neighbour's fault. Once for each.
 */
void ds_spank_task_ended(void);

#endif
