/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PROBE_H
#define DETSHARE_NODERUNTIME_PROBE_H

#include "common/error.h"
#include "common/node_config.h"

/*
 * Ask the driver for the shape of every GPU of this machine and keep the answers in
 * RUNTIME_DIR/gpu-UUID/topology. Loads libcuda, so it must run in a process of its own: the driver
 * may hang, and it takes memory that a node runtime should not hold. No context is created, so this
 * works beside running jobs and in EXCLUSIVE_PROCESS mode. Returns 0, or -1 with a reason: then the
 * topologies of those GPUs that did answer have been written all the same.
 */
int ds_probe(const struct ds_node_config *config, struct ds_error *err);

#endif
