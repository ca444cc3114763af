/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/run.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/process.h"
#include "noderuntime/ledger.h"

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

/* What is taken of one GPU, in thousandths; adds who has it to `list`. -1 when it cannot be read. */
static int64_t taken_milli(const struct ds_node_config *config, const struct ds_gpu *gpu,
			   char *list, size_t size, struct ds_error *err)
{
	static struct ds_ledger_state state; /* 30 KiB */
	char dir[PATH_MAX], share[8];
	size_t used = strlen(list);
	int64_t taken = 0;

	if (ds_gpu_dir(config->runtime_dir, gpu->uuid, dir, sizeof(dir)) < 0)
		return ds_fail(err, "runtime_dir %s is too long", config->runtime_dir);
	if (ds_ledger_read(dir, &state, err) < 0)
		return errno == ENOENT ? 0 : -1;
	for (uint32_t i = 0; i < state.n_residents; i++) {
		const struct ds_ledger_resident *resident = &state.residents[i];
		if (!still_there(&state, resident))
			continue;
		taken += resident->grant.share_milli;
		ds_share_text(resident->grant.share_milli, share);
		if (used < size)
			used += (size_t)snprintf(list + used, size - used, "%s%s (uid %u) has %s",
						 used ? ", " : "", resident->name, resident->uid,
						 share);
	}
	return taken;
}

int ds_run_choose(const struct ds_node_config *config, const char *selector, uint32_t share_milli,
		  struct ds_gpu *gpu, struct ds_error *err)
{
	struct ds_gpu gpus[DS_GPUS_MAX];
	char all[384] = "", share[8];
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
		char list[256] = "";
		int64_t taken = taken_milli(config, &gpus[i], list, sizeof(list), err);
		if (taken < 0)
			return -1;
		if (taken + share_milli <= 1000) {
			*gpu = gpus[i];
			return 0;
		}
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%sGPU %u: %s",
						 used ? "; " : "", gpus[i].minor, list);
	}
	ds_share_text(share_milli, share);
	if (!n)
		return ds_fail(err, "no GPU on this machine: %s is empty", config->gpu_info_dir);
	ds_fail(err, "no room for a share of %s: %s; wait for it with --wait", share, all);
	return 1;
}
