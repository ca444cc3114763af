/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_ERRAND_H
#define DETSHARE_NODERUNTIME_ERRAND_H

#include "noderuntime/watch.h"

/*
 * What may take long (talking to MPS takes 20 ms when all is well) is done by a child, so that the
 * runtime's loop never waits: programs of others depend on its answers in microseconds.
 */
enum { DS_ERRAND_BROUGHT_MAX = 4096 }; /* one write to a pipe, so it comes whole or not at all */

/*
 * Runs in the child, which has no descriptor of the runtime's. Fills `brought` and returns how much
 * of it; 0: it failed. It ends by a deadline of its own, and with the runtime in any case.
 */
typedef size_t (*ds_errand_work)(const struct ds_runtime *rt, const void *arg,
				 char brought[DS_ERRAND_BROUGHT_MAX]);

/*
 * Send a child on its way; `done` is called from the loop when it is back, and its watch then removed.
 * `answer_fd` (or -1) is the watch's from then on. NULL: it could not be made; answer_fd is still the
 * caller's.
 */
struct ds_watch *ds_errand_start(struct ds_runtime *rt, ds_errand_work work, const void *arg,
				 ds_errand_done done, int answer_fd, struct ds_error *err);

/* The loop: it is back, or dead. */
void ds_errand_back(struct ds_runtime *rt, struct ds_watch *errand);

#endif
