/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/run.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/process.h"
#include "common/size.h"
#include "noderuntime/ledger.h"
#include "noderuntime/quota.h"

/* True if the resident still counts: its runtime or a program of it lives. */
static bool still_there(const struct ds_ledger_state *state,
			const struct ds_ledger_resident *resident)
{
	if (ds_process_alive(&resident->runtime))
		return true;
	for (uint32_t i = 0; i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, resident->name) &&
		    ds_process_alive(&state->programs[i].process))
			return true;
	}
	return false;
}

/*
 * Whether one GPU has room for the grant: 1 or 0, or -1 when that cannot be known or can never be. Adds who
 * has what to `list`.
 */
static int has_room(const struct ds_node_config *config, const struct ds_gpu *gpu,
		    const struct ds_grant *grant, char *list, size_t size, struct ds_error *err)
{
	static struct ds_ledger_state state, alive; /* 30 KiB each */
	struct ds_topology topology;
	struct ds_error reason = {""};
	char dir[PATH_MAX], share[8], memory[DS_SIZE_TEXT_SIZE];
	uint32_t taken = 0, quota;
	size_t used = 0;

	list[0] = '\0';
	if (ds_gpu_dir(config->runtime_dir, gpu->uuid, dir, sizeof(dir)) < 0)
		return ds_fail(err, "runtime_dir %s is too long", config->runtime_dir);
	if (ds_ledger_read(dir, &state, err) < 0) {
		/* One that was written over is put right by whoever joins next: it is to say. */
		if (errno != ENOENT && errno != ENODATA && errno != EIO)
			return -1;
		state.n_residents = 0;
	}
	alive.n_residents = 0;
	for (uint32_t i = 0; i < state.n_residents; i++) {
		const struct ds_ledger_resident *resident = &state.residents[i];
		if (!still_there(&state, resident))
			continue;
		alive.residents[alive.n_residents++] = *resident;
		taken += resident->grant.share_milli;
		ds_share_text(resident->grant.share_milli, share);
		if (used < size)
			used += (size_t)snprintf(list + used, size - used,
						 "%s%s (uid %u) has %s and %s", used ? ", " : "",
						 resident->name, resident->uid, share,
						 ds_size_format(resident->memory_mib, memory));
	}
	if (taken + grant->share_milli > 1000)
		return 0;
	/* A GPU that nobody has asked yet is empty. */
	if (ds_topology_read(dir, gpu->uuid, &topology, &reason) < 0)
		return 1;
	if (ds_quota_of_grant(config, topology.memory_mib, grant, &quota, err) < 0)
		return -1;
	return ds_quota_fits(config, topology.memory_mib, &alive, "", quota, &reason) == 0;
}

int ds_run_choose(const struct ds_node_config *config, const char *selector,
		  const struct ds_grant *grant, struct ds_gpu *gpu, struct ds_error *err)
{
	struct ds_gpu gpus[DS_GPUS_MAX];
	char all[384] = "", share[8], memory[DS_SIZE_TEXT_SIZE];
	size_t used = 0;
	int n = 1;

	if (selector) {
		if (ds_gpu_find(config->gpu_info_dir, selector, &gpus[0], err) < 0)
			return -1;
	} else {
		n = ds_gpu_list(config->gpu_info_dir, gpus, err);
		if (n < 0)
			return -1;
	}
	for (int i = 0; i < n; i++) {
		char list[256];
		int room = has_room(config, &gpus[i], grant, list, sizeof(list), err);
		if (room < 0)
			return -1;
		if (room) {
			*gpu = gpus[i];
			return 0;
		}
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%sGPU %u: %s",
						 used ? "; " : "", gpus[i].minor, list);
	}
	ds_share_text(grant->share_milli, share);
	if (!n)
		return ds_fail(err, "no GPU on this machine: %s is empty", config->gpu_info_dir);
	if (grant->memory_mib)
		ds_fail(err,
			"no room for a share of %s with %s of memory: %s; wait for it with --wait",
			share, ds_size_format(grant->memory_mib, memory), all);
	else
		ds_fail(err, "no room for a share of %s: %s; wait for it with --wait", share, all);
	return 1;
}
