/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/recall.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "noderuntime/allocation.h"
#include "noderuntime/gpu.h"

/* The process of runtime.pid, for whose allocation nothing else can be read. */
static bool has_living_runtime(const struct ds_node_config *config, const char *name)
{
	struct ds_process runtime = {0};
	char path[PATH_MAX];
	int n = 0;

	if (ds_allocation_path(config, name, "runtime.pid", path, NULL) < 0)
		return false;
	FILE *file = fopen(path, "re");
	if (file) {
		n = fscanf(file, "%" SCNd32 " %" SCNu64, &runtime.pid, &runtime.start_ticks);
		fclose(file);
	}
	return n == 2 && runtime.pid > 0 && ds_process_alive(&runtime);
}

/* Before an allocation is ready, no program can have come to it. */
static bool lives_here(const struct ds_node_config *config, const char *name, const char *boot_id,
		       const char *gpu_uuid)
{
	struct ds_allocation allocation;

	if (ds_allocation_read(config, name, &allocation, NULL) < 0)
		return errno != ENOENT && has_living_runtime(config, name);
	return allocation.ready && !strcmp(allocation.gpu_uuid, gpu_uuid) &&
	       !strcmp(allocation.boot_id, boot_id) && ds_process_alive(&allocation.runtime);
}

bool ds_recall_missing(const struct ds_node_config *config, struct ds_ledger_state *state,
		       char name[DS_NAME_SIZE])
{
	const struct dirent *entry;
	bool missing = false;
	char boot_id[40];

	DIR *dir = opendir(config->runtime_dir);
	if (!dir || ds_boot_id(boot_id, NULL) < 0) {
		if (dir)
			closedir(dir);
		return false;
	}
	while (!missing && (entry = readdir(dir))) {
		if (!ds_allocation_name_valid(entry->d_name) ||
		    ds_ledger_find(state, entry->d_name))
			continue;
		missing = lives_here(config, entry->d_name, boot_id, state->gpu_uuid);
		if (missing)
			snprintf(name, DS_NAME_SIZE, "%.31s", entry->d_name); /* it is valid */
	}
	closedir(dir);
	return missing;
}

static bool is_of_same_gpu(const struct ds_ledger_state *a, const struct ds_ledger_state *b)
{
	return !strcmp(a->gpu_uuid, b->gpu_uuid) && !memcmp(&a->shape, &b->shape, sizeof(a->shape));
}

/* Take the newest copy. */
static int recall(void *arg, struct ds_ledger_state *state, struct ds_error *err)
{
	const struct ds_recall *self = arg;
	struct ds_ledger_state *copy = malloc(sizeof(*copy));
	char path[PATH_MAX], name[DS_NAME_SIZE] = "";
	const struct dirent *entry;

	if (!copy)
		return ds_fail(err, "cannot read the copies of a ledger: %s", strerror(errno));
	DIR *dir = opendir(self->config->runtime_dir);
	if (!dir) {
		ds_fail(err, "cannot look for copies of a ledger in %s: %s",
			self->config->runtime_dir, strerror(errno));
		free(copy);
		return -1;
	}
	while ((entry = readdir(dir))) {
		if (ds_allocation_name_valid(entry->d_name) &&
		    ds_allocation_path(self->config, entry->d_name, NULL, path, NULL) == 0 &&
		    ds_ledger_read(path, copy, NULL) == 0 && is_of_same_gpu(copy, state) &&
		    copy->generation > state->generation)
			*state = *copy;
	}
	closedir(dir);
	free(copy);
	state->incomplete = ds_recall_missing(self->config, state, name);
	if (state->incomplete || state->generation)
		syslog(LOG_WARNING,
		       "the ledger of GPU %s was lost and is made anew: it has its %" PRIu32
		       " residents of generation %" PRIu64 "%s%s",
		       state->gpu_uuid, state->n_residents, state->generation,
		       state->incomplete ? ", and waits for " : "", name);
	return 0;
}

void ds_recall_init(struct ds_recall *recalled, const struct ds_node_config *config)
{
	recalled->config = config;
	recalled->past = (struct ds_ledger_past){.recall = recall, .arg = recalled};
}
