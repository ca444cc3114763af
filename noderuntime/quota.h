/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_QUOTA_H
#define DETSHARE_NODERUNTIME_QUOTA_H

#include <stdint.h>

#include "common/error.h"
#include "common/node_config.h"
#include "gres/grant.h"
#include "noderuntime/book.h"
#include "noderuntime/ledger.h"

/*
 * Quotas of GPU memory: how much each allocation has, and the book of what its programs use of it.
 *
 * A quota is guaranteed, so what residents may have together never exceeds what the GPU has. That is its
 * memory less a reserve (memory_reserve, for MPS and the driver) and, per resident, what the contexts of
 * one program take (memory_per_program): these are no allocations, so no quota counts them, but they
 * lie in the same memory. Contexts of further programs of a job are paid for out of its quota. All
 * sizes in MiB.
 */

/* What a resident with this quota takes of the GPU. Pure. */
uint32_t ds_quota_room(const struct ds_node_config *config, uint32_t quota_mib);

/* The quota that a share of a GPU with `memory_mib` brings. At least 1. Pure. */
uint32_t ds_quota_of_share(const struct ds_node_config *config, uint32_t memory_mib,
			   uint32_t share_milli);

/* The quota of this grant on such a GPU. 0, or -1: the GPU does not have as much. Pure. */
int ds_quota_of_grant(const struct ds_node_config *config, uint32_t memory_mib,
		      const struct ds_grant *grant, uint32_t *quota_mib, struct ds_error *err);

/*
 * Whether an allocation `name` with that quota fits beside the residents there are. 0, or -1 with a
 * line that says what is asked, what is left and who has what. Pure.
 */
int ds_quota_fits(const struct ds_node_config *config, uint32_t memory_mib,
		  const struct ds_ledger_state *state, const char *name, uint32_t quota_mib,
		  struct ds_error *err);

/*
 * What MPS must let a client have: the largest quota among residents, and contexts. Pure.
 */
uint32_t ds_quota_hard_limit(const struct ds_node_config *config, uint32_t memory_mib,
			     const struct ds_ledger_state *state);

/* The runtime's end of the book. */
struct ds_quota {
	struct ds_book *book; /* NULL: none */
	int fd;               /* what programs get */
	uint64_t limit;       /* bytes */
	uint64_t per_program; /* bytes */
	uint32_t taken[DS_BOOK_SLOTS / 32];
};

/* Make an empty book. 0 or -1. Free with ds_quota_destroy(), also after a failure. */
int ds_quota_create(struct ds_quota *quota, const struct ds_node_config *config, uint32_t quota_mib,
		    struct ds_error *err);
void ds_quota_destroy(struct ds_quota *quota);

/* A slot for a program, with nothing held; -1: none is left. */
int ds_quota_take_slot(struct ds_quota *quota);

/* The program of that slot has ended, or begins anew (exec): it has nothing. -1 is nobody's slot. */
void ds_quota_reset_slot(struct ds_quota *quota, int slot);
void ds_quota_free_slot(struct ds_quota *quota, int slot);

/* Bytes used now, contexts included, and at most at once, as the programs say; never beyond the quota. */
uint64_t ds_quota_used(const struct ds_quota *quota);
uint64_t ds_quota_peak(const struct ds_quota *quota);

#endif
