/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_ANNOUNCE_H
#define DETSHARE_SPANK_ANNOUNCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "noderuntime/port_protocol.h"

/*
 * Tell the node runtime behind the port `path` that step `step_id` starts with `share_milli`, and
 * wait at most `timeout_ms` for its welcome. The peer must run as root or as this process's user.
 * Returns 0, or -1 with a reason: nobody listens, no answer in time, not a node runtime, refused.
 */
int ds_announce_step(const char *path, uint32_t step_id, uint32_t share_milli, unsigned timeout_ms,
		     struct ds_error *err);

/*
 * Tell it that these processes are about to be killed, and wait until they are off the GPU. As above;
 * refused means that not all are. Of more than DS_PORT_END_MAX, the first count. Thread-safe.
 */
int ds_announce_end(const char *path, const pid_t *pids, int n, unsigned timeout_ms,
		    struct ds_error *err);

/*
 * Ask it what the job's user should know of the job's programs, since `since_ns` (CLOCK_BOOTTIME); if
 * `only_new`, without what was told anybody before; unless `last`, without what may soon be known better. As
 * above; `notes` holds whole lines then, without control characters.
 */
int ds_ask_notes(const char *path, uint64_t since_ns, bool only_new, bool last,
		 struct ds_port_notes *notes, unsigned timeout_ms, struct ds_error *err);

#endif
