/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/task.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <slurm/slurm.h>

#include "common/io.h"
#include "common/task_env.h"
#include "gres/granted.h"
#include "gres/request.h"
#include "spank/announce.h"
#include "spank/giveback.h"
#include "spank/node.h"

enum {
	ANNOUNCE_MS = 1000,
	GIVE_BACK_MS = 3000,
	NOTES_MS = 500,      /* for one answer */
	NOTES_TRIES = 21,    /* while it is not known whose fault something was, */
	NOTES_PAUSE_MS = 50, /* which is for a second */
	LAST_NOTES_SIZE = 16384,
};

/* What slurmstepd learned in step_begin; its tasks' processes inherit it by fork. */
static struct {
	uint32_t job_id;
	uint32_t step_id;
	uint32_t share_milli; /* 0: the step was granted nothing */
	bool allocation_here; /* RUNTIME_DIR/job-N exists */
	bool begin_failed;    /* the prolog left a fault file */
	char fault[512];      /* why tasks must not start; "": they may */
	uint64_t
	    notes_from_ns; /* what happens to its programs from then on is its user's to know */
	struct ds_node_config config;
	struct ds_task_env env;
} step;

/* The whole of a small file. Returns its length, or -1. */
/* What gres_detshare.so left in slurmstepd's environment, which no user reaches. */
static uint32_t granted_milli(struct ds_error *err)
{
	const char *text = getenv(DS_STEP_GRANTED_VARIABLE);
	char *end;

	if (!text)
		return 0;
	unsigned long milli = strtoul(text, &end, 10);
	if (end == text || *end || milli == 0 || milli > DS_SHARE_MILLI_MAX) {
		ds_fail(err,
			"%s=\"%s\" is not a share in thousandths (is gres_detshare.so of this "
			"version?)",
			DS_STEP_GRANTED_VARIABLE, text);
		return DS_SHARE_MILLI_MAX;
	}
	return (uint32_t)milli;
}

/* The prolog's reason, if it left one. */
static bool read_fault(struct ds_error *err)
{
	char path[PATH_MAX], text[sizeof(err->text)];

	ds_spank_job_path(&step.config, step.job_id, DS_FAULT_FILE, path);
	if (ds_read_text(path, O_NOFOLLOW, text, sizeof(text)) <= 0)
		return false;
	text[strcspn(text, "\n")] = '\0';
	ds_fail(err, "%s", text);
	return true;
}

static int read_task_env(struct ds_error *err)
{
	char path[PATH_MAX];
	char text[DS_TASK_ENV_TEXT_SIZE];

	ds_spank_job_path(&step.config, step.job_id, "task.env", path);
	ssize_t n = ds_read_text(path, O_NOFOLLOW, text, sizeof(text));
	if (n < 0)
		return ds_fail(err, "its node runtime is not there: cannot read %s: %s", path,
			       strerror(errno));
	if (ds_task_env_parse(text, (size_t)n, &step.env, err) < 0)
		return ds_fail_within(err, "%s", path);
	return 0;
}

/* A granted step: everything that must hold before a task may run. */
static int prepare(struct ds_error *err)
{
	char path[PATH_MAX];

	if (err->text[0])
		return -1;
	step.begin_failed = read_fault(err);
	if (step.begin_failed)
		return -1;
	/* Without PrologFlags=Alloc the controller's grant does not reach the prolog of an srun. */
	if (!step.allocation_here)
		return ds_fail(err,
			       "no prolog has begun it here: slurm.conf needs PrologFlags=Alloc; "
			       "if it has that, slurmd's log says why");
	if (read_task_env(err) < 0)
		return -1;
	ds_spank_job_path(&step.config, step.job_id, "port", path);
	if (ds_announce_step(path, step.step_id, step.share_milli, ANNOUNCE_MS, err) < 0)
		return ds_fail_within(err, "its node runtime is not there");
	return 0;
}

/* Before there are tasks, and thus signals for them. */
static void tell_proctrack(void)
{
	char path[PATH_MAX];

	if (!step.allocation_here) {
		unsetenv(DS_STEP_PORT_VARIABLE);
		return;
	}
	ds_spank_job_path(&step.config, step.job_id, "port", path);
	if (setenv(DS_STEP_PORT_VARIABLE, path, 1) < 0)
		slurm_error("detshare: cannot set %s: %s", DS_STEP_PORT_VARIABLE, strerror(errno));
}

static uint64_t boottime_ns(void)
{
	struct timespec now = {0};

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int ds_spank_step_begin(spank_t spank, int argc, char **argv)
{
	struct ds_error err = {0}, config_err = {0};
	char path[PATH_MAX];

	if (spank_get_item(spank, S_JOB_ID, &step.job_id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_STEPID, &step.step_id) != ESPANK_SUCCESS)
		return 0;
	if (ds_spank_node_config(argc, argv, getenv("SLURMD_NODENAME"), &step.config, &config_err) <
	    0)
		slurm_error("detshare: %s", config_err.text);
	ds_spank_job_path(&step.config, step.job_id, NULL, path);
	step.allocation_here = access(path, F_OK) == 0;
	tell_proctrack();
	if (step.step_id == SLURM_EXTERN_CONT)
		return 0;
	step.notes_from_ns = boottime_ns();
	step.share_milli = granted_milli(&err);
	if (step.share_milli == 0) {
		/* A script has whatever its job has, so this is never the user's choice. */
		if (step.allocation_here && step.step_id == SLURM_BATCH_SCRIPT)
			slurm_error(
			    "detshare: job %u has part of a GPU on %s, but gres_detshare.so did "
			    "not say so: is it in PluginDir on this node?",
			    step.job_id, step.config.node_name);
		return 0;
	}
	if (!err.text[0] && config_err.text[0])
		err = config_err;
	if (prepare(&err) < 0)
		snprintf(step.fault, sizeof(step.fault), "%s", err.text);
	return 0;
}

/*
 * A batch job that may not be requeued was left to us by the prolog, because only now is there an output
 * to write the reason to. Others have been given back by the prolog, or soon will be.
 */
static void give_back(spank_t spank)
{
	char conf[PATH_MAX + 16] = "", restart[12];
	uint32_t count = 0;
	struct ds_error err = {0};
	const char *path = getenv("SLURM_CONF");

	if (spank_get_item(spank, S_SLURM_RESTART_COUNT, &count) != ESPANK_SUCCESS)
		count = 0;
	snprintf(restart, sizeof(restart), "%u", count);
	if (path)
		snprintf(conf, sizeof(conf), "SLURM_CONF=%s", path);
	if (ds_give_back(step.job_id, restart, getenv("SLURMD_NODENAME"), path ? conf : NULL,
			 step.fault, DS_FROM_TASK, GIVE_BACK_MS, &err) < 0)
		slurm_error("detshare: job %u: %s", step.job_id, err.text);
}

int ds_spank_task_admit(spank_t spank)
{
	int task = 0;

	if (!step.fault[0])
		return 0;
	slurm_error("detshare: job %u cannot use its part of a GPU on %s: %s", step.job_id,
		    step.config.node_name, step.fault);
	spank_get_item(spank, S_TASK_ID, &task);
	if (step.begin_failed && step.step_id == SLURM_BATCH_SCRIPT && task == 0)
		give_back(spank);
	return -1;
}

static int apply(spank_t spank, const struct ds_env_edits *edits)
{
	for (uint32_t i = 0; i < edits->n; i++) {
		const struct ds_env_edit *e = &edits->list[i];
		spank_err_t rc = e->value ? spank_setenv(spank, e->name, e->value, 1)
					  : spank_unsetenv(spank, e->name);
		if (rc != ESPANK_SUCCESS && rc != ESPANK_ENV_NOEXIST) {
			slurm_error("detshare: cannot set %s for a task: %s", e->name,
				    spank_strerror(rc));
			return -1;
		}
	}
	return 0;
}

/* Once a step: what the user asked MPS for cannot be had together with the same results. */
static void say_what_is_ignored(spank_t spank, const char *const *current)
{
	static const char name[] = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=";
	int task = 0;

	if (!step.share_milli || spank_get_item(spank, S_TASK_GLOBAL_ID, &task) != ESPANK_SUCCESS ||
	    task != 0)
		return;
	for (const char *const *e = current; e && *e; e++) {
		if (!strncmp(*e, name, sizeof(name) - 1) && strcmp(*e + sizeof(name) - 1, "100"))
			slurm_error("detshare: %s is ignored: it changes what programs compute; "
				    "ask for another share instead",
				    *e);
	}
}

int ds_spank_task_environment(spank_t spank)
{
	char **current = NULL;
	struct ds_env_edits edits;
	struct ds_error err = {0};
	const struct ds_task_grant grant = {
	    .env = step.share_milli ? &step.env : NULL,
	    .share_milli = step.share_milli,
	    .allocation_here = step.allocation_here,
	    .coroutine_library = step.config.coroutine_library,
	    .runtime_dir = step.config.runtime_dir,
	};
	int rv = -1;

	if (spank_get_item(spank, S_JOB_ENV, &current) != ESPANK_SUCCESS) {
		slurm_error("detshare: Slurm does not show a task's environment");
		return -1;
	}
	say_what_is_ignored(spank, (const char *const *)current);
	if (ds_env_edits_plan((const char *const *)current, &grant, &edits, &err) < 0)
		slurm_error("detshare: %s", err.text);
	else
		rv = apply(spank, &edits);
	ds_env_edits_free(&edits);
	return rv;
}

/* What it has to say now. False: nothing, and not later either. */
static bool ask_and_tell(const char *path, bool last, bool *pending)
{
	struct ds_port_notes notes;
	struct ds_error err = {0};

	/* What a step was told is in the script's output mostly. */
	if (ds_ask_notes(path, step.notes_from_ns, step.step_id == SLURM_BATCH_SCRIPT, last, &notes,
			 NOTES_MS, &err) < 0)
		return false;
	for (uint32_t i = 0; i < notes.n; i++)
		slurm_error("detshare: job %u on %s: %s", step.job_id, step.config.node_name,
			    notes.text[i]);
	step.notes_from_ns = notes.until_ns;
	*pending = notes.pending;
	return true;
}

/* Its node runtime was killed. What a neighbour's had to say instead, it left beside the port. */
static void tell_last_notes(void)
{
	char path[PATH_MAX], text[LAST_NOTES_SIZE];
	char *rest = text;
	const char *line;

	ds_spank_job_path(&step.config, step.job_id, DS_PORT_LAST_NOTES, path);
	if (ds_read_text(path, O_NOFOLLOW, text, sizeof(text)) < 0)
		return;
	while ((line = strsep(&rest, "\n"))) {
		if (*line)
			slurm_error("detshare: job %u on %s: %s", step.job_id,
				    step.config.node_name, line);
	}
}

void ds_spank_task_ended(void)
{
	const struct timespec pause = {.tv_nsec = NOTES_PAUSE_MS * 1000000L};
	bool pending = true;
	char path[PATH_MAX];

	if (!step.share_milli || step.fault[0] || !step.notes_from_ns)
		return;
	ds_spank_job_path(&step.config, step.job_id, "port", path);
	for (int i = 1; pending && i <= NOTES_TRIES; i++) {
		if (i > 1)
			nanosleep(&pause, NULL);
		if (!ask_and_tell(path, i == NOTES_TRIES, &pending)) {
			tell_last_notes();
			step.notes_from_ns =
			    0; /* one that hangs, or has died, is not asked again */
			return;
		}
	}
}
