/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_ALLOCATION_H
#define DETSHARE_NODERUNTIME_ALLOCATION_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accounting/record.h"
#include "common/error.h"
#include "common/node_config.h"
#include "common/process.h"
#include "gres/grant.h"
#include "noderuntime/ledger.h"
#include "noderuntime/measured.h"

/* The SMs of an allocation at one instant; struct ds_usage_record has their integrals over time. */
struct ds_held_sms {
	uint32_t granted;  /* its own, held by it or lent */
	uint32_t borrowed; /* not its own, held by it */
	uint32_t lent;     /* its own, not held by it, for others to use */
};

/*
 * An allocation's directory, RUNTIME_DIR/NAME: port, runtime.pid, task.env, fault and, of the
 * runtime's own, `state`: all that is needed to end the allocation and to account for it when its
 * runtime cannot do so any more.
 */
struct ds_allocation {
	uint32_t magic;
	uint32_t version;
	char boot_id[40];
	char name[DS_NAME_SIZE];
	uint32_t job_id; /* 0 outside Slurm: no usage record then */
	uint32_t restart;
	uint32_t uid;
	struct ds_grant grant;
	uint32_t quota_mib;       /* of GPU memory */
	uint32_t memory_peak_mib; /* the most its programs said to have had at once */
	char gpu_uuid[48];
	struct ds_gpu_shape shape;
	struct ds_process runtime;
	bool ready; /* begin came to its end: there is something to account for */
	double begin_unix_s;
	int64_t counted_until_ns; /* CLOCK_BOOTTIME; the sums below are right up to here, */
	struct ds_held_sms held;  /* and grow by these many SM-seconds a second from here on */
	double granted_sm_s;
	double borrowed_sm_s;
	double lent_sm_s;
	uint64_t programs;
	uint32_t late_programs;  /* that did not leave what is guaranteed to others in time, */
	uint32_t ended_programs; /* and of those, that were ended for it */
	int64_t begun_ns;        /* CLOCK_BOOTTIME */
	uint32_t step_granted_max_milli;
	uint32_t fault_code; /* known when it ends: accounting/record.h */
	uint32_t fault_suspect;
	struct ds_measured measured; /* by the programs that have ended */
};

/*
 * True for a name that can be a directory here: letters, digits, '.', '_', '-'; not too long, and not
 * that of a GPU's directory.
 */
bool ds_allocation_name_valid(const char *name);

/* RUNTIME_DIR/NAME[/FILE]; `file` may be NULL. Returns 0, or -1 with a reason: too long. */
int ds_allocation_path(const struct ds_node_config *config, const char *name, const char *file,
		       char path[PATH_MAX], struct ds_error *err);

/* Make RUNTIME_DIR (0755) if absent and RUNTIME_DIR/NAME (0711). -1 with errno EEXIST: it is there. */
int ds_allocation_create(const struct ds_node_config *config, const char *name,
			 struct ds_error *err);

/* Write a small file in the directory, whole or not at all. 0 or -1. */
int ds_allocation_write(const struct ds_node_config *config, const char *name, const char *file,
			mode_t mode, const char *text, struct ds_error *err);

/* Remove the directory and all that is in it. No such directory is fine. 0, or -1 with what stays. */
int ds_allocation_remove(const struct ds_node_config *config, const char *name,
			 struct ds_error *err);

/*
 * The state file: open (create it with `allocation` in it), rewrite, read. Rewriting does not change
 * the file's size, so that it cannot fail for want of space. Reading returns -1 with errno ENOENT when
 * there is none, and refuses what is not whole.
 */
int ds_allocation_open(const struct ds_node_config *config, const struct ds_allocation *allocation,
		       struct ds_error *err);
int ds_allocation_save(int fd, const struct ds_allocation *allocation);
int ds_allocation_read(const struct ds_node_config *config, const char *name,
		       struct ds_allocation *allocation, struct ds_error *err);

/*
 * Of an allocation whose runtime is dead: a program of it was late, and `ended` for it. Counted in its state, and
 * `text`, one line, is kept where its user's side looks for notes when nobody answers at the port. Makes no file, so
 * it does not matter if it is just being removed. Returns 0, or -1 with a reason.
 */
int ds_allocation_note_late(const struct ds_node_config *config, const char *name, const char *text,
			    bool ended, struct ds_error *err);

/* The SMs of `self`, one of the residents in `state`. Pure. */
struct ds_held_sms ds_allocation_sms(const struct ds_ledger_state *state,
				     const struct ds_ledger_resident *self);

/* Count what was held until `now_ns` (CLOCK_BOOTTIME), and go on with `held` from there. Pure. */
void ds_allocation_count(struct ds_allocation *allocation, int64_t now_ns,
			 const struct ds_held_sms *held);

/* The usage record of what was counted, ending at `end_unix_s`. Pure. */
void ds_allocation_record(const struct ds_allocation *allocation, const char *node_name,
			  double end_unix_s, struct ds_usage_record *record);

#endif
