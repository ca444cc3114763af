/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PORT_PROTOCOL_H
#define DETSHARE_NODERUNTIME_PORT_PROTOCOL_H

#include <stdint.h>

#include "common/groups.h"
#include "noderuntime/coroutine/sketch.h"

/*
 * Between a node runtime and what talks to it: programs (through the coroutine library), slurmstepd
 * (through SPANK) and the command. One SOCK_SEQPACKET Unix socket per allocation,
 * RUNTIME_DIR/NAME/port; one struct ds_port_hello per connection, one struct ds_port_welcome back.
 * The runtime takes pid and uid from SO_PEERCRED, never from the message.
 *
 * A program keeps its connection open while it lives. Its welcome carries three descriptors:
 *   [0] its port: a memfd of DS_PORT_SIZE bytes, sealed against shrinking and growing, written by
 *       the program, copied once and then validated by the runtime;
 *   [1] the allocation's page: DS_PAGE_SIZE bytes, opened read-only, written by the runtime;
 *   [2] the allocation's book of GPU memory (book.h), written by all its programs.
 * After the welcome, both sides send struct ds_port_notice: the runtime whenever the page has a new
 * epoch, the program when it has acknowledged one. Neither blocks on the other: a notice that does
 * not fit is left out, since the ones that wait already say "look at the page".
 * Plain C and fixed layout: library and runtime may be of different builds of one version.
 */
enum {
	DS_PORT_MAGIC = 0x44535054, /* "DSPT" */
	DS_PORT_VERSION = 3,
	DS_PORT_SIZE = 4096,
	DS_PAGE_SIZE = 4096,
};

enum ds_port_kind {
	/* A process that is about to use the GPU; the peer is the job's user or root. */
	DS_PORT_PROGRAM = 1,
	/* From root: a step starts with `share_milli`. Answered, then closed. */
	DS_PORT_STEP = 2,
	/* What its programs say of themselves; the peer is the job's user or root. Answered with
	 * struct ds_port_report, or a refusal, then closed. */
	DS_PORT_REPORT = 3,
	/* Notices. Runtime to program: the page's epoch is `epoch` now. */
	DS_PORT_EPOCH = 4,
	/* Program to runtime: the port says that `epoch` is acknowledged. */
	DS_PORT_ACKNOWLEDGED = 5,
	/* Program to runtime: `demand` or `whole_wanted` in the port has changed, or `drain_us` has become
	 * known or is about half or twice what it was. */
	DS_PORT_DEMAND = 6,
	/* What the job has of the GPU's memory; the peer is the job's user or root. Answered with
	 * struct ds_port_memory, or a refusal, then closed. For processes that are no programs. */
	DS_PORT_MEMORY = 7,
	/* From root, struct ds_port_end: these processes are about to be killed, so that they should be
	 * off the GPU first. Answered when they are, or as good as that gets within DS_PORT_END_MS;
	 * then closed. */
	DS_PORT_END = 8,
	/* struct ds_port_ask: what became of the job's programs that its user should know; the peer is the
	 * job's user or root. Answered with struct ds_port_notes, or a refusal, then closed. */
	DS_PORT_NOTES = 9,
};

/* What the page asks of programs, beside where they may run. */
enum ds_page_flags {
	/*
	 * The site does not want programs to be moved (move_programs = no). Always or never there. What a program
	 * said to use with its first acknowledgement it keeps until it ends, and nothing else; the page tells
	 * only programs that start.
	 */
	DS_PAGE_FIXED = 1 << 0,
	/* Some of `granted` belongs to somebody else, who may want it back: keep within the window. */
	DS_PAGE_WINDOW = 1 << 1,
	/* Others could use what you leave idle: say when you are idle, and when no longer. */
	DS_PAGE_TELL_IDLE = 1 << 2,
	/*
	 * No new work may begin until this is gone; what is under way ends. `granted` is empty. Who
	 * acknowledges it has nothing on the GPU, with an empty `in_use`, and begins nothing; what is
	 * `pinned` it may come back to.
	 */
	DS_PAGE_SUSPENDED = 1 << 3,
	/* `granted` is the whole GPU and yours alone, because you asked for it (`whole_wanted`). */
	DS_PAGE_WHOLE = 1 << 4,
	/* To ask for the GPU as a whole is in vain now: what waits for it has to go without. */
	DS_PAGE_WHOLE_REFUSED = 1 << 5,
};

/* What a program says of its own need for SMs. */
enum ds_port_demand {
	DS_DEMAND_UNSAID = 0, /* as good as active */
	DS_DEMAND_ACTIVE = 1,
	DS_DEMAND_IDLE = 2, /* nothing of it is on the GPU or waits to go there */
};

struct ds_port_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;
	uint32_t step_id;     /* DS_PORT_STEP */
	uint32_t share_milli; /* DS_PORT_STEP */
};

enum {
	DS_PORT_END_MAX = 1000,
	/* As long as whoever kills them waits at most. It takes 30 ms; on a busy machine MPS may need a second. */
	DS_PORT_END_MS = 1950,
};

/* Sent as far as `n_pids` reaches. */
struct ds_port_end {
	struct ds_port_hello hello;
	uint32_t n_pids;
	int32_t pids[DS_PORT_END_MAX]; /* those that use no GPU do no harm */
};

struct ds_port_ask {
	struct ds_port_hello hello;
	uint64_t since_ns; /* CLOCK_BOOTTIME: nothing from before */
	uint32_t only_new; /* 1: nothing that somebody was told before */
	uint32_t last;     /* 1: what is not known yet will not be waited for */
};

enum { DS_PORT_NOTES_MAX = 4, DS_PORT_NOTE_SIZE = 400 };

/* Sent as far as `n` reaches; the latest. Each is one line. */
struct ds_port_notes {
	uint32_t magic;
	uint16_t version;
	uint16_t refused; /* never: where a welcome says so */
	uint32_t n;
	uint32_t pending;  /* 1: there will be more soon, or with `last`; ask again */
	uint64_t until_ns; /* CLOCK_BOOTTIME: what comes later is not among them */
	char text[DS_PORT_NOTES_MAX][DS_PORT_NOTE_SIZE];
};

/*
 * Beside the port, for when nobody answers there: lines for the job's user, as of DS_PORT_NOTES, by neighbours of a
 * runtime that was killed.
 */
#define DS_PORT_LAST_NOTES "notes"

struct ds_port_welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t refused; /* 0: welcome; 1: `reason` says why not, no descriptors follow */
	char reason[248];
	uint32_t book_slot; /* the program's, with descriptors */
	uint32_t reserved;
};

struct ds_port_memory {
	uint32_t magic;
	uint16_t version;
	uint16_t refused;     /* never: where a welcome says so */
	uint64_t quota, used; /* bytes */
	char gpu_uuid[48];
};

struct ds_port_notice {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;
	uint64_t epoch;
};

/*
 * The allocation's page. A reader takes `epoch` (acquire), copies, reads `epoch` again: equal and
 * even means a whole copy. `granted` are the groups that new work may use from now on. It grows only
 * by groups that nobody else uses any more; those it loses stay the program's until the program has
 * acknowledged the epoch, or is gone. While a program lives it holds at least one full group.
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
	uint32_t flags;     /* enum ds_page_flags; change with the epoch */
	uint32_t window_us; /* with DS_PAGE_WINDOW: work that may be queued ahead of the GPU */
	/* Bytes of GPU memory that the allocation's programs may have together, and what the contexts of
	 * each take of it beside what it allocates. Never change. 0: memory is not limited. */
	uint64_t memory_quota, memory_per_program;
	/* Programs measure one launch in so many, on average. Never changes. 0: none. */
	uint32_t sample_launches;
	/* A kernel that runs longer is to be named. Never changes. 0: none is. */
	uint32_t overlong_ms;
	/* Kernels that need the GPU as a whole without saying so: patterns with commas between. */
	char whole_gpu_kernels[512];
	/* A launch that asked for the GPU as a whole waits for it at most so long, whatever happens. */
	uint32_t whole_patience_ms; /* 0: the library's own */
	/*
	 * A program that is suspended when its runtime dies stays so for so long, in which whoever it is for
	 * hears of that and leaves; then it goes on where it was. Never changes.
	 */
	uint32_t orphan_ms;
	/*
	 * Kernels that saturate memory bandwidth are held back while a neighbour is in a step: one launch at
	 * most for hold_back_us, and all together for so many thousandths of the time. Never change. 0
	 * thousandths: nothing is held back.
	 */
	uint32_t hold_back_milli, hold_back_us;
	char hold_back_kernels[512]; /* known to be such: patterns with commas between */
	/*
	 * Odd while a neighbour of kind latency is in a step. Goes up by one whenever that begins or ends, without a
	 * new epoch and without a notice: who launches looks.
	 */
	_Atomic uint32_t neighbours_step;
	/*
	 * 1: there are no groups that a program is to leave for this epoch, so nobody waits for it to be
	 * acknowledged: to say so in the port is enough, a notice would wake the runtime for nothing.
	 * Changes with the epoch.
	 */
	uint32_t unawaited;
	/*
	 * Not 0: groups change hands for an owner of kind latency that has been waiting for them or may want
	 * them back. A program that is to leave some, and a thread that has said that it wants them back, may spin
	 * for so long while they wait for that, if they may run on `spin_cpus`. Changes with the epoch.
	 */
	uint32_t spin_us;
	uint32_t spin_cpus; /* never changes */
};

enum { DS_PORT_KERNELS = 8 };

/* A kernel in one launch shape, of which it was found out what bounds it (coroutine/bound.h). */
struct ds_port_kernel {
	uint64_t key; /* 0: none */
	uint64_t blocks;
	uint32_t threads; /* of a block */
	uint32_t by;      /* enum ds_bound_by */
	uint32_t gain_milli;
	char name[68]; /* its beginning */
};

/*
 * What the program says of itself; the runtime labels it so.
 *
 * `in_use` and then `acknowledged_epoch` (release) together promise: no work of this process is left
 * outside `in_use`, and none will begin outside `in_use` and what the page grants under that epoch or
 * a later one. `in_use` may lie partly outside `granted`: what cannot be moved stays where it is, and
 * so does the program's right to it. It may be acknowledged once more under the same epoch with
 * fewer groups. Only the page's present epoch counts; a program that says nothing keeps what it has.
 */
struct ds_port {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
	_Atomic uint64_t acknowledged_epoch; /* of the page */
	struct ds_groups in_use;             /* groups that its work may be on */
	_Atomic uint64_t launches;
	/* Contexts that the program made, by cuCtxCreate or as green ones. */
	_Atomic uint64_t own_contexts;
	/* Cooperative grids that the partition could not hold. */
	_Atomic uint64_t cooperative_too_large;
	_Atomic uint64_t remaps; /* times that a stream went to another physical context */
	struct ds_groups pinned; /* groups in `in_use` that work which cannot be moved is on */
	/* Graphs that stay in the physical context they were made in. */
	_Atomic uint64_t pinned_graphs;
	/* Measured by the library (coroutine/measure.h). */
	_Atomic uint64_t stalls;        /* launches that had to wait for the library */
	_Atomic uint64_t samples;       /* launches whose time on the GPU was measured */
	_Atomic uint64_t sampled_ns;    /* which took this long together */
	_Atomic uint64_t export_tables; /* private tables of the driver that were asked for */
	struct ds_sketch steps;         /* times between host synchronisations */
	_Atomic uint32_t demand;        /* enum ds_port_demand */
	/*
	 * Launches that wait for the GPU as a whole or, with DS_PAGE_WHOLE, are on it; not 0: asks for
	 * DS_PAGE_WHOLE, or to keep it.
	 */
	_Atomic uint32_t whole_wanted;
	_Atomic uint64_t whole_windows;  /* times that it had the GPU as a whole */
	_Atomic uint64_t window_waits;   /* launches that the window held back */
	_Atomic uint64_t window_expired; /* of those, let go since nothing completed meanwhile */
	_Atomic uint64_t drain_us; /* what the GPU needs for what is queued, at most; 0: unknown */
	/* A kernel that runs longer than it should, or "": its groups are not to be lent. */
	_Atomic uint64_t overlong_since_ns; /* CLOCK_BOOTTIME; 0: none */
	char overlong_kernel[128];
	/* Modules whose code launches kernels itself, and those that could not be looked through. */
	_Atomic uint64_t launching_modules, unread_modules;
	/* The first error of the GPU that the program got, after which nothing of it works: a CUresult. */
	_Atomic uint32_t fault;
	/* 1: it cannot be moved at present, so that it acknowledges nothing and keeps what it has. */
	_Atomic uint32_t immovable;
	_Atomic uint64_t fault_ns; /* CLOCK_BOOTTIME, before `fault` */
	/* Launches that were held back for a neighbour's step, and how long together. */
	_Atomic uint64_t held_back, held_back_ns;
	struct ds_port_kernel kernels[DS_PORT_KERNELS];
};

enum { DS_PORT_REPORTED_MAX = 64, DS_PORT_STRAYS_MAX = 8 };

/* One program, as it says itself, but for `pid` and `unfit`. */
struct ds_port_reported {
	int32_t pid;
	uint32_t unfit; /* times that the runtime could not believe it */
	uint64_t acknowledged_epoch;
	struct ds_groups in_use;
	struct ds_groups pinned;
	uint64_t launches;
	uint64_t own_contexts;
	uint64_t cooperative_too_large;
	uint64_t remaps;
	uint64_t pinned_graphs;
	uint64_t export_tables;
	uint64_t launching_modules;
	uint64_t unread_modules;
	uint64_t window_waits;
	uint64_t window_expired;
	uint64_t held_back;
	uint64_t held_back_ns;
	uint64_t overlong_since_ns;                     /* CLOCK_BOOTTIME; 0: no such kernel */
	char overlong_kernel[128];                      /* printable */
	struct ds_port_kernel kernels[DS_PORT_KERNELS]; /* names printable; key 0: none */
};

/* What another allocation owes for what it was lent, or, below 0, is owed. */
struct ds_port_owing {
	uint64_t arrival; /* in the ledger */
	int64_t group_us; /* SM groups, times microseconds */
};

enum { DS_PORT_OWING_MAX = 64 };

/* Sent as far as `n_programs` reaches. */
struct ds_port_report {
	uint32_t magic;
	uint16_t version;
	uint16_t refused; /* never: where a welcome says so */
	uint32_t n_programs;
	uint32_t flags;                    /* of the page */
	uint64_t epoch;                    /* of the page */
	uint64_t memory_used, memory_peak; /* bytes */
	/* Processes that use the GPU without having come to the port. */
	int32_t strays[DS_PORT_STRAYS_MAX]; /* 0: no more */
	/* Of kind latency, with an advance in detshare.conf: what others owe it. */
	uint32_t n_owing;
	uint32_t reserved;
	struct ds_port_owing owing[DS_PORT_OWING_MAX];
	struct ds_port_reported programs[DS_PORT_REPORTED_MAX];
};

#endif
