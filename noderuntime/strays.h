/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_STRAYS_H
#define DETSHARE_NODERUNTIME_STRAYS_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/watch.h"

/*
 * Processes of the allocation that use its GPU without having come to its port: they are in nobody's
 * partition. Looked for when somebody has opened CUDA's memory device (or the GPU's, if there is none), so that nothing is done while
 * nothing happens. A process counts as one of the allocation's by its cgroup (job_N) or by what is in its
 * environment; one that hides both is not found.
 */

/* Begin to watch. A node without that device file is fine. */
void ds_strays_begin(struct ds_runtime *rt);

/* Somebody opened the device file. */
void ds_strays_opened(struct ds_runtime *rt);

/* DS_WATCH_STRAYS: it is time to look. */
void ds_strays_look(struct ds_runtime *rt);

/* Those that were found and live. */
void ds_strays_report(const struct ds_runtime *rt, int32_t pids[DS_PORT_STRAYS_MAX]);

#endif
