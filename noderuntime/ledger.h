/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEDGER_H
#define DETSHARE_NODERUNTIME_LEDGER_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/groups.h"
#include "gres/grant.h"
#include "noderuntime/plan.h"

/*
 * The ledger: one file per GPU, RUNTIME_DIR/gpu-UUID/ledger, the record of its allocations and
 * partitions, shared by the node runtimes of that GPU. Written only by node runtimes (root, or the
 * user of a runtime directory of his own) under an exclusive lock that dies with its holder. A change
 * is written as a whole into the inactive one of two copies and becomes valid by one atomic store, so
 * kill -9 at any instant leaves the old or the new state, never half of one. Readers need no lock.
 */
enum {
	DS_NAME_SIZE = 32,       /* an allocation's name: "job-123", "run-4567" */
	DS_PROGRAMS_MAX = 256,   /* per GPU */
};

/* A process, safe against reuse of its pid: start time in clock ticks since boot (proc(5)). */
struct ds_process {
	int32_t pid;
	uint64_t start_ticks;
};

struct ds_ledger_resident {
	char name[DS_NAME_SIZE];
	uint32_t job_id; /* 0 outside Slurm */
	uint32_t uid;
	struct ds_grant grant;
	struct ds_process runtime;
	uint64_t arrival;            /* grows with every join: the order of residents */
	uint64_t joined_ns;          /* CLOCK_BOOTTIME */
	struct ds_groups planned;    /* where the plan wants it */
	struct ds_groups held;       /* what it may use: planned, less what others still hold */
	uint32_t weight_milli;       /* ds_plan_partition.weight_milli */
};

/* A program of a resident that was welcomed, and the groups it may still be running on. */
struct ds_ledger_program {
	char resident[DS_NAME_SIZE];
	struct ds_process process;
	struct ds_groups groups;
};

struct ds_ledger_state {
	char gpu_uuid[48];
	struct ds_gpu_shape shape;
	uint64_t generation; /* changes so far */
	uint64_t next_arrival;
	uint32_t n_residents;
	uint32_t n_programs;
	struct ds_ledger_resident residents[DS_RESIDENTS_MAX]; /* in order of arrival */
	struct ds_ledger_program programs[DS_PROGRAMS_MAX];
};

struct ds_ledger; /* an open ledger */

/*
 * Open (create if absent) the ledger in `gpu_dir`. A file of another version, another GPU, another
 * boot or with a broken checksum is set aside as ledger.broken and a new one made; `err` then holds a
 * note although 0 is returned (empty text: nothing to say). Returns 0 or -1.
 */
int ds_ledger_open(const char *gpu_dir, const char *gpu_uuid, const struct ds_gpu_shape *shape,
		   struct ds_ledger **ledger, struct ds_error *err);
void ds_ledger_close(struct ds_ledger *ledger);

/*
 * A whole copy of the newest valid state of `gpu_dir`, without a lock and without write permission.
 * Returns 0, or -1 (errno ENOENT: no such ledger).
 */
int ds_ledger_read(const char *gpu_dir, struct ds_ledger_state *state, struct ds_error *err);

/*
 * Lock, hand the current state to `change`, and commit what it made of it if it returned 0 (anything
 * else leaves the ledger as it was and is returned). Waits for the lock at most `timeout_ms`.
 * Whoever watches the ledger file with inotify (IN_MODIFY) learns of the change.
 */
int ds_ledger_change(struct ds_ledger *ledger, unsigned timeout_ms,
		     int (*change)(struct ds_ledger_state *state, void *arg, struct ds_error *err),
		     void *arg, struct ds_error *err);

/*
 * The pure part: recompute planned, held and weight of every resident by `plan`, after removing what
 * is dead according to `alive`. A group is held by a resident only when planned for it and neither
 * held nor possibly still used (programs) by another one. Shared groups (weight < 1000) excepted.
 */
int ds_ledger_settle(struct ds_ledger_state *state, int (*alive)(const struct ds_process *),
		     struct ds_error *err);

#endif
