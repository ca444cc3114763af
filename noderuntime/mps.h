/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_MPS_H
#define DETSHARE_NODERUNTIME_MPS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/node_config.h"
#include "common/process.h"
#include "noderuntime/deadline.h"

/*
 * MPS: what lets several processes run on one GPU at the same instant. One control daemon per GPU,
 * because its clients share one fate, in a cgroup of its own, with its pipes in gpu-UUID/mps/pipe.
 * Started for the first resident, ended by the last one. Never with a thread percentage: under one,
 * programs see another SM count and compute other results.
 *
 * The control program is only ever talked to with a deadline. Who starts or ends the daemon holds
 * the lock gpu-UUID/mps.lock, so that runtimes that race do it once.
 */

/* Client contexts per GPU that MPS serves, by the CUDA version of the driver (13010: 13.1). Pure. */
uint32_t ds_mps_clients_max(uint32_t cuda);

/*
 * RUNTIME_DIR/gpu-UUID/mps/pipe, or the site's own: CUDA_MPS_PIPE_DIRECTORY of daemon and clients.
 * 0 or -1.
 */
int ds_mps_pipe_dir(const struct ds_node_config *config, const char *gpu_uuid, char path[PATH_MAX]);

/* Who needs MPS. */
struct ds_mps_need {
	bool alone;     /* nobody else depends on the daemon: one that hangs may be killed */
	bool multiuser; /* programs of other users may come; else MPS makes them wait in cuInit */
	/*
	 * GPU memory in MiB that no client may exceed, asked under the lock so that the last to say it knows
	 * of all residents. NULL: no limit is set.
	 */
	uint32_t (*memory_mib)(const void *arg);
	const void *arg;
};

/*
 * Make sure that the GPU's daemon runs and answers; start it if not. One that hangs is reported, or,
 * if that harms nobody, killed and started anew. Does nothing and returns 0 when the configuration says
 * that there is no MPS. A daemon of the site's own is only looked at, and refused if it sets thread
 * percentages. Clients that connect from then on have the limit of memory. 0 or -1.
 */
int ds_mps_ensure(const struct ds_node_config *config, const char *gpu_uuid,
		  const struct ds_mps_need *need, ds_deadline deadline, struct ds_error *err);

/*
 * The control daemon that serves the GPU now, from its pid file; nothing is asked. 0, or -1: there is
 * none, or no MPS at all.
 */
int ds_mps_daemon(const struct ds_node_config *config, const char *gpu_uuid,
		  struct ds_process *daemon);

/* Pure: CUDA_VISIBLE_DEVICES (NULL: unset) lets its owner use that GPU, or may. */
bool ds_mps_visible(const char *devices, const char *gpu_uuid);

/* Pure: what get_default_active_thread_percentage answered is below 100. */
bool ds_mps_percentage_low(const char *answer);

/*
 * End the GPU's daemon and its servers if `unused` (asked under the lock) says so; what does not end by
 * itself is killed. Nothing running is fine. Returns 0, or -1 with what could not be ended.
 */
int ds_mps_stop(const struct ds_node_config *config, const char *gpu_uuid,
		bool (*unused)(void *arg), void *arg, ds_deadline deadline, struct ds_error *err);

/*
 * Ask MPS to end the GPU work of those of the `n` processes that it lists as clients, so that they
 * can be killed without harm to other clients, and wait until it lists them no more. Best effort: what
 * MPS does not do, signals will. Returns how many may still be clients.
 */
size_t ds_mps_terminate(const struct ds_node_config *config, const char *gpu_uuid,
			const pid_t *pids, size_t n, ds_deadline deadline);

/*
 * Wait until MPS lists none of the `n` processes as a client, which have ended: what they had on the GPU
 * may run on until then. Keeps in `pids` those that it still lists and returns how many; all when it does
 * not answer, none when it does not run.
 */
size_t ds_mps_await_gone(const struct ds_node_config *config, const char *gpu_uuid, pid_t *pids,
			 size_t n, ds_deadline deadline);

/* The processes that MPS lists as clients. Returns how many, at most `max`, or -1: it does not answer. */
int ds_mps_clients(const struct ds_node_config *config, const char *gpu_uuid, pid_t *pids,
		   size_t max, ds_deadline deadline);

/* Pure: pids, one per line, from what the control program printed. At most `max`; returns how many. */
size_t ds_mps_parse_pids(const char *text, pid_t *pids, size_t max);

#endif
