/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proctrack/cgroup_detshare, proctrack/linuxproc_detshare: Slurm's own plugin of that name does all the
 * work. Only, before a signal that will kill, the programs are taken off the GPU, because one that is
 * killed in the middle of a long kernel takes its MPS neighbours, other users' jobs, along. Slurm has no
 * other place where a node learns of a scancel or a time limit before its programs do.
 */
#include "gres/slurm_compat.h"

#include <sys/types.h>

#include "proctrack/deadly.h"
#include "proctrack/off_gpu.h"

DS_SLURM_PLUGIN(DS_WRAPPED "_detshare", "detshare: " DS_WRAPPED ", GPU programs off the GPU first");

/* Of every slurmd and slurmstepd, and in no public header; unchanged from 22.05 to 26.05. */
extern void *plugin_load_and_link(const char *type, int n, const char *names[], void *functions[]);
extern void plugin_unload(void *plugin);

/* Slurm's private stepd_step_rec_t, and of 25.05 on stepd_step_task_info_t. */
struct ds_slurm_step;
struct ds_slurm_task;

DS_EXPORT int proctrack_p_create(struct ds_slurm_step *step);
DS_EXPORT int proctrack_p_add(struct ds_slurm_step *step, pid_t pid);
DS_EXPORT int proctrack_p_signal(uint64_t id, int signal_number);
DS_EXPORT int proctrack_p_destroy(uint64_t id);
DS_EXPORT uint64_t proctrack_p_find(pid_t pid);
DS_EXPORT bool proctrack_p_has_pid(uint64_t id, pid_t pid);
DS_EXPORT int proctrack_p_wait(uint64_t id);
DS_EXPORT int proctrack_p_get_pids(uint64_t id, pid_t **pids, int *n_pids);

static const char *names[] = {
    "proctrack_p_create",
    "proctrack_p_add",
    "proctrack_p_signal",
    "proctrack_p_destroy",
    "proctrack_p_find",
    "proctrack_p_has_pid",
    "proctrack_p_wait",
    "proctrack_p_get_pids",
#if DS_SLURM_SINCE(25, 5)
    "proctrack_p_wait_for_any_task",
#endif
};

enum { N_NAMES = sizeof(names) / sizeof(names[0]) };

/* In the order of `names`; filled as an array of pointers, as Slurm does it itself. */
static struct {
	int (*create)(struct ds_slurm_step *step);
	int (*add)(struct ds_slurm_step *step, pid_t pid);
	int (*signal)(uint64_t id, int signal_number);
	int (*destroy)(uint64_t id);
	uint64_t (*find)(pid_t pid);
	bool (*has_pid)(uint64_t id, pid_t pid);
	int (*wait)(uint64_t id);
	int (*get_pids)(uint64_t id, pid_t **pids, int *n_pids);
#if DS_SLURM_SINCE(25, 5)
	int (*wait_for_any_task)(struct ds_slurm_step *step, struct ds_slurm_task **task,
				 bool block);
#endif
} wrapped;

_Static_assert(sizeof(wrapped) == N_NAMES * sizeof(void *), "a function for each name");

static void *plugin;

int init(void)
{
	plugin = plugin_load_and_link(DS_WRAPPED, N_NAMES, names, (void **)&wrapped);
	if (!plugin) {
		slurm_error("detshare: %s: cannot load %s, which does the work: is it in "
			    "PluginDir?",
			    plugin_type, DS_WRAPPED);
		return SLURM_ERROR;
	}
	return SLURM_SUCCESS;
}

int fini(void)
{
	if (plugin)
		plugin_unload(plugin);
	plugin = NULL;
	return SLURM_SUCCESS;
}

int proctrack_p_signal(uint64_t id, int signal_number)
{
	pid_t *pids = NULL;
	int n = 0;

	if (ds_signal_can_kill(signal_number) && ds_off_gpu_wanted() &&
	    wrapped.get_pids(id, &pids, &n) == SLURM_SUCCESS) {
		struct ds_error err = {""};
		const enum ds_reach reach =
		    DS_WRAPPED[sizeof("proctrack/") - 1] == 'c' ? DS_REACH_CHILDREN : DS_REACH_ALL;
		int doomed = ds_doomed(pids, n, (pid_t)id, signal_number, reach);
		if (doomed > 0 && ds_off_gpu(pids, doomed, &err) < 0)
			slurm_info("detshare: before signal %d: %s", signal_number, err.text);
	}
	slurm_xfree((void **)&pids);
	return wrapped.signal(id, signal_number);
}

/* -- the rest is as it is -------------------------------------------------------------------- */

int proctrack_p_create(struct ds_slurm_step *step)
{
	return wrapped.create(step);
}

int proctrack_p_add(struct ds_slurm_step *step, pid_t pid)
{
	return wrapped.add(step, pid);
}

int proctrack_p_destroy(uint64_t id)
{
	return wrapped.destroy(id);
}

uint64_t proctrack_p_find(pid_t pid)
{
	return wrapped.find(pid);
}

bool proctrack_p_has_pid(uint64_t id, pid_t pid)
{
	return wrapped.has_pid(id, pid);
}

int proctrack_p_wait(uint64_t id)
{
	return wrapped.wait(id);
}

int proctrack_p_get_pids(uint64_t id, pid_t **pids, int *n_pids)
{
	return wrapped.get_pids(id, pids, n_pids);
}

#if DS_SLURM_SINCE(25, 5)
DS_EXPORT int proctrack_p_wait_for_any_task(struct ds_slurm_step *step, struct ds_slurm_task **task,
					    bool block);

int proctrack_p_wait_for_any_task(struct ds_slurm_step *step, struct ds_slurm_task **task,
				  bool block)
{
	return wrapped.wait_for_any_task(step, task, block);
}
#endif
