/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_POLICY_H
#define DETSHARE_NODERUNTIME_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "noderuntime/detshare_policy.h"

/*
 * Which policy is asked, and whether it may be believed. Every runtime of a GPU has to come to the same
 * wishes, so the ledger says by name and digest whose policy each resident has, and that of
 * the earliest is the GPU's.
 */
enum { DS_POLICY_NAME_SIZE = 32 };

/* Lies in the ledger: no padding. */
struct ds_policy_id {
	char name[DS_POLICY_NAME_SIZE];
	uint64_t digest; /* of the object it was loaded from; 0: built in */
	uint32_t failed; /* 1: it wished what cannot be, and `static` is asked in its place */
	uint32_t reserved;
};

/* A site's own policy, loaded into this process. */
struct ds_policy {
	const struct detshare_policy *table; /* NULL: none */
	struct ds_policy_id id;
	struct ds_error failure; /* "", or what it did that cannot be */
};

/* The built-in one of that name, or NULL. */
const struct detshare_policy *ds_policy_built_in(const char *name);

/*
 * Load the policy in the object at `path`, for as long as the process lives. Read by root, the object and
 * all folders above it must belong to root and be writable by nobody else, since it runs as root. Returns 0, or
 * -1 with one line that says what is wrong with it; `*policy` is empty then.
 */
int ds_policy_load(const char *path, struct ds_policy *policy, struct ds_error *err);

/*
 * Ask. Returns 0; or -1 with a reason if a wish is out of range or was not made: then all wish
 * what is guaranteed to them.
 */
int ds_policy_ask(const struct detshare_policy *table, const struct detshare_policy_gpu *gpu,
		  const struct detshare_policy_resident *residents, uint32_t n,
		  uint32_t *wish_milli, struct ds_error *err);

#endif
