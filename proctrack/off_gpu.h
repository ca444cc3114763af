/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_PROCTRACK_OFF_GPU_H
#define DETSHARE_PROCTRACK_OFF_GPU_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"

/* True if this slurmstepd's job has part of a GPU here, as the SPANK plugin found. */
bool ds_off_gpu_wanted(void);

/*
 * Ask the job's node runtime to have MPS end the GPU work of these processes, and wait for that at most
 * two seconds. 0, or -1 with what kept it from it. Thread-safe.
 */
int ds_off_gpu(const pid_t *pids, int n, struct ds_error *err);

#endif
