/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/spawn.h"
#include "spank/child_env.h"
#include "spank/giveback.h"
#include "spank/node.h"
#include "spank/prolog_env.h"

/*
 * The runtime's own deadline comes first, so that it can undo what it began and say what hung. The
 * sums stay below 4.2 s: with PrologEpilogTimeout= set, slurmd looks for the end of a prolog at 10, 30,
 * 70 ms ... 3.27 s and 4.27 s after its start, and then once a second.
 */
enum {
	BEGIN_MS = 3000,
	BEGIN_OWN_MS = 2600,
	GIVE_BACK_MS = 1000,
	END_MS = 3100,
	END_OWN_MS = 2700,
};

struct job {
	uint32_t id;
	uid_t uid;
	char id_text[12];
	char uid_text[12];
	char name[32]; /* of the allocation */
	struct ds_prolog_env env;
	struct ds_node_config config;
	const char *node_conf;
};

static const char *get_variable(const char *name)
{
	return getenv(name);
}

/* Returns 0 also when the node's configuration is broken: `err` then says so, and gives -1. */
static int job_read(spank_t spank, int argc, char **argv, struct job *job, struct ds_error *err)
{
	ds_node_config_defaults(&job->config, job->env.node_name);
	if (spank_get_item(spank, S_JOB_ID, &job->id) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_UID, &job->uid) != ESPANK_SUCCESS)
		return ds_fail(err, "Slurm does not say which job this is");
	snprintf(job->id_text, sizeof(job->id_text), "%u", job->id);
	snprintf(job->uid_text, sizeof(job->uid_text), "%u", (unsigned)job->uid);
	snprintf(job->name, sizeof(job->name), "job-%u", job->id);
	if (ds_spank_arguments(argc, argv, &job->node_conf, err) < 0)
		return -1;
	return ds_spank_node_config(argc, argv, job->env.node_name, &job->config, err);
}

/*
 * With job_container/tmpfs, Slurm up to 23.02 runs prologs inside the job's private /tmp and /dev/shm. The
 * runtime must not stay there, and MPS, which outlives the job, even less. slurmd, our parent, is outside.
 * Entering one's own namespace would undo a chroot, so it is done only when they differ. Returns
 * `path`, or NULL to stay.
 */
static const char *outer_mount_namespace(char *path, size_t size)
{
	struct stat ours, outer;

	snprintf(path, size, "/proc/%d/ns/mnt", (int)getppid());
	if (stat("/proc/self/ns/mnt", &ours) < 0 || stat(path, &outer) < 0 ||
	    (ours.st_ino == outer.st_ino && ours.st_dev == outer.st_dev))
		return NULL;
	return path;
}

/* Run the node runtime. Returns 0, or -1 with its own last words as the reason. */
static int run_noderuntime(const struct job *job, const char *const *argv, unsigned deadline_ms,
			   struct ds_error *err)
{
	const char *env[DS_CHILD_ENV_MAX];
	char said[400], namespace[32];
	const struct ds_spawn spawn = {
	    .argv = argv,
	    .envp = env,
	    .deadline_ms = deadline_ms,
	    .late = DS_SPAWN_KILL,
	    .mount_namespace = outer_mount_namespace(namespace, sizeof(namespace)),
	};

	/* For what it starts that talks to slurmctld. */
	ds_child_env(job->env.slurm_conf, env);
	int status = ds_spawn(&spawn, said, sizeof(said), err);
	if (status == 0)
		return 0;
	if (status < 0)
		return said[0] ? ds_fail_within(err, "%s", said) : -1;
	return said[0] ? ds_fail(err, "%s", said)
		       : ds_fail(err, "%s ended with status %d and said nothing", argv[0], status);
}

/* Arguments that begin and end have in common. */
static int common_arguments(const struct job *job, const char **argv, int n)
{
	if (job->node_conf) {
		argv[n++] = "--config";
		argv[n++] = job->node_conf;
	}
	if (job->env.node_name) {
		argv[n++] = "--node-name";
		argv[n++] = job->env.node_name;
	}
	argv[n] = NULL;
	return n;
}

static int begin(const struct job *job, struct ds_error *err)
{
	char deadline[12];
	const char *argv[24];
	int n = 0;

	snprintf(deadline, sizeof(deadline), "%d", BEGIN_OWN_MS);
	argv[n++] = job->config.noderuntime;
	argv[n++] = "begin";
	argv[n++] = "--allocation";
	argv[n++] = job->name;
	argv[n++] = "--uid";
	argv[n++] = job->uid_text;
	argv[n++] = "--job-id";
	argv[n++] = job->id_text;
	argv[n++] = "--restart";
	argv[n++] = job->env.restart;
	argv[n++] = "--gpu";
	argv[n++] = job->env.gpu;
	argv[n++] = "--grant";
	argv[n++] = job->env.grant_text;
	argv[n++] = "--deadline-ms";
	argv[n++] = deadline;
	common_arguments(job, argv, n);
	return run_noderuntime(job, argv, BEGIN_MS, err);
}

static int end(const struct job *job, struct ds_error *err)
{
	char deadline[12];
	const char *argv[12];
	int n = 0;

	snprintf(deadline, sizeof(deadline), "%d", END_OWN_MS);
	argv[n++] = job->config.noderuntime;
	argv[n++] = "end";
	argv[n++] = "--allocation";
	argv[n++] = job->name;
	argv[n++] = "--deadline-ms";
	argv[n++] = deadline;
	common_arguments(job, argv, n);
	return run_noderuntime(job, argv, END_MS, err);
}

/* Leave the reason for slurmstepd, which may still start a task of this job. Best effort. */
static void write_fault(const struct job *job, const char *reason)
{
	char path[PATH_MAX];

	if ((mkdir(job->config.runtime_dir, 0755) < 0 && errno != EEXIST))
		return;
	ds_spank_job_path(&job->config, job->id, NULL, path);
	if (mkdir(path, 0711) < 0 && errno != EEXIST)
		return;
	ds_spank_job_path(&job->config, job->id, DS_FAULT_FILE, path);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return;
	if (dprintf(fd, "%s\n", reason) < 0)
		unlink(path); /* a full /run: better no reason than half of one */
	close(fd);
}

/*
 * The one place where a prolog leads to a call of the controller. The program goes on by itself, and
 * tries again, if the controller does not answer in time.
 */
static void give_back(const struct job *job, const char *reason)
{
	struct ds_error err = {0};

	slurm_error("detshare: job %u: this node cannot serve it and gives it back: %s", job->id,
		    reason);
	write_fault(job, reason);
	if (ds_give_back(job->id, job->env.restart, job->env.node_name, job->env.slurm_conf, reason,
			 DS_FROM_PROLOG, GIVE_BACK_MS, &err) < 0)
		slurm_error("detshare: job %u: %s", job->id, err.text);
}

int ds_spank_job_prolog(spank_t spank, int argc, char **argv)
{
	struct job job = {0};
	struct ds_grant grant;
	struct ds_error err = {0};

	ds_prolog_env_read(get_variable, &job.env);
	if (!job.env.grant_text)
		return 0;
	if (job_read(spank, argc, argv, &job, &err) < 0 ||
	    ds_prolog_env_check(&job.env, get_variable, &grant, &err) < 0 || begin(&job, &err) < 0)
		give_back(&job, err.text);
	else
		slurm_info("detshare: job %u has %u/1000 of GPU %s, class %s", job.id,
			   grant.share_milli, job.env.gpu, grant.class_name);
	return 0;
}

/* What write_fault() made is ours to remove, if the node runtime could not even be run. */
static void remove_fault(const struct job *job)
{
	char path[PATH_MAX];

	ds_spank_job_path(&job->config, job->id, DS_FAULT_FILE, path);
	unlink(path);
	ds_spank_job_path(&job->config, job->id, NULL, path);
	rmdir(path);
}

int ds_spank_job_epilog(spank_t spank, int argc, char **argv)
{
	struct job job = {0};
	struct ds_error err = {0};
	char path[PATH_MAX];

	ds_prolog_env_read(get_variable, &job.env);
	if (!job.env.grant_text)
		return 0;
	if (job_read(spank, argc, argv, &job, &err) < 0 || end(&job, &err) < 0)
		slurm_error("detshare: job %u: cannot end its node runtime: %s", job.id, err.text);
	remove_fault(&job);
	ds_spank_job_path(&job.config, job.id, NULL, path);
	if (access(path, F_OK) == 0)
		slurm_error(
		    "detshare: job %u: %s is still there: its part of the GPU may not be free; "
		    "run `%s end --allocation %s` as root",
		    job.id, path, job.config.noderuntime, job.name);
	return 0;
}
