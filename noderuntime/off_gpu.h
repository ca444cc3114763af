/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_OFF_GPU_H
#define DETSHARE_NODERUNTIME_OFF_GPU_H

#include "noderuntime/watch.h"

/*
 * A program killed in the middle of a long kernel takes its MPS neighbours along, unless MPS ended it
 * first. Here is what the runtime does for those who are about to kill.
 */

/* DS_PORT_END: `bytes` are what came on `connection`, which the caller removes in any case. */
void ds_off_gpu_serve(struct ds_runtime *rt, const struct ds_watch *connection, const void *bytes,
		      size_t size);

/* In an errand's child: end a process, off the GPU first, since only that order is harmless. */
void ds_off_gpu_end(const struct ds_runtime *rt, const struct ds_process *process);

/* In an errand's child: true if MPS can be asked, and does not serve that process. */
bool ds_off_gpu_is(const struct ds_runtime *rt, pid_t pid);

/* A program that lives is found to be off the GPU for good: it is no program any more, and has no groups. */
void ds_off_gpu_forget(struct ds_runtime *rt, const struct ds_process *process);

/*
 * A program of ours has ended. Under MPS, what it had on the GPU may run on for a moment: its groups come
 * back when MPS does not list it any more.
 */
void ds_off_gpu_await(struct ds_runtime *rt, const struct ds_process *process);

/* True while that is waited for. */
bool ds_off_gpu_awaits(const struct ds_runtime *rt, const struct ds_process *process);

#endif
