/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_GPU_USERS_H
#define DETSHARE_NODERUNTIME_GPU_USERS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/node_config.h"
#include "common/process.h"
#include "noderuntime/allocation.h"
#include "noderuntime/deadline.h"
#include "noderuntime/ledger.h"

/* Who uses a GPU, whatever he says: from /proc and from MPS. */

struct ds_gpu_files {
	char device[PATH_MAX];
	dev_t dev; /* what stat() says of it */
	ino_t ino;
	dev_t rdev;
	char uvm[PATH_MAX]; /* what CUDA opens, too, and monitoring does not; "": there is none */
};

/* The files of the GPU with that UUID. 0, or -1: there is none to speak of. */
int ds_gpu_files_find(const struct ds_node_config *config, const char *gpu_uuid,
		      struct ds_gpu_files *files);

struct ds_gpu_user {
	struct ds_process process;
	bool client; /* MPS lists it */
	char command[16];
};

struct ds_gpu_user_search {
	const struct ds_node_config *config;
	const struct ds_allocation *allocation;
	const struct ds_ledger_state *seen;
	ds_deadline deadline; /* for MPS's list */
};

/*
 * Processes of the allocation that use its GPU, and are no programs in `seen`. That is: MPS lists them; or
 * they have the GPU and CUDA's memory device open and do not have the library in memory, as children of
 * a program have that inherited all this. Returns how many, at most `max`. Reads much of /proc.
 */
size_t ds_gpu_users_find(const struct ds_gpu_user_search *search, struct ds_gpu_user *users,
			 size_t max);

/* Pure: `text`, what /proc/PID/cgroup holds, has a component job_N. */
bool ds_cgroup_in_job(const char *text, uint32_t job_id);

#endif
