/* SPDX-License-Identifier: Apache-2.0 */
/*
 * srun, sbatch, salloc, scrontab: turn "--gres=detshare:0.5" into the counts that Slurm's own
 * checks understand, and refuse a wrong request where it was typed. A convenience: users can bypass
 * it, so job_submit decides again. Steps are decided nowhere else, and need not be: Slurm gives a
 * step nothing that its job does not have.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gres/config.h"
#include "gres/request.h"
#include "gres/rules.h"
#include "gres/slurm_compat.h"

DS_SLURM_PLUGIN("cli_filter/detshare", "detshare: shares of GPUs, asked");

DS_EXPORT int cli_filter_p_setup_defaults(struct ds_slurm_options *options, bool early);
DS_EXPORT int cli_filter_p_pre_submit(struct ds_slurm_options *options, int offset);
DS_EXPORT void cli_filter_p_post_submit(int offset, uint32_t job_id, uint32_t step_id);

static char class_option_name[] = "detshare-class";
static char memory_option_name[] = "detshare-mem";
/* In a job's environment: the option that the job was submitted with, which Slurm gives to its steps. */
static const char JOBS_MEMORY[] = "SLURM_SPANK__SLURM_SPANK_OPTION_detshare_detshare_mem";

/* Values of options, as Slurm allocated them. */
enum {
	GRES,
	CLASS,
	MEMORY,
	GPUS,
	GPUS_PER_NODE,
	GPUS_PER_SOCKET,
	GPUS_PER_TASK,
	GPU_BIND,
	GPU_FREQ,
	MEM_PER_GPU,
	CPUS_PER_GPU,
	NTASKS_PER_GPU,
	TRES_PER_TASK,
	EXCLUSIVE,
	JOB_ID,
	N_VALUES,
};

static const char *const option_names[N_VALUES] = {
    [GRES] = "gres",
    [GPUS] = "gpus",
    [GPUS_PER_NODE] = "gpus-per-node",
    [GPUS_PER_SOCKET] = "gpus-per-socket",
    [GPUS_PER_TASK] = "gpus-per-task",
    [GPU_BIND] = "gpu-bind",
    [GPU_FREQ] = "gpu-freq",
    [MEM_PER_GPU] = "mem-per-gpu",
    [CPUS_PER_GPU] = "cpus-per-gpu",
    [NTASKS_PER_GPU] = "ntasks-per-gpu",
    [TRES_PER_TASK] = "tres-per-task",
    [EXCLUSIVE] = "exclusive",
};

int init(void)
{
	return SLURM_SUCCESS;
}

int fini(void)
{
	return SLURM_SUCCESS;
}

int cli_filter_p_setup_defaults(struct ds_slurm_options *options, bool early)
{
	return SLURM_SUCCESS;
}

void cli_filter_p_post_submit(int offset, uint32_t job_id, uint32_t step_id)
{
}

static void read_options(struct ds_slurm_options *options, char *values[N_VALUES])
{
	for (int i = 0; i < N_VALUES; i++)
		if (option_names[i] && slurm_option_isset(options, option_names[i]))
			values[i] = slurm_option_get(options, option_names[i]);
	if (spank_option_get) {
		values[CLASS] = spank_option_get(class_option_name);
		values[MEMORY] = spank_option_get(memory_option_name);
	}
	/*
	 * srun's alone: NULL in other clients, "unset" outside an allocation. Not asked by isset:
	 * srun takes it from SLURM_JOB_ID, too.
	 */
	values[JOB_ID] = slurm_option_get(options, "jobid");
}

static void free_options(char *values[N_VALUES])
{
	for (int i = 0; i < N_VALUES; i++)
		slurm_xfree((void **)&values[i]);
}

/*
 * What the allocation of a step has, from slurmctld, never from the environment, which is the
 * user's. False when slurmctld does not say.
 */
static bool find_job(uint32_t job_id, int offset, struct ds_request *request)
{
	job_info_msg_t *message = NULL;
	const slurm_job_info_t *job = NULL;
	bool found = false;

	if (slurm_load_job(&message, job_id, 0) != SLURM_SUCCESS || !message)
		return false;
	/* A heterogeneous job comes with all its components, an array job with all its tasks. */
	for (uint32_t i = 0; i < message->record_count; i++) {
		const slurm_job_info_t *record = &message->job_array[i];
		if (record->het_job_id ? record->het_job_offset == (uint32_t)offset
				       : DS_JOB_INFO_ID(record) == job_id || !job)
			job = record;
	}
	if (job)
		found = ds_request_parse(job->tres_per_node, request, NULL) == 0;
	slurm_free_job_info_msg(message);
	return found;
}

/* The site's rules, if the file is here. Without it classes are the controller's business. */
static const struct ds_site_config *read_rules(struct ds_site_config *config)
{
	char path[4096];

	ds_site_config_path(path, sizeof(path));
	return ds_site_config_read(path, config, NULL) == 0 ? config : NULL;
}

/*
 * Refuse. srun, sbatch and salloc would follow our line by one that says that a plugin failed, then
 * exit: exit here with their status, so that the user has one line to read. scrontab goes on to let
 * the user correct the line, so it gets its answer.
 */
static int refuse(struct ds_slurm_options *options, const char *line)
{
	static const char *const clients[] = {"srun", "sbatch", "salloc"};
	const char *status = getenv("SLURM_EXIT_ERROR");

	slurm_error("%s", line);
	for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++)
		if (strcmp(program_invocation_short_name, clients[i]) == 0)
			exit(status && atoi(status) ? atoi(status) : 1);
	return SLURM_ERROR;
}

int cli_filter_p_pre_submit(struct ds_slurm_options *options, int offset)
{
	char *values[N_VALUES] = {NULL};
	struct ds_site_config config;
	struct ds_request request, job;
	struct ds_decision decision;
	struct ds_error err = {""};
	int rv = SLURM_SUCCESS;

	read_options(options, values);
	struct ds_submission submission = {
	    .gres = values[GRES],
	    .class_option = values[CLASS],
	    .memory = values[MEMORY],
	    .gpus = values[GPUS],
	    .gpus_per_node = values[GPUS_PER_NODE],
	    .gpus_per_socket = values[GPUS_PER_SOCKET],
	    .gpus_per_task = values[GPUS_PER_TASK],
	    .gpu_bind = values[GPU_BIND],
	    .gpu_freq = values[GPU_FREQ],
	    .mem_per_gpu = values[MEM_PER_GPU],
	    .cpus_per_gpu = values[CPUS_PER_GPU],
	    .ntasks_per_gpu = values[NTASKS_PER_GPU],
	    .tres_per_task = values[TRES_PER_TASK],
	    .exclusive = values[EXCLUSIVE] && strcmp(values[EXCLUSIVE], "exclusive") == 0,
	    .is_step = values[JOB_ID] && values[JOB_ID][0] >= '0' && values[JOB_ID][0] <= '9',
	};
	const char *jobs_memory = getenv(JOBS_MEMORY);
	if (submission.is_step && submission.memory && jobs_memory &&
	    strcmp(submission.memory, jobs_memory) == 0)
		submission.memory = NULL;
	/* Ask slurmctld only for steps that concern us. */
	if (submission.is_step &&
	    (submission.class_option ||
	     (ds_request_parse(submission.gres, &request, NULL) == 0 && request.asks_share)) &&
	    find_job((uint32_t)strtoul(values[JOB_ID], NULL, 10), offset, &job))
		submission.job = &job;

	enum ds_verdict verdict =
	    ds_rules_decide(read_rules(&config), &submission, &decision, &err);
	if (verdict == DS_ACCEPTED &&
	    slurm_option_set(options, "gres", decision.gres, false) != SLURM_SUCCESS) {
		ds_fail(&err, "--gres=%.60s: Slurm does not take %s in its place", submission.gres,
			decision.gres);
		verdict = DS_REFUSED;
	}
	free(decision.gres);
	free_options(values);
	if (verdict == DS_REFUSED)
		rv = refuse(options, err.text);
	return rv;
}
