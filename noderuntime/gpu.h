/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_GPU_H
#define DETSHARE_NODERUNTIME_GPU_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/groups.h"
#include "common/node_config.h"

/*
 * Which GPU is which, and what it looks like. Slurm counts device files, the driver counts in an
 * order of its own that depends on the environment, so an ordinal never names a GPU here: the device
 * file's minor number leads to the PCI address and from there to the UUID.
 */
enum { DS_UUID_SIZE = 48, DS_GPUS_MAX = 64 };

struct ds_gpu {
	unsigned minor;          /* the number at the end of /dev/nvidiaN */
	char pci[24];            /* "0000:01:00.0" */
	char uuid[DS_UUID_SIZE]; /* "GPU-..."; holds '?' until the driver has seen the GPU */
};

/* What is read from the driver once per boot, and kept in gpu-UUID/topology. */
struct ds_topology {
	char boot_id[40];
	char uuid[DS_UUID_SIZE];
	char pci[24];
	char name[96];
	uint32_t sm_count;
	uint32_t memory_mib; /* all that the driver has to give */
	uint32_t cuda;       /* what the driver supports: 13010 is CUDA 13.1 */
	struct ds_gpu_shape shape;
	char cpus[512]; /* CPUs near it, "0-15,32-47"; "": not known */
};

/*
 * The GPUs of this machine in order of their minor numbers, from `info_dir`
 * (/proc/driver/nvidia/gpus). Returns how many, or -1 with a reason; a machine without the driver's
 * directory is an error, too, because a share was asked for.
 */
int ds_gpu_list(const char *info_dir, struct ds_gpu gpus[DS_GPUS_MAX], struct ds_error *err);

/* The GPU that `selector` (a minor number or a UUID) names. 0, or -1 with a line that lists all. */
int ds_gpu_find(const char *info_dir, const char *selector, struct ds_gpu *gpu,
		struct ds_error *err);

/* RUNTIME_DIR/gpu-UUID. Returns 0, or -1 when it does not fit. */
int ds_gpu_dir(const char *runtime_dir, const char *uuid, char *path, size_t size);

/* True if `uuid` can be part of a path and names one GPU. */
bool ds_gpu_uuid_valid(const char *uuid);

/* This boot's name, from /proc/sys/kernel/random/boot_id. 0 or -1. */
int ds_boot_id(char boot_id[40], struct ds_error *err);

/*
 * Parse the text of a topology file. Returns 0, or -1: a key missing, unknown, doubled or out of range.
 */
int ds_topology_parse(const char *text, struct ds_topology *topology, struct ds_error *err);

/*
 * Read `gpu_dir`/topology. Returns 0, or -1 when there is none, when it is of another boot or another
 * GPU, or cannot be parsed: all of which mean that the driver must be asked again.
 */
int ds_topology_read(const char *gpu_dir, const char *uuid, struct ds_topology *topology,
		     struct ds_error *err);

/* Write `gpu_dir`/topology (0644), whole or not at all. 0 or -1. */
int ds_topology_write(const char *gpu_dir, const struct ds_topology *topology,
		      struct ds_error *err);

/*
 * Let the calling thread run only on those of its allowed CPUs that are in `cpus` ("0-3,8"). Does
 * nothing when there is none of them, or when the list is empty or broken.
 */
void ds_bind_near(const char *cpus);

#endif
