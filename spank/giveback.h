/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_GIVEBACK_H
#define DETSHARE_SPANK_GIVEBACK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/*
 * Giving a job back to the controller because this node cannot serve it. The calls to slurmctld are
 * made by a program of their own, detshare-giveback, so that a controller that does not answer
 * cannot hold up a prolog; left alone, it tries again for some minutes.
 */

#define DS_FAULT_FILE "fault" /* in RUNTIME_DIR/job-N: why begin failed, for slurmstepd */

enum ds_giveback_from {
	DS_FROM_PROLOG, /* no task runs yet, and there is nowhere to write for the user but slurmctld */
	DS_FROM_TASK,      /* slurmstepd has written the reason into the job's output */
	DS_FROM_NEIGHBOUR, /* it failed here by a fault of another job's, and is over */
};

/*
 * Run detshare-giveback and wait for it at most `deadline_ms`. `slurm_conf` is "SLURM_CONF=PATH" or
 * NULL. Returns 0, or -1 with the reason when it failed or goes on in the background.
 */
int ds_give_back(uint32_t job_id, const char *restart, const char *node_name,
		 const char *slurm_conf, const char *reason, enum ds_giveback_from from,
		 unsigned deadline_ms, struct ds_error *err);

/* What the controller says of the job: the part of job_info_t that decides. */
struct ds_giveback_job {
	bool runs;   /* started (its prologs may still run) and not being ended */
	bool failed; /* it has ended by itself, with an error; its epilogs may still run */
	bool batch;
	bool may_requeue;
	bool on_batch_host; /* this node runs the batch script */
	uint32_t restart;
};

enum ds_giveback_action {
	DS_GIVEBACK_NOTHING, /* it is not the run that failed here */
	DS_GIVEBACK_REQUEUE,
	DS_GIVEBACK_CANCEL,      /* the reason is in the output already */
	DS_GIVEBACK_TELL_CANCEL, /* a waiting srun or salloc: message to its terminal, then cancel */
	DS_GIVEBACK_LEAVE_TO_TASK, /* the batch script's slurmstepd will write the reason and cancel */
	DS_GIVEBACK_TELL_LATER, /* the script runs elsewhere: tell it when it does, then cancel */
};

/* Decide, unless `from` is DS_FROM_NEIGHBOUR. Pure. */
enum ds_giveback_action ds_giveback_decide(const struct ds_giveback_job *job, uint32_t restart,
					   enum ds_giveback_from from);

/*
 * The same for DS_FROM_NEIGHBOUR: to be requeued, unless it ended well all the same, or by somebody's hand,
 * or was started anew `restarts_max` times before, for whatever reason. Pure.
 */
enum ds_giveback_action ds_giveback_decide_victim(const struct ds_giveback_job *job,
						  uint32_t restart, uint32_t restarts_max);

/*
 * The job's AdminComment with our line in it, which says what the node did: the site's own text is kept, an
 * earlier line of ours is replaced. `old` may be NULL. malloc'd; NULL when memory is out.
 */
char *ds_giveback_comment(const char *old, const char *node_name, const char *did,
			  const char *reason);

#endif
