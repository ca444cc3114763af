/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slurmstepd: tell SPANK, in the same process, what a step was granted. slurmd: say at start when
 * gres.conf and the GPUs of the node disagree. The other entry points are what Slurm insists on:
 * a share has no device of its own, its GPU comes with gres/shard.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/node_config.h"
#include "gres/granted.h"
#include "gres/node_check.h"
#include "gres/slurm_compat.h"

DS_SLURM_PLUGIN("gres/detshare", "detshare: shares of GPUs, granted");

enum { GRES_CONF_MAX = 1 << 20 };

/* Slurm's types are private, and nothing here looks into one. */
DS_EXPORT int gres_p_node_config_load(void *gres_conf_list, void *node_config);
DS_EXPORT void gres_p_job_set_env(char ***env, void *bits, uint64_t count, int flags);
DS_EXPORT void gres_p_step_set_env(char ***env, void *bits, uint64_t count, int flags);
DS_EXPORT void gres_p_send_stepd(void *buffer);
DS_EXPORT void gres_p_recv_stepd(void *buffer);
DS_EXPORT void *gres_p_get_devices(void);
DS_EXPORT void gres_p_step_hardware_init(void *bits, char *settings);
DS_EXPORT void gres_p_step_hardware_fini(void);
#if DS_SLURM_SINCE(23, 2)
DS_EXPORT void gres_p_task_set_env(char ***env, void *bits, uint64_t count, void *usable,
				   int flags);
DS_EXPORT void *gres_p_prep_build_env(void *job);
DS_EXPORT void gres_p_prep_set_env(char ***env, void *prep, int node_index);
#else
DS_EXPORT void gres_p_task_set_env(char ***env, void *bits, void *usable, uint64_t count,
				   int flags);
DS_EXPORT void *gres_p_epilog_build_env(void *job);
DS_EXPORT void gres_p_epilog_set_env(char ***env, void *epilog, int node_index);
#endif
#if !DS_SLURM_SINCE(24, 11)
DS_EXPORT int gres_p_get_job_info(void *job, uint32_t node_index, int type, void *data);
DS_EXPORT int gres_p_get_step_info(void *step, uint32_t node_index, int type, void *data);
#endif

int init(void)
{
	return SLURM_SUCCESS;
}

int fini(void)
{
	return SLURM_SUCCESS;
}

/*
 * By the executable: slurmstepd writes its title over argv[0], where program_invocation_short_name
 * points to. Debian's is called "slurmstepd-wlm"; one that an upgrade replaced reads "... (deleted)".
 */
static bool runs_in(const char *program)
{
	char path[4096];
	size_t length = strlen(program);
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n <= 0)
		return false;
	path[n] = '\0';
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	return strncmp(name, program, length) == 0 && strchr("- ", name[length]);
}

/*
 * The name this slurmd has in slurm.conf: its -N option, for which Slurm has no public call, else
 * the host's. Options without argument may stand before the N ("-DN node1").
 */
static void find_node_name(char *name, size_t size)
{
	char arguments[4096] = "";
	FILE *file = fopen("/proc/self/cmdline", "re");
	size_t length = file ? fread(arguments, 1, sizeof(arguments) - 1, file) : 0;

	if (file)
		fclose(file);
	if (gethostname(name, size) < 0)
		name[0] = '\0';
	name[size - 1] = '\0';
	name[strcspn(name, ".")] = '\0';
	for (size_t at = 0; at < length; at += strlen(arguments + at) + 1) {
		const char *word = arguments + at;
		size_t flags = word[0] == '-' ? 1 + strspn(word + 1, "CDFGMVbcdhsv") : 0;
		if (!flags || word[flags] != 'N')
			continue;
		const char *value = word + flags + 1;
		if (!*value && at + strlen(word) + 1 < length)
			value = word + strlen(word) + 1;
		snprintf(name, size, "%s", value);
	}
}

static void log_warning(void *arg, const char *line)
{
	slurm_error("detshare: %s", line);
}

static void check_node(void)
{
	char node_name[256], path[4096];
	struct ds_node_config config;
	struct ds_error err = {""};
	const char *slurm_conf = getenv("SLURM_CONF");
	const char *slash = slurm_conf ? strrchr(slurm_conf, '/') : NULL;
	char *text = NULL;
	FILE *file = NULL;

	find_node_name(node_name, sizeof(node_name));
	if (ds_node_config_read(NULL, node_name, &config, &err) < 0) {
		slurm_error("detshare: %s", err.text);
		return;
	}
	if (!slash || (size_t)snprintf(path, sizeof(path), "%.*s/gres.conf",
				       (int)(slash - slurm_conf), slurm_conf) >= sizeof(path))
		return;
	file = fopen(path, "re");
	text = malloc(GRES_CONF_MAX);
	if (file && text) {
		struct ds_node_gpus gpus = {
		    .info_dir = config.gpu_info_dir,
		    .device_prefix = config.gpu_device_prefix,
		    .minors = ds_node_gpu_minors(config.gpu_info_dir),
		};
		text[fread(text, 1, GRES_CONF_MAX - 1, file)] = '\0';
		ds_node_check(text, node_name, &gpus, log_warning, NULL);
	}
	if (file)
		fclose(file);
	free(text);
}

/* Called in slurmd at start and on reconfiguration; in slurmctld, too, for cloud nodes. */
int gres_p_node_config_load(void *gres_conf_list, void *node_config)
{
	if (runs_in("slurmd"))
		check_node();
	return SLURM_SUCCESS;
}

/*
 * slurmstepd's own environment, not the step's: SPANK's hooks run later in this process, and no user
 * can reach it. slurmd has threads, for which setenv is unsafe, and no use for it.
 */
static void store_granted(uint64_t count)
{
	char text[24];

	if (!runs_in("slurmstepd"))
		return;
	if (count == 0) {
		unsetenv(DS_STEP_GRANTED_VARIABLE);
		return;
	}
	snprintf(text, sizeof(text), "%" PRIu64, count);
	if (setenv(DS_STEP_GRANTED_VARIABLE, text, 1) < 0)
		slurm_error("detshare: cannot keep the step's share of %s: %s", text,
			    strerror(errno));
}

/* Batch scripts and interactive steps have what the job has. */
void gres_p_job_set_env(char ***env, void *bits, uint64_t count, int flags)
{
	store_granted(count);
}

void gres_p_step_set_env(char ***env, void *bits, uint64_t count, int flags)
{
	store_granted(count);
}

void gres_p_send_stepd(void *buffer)
{
}

void gres_p_recv_stepd(void *buffer)
{
}

void *gres_p_get_devices(void)
{
	return NULL;
}

void gres_p_step_hardware_init(void *bits, char *settings)
{
}

void gres_p_step_hardware_fini(void)
{
}

#if DS_SLURM_SINCE(23, 2)
void gres_p_task_set_env(char ***env, void *bits, uint64_t count, void *usable, int flags)
{
}

void *gres_p_prep_build_env(void *job)
{
	return NULL;
}

void gres_p_prep_set_env(char ***env, void *prep, int node_index)
{
}
#else
void gres_p_task_set_env(char ***env, void *bits, void *usable, uint64_t count, int flags)
{
}

void *gres_p_epilog_build_env(void *job)
{
	return NULL;
}

void gres_p_epilog_set_env(char ***env, void *epilog, int node_index)
{
}
#endif

#if !DS_SLURM_SINCE(24, 11)
int gres_p_get_job_info(void *job, uint32_t node_index, int type, void *data)
{
	return EINVAL;
}

int gres_p_get_step_info(void *step, uint32_t node_index, int type, void *data)
{
	return EINVAL;
}
#endif
