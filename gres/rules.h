/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_RULES_H
#define DETSHARE_GRES_RULES_H

#include <stdbool.h>

#include "common/error.h"
#include "gres/config.h"
#include "gres/request.h"

/*
 * What a site's rules make of a submission. Pure, and the same function in cli_filter (which turns
 * the user's options into a submission) and in job_submit (which turns job_desc_msg_t into one).
 */

/* What a job or step asks, in the words of Slurm's options. NULL: not given. Borrowed strings. */
struct ds_submission {
	const char *gres;         /* --gres */
	const char *class_option; /* --detshare-class */
	const char *memory;       /* --detshare-mem */
	const char *gpus;         /* --gpus */
	const char *gpus_per_node;
	const char *gpus_per_socket;
	const char *gpus_per_task;
	const char *gpu_bind;
	const char *gpu_freq;
	const char *mem_per_gpu;
	const char *cpus_per_gpu;
	const char *ntasks_per_gpu;
	const char *tres_per_task;
	bool exclusive; /* --exclusive of a whole node (not a step's exact placement) */
	bool is_step;   /* srun inside an allocation */
	const struct ds_request *job; /* steps: what the allocation has; NULL: not known */
};

enum ds_verdict {
	DS_NOT_OURS, /* asks no share: leave it alone */
	DS_ACCEPTED, /* `class_name`, `share_milli`, `memory_mib` and `gres` hold */
	DS_REFUSED,  /* the error says why, in one line that names the option */
};

struct ds_decision {
	char class_name[DS_CLASS_NAME_SIZE];
	uint32_t share_milli;
	uint32_t shard_count;
	uint32_t memory_mib;     /* as asked; 0: what the share brings */
	uint32_t memory_max_mib; /* the class's cap; 0: none, or not known here */
	char *gres; /* rewritten list, malloc'd; the caller frees it. NULL unless DS_ACCEPTED */
};

/* Decide. `config` NULL: a client without detshare.conf, which leaves classes to the controller. */
enum ds_verdict ds_rules_decide(const struct ds_site_config *config,
				const struct ds_submission *submission,
				struct ds_decision *decision, struct ds_error *err);

#endif
