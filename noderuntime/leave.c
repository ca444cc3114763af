/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/leave.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "common/spawn.h"
#include "noderuntime/environment.h"
#include "noderuntime/gpu.h"
#include "noderuntime/mps.h"
#include "noderuntime/recall.h"
#include "noderuntime/verdict.h"

/* Beyond that, the next job's record takes the waiting ones along. */
#define SEND_FOR_S "60"

enum {
	TERM_MS = 300,    /* for a program to end itself after SIGTERM */
	KILL_MS = 300,    /* for it to be gone after SIGKILL */
	OFF_GPU_MS = 300, /* for MPS to be done with those that have ended */
	JUDGE_MS = 300,   /* for it to be known whose a fault was */
	JUDGE_PAUSE_MS = 30,
	LEDGER_MS = 500, /* for other runtimes to be done with the ledger */
};

/* Programs of the allocation that still live, as the ledger knows them. */
struct remains {
	struct ds_process processes[DS_PROGRAMS_MAX];
	pid_t pids[DS_PROGRAMS_MAX];
	int pidfds[DS_PROGRAMS_MAX];
	size_t n;
};

/* Keep the first reason only: it is the cause. */
static int note(int rc, const struct ds_error *reason, int *rv, struct ds_error *err)
{
	if (rc < 0 && *rv == 0)
		*rv = ds_fail(err, "%s", reason->text);
	return rc;
}

/* The real uid of a process, or -1. */
static int64_t uid_of(pid_t pid)
{
	char path[64], line[256];
	int64_t uid = -1;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	while (uid < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "Uid: %" SCNd64, &uid);
	fclose(file);
	return uid;
}

/*
 * Open what is left. A pid is only ever signalled through a descriptor, after it was checked to be
 * the process that was recorded, and one of the allocation's user.
 */
static void find_remains(const struct ds_allocation *allocation,
			 const struct ds_ledger_state *state, struct remains *remains)
{
	remains->n = 0;
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *program = &state->programs[i];
		if (strcmp(program->resident, allocation->name) != 0)
			continue;
		int fd = pidfd_open(program->process.pid, 0);
		if (fd < 0)
			continue;
		if (!ds_process_alive(&program->process) ||
		    uid_of(program->process.pid) != (int64_t)allocation->uid) {
			close(fd);
			continue;
		}
		remains->pidfds[remains->n] = fd;
		remains->pids[remains->n] = program->process.pid;
		remains->processes[remains->n++] = program->process;
	}
}

/* Wait for the ends of all; returns how many have not come. */
static size_t wait_remains(const struct remains *remains, ds_deadline deadline)
{
	size_t left = 0;

	for (size_t i = 0; i < remains->n; i++) {
		struct pollfd over = {.fd = remains->pidfds[i], .events = POLLIN};
		if (poll(&over, 1, ds_deadline_left_ms(deadline)) != 1)
			left++;
	}
	return left;
}

static void signal_remains(const struct remains *remains, int signal_number)
{
	for (size_t i = 0; i < remains->n; i++)
		pidfd_send_signal(remains->pidfds[i], signal_number, NULL, 0);
}

static int end_programs(const struct ds_node_config *config, const struct ds_allocation *allocation,
			const char *gpu_dir, ds_deadline deadline, struct ds_error *err)
{
	struct ds_ledger_state state;
	struct remains remains;
	int rv = 0;

	if (ds_ledger_read(gpu_dir, &state, err) < 0)
		return errno == ENOENT ? 0 : -1;
	find_remains(allocation, &state, &remains);
	if (remains.n) {
		syslog(LOG_NOTICE, "%s: ending %zu programs that are left", allocation->name,
		       remains.n);
		/* First off the GPU, since killing a client in mid-kernel is MPS's to survive. */
		ds_mps_terminate(config, allocation->gpu_uuid, remains.pids, remains.n,
				 ds_deadline_part(deadline, TERM_MS));
		signal_remains(&remains, SIGTERM);
		signal_remains(&remains, SIGCONT);
		if (wait_remains(&remains, ds_deadline_part(deadline, TERM_MS))) {
			signal_remains(&remains, SIGKILL);
			if (wait_remains(&remains, ds_deadline_in(KILL_MS)))
				rv = ds_fail(err,
					     "%s: a program of it, process %d for example, does "
					     "not end on SIGKILL",
					     allocation->name, (int)remains.pids[0]);
		}
	}
	for (size_t i = 0; i < remains.n; i++)
		close(remains.pidfds[i]);
	return rv;
}

/* What programs that have ended had on the GPU: see off_gpu.h. Their runtime may not have come to it. */
static void await_off_gpu(const struct ds_node_config *config,
			  const struct ds_allocation *allocation, const char *gpu_dir,
			  ds_deadline deadline)
{
	struct ds_ledger_state state;
	pid_t pids[DS_PROGRAMS_MAX];
	size_t n = 0;

	if (ds_ledger_read(gpu_dir, &state, NULL) < 0)
		return;
	for (uint32_t i = 0; i < state.n_programs; i++) {
		if (!strcmp(state.programs[i].resident, allocation->name))
			pids[n++] = state.programs[i].process.pid;
	}
	if (n && *config->mps_control)
		ds_mps_await_gone(config, allocation->gpu_uuid, pids, n,
				  ds_deadline_part(deadline, OFF_GPU_MS));
}

static int lives(const struct ds_ledger_state *state, const struct ds_process *process, void *arg)
{
	(void)state;
	(void)arg;
	return ds_process_alive(process);
}

static int may_use_gpu(const struct ds_ledger_state *state, const struct ds_process *process,
		       void *arg)
{
	const struct ds_allocation *allocation = arg;

	return ds_ledger_may_use_gpu(state, process, allocation->name, lives, NULL);
}

static int leave_ledger(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	const struct ds_allocation *allocation = arg;

	if (!ds_ledger_leave(state, allocation->name))
		return 1; /* is not in it: nothing to commit */
	return ds_ledger_settle(state, may_use_gpu, arg, NULL, err);
}

/* Where there is no ledger that says so, who is left is not known. */
static bool nobody_left(void *arg)
{
	struct ds_ledger_state state;

	if (ds_ledger_read(arg, &state, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < state.n_programs; i++) {
		if (ds_process_alive(&state.programs[i].process))
			return false;
	}
	return state.n_residents == 0;
}

/* What it held until now, if it still had it: only known while the ledger says so. */
static void count_held(struct ds_allocation *allocation, const char *gpu_dir)
{
	static const struct ds_held_sms nothing;
	struct ds_ledger_state state;
	char boot_id[40];

	if (ds_boot_id(boot_id, NULL) < 0 || strcmp(boot_id, allocation->boot_id) != 0 ||
	    ds_ledger_read(gpu_dir, &state, NULL) < 0 || !ds_ledger_find(&state, allocation->name))
		return;
	ds_allocation_count(allocation, ds_now_ns(CLOCK_BOOTTIME), &nothing);
}

/*
 * Have the job requeued if it failed. Not waited for: slurmctld knows how the job ended, and may take its
 * time to answer.
 */
static int requeue(const struct ds_node_config *config, const struct ds_allocation *allocation,
		   const struct ds_fault_verdict *verdict, struct ds_error *err)
{
	char job[12], restart[12], most[12], reason[256];
	const char *const argv[] = {PKGLIBEXECDIR "/detshare-giveback",
				    "--from",
				    "neighbour",
				    "--job",
				    job,
				    "--restart",
				    restart,
				    "--restarts-max",
				    most,
				    "--node",
				    config->node_name,
				    "--reason",
				    reason,
				    NULL};

	snprintf(job, sizeof(job), "%" PRIu32, allocation->job_id);
	snprintf(restart, sizeof(restart), "%" PRIu32, allocation->restart);
	snprintf(most, sizeof(most), "%" PRIu32, config->neighbour_fault_requeues);
	ds_verdict_text(verdict, allocation->name, reason, sizeof(reason));
	char **env = ds_environment_own();
	if (!env)
		return ds_fail(err, "out of memory");
	int rc = ds_spawn_background(argv, (const char *const *)env, err);
	free(env);
	return rc;
}

/* Only at its end, since a neighbour may notice the same fault later; and before MPS's log goes. */
static void judge_faults(const struct ds_node_config *config, struct ds_allocation *allocation,
			 const char *gpu_dir, ds_deadline deadline)
{
	const ds_deadline until = ds_deadline_part(deadline, JUDGE_MS);
	struct ds_fault_verdict verdict;
	struct ds_error reason;

	for (;;) {
		if (!ds_verdict(config, allocation, gpu_dir, &verdict))
			return;
		if (!ds_fault_may_be_named(&verdict) || !ds_deadline_left_ms(until))
			break;
		poll(NULL, 0, JUDGE_PAUSE_MS); /* others, and MPS, may still be writing */
	}
	allocation->fault_code = verdict.own.code;
	allocation->fault_suspect = verdict.suspect.job_id;
	syslog(LOG_WARNING, "%s: had CUDA error %u; suspected: %s (%s)", allocation->name,
	       verdict.own.code,
	       verdict.reason == DS_FAULT_UNKNOWN ? "nobody" : verdict.suspect.allocation,
	       ds_fault_reason_text(verdict.reason));
	if (ds_fault_by_neighbour(&verdict, allocation->name) && allocation->job_id &&
	    !strcmp(config->on_neighbour_fault, "requeue") &&
	    requeue(config, allocation, &verdict, &reason) < 0)
		syslog(LOG_ERR, "%s: %s", allocation->name, reason.text);
}

static int spool_record(const struct ds_node_config *config, const struct ds_allocation *allocation,
			struct ds_error *err)
{
	struct ds_usage_record record;

	if (!allocation->ready || !allocation->job_id)
		return 0;
	ds_allocation_record(allocation, config->node_name, (double)ds_now_ns(CLOCK_REALTIME) / 1e9,
			     &record);
	if (ds_usage_record_spool(config->spool_dir, &record, err) < 0)
		return -1;
	if (*config->usage_host) {
		const char *const argv[] = {config->usage_sender,
					    "send",
					    "--node-name",
					    config->node_name,
					    "--for",
					    SEND_FOR_S,
					    *config->file ? "--config" : NULL,
					    config->file,
					    NULL};
		char **env = ds_environment_own();
		if (!env)
			return ds_fail(err, "out of memory");
		int rc = ds_spawn_background(argv, (const char *const *)env, err);
		free(env);
		return rc;
	}
	return 0;
}

int ds_leave(const struct ds_node_config *config, struct ds_allocation *allocation,
	     ds_deadline deadline, struct ds_error *err)
{
	char gpu_dir[PATH_MAX];
	struct ds_ledger *ledger = NULL;
	struct ds_error reason = {""};
	struct ds_recall recall;
	int rv = 0;

	ds_recall_init(&recall, config);
	if (allocation->gpu_uuid[0] &&
	    ds_gpu_dir(config->runtime_dir, allocation->gpu_uuid, gpu_dir, sizeof(gpu_dir)) == 0 &&
	    access(gpu_dir, F_OK) == 0) {
		/* First, so that there is one to read. */
		note(ds_ledger_open_with(gpu_dir, allocation->gpu_uuid, &allocation->shape,
					 &recall.past, &ledger, &reason),
		     &reason, &rv, err);
		note(end_programs(config, allocation, gpu_dir, deadline, &reason), &reason, &rv,
		     err);
		await_off_gpu(config, allocation, gpu_dir, deadline);
		count_held(allocation, gpu_dir);
		judge_faults(config, allocation, gpu_dir, deadline);
		if (ledger) {
			unsigned timeout_ms =
			    (unsigned)ds_deadline_left_ms(ds_deadline_part(deadline, LEDGER_MS));
			note(
			    ds_ledger_change(ledger, timeout_ms, leave_ledger, allocation, &reason),
			    &reason, &rv, err);
			ds_ledger_close(ledger);
		}
		note(ds_mps_stop(config, allocation->gpu_uuid, nobody_left, gpu_dir, deadline,
				 &reason),
		     &reason, &rv, err);
	}
	note(spool_record(config, allocation, &reason), &reason, &rv, err);
	note(ds_allocation_remove(config, allocation->name, &reason), &reason, &rv, err);
	return rv;
}
