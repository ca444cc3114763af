/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PORT_PROTOCOL_H
#define DETSHARE_NODERUNTIME_PORT_PROTOCOL_H

#include <stdint.h>

#include "common/groups.h"

/*
 * Between a node runtime and what talks to it: programs (through the coroutine library), slurmstepd
 * (through SPANK) and the command. One SOCK_SEQPACKET Unix socket per allocation,
 * RUNTIME_DIR/NAME/port; one struct ds_port_hello per connection, one struct ds_port_welcome back.
 * The runtime takes pid and uid from SO_PEERCRED, never from the message.
 *
 * A program keeps its connection open while it lives. Its welcome carries two descriptors:
 *   [0] its port: a memfd of DS_PORT_SIZE bytes, sealed against shrinking and growing, written by
 *       the program, copied once and then validated by the runtime;
 *   [1] the allocation's page: DS_PAGE_SIZE bytes, opened read-only, written by the runtime.
 * Plain C and fixed layout: library and runtime may be of different builds of one version.
 */
enum {
	DS_PORT_MAGIC = 0x44535054, /* "DSPT" */
	DS_PORT_VERSION = 1,
	DS_PORT_SIZE = 4096,
	DS_PAGE_SIZE = 4096,
};

enum ds_port_kind {
	/* A process that is about to use the GPU; the peer is the job's user or root. */
	DS_PORT_PROGRAM = 1,
	/* From root: a step starts with `share_milli`. Answered, then closed. */
	DS_PORT_STEP = 2,
};

struct ds_port_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;
	uint32_t step_id;     /* DS_PORT_STEP */
	uint32_t share_milli; /* DS_PORT_STEP */
};

struct ds_port_welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t refused; /* 0: welcome; 1: `reason` says why not, no descriptors follow */
	char reason[248];
};

/*
 * The allocation's page. A reader takes `epoch` (acquire), copies, reads `epoch` again: equal and
 * even means a whole copy. `granted` are the groups its programs may run on now; the runtime never
 * takes one away while a program that was welcomed under it still lives, unless it acknowledged.
 */
struct ds_page {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
	_Atomic uint64_t epoch;
	struct ds_gpu_shape shape;
	uint32_t share_milli;
	struct ds_groups granted;
	char gpu_uuid[48]; /* "GPU-..." */
	char class_name[32];
};

/* What the program says of itself; the runtime labels it so. */
struct ds_port {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
	_Atomic uint64_t acknowledged_epoch; /* the page's epoch whose groups the program runs in */
	struct ds_groups in_use;             /* groups its physical context spans */
	_Atomic uint64_t launches;
	/* Contexts that the program tried to make of its own, and was refused. */
	_Atomic uint64_t own_contexts;
	/* Cooperative grids that the partition could not hold. */
	_Atomic uint64_t cooperative_too_large;
};

#endif
