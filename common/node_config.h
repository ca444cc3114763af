/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_NODE_CONFIG_H
#define DETSHARE_COMMON_NODE_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

enum {
	DS_SAMPLE_LAUNCHES_MAX = 1 << 30,
	DS_OVERLONG_KERNEL_S_MAX = 86400,
	DS_ACKNOWLEDGE_DEADLINE_S_MAX = 86400,
};

/*
 * detshare-node.conf: facts of one machine (paths, ports), as against detshare.conf, which holds the
 * site's rules. libconfuse; unknown keys are errors; a missing file means the defaults.
 * "%n" in a path stands for the node's name (several slurmds on one machine).
 */
struct ds_node_config {
	/* Not keys: what %n became; the file that was read, absolute ("": none). */
	char node_name[256];
	char file[PATH_MAX];

	/* runtime_dir = "/run/detshare": gone after a reboot */
	char runtime_dir[PATH_MAX];
	/* spool_dir = "/var/spool/detshare": usage records, kept */
	char spool_dir[PATH_MAX];
	/* coroutine_library = LIBDIR/detshare/libdetshare-cuda.so */
	char coroutine_library[PATH_MAX];
	/* noderuntime = SBINDIR/detshare-noderuntime */
	char noderuntime[PATH_MAX];

	/* policy_library = "": an object that exports detshare_policy (detshare_policy.h) */
	char policy_library[PATH_MAX];

	/* without_partition = "refuse": programs that cannot have one (an old driver) may not use the
	 * GPU; or "run": on the whole of it */
	char without_partition[8];

	/* usage_sender = SBINDIR/detshare-usaged */
	char usage_sender[PATH_MAX];
	/* usage_host = "": no collector, records stay in the spool */
	char usage_host[256];
	uint16_t usage_port; /* usage_port = 6829 */
	/* usage_user = "root": whom the collector runs as (name or uid) */
	char usage_user[64];
	/* munge_socket = "": libmunge's default */
	char munge_socket[PATH_MAX];

	/* gpu_info_dir = "/proc/driver/nvidia/gpus" */
	char gpu_info_dir[PATH_MAX];
	/* gpu_device_prefix = "/dev/nvidia": device file = prefix + minor */
	char gpu_device_prefix[PATH_MAX];
	/* cuda_library = "libcuda.so.1": for the probe, by dlopen */
	char cuda_library[PATH_MAX];
	/* mps_control = "nvidia-cuda-mps-control"; "": no MPS */
	char mps_control[PATH_MAX];
	/* memory_reserve = "1G": of a GPU's memory, for MPS and the driver */
	uint32_t memory_reserve_mib;
	/* memory_per_program = "640M": what a program's contexts take, beside what it allocates */
	uint32_t memory_per_program_mib;
	/* mps_pipe_dir = "": pipes of a daemon that the site runs itself; "": one of ours per GPU */
	char mps_pipe_dir[PATH_MAX];
	/* move_programs = yes: they go where the plan puts them while they run; no: from their start to their
	 * end they stay where they began */
	bool move_programs;
	/* sample_launches = 512: a program measures one launch in so many; 0: none */
	uint32_t sample_launches;
	/* overlong_kernel_s = 5: kernels that run longer are named, and their groups not lent; 0: none */
	uint32_t overlong_kernel_s;
	/* program_without_port = "warn": or "end" */
	char program_without_port[8];
	/* acknowledge_deadline_s = 300: for a program to leave SM groups that are guaranteed to others; 0: none */
	uint32_t acknowledge_deadline_s;
	/* on_no_acknowledgement = "end": after which it is ended, or with "warn" shown */
	char on_no_acknowledgement[8];
	/* on_neighbour_fault = "record": or "notify", or "requeue", what becomes of a job that fails by it */
	char on_neighbour_fault[8];
	/* neighbour_fault_requeues = 3: a job that was started anew so often is not requeued for that */
	uint32_t neighbour_fault_requeues;
	/* whole_gpu_kernels = "": patterns of kernels that need all SMs without saying so, with commas */
	char whole_gpu_kernels[512];
	/* whole_gpu_deadline_ms = 2000: after which a program has to give the whole of a GPU back */
	uint32_t whole_gpu_deadline_ms;
	/* whole_gpu_patience_ms = 60000: that a launch which needs the whole of a GPU waits for it */
	uint32_t whole_gpu_patience_ms;
	/* realtime = no: node runtimes run before all ordinary processes of the node */
	bool realtime;
	/* reclaim_spin_us = 500: for which those spin who wait for groups to be given back; 0: they sleep */
	uint32_t reclaim_spin_us;
	/* reclaim_spin_cpus = 3: that one has to be allowed to run on for that */
	uint32_t reclaim_spin_cpus;
	/* hold_back = no: kernels that saturate memory bandwidth wait while a neighbour of kind latency is in a
	 * step */
	bool hold_back;
	/* hold_back_most = 0.25: of the time that a program may be held back, 0.001 to 1 */
	uint32_t hold_back_milli;
	/* hold_back_us = 5000: that one launch may wait, up to a second */
	uint32_t hold_back_us;
	/* hold_back_kernels = "": patterns of kernels that are known to saturate it, with commas */
	char hold_back_kernels[512];
	/* cgroup_root = "/sys/fs/cgroup": v2, or v1 hierarchies with or without /unified */
	char cgroup_root[PATH_MAX];
};

/*
 * The defaults, with `node_name` put in for %n. NULL: $SLURMD_NODENAME, which Slurm sets in jobs, unless
 * the process is set-uid; without it the host's name up to the first dot.
 */
void ds_node_config_defaults(struct ds_node_config *config, const char *node_name);

/*
 * Read `path` (NULL: $DETSHARE_NODE_CONF unless the process is set-uid, else
 * SYSCONFDIR/detshare/detshare-node.conf) over the defaults. A missing file is an error only if
 * `path` was given. Read by root, the file must belong to root and be writable by nobody else,
 * because root executes what it names. Returns 0, or -1 with one line that names file and line;
 * `*config` then holds the defaults. Not thread-safe: libconfuse's lexer is not.
 */
int ds_node_config_read(const char *path, const char *node_name, struct ds_node_config *config,
			struct ds_error *err);

/* The same from text in memory, for tests and the fuzzer. `name` stands for the path in messages. */
int ds_node_config_parse(const char *text, const char *name, const char *node_name,
			 struct ds_node_config *config, struct ds_error *err);

#endif
