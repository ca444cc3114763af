/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_SHM_H
#define DETSHARE_TESTS_EMUGPU_SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * What the processes that use one emulated GPU share: a file DIR/gpuN, mapped by all of them. One
 * robust mutex guards it, so a process may die at any instant. Who is alive is known from POSIX record
 * locks (one byte per client), which die with their process and are not inherited over fork().
 *
 * An SM is one slot: it runs one block at a time. Times are CLOCK_MONOTONIC in ns.
 */
enum {
	EMU_MAGIC = 0x454d5531,
	EMU_VERSION = 5,
	EMU_GPUS_MAX = 16,
	EMU_SMS_MAX = 256,
	EMU_CLIENTS_MAX = 128,
	EMU_TRACE_MAX = 65536,
	EMU_SLICE_US = 2000, /* without MPS: how long one process keeps the GPU if others want it */
	EMU_DEADLY_MS =
	    20, /* an MPS client killed in a block this long takes its neighbours along */
	EMU_LAG_MAX_MS = 20,      /* a late host thread may make up for this much, not more */
	EMU_WANT_MS = 50,         /* a wish not renewed for so long is that of a stopped process */
	EMU_MEETINGS_MAX = 256,   /* the first ones are kept */
	EMU_MPS_CLIENTS_MAX = 48, /* client contexts per GPU; 60 from CUDA 13.1 on */
};

/* A set of SMs. */
struct emu_sms {
	uint64_t bits[EMU_SMS_MAX / 64];
};

static inline bool emu_sms_has(const struct emu_sms *set, unsigned sm)
{
	return sm < EMU_SMS_MAX && (set->bits[sm / 64] >> (sm % 64) & 1);
}

static inline void emu_sms_add(struct emu_sms *set, unsigned sm)
{
	set->bits[sm / 64] |= UINT64_C(1) << (sm % 64);
}

unsigned emu_sms_count(const struct emu_sms *set);

/* One block that ran, or runs: an entry of the trace. */
struct emu_block {
	char kernel[32];
	uint32_t index[3];
	uint32_t sm;
	int32_t pid;
	uint32_t killed; /* its process died before the block's end */
	uint64_t begin_ns;
	uint64_t end_ns;
};

struct emu_slot {
	uint32_t owner;               /* client's index + 1; 0: free */
	uint64_t claim;               /* number of the claim */
	_Atomic uint64_t deadline_ns; /* when the block ends; 0: not known yet */
	uint64_t free_since_ns;
	struct emu_block block;
};

struct emu_client {
	uint32_t in_use;
	int32_t pid;
	uint64_t
	    tenant; /* clients of one tenant run at the same time: a process, or an MPS server */
	int32_t server_pid;    /* MPS server; 0: none */
	uint32_t max_slots;    /* SMs at a time (MPS thread percentage); 0: all */
	uint64_t wants_ns;     /* it had blocks waiting for a slot then; 0: it has none */
	struct emu_sms wanted; /* the SMs these blocks may run on */
	uint32_t
	    gathers; /* blocks of a kernel hold SMs and wait for others of it that hold none yet */
	uint32_t reserved;
	uint64_t turn_ns;       /* when its tenant last got the GPU */
	uint64_t memory;        /* bytes of device memory */
	_Atomic int32_t fault;  /* a CUresult that every later call returns */
	_Atomic uint32_t exits; /* it ends by itself: nobody killed it */
	_Atomic uint32_t wake;  /* futex */
	/* SMs that its kernels may use now, from when they could begin until they are done. */
	_Atomic uint64_t active[EMU_SMS_MAX / 64];
	uint16_t n_active[EMU_SMS_MAX]; /* kernels, per SM; written by its device thread alone */
	uint64_t met[EMU_CLIENTS_MAX / 64]; /* clients that it has met */
};

/* Two processes whose kernels could run on one SM at the same instant. */
struct emu_meeting {
	int32_t pid, other_pid;
	uint32_t sm;
	uint64_t at_ns;
};

struct emu_gpu {
	uint32_t magic, version;
	uint32_t index, n_sms, group_sms;
	uint32_t
	    n_groups; /* SMs below n_groups * group_sms are in groups; the others are the rest */
	uint64_t total_memory;
	char uuid[48];   /* "GPU-…" */
	char bus_id[16]; /* "0000:3b:00.0" */
	pthread_mutex_t mutex;
	uint64_t claims;
	uint64_t tenants;
	uint64_t tenant; /* whose blocks may run now */
	uint64_t tenant_since_ns, slice_end_ns;
	struct emu_slot slots[EMU_SMS_MAX];
	struct emu_client clients[EMU_CLIENTS_MAX];
	uint64_t n_overlaps; /* blocks that began on their SM before the one there had ended */
	uint64_t n_meetings; /* times; each two processes are kept once */
	uint64_t n_kept;
	struct emu_meeting meetings[EMU_MEETINGS_MAX];
	uint64_t n_trace; /* entries written so far; the ring keeps the last EMU_TRACE_MAX */
	struct emu_block trace[EMU_TRACE_MAX];
};

/* An opened GPU. */
struct emu_map {
	struct emu_gpu *gpu;
	int fd;
};

uint64_t emu_now_ns(void);

/* What a GPU is made as. */
struct emu_shape {
	uint32_t index, n_sms, group_sms, n_groups;
	uint64_t total_memory;
	char uuid[48], bus_id[16];
};

/* Make the file of a GPU. Returns 0 or -1 with errno. */
int emu_gpu_create(const char *path, const struct emu_shape *shape);

/*
 * Map DIR/gpuN for this process. `for_writing` false maps it read-only. Open it once per process:
 * closing any descriptor of the file drops the process's record locks. Returns 0 or -1 with errno
 * (EPROTO: not such a file).
 */
int emu_gpu_open(const char *dir, unsigned index, struct emu_map *map);
void emu_gpu_close(struct emu_map *map);

void emu_lock(struct emu_gpu *gpu);
void emu_unlock(struct emu_gpu *gpu);

/* Join with the lock held: returns the client's index, or -1 with errno (EUSERS: all taken). */
int emu_client_join(const struct emu_map *map, int server_pid);
void emu_client_leave(const struct emu_map *map, int client);

/* With the lock held: free what dead clients hold, end blocks whose process is stopped. */
void emu_reap(const struct emu_map *map);

/*
 * With the lock held: MPS lost the connection of this process. Killed in the middle of a long block, it
 * takes the other clients of its server along, as on an H200: see tests/bench/kills.
 */
void emu_client_lost(struct emu_gpu *gpu, int pid);

/*
 * With the lock held: give the other clients of the MPS server of `client` the sticky error `fault`,
 * and wake them.
 */
void emu_fault_neighbours(struct emu_gpu *gpu, int client, int fault);

/* With the lock held: end a process's blocks here, and give it a sticky error. */
void emu_fault_process(struct emu_gpu *gpu, int pid, int fault);

/* What a client may take while it holds the lock: looked up once for many blocks. */
struct emu_turn {
	bool mine;     /* its process's time slice, or no other process wants the GPU */
	bool shared;   /* clients of the same tenant wait, too: leave them their part */
	unsigned held; /* SMs it has */
	uint64_t now_ns;
};

/*
 * With the lock held: whether no client of the tenant gathers a grid whose blocks must all be there: they
 * gather one after the other.
 */
bool emu_may_gather(const struct emu_gpu *gpu, int client);

/* With the lock held. Begins a time slice if it is this client's turn. */
struct emu_turn emu_turn(struct emu_gpu *gpu, int client);

/*
 * With the lock held since emu_turn: take a free SM of `allowed` for a block that was ready at
 * `ready_ns`. Returns the SM and fills *claim and *begin_ns, or -1: no SM is free for this client.
 */
int emu_claim(struct emu_gpu *gpu, int client, struct emu_turn *turn, const struct emu_sms *allowed,
	      const char *kernel, const uint32_t index[3], uint64_t ready_ns, uint64_t *claim,
	      uint64_t *begin_ns);

/* With the lock held: the block ended. Nothing happens if the claim was already ended by emu_reap. */
void emu_release(struct emu_gpu *gpu, int client, unsigned sm, uint64_t claim, uint64_t end_ns);

/* With the lock held: wake clients that wait for a slot, apart from `client`. */
void emu_wake_waiting(struct emu_gpu *gpu, int client);

void emu_wake(struct emu_client *client);
/* Sleep until `wake` differs from `seen` or `deadline_ns` is past (0: no deadline). */
void emu_sleep(struct emu_client *client, uint32_t seen, uint64_t deadline_ns);

/*
 * A kernel could begin now, on any SM of the set; and it is done. Partitions of programs that share a
 * GPU must keep such sets apart at every instant: that is counted here, for processes that are not
 * kept apart by time slices. Called without the lock.
 */
void emu_kernel_begins(const struct emu_map *map, int client, const struct emu_sms *sms);
void emu_kernel_ends(const struct emu_map *map, int client, const struct emu_sms *sms);

/* Print what was counted over the whole run as JSON; false: something was shared. With the lock held. */
bool emu_print_check(const struct emu_gpu *gpu, FILE *out);
void emu_clear_trace(struct emu_gpu *gpu);

uint64_t emu_memory_used(const struct emu_gpu *gpu);

/* Print the trace as JSON lines, oldest first. */
void emu_print_trace(struct emu_gpu *gpu, FILE *out);

#endif
