/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_STORE_H
#define DETSHARE_ACCOUNTING_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "accounting/directory.h"
#include "accounting/record.h"

/*
 * The collector's state: one file per record, CLUSTER+JOB.RESTART+NODE.json, in
 *   waiting/    not in the accounting database yet;
 *   settled/    in it; kept for a while, because a later restart or node is merged with it;
 *   unclaimed/  the database never got to know the job; kept until somebody looks;
 *   broken/     what became unreadable here.
 * The listening and the settling process work on it at once: moves and writes are under a lock.
 */
struct ds_store {
	struct ds_directory top, waiting, settled, unclaimed, broken;
	int lock_fd;
};

#define DS_STORE_CLOSED                        \
	((struct ds_store){.top.fd = -1,       \
			   .waiting.fd = -1,   \
			   .settled.fd = -1,   \
			   .unclaimed.fd = -1, \
			   .broken.fd = -1,    \
			   .lock_fd = -1})

/* Open, made if absent. Returns 0 or -1; close in both cases. */
int ds_store_open(const char *state_dir, struct ds_store *store, struct ds_error *err);
void ds_store_close(struct ds_store *store);

/*
 * Become the only one in the role `role` ("collect", "settle") on this store, until the returned
 * descriptor is closed or the process ends. -1: another process is, or an error; `err` says which.
 */
int ds_store_only_one(const struct ds_store *store, const char *role, struct ds_error *err);

/*
 * Store the record durably, to wait for settling. One that is there already, word for word, is
 * success; one that differs replaces it. Returns 0 or -1.
 */
int ds_store_put(const struct ds_store *store, const struct ds_usage_record *record,
		 struct ds_error *err);

struct ds_stored {
	char *name;
	struct ds_usage_record record;
	ino_t inode;
	struct timespec stored; /* when; inode and time tell one from its replacement */
	bool waiting;
};

/*
 * All waiting records and the settled ones of the same jobs, ordered by cluster and job. Unreadable
 * ones are moved to broken/ and logged. Free with ds_store_free(). Returns 0 or -1.
 */
int ds_store_load(const struct ds_store *store, struct ds_stored **records, size_t *n,
		  struct ds_error *err);
void ds_store_free(struct ds_stored *records, size_t n);

/* Of one cluster and job. */
bool ds_store_same_job(const struct ds_stored *a, const struct ds_stored *b);

/*
 * Move a loaded waiting record to settled/ or unclaimed/, unless a newer one has replaced it, which
 * then goes on waiting. Returns 0 or -1.
 */
int ds_store_settle(const struct ds_store *store, const struct ds_stored *record,
		    struct ds_error *err);
int ds_store_unclaim(const struct ds_store *store, const struct ds_stored *record,
		     struct ds_error *err);

/* Forget settled records older than `age_s`. */
void ds_store_expire(const struct ds_store *store, time_t age_s);

#endif
