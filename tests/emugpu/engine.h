/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_ENGINE_H
#define DETSHARE_TESTS_EMUGPU_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include "tests/emugpu/kernels.h"
#include "tests/emugpu/shm.h"

/*
 * The execution engine. Work becomes an operation (op) with the operations it has to wait for: the
 * one before it in its stream, recorded events, and what the legacy NULL stream adds. An op whose
 * last predecessor is done goes to the thread of its device (one per GPU, made when first needed),
 * which runs copies itself and hands the blocks of kernels to SMs. Host functions have a thread of
 * their own, because they may block.
 *
 * One mutex guards everything of this process. A timed block holds an SM, not a thread: 132 blocks
 * may spin at once on a machine with two cores.
 */
enum emu_kind {
	EMU_HANDLE_FREE,
	EMU_HANDLE_CONTEXT,
	EMU_HANDLE_STREAM,
	EMU_HANDLE_EVENT,
	EMU_HANDLE_MODULE,
	EMU_HANDLE_FUNCTION,
	EMU_HANDLE_DESC,
	EMU_HANDLE_GRAPH,
	EMU_HANDLE_NODE,
	EMU_HANDLE_EXEC,
	EMU_HANDLE_POOL,
	EMU_HANDLE_ARRAY,
	EMU_HANDLE_MIPMAP,
	EMU_HANDLE_EXTERNAL,
	EMU_HANDLE_PHYSICAL,
};

enum { EMU_STREAM_ATTRIBUTES = 16 };

enum { EMU_QUEUES_DEFAULT = 8, EMU_QUEUES_MAX = 32 };

struct emu_device;
struct emu_op;
struct emu_capture;

/* A context: primary, made by cuCtxCreate, or green. */
struct CUctx_st {
	struct emu_device *dev;
	struct CUctx_st *root; /* of a green context: the primary one; else itself */
	bool green;
	bool primary;
	unsigned refs;    /* of the primary context: cuDevicePrimaryCtxRetain and green contexts */
	unsigned n_green; /* of the primary context: its green contexts */
	unsigned flags;
	size_t limits[CU_LIMIT_MAX]; /* kept, without an effect */
	CUfunc_cache cache;
	CUsharedconfig shared;
	unsigned affinity_sms; /* of a context for some SMs only; 0: all */
	unsigned long long id;
	struct emu_sms sms;
	CUdevResource resource;
	struct CUstream_st *streams; /* all of the context, the NULL stream first */
	struct CUctx_st *next;       /* of all contexts */
};

/* Some nodes of one graph. */
struct emu_nodes {
	CUgraphNode *all;
	size_t n;
	CUgraphEdgeData *data; /* of the edges from them; NULL: all are full ones */
};

struct CUgreenCtx_st {
	struct CUctx_st ctx;
};

struct CUstream_st {
	struct CUctx_st *ctx;
	struct CUstream_st *next;
	struct emu_op *tail; /* the last operation; NULL: never used */
	bool null_stream;
	bool blocking;   /* ordered with the legacy NULL stream */
	bool destroyed;  /* kept while it has work that the NULL stream waits for */
	uint64_t thread; /* per-thread default stream of this thread; 0: none */
	int priority;
	unsigned queue; /* number of its hardware queue, if these are modelled */
	unsigned flags;
	CUstreamAttrValue attributes[EMU_STREAM_ATTRIBUTES]; /* kept, without an effect */
	unsigned long long id;
	struct emu_capture *capture; /* NULL: its work is run, not captured */
	struct emu_nodes after;      /* what the next captured node comes after */
	CUgraphEdgeData *edges;      /* zeros, one for each of them, for who asks */
};

struct CUevent_st {
	unsigned long long root_id; /* of its context's root */
	unsigned flags;
	struct emu_op *op;             /* the latest record; NULL: none */
	unsigned long long capture_id; /* the latest record was captured; 0: it was not */
	struct emu_nodes after;        /* then: what came before it */
};

struct emu_function {
	char name[64];
	const struct emu_kernel *kernel;
	bool waits; /* for the results of the kernel that it may overlap with */
	unsigned n_params;
	size_t param_size[16];
	size_t param_offset[16];
	struct CUmod_st *module;
	struct emu_function *next;
};

struct CUmod_st {
	unsigned long long ctx_id; /* of its root context; 0: a library, usable in every context */
	struct emu_device *dev;    /* of that context; of a library the first one */
	struct emu_function *functions;
};

enum emu_op_kind {
	EMU_OP_NOP, /* event record and wait, and other joints */
	EMU_OP_KERNEL,
	EMU_OP_COPY,
	EMU_OP_SET,
	EMU_OP_HOST,
	EMU_OP_WRITE_VALUE,
	EMU_OP_WAIT_VALUE,
	EMU_OP_FREE,
};

/* Bytes to move: `depth` slices of `height` rows of `width` bytes. */
struct emu_copy {
	char *to;
	const char *from;
	size_t width, height, depth;
	size_t to_pitch, to_slice, from_pitch, from_slice;
	void *staged; /* freed afterwards */
	/* A graph's node: the ranges of memory that were there when it was made; 0: none. */
	unsigned long long to_id, from_id;
};

/* What an operation does: also what a graph's node will do each time it is launched. */
struct emu_work {
	enum emu_op_kind kind;
	union {
		struct {
			struct emu_run run; /* its params point into the buffer */
			const struct emu_function *function;
			const struct emu_kernel *kernel;
			uint64_t n_blocks;
			unsigned shared;
			bool cooperative;
			void *buffer;
			size_t buffer_size;
		} launch;
		struct emu_copy copy;
		struct {
			void *to;
			size_t pitch, width, height;
			unsigned value, size;
		} set;
		struct {
			CUhostFn fn;
			void *data;
			CUstreamCallback callback;
			CUstream stream;
		} host;
		struct {
			void *address;
			uint64_t value;
			unsigned size, flags;
		} value;
		void *memory;
	} u;
};

struct emu_op {
	struct emu_work work;
	unsigned refs;
	struct emu_device *dev;
	struct CUctx_st *ctx, *root;
	uint64_t serial;
	unsigned n_waits_for;
	struct emu_op **followers;
	unsigned n_followers;
	struct emu_op **dependents; /* kernels that may begin when this one does */
	unsigned n_dependents;
	struct emu_op
	    *beside; /* the kernel that this one may have begun beside: it is over after that */
	bool begun, ended;                          /* its blocks have, or may */
	struct emu_op *queue_next;                  /* in the list of ready or active ones */
	struct emu_op *pending_prev, *pending_next; /* in the device's list of unfinished ones */
	bool started;                 /* the next one in its hardware queue may be looked at */
	struct emu_op *next_in_queue; /* which waits for that */
	bool done;
	bool apart; /* of a graph on a stream of a green context: cuCtxSynchronize does not wait */
	CUresult result;
	uint64_t ready_ns, done_ns;
	struct emu_sms sms;
	bool renumber_smid; /* from 0: what %smid shows in a green context under MPS */
	int priority;
	uint64_t issued, running; /* blocks of a kernel */
};

/* A block that holds an SM. */
struct emu_running {
	struct emu_op *op;
	unsigned sm;
	uint32_t index[3]; /* the block's */
	uint64_t claim, end_ns;
	bool ended;
};

struct emu_device {
	struct emu_map map;
	int client; /* -1: no context yet */
	bool thread_made;
	pthread_t thread;
	_Atomic int fault;
	struct emu_op *ready, **ready_end;
	struct emu_op *queue_last[EMU_QUEUES_MAX]; /* in each hardware queue; NULL: never used */
	struct emu_op *active;                     /* kernels with blocks left, in order */
	struct emu_op *waiting;                    /* for a value in memory */
	struct emu_op *pending, *pending_last;     /* unfinished, by serial */
	struct emu_running running[EMU_SMS_MAX];
	unsigned n_running;
	struct CUctx_st *primary;
	unsigned primary_flags;
	unsigned n_visible_sms; /* what programs are told */
};

struct emu_state {
	pthread_mutex_t mutex;
	pthread_cond_t done;
	bool initialised, forked;
	unsigned n_devices;
	struct emu_device devices[EMU_GPUS_MAX]; /* in CUDA's order */
	int server_pid;                          /* MPS; 0: none */
	uint64_t memory_limits[EMU_GPUS_MAX];    /* of the MPS server, per device; 0: none */
	int mps_fd;
	unsigned long long next_id;
	unsigned n_queues; /* hardware queues that streams share; 0: each has its own */
	unsigned next_queue;
	bool launches_apart; /* what is made now is `apart` */
};

extern struct emu_state emu;
extern _Thread_local bool emu_in_host_function;

extern struct CUctx_st *emu_contexts;

void emu_enter(void);
void emu_exit(void);

/* Handles, under the mutex: what a program passes in is looked up before it is followed. */
void emu_handle_add(const void *handle, enum emu_kind kind);
void emu_handle_remove(const void *handle);
bool emu_handle_is(const void *handle, enum emu_kind kind);

/* A new op for `stream`, not yet submitted; NULL: no memory. */
struct emu_op *emu_op_new(enum emu_op_kind kind, const struct CUstream_st *stream);
/* The same for no stream: started with emu_op_start. */
struct emu_op *emu_op_new_in(enum emu_op_kind kind, struct CUctx_st *ctx, int priority);
/* Make `op` wait for `before`, if that is not done. */
void emu_op_after(struct emu_op *op, struct emu_op *before);
/*
 * Does EMUGPU_DROP=KIND:N ask for a driver that forgets every Nth wait of this kind ("stream", "event",
 * "legacy", "graph", "launch")? For tests that must find that out.
 */
bool emu_forget(const char *kind);
/*
 * Append to the stream, with the ordering that the stream's kind asks for. Takes the reference. If the
 * stream is captured, the work becomes a node of the graph instead.
 */
CUresult emu_op_submit(struct emu_op *op, struct CUstream_st *stream);
/*
 * The same for a kernel that may begin while the one before it still runs, if that is the last thing in the
 * stream (programmatic dependent launch).
 */
CUresult emu_op_submit_beside(struct emu_op *op, struct CUstream_st *stream);
/* Make the kernel `op` wait for the begin of the kernel `before`, and be over after it. */
void emu_op_beside(struct emu_op *op, struct emu_op *before);
/* Run when what it waits for is done, in no stream. Takes no reference. */
CUresult emu_op_start(struct emu_op *op);
/* Threads that ops of this kind need; emu_op_start cannot fail afterwards. */
CUresult emu_op_prepare(enum emu_op_kind kind, struct emu_device *dev);
/* Remember what memory a graph's copy is of; whether it is still there, as far as it was known. */
void emu_copy_find(struct emu_copy *copy);
bool emu_copy_is_there(const struct emu_copy *copy);
bool emu_work_copy(struct emu_work *to, const struct emu_work *from);
void emu_work_free(struct emu_work *work);
void emu_op_ref(struct emu_op *op);
void emu_op_unref(struct emu_op *op);

/* Wait (dropping the mutex meanwhile) for an op, or for everything unfinished of a context. */
CUresult emu_wait_op(struct emu_op *op);
CUresult emu_wait_context(struct CUctx_st *ctx);
/* The same, as cuCtxSynchronize does it on an H200: not for graphs on streams of green contexts. */
CUresult emu_synchronise_context(struct CUctx_st *ctx);

/* The device's sticky error, also one that an MPS neighbour caused. */
CUresult emu_device_fault(struct emu_device *dev);

/* Become a client of the GPU, when its first context is made. */
CUresult emu_device_join(struct emu_device *dev);

/* Forget destroyed streams whose work is done (stream.c). */
void emu_streams_prune(struct CUctx_st *ctx);

/* The number of this thread, from 1. */
uint64_t emu_thread(void);

/* Free device memory (memory.c); under the mutex. */
void emu_memory_free(struct emu_device *dev, void *address);

/* The primary context is reset: what was allocated in it goes with it. */
void emu_memory_drop(struct CUctx_st *root);

/* Take device memory for this process, and give it back (memory.c). False: there is not that much. */
bool emu_memory_charge(struct emu_device *dev, uint64_t bytes);
void emu_memory_credit(struct emu_device *dev, uint64_t bytes);

/* Addresses that have physical memory; kernels and copies may touch them. */
bool emu_memory_add_mapping(struct emu_device *dev, void *address, size_t bytes);
bool emu_memory_remove_mapping(void *address);

/* Memory pools (pools.c). All under the mutex. */
struct CUmemPoolHandle_st *emu_pool_of(struct emu_device *dev);
bool emu_pool_take(struct CUmemPoolHandle_st *pool, uint64_t bytes);
void emu_pool_give(struct CUmemPoolHandle_st *pool, uint64_t bytes);
/* Give back what no pool of the device uses; or what is beyond release thresholds, after a synchronisation. */
void emu_pools_trim(const struct emu_device *dev);
void emu_pools_synchronised(void);
/* A graph with memory nodes is launched: what they want is there from now on. */
CUresult emu_graph_memory(struct emu_device *dev, uint64_t bytes);

#endif
