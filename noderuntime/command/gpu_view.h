/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_GPU_VIEW_H
#define DETSHARE_NODERUNTIME_COMMAND_GPU_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "noderuntime/faults.h"
#include "noderuntime/ledger.h"
#include "noderuntime/port_protocol.h"

enum { DS_VIEW_FAULTS_MAX = 16 };

/* What `detshare status` knows of one GPU: the ledger, what follows from it, and what it was told. */
struct ds_gpu_view {
	char uuid[48];
	bool unused;            /* no ledger: nobody came since boot */
	struct ds_error reason; /* not empty: the ledger could not be read, why */
	struct ds_ledger_state state;
	/* What the programs of each resident say of themselves, in the residents' order. Owned. */
	struct ds_port_report *reports;
	/* Programs that got an error of the GPU after which nothing of them worked: the latest. */
	struct ds_fault faults[DS_VIEW_FAULTS_MAX];
	uint32_t n_faults;
};

struct ds_gpu_list {
	struct ds_gpu_view *gpus; /* by UUID */
	uint32_t n;
};

/*
 * Read every gpu-UUID folder of `runtime_dir`; one that is not there is an empty list. A ledger that
 * cannot be read is in the list with its reason. Returns 0, or -1 when the folder itself cannot be
 * read. ds_gpu_list_free frees it in either case.
 */
int ds_gpu_list_read(const char *runtime_dir, struct ds_gpu_list *list, struct ds_error *err);
void ds_gpu_list_free(struct ds_gpu_list *list);

/*
 * Ask all node runtimes what their programs report. One that does not answer is left out; waits for
 * such no longer than a second or so in all. Returns 0, or -1 when there is no memory.
 */
int ds_gpu_list_ask(const char *runtime_dir, struct ds_gpu_list *list, struct ds_error *err);

/* What the runtime of resident `i` answered, or NULL: nothing was heard. */
const struct ds_port_report *ds_gpu_view_report(const struct ds_gpu_view *view, uint32_t i);

/* What program `p` of the ledger reports of itself, or NULL: nothing was heard. */
const struct ds_port_reported *ds_gpu_view_reported(const struct ds_gpu_view *view, uint32_t p);

/* Groups that nobody owns; with a policy that lends, somebody may be working there. */
struct ds_groups ds_gpu_view_free(const struct ds_ledger_state *state);

/* Thousandths of the GPU that are granted to nobody. */
uint32_t ds_gpu_view_free_milli(const struct ds_ledger_state *state);

/* Groups that resident `i` is planned for and does not hold yet. */
struct ds_groups ds_gpu_view_missing(const struct ds_ledger_state *state, uint32_t i);

/* Of `missing` (of resident `i`), those that program `p` keeps it from: it is another's. */
struct ds_groups ds_gpu_view_blocked(const struct ds_ledger_state *state, uint32_t i,
				     const struct ds_groups *missing, uint32_t p);

/* Groups of resident `owner` that resident `i`, another one, holds: lent, or not given back yet. */
struct ds_groups ds_gpu_view_lent(const struct ds_ledger_state *state, uint32_t owner, uint32_t i);

/*
 * Of those, groups that it has in advance: the owner works, or would, and owes them for what it was lent. None
 * that it is only still to give back.
 */
struct ds_groups ds_gpu_view_advance(const struct ds_ledger_state *state, uint32_t owner,
				     uint32_t i);

/* Whether the runtime of resident `i` said what resident `debtor` owes it, and what: in groups x us. */
bool ds_gpu_view_owed(const struct ds_gpu_view *view, uint32_t i, uint32_t debtor,
		      int64_t *group_us);

/* Groups that resident `i` holds and nobody owns. */
struct ds_groups ds_gpu_view_found(const struct ds_ledger_state *state, uint32_t i);

/* What resident `i` needs SMs for: "active", "idle", or "overlong". */
const char *ds_gpu_view_demand(const struct ds_ledger_state *state, uint32_t i);

/* Programs of resident `i` that are known. */
uint32_t ds_gpu_view_programs(const struct ds_ledger_state *state, uint32_t i);

/* Groups that programs of resident `i` may be running on. */
struct ds_groups ds_gpu_view_used(const struct ds_ledger_state *state, uint32_t i);

/* Whether the resident that the program was welcomed for is gone. */
bool ds_gpu_view_orphaned(const struct ds_ledger_state *state, uint32_t p);

/* When resident `i` joined, in seconds since the epoch. */
int64_t ds_gpu_view_since_unix_s(const struct ds_ledger_state *state, uint32_t i);

/* The user's name, or the uid in digits. Returns `name`. */
const char *ds_gpu_view_user(uint32_t uid, char *name, unsigned long size);

#endif
