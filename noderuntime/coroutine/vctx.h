/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_VCTX_H
#define DETSHARE_COROUTINE_VCTX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/mark.h"
#include "noderuntime/coroutine/pctx.h"
#include "noderuntime/coroutine/stream_table.h"
#include "noderuntime/coroutine/watchdog.h"
#include "noderuntime/port_protocol.h"

/*
 * The virtual context: the primary context of the allocation's device, as the program sees it. Each of
 * its streams has shadows, one per physical context it has been in, of which the present one runs its
 * work. The present shadow waits for all the others, so it alone stands for the stream.
 *
 * The handle of a stream that the program made is its first shadow, so that whatever we do not know of
 * still finds a stream of the driver's, with the properties that the program gave it.
 *
 * Streams of green contexts are always non-blocking for the driver. That the legacy NULL stream and
 * the blocking streams wait for each other is kept here, with events, and lazily: a blocking stream
 * is `dirty` when it has work that the NULL stream has not waited for; a stream has `seen` the NULL
 * stream's work up to some number. Both marks are set after the driver took the work, never before:
 * a mark set early could be cleared by another thread before the work is there.
 */
enum ds_stream_kind {
	DS_STREAM_NULL,     /* the legacy default stream */
	DS_STREAM_BLOCKING, /* ordered with it; also every per-thread default stream */
	DS_STREAM_FREE,     /* CU_STREAM_NON_BLOCKING */
};

/* What there is of blocking streams' work that the NULL stream has not waited for. */
enum { DS_CLEAN, DS_DIRTY, DS_ORDERING /* being waited for just now */ };

/* Of the virtual context's epoch; see gate.h. */
enum { DS_GATE_BITS = 4 };
#define DS_GATE_MASK ((UINT64_C(1) << DS_GATE_BITS) - 1)

/* A stream's epoch: it has to look where new work goes. */
#define DS_EPOCH_NONE UINT64_MAX

enum { DS_ATTRIBUTES_MAX = 32 /* above every CUstreamAttrID */ };

struct ds_ahead; /* ahead.h */

struct ds_vstream {
	_Atomic(CUstream) shadow; /* NULL: destroyed, kept until its work has been waited for */
	/*
	 * The virtual context's, without what the gate asks for, when it last looked, or DS_EPOCH_NONE; see
	 * remap.c.
	 */
	_Atomic uint64_t epoch;
	_Atomic(struct ds_pctx *) pctx; /* where `shadow` is */
	enum ds_stream_kind kind;
	atomic_bool dirty;     /* blocking: work since the NULL stream last waited */
	_Atomic uint64_t seen; /* blocking: waits for the NULL stream's work up to here */
	unsigned flags;        /* as the program gave them */
	int priority;          /* as the program gave it */
	CUstream handle;       /* the shadow in the first physical context */
	CUcontext made_in;     /* as the program knows it; NULL: a default stream */
	_Atomic(struct ds_ahead *)
	    ahead; /* how far the program is ahead on it; NULL: not counted */
	struct ds_watched watched;
	CUevent event;                   /* null, blocking: orders what comes after it */
	struct ds_vstream *next, **link; /* among the blocking ones; link is NULL if not there */
	/* Under the virtual context's lock: */
	struct ds_vstream *all_next, **all_link; /* among all that live, or among the destroyed */
	unsigned users;                          /* who look at it without the lock */
	/* Under its own lock, which may be taken when the virtual context's is held, not before: */
	pthread_mutex_t lock;
	CUstream shadows[DS_PCTX_MAX]; /* by slot */
	uint32_t worked;               /* slots whose shadow may have work that nobody saw end */
	uint32_t attributes;           /* CUstreamAttrIDs that the program set */
	CUevent moved;                 /* recorded where the stream left, or behind its last work */
	CUevent uncaptured;            /* behind its work before a capture; made at the first one */
	bool capture_began;            /* a capture that began here has not ended */
	struct {
		CUgraphRecaptureCallback call;
		void *data;
	} recaptures;        /* into a graph that is there: whom to tell what differs */
	bool moved_recorded; /* destroyed: `moved` stands behind its last work */
};

/* Moves for tests: every few launches to another of a few partitions; see remap.c. */
struct ds_chaos {
	unsigned every; /* launches; 0: none of this */
	uint64_t random;
	_Atomic uint64_t launches;
	unsigned n_partitions;
	struct ds_pctx *partitions[DS_PCTX_CACHED];
};

struct ds_vctx {
	CUdevice device;
	CUcontext primary;
	bool fixed; /* the program is not to be moved: all stays in the first physical context */
	unsigned generation; /* of the device's primary context: a reset ends all streams */
	_Atomic uint64_t *launches, *remaps, *pinned_graphs; /* in the port */
	/* The targets so far, << DS_GATE_BITS, and what the gate asks for (gate.h). */
	_Atomic uint64_t epoch;
	_Atomic(struct ds_pctx *) target; /* where new work goes */
	struct ds_chaos chaos;
	struct ds_vstream null;
	_Atomic uint64_t null_work;                /* operations on the NULL stream so far */
	atomic_int any_dirty;                      /* DS_DIRTY: a blocking stream may be dirty */
	atomic_int captures;                       /* stream captures under way, about */
	_Atomic uint64_t graphs, graphs_waited;    /* launched so far; of these, waited for */
	_Atomic(struct ds_stream_table *) streams; /* handle -> stream */
	/* Under the lock: */
	pthread_mutex_t lock;
	uint64_t null_recorded; /* null.event stands behind this much of null_work */
	struct ds_vstream *blocking;
	struct ds_vstream *all, *destroyed, **destroyed_end;
	pthread_mutex_t publishing; /* epoch, target, chaos; the innermost lock */
	/* Under `moving`, the outermost lock, which no thread of the program waits for when it launches: */
	pthread_mutex_t moving;
	struct ds_gpu_shape shape;
	struct ds_groups green_pinned; /* by green contexts of the program's own */
	CUstream join; /* for an event over all partitions, with `joined`; made at the first one */
	CUevent joined;
	struct ds_pctx pctxs[DS_PCTX_MAX]; /* the first one lasts */
	pthread_mutex_t green_current;     /* a green context is current to one thread at a time */
};

/* The one virtual context of this process; NULL: none (not yet, or the library stands aside). */
extern _Atomic(struct ds_vctx *) ds_vctx;

/*
 * The virtual context that a call made now belongs to, or NULL in *vctx: the call is none of ours
 * (another device, a context of the program's own, no context, standing aside). Sets up the session
 * and the partition on the first use of the allocation's device. Returns CUDA_SUCCESS, or what the
 * call must fail with.
 */
CUresult ds_vctx_enter(struct ds_vctx **vctx);

/* What a first use of any device must fail with, or CUDA_SUCCESS. Connects to the node runtime. */
CUresult ds_vctx_admits(void);

/*
 * The same for a call that is about a device: its primary context need not be current, nor active. In
 * that case the physical contexts keep it active from then on.
 */
CUresult ds_vctx_enter_device(CUdevice device, struct ds_vctx **vctx);

/* How many groups may be pinned: those that are certain to be this allocation's. UINT_MAX: any. */
unsigned ds_vctx_may_pin(void);

/* The program has made a context of its own. Only with a virtual context. */
void ds_vctx_count_own(void);

/* The primary context of `device` is about to be reset: its streams are gone. */
void ds_vctx_drop(CUdevice device);

/* The reset is done: no work is left. */
void ds_vctx_dropped(void);

/* A launch failed because its cooperative grid does not fit into the partition. */
void ds_vctx_too_large(void);

/*
 * What a launch, or a wait for the GPU, returned: after some errors nothing of the program works any more, and the node
 * runtime wants to know which program had its first. Cold unless something is wrong.
 */
__attribute__((cold)) void ds_vctx_failed(CUresult result);
static inline void ds_vctx_heard(CUresult result)
{
	if (__builtin_expect(result != CUDA_SUCCESS, 0))
		ds_vctx_failed(result);
}

/* Whether the driver's device is the GPU of that UUID ("GPU-..."). */
bool ds_vctx_is_device(CUdevice device, const char *gpu_uuid);

/* The port of the node runtime that the program was started with; "": none. */
const char *ds_vctx_port_path(void);

/* streams.c: the streams of a virtual context. */

/* The stream that the program knows by `handle` (not a default stream's), or NULL. No lock. */
static inline struct ds_vstream *ds_streams_find(struct ds_vctx *vctx, CUstream handle)
{
	return ds_stream_table_find(atomic_load_explicit(&vctx->streams, memory_order_acquire),
				    handle);
}

/* Make a stream, in this context as the program knows it. On success *stream is in the table. */
CUresult ds_streams_create(struct ds_vctx *vctx, CUcontext made_in, unsigned flags, int priority,
			   struct ds_vstream **stream);

/* Wait for all streams that were made in this context of the program's own, and destroy them. */
void ds_streams_destroy_of(struct ds_vctx *vctx, CUcontext made_in);

/* Forget the stream; its shadows end when its work has. */
CUresult ds_streams_destroy(struct ds_vctx *vctx, struct ds_vstream *stream);

/* Make the NULL stream. */
CUresult ds_streams_init(struct ds_vctx *vctx);

/* Forget all streams, without telling the driver: their context is gone. */
void ds_streams_drop(struct ds_vctx *vctx);

/* Make all captures under way invalid. Returns whether there was one. */
bool ds_streams_break_captures(struct ds_vctx *vctx);

/* The calling thread's per-thread default stream, made at its first use. */
CUresult ds_streams_of_thread(struct ds_vctx *vctx, struct ds_vstream **stream);

/* The stream may become captured: note what it did before. Under its lock. */
void ds_streams_note_uncaptured(struct ds_vctx *vctx, struct ds_vstream *stream);

/* Make vctx->join and vctx->joined, if they are not there. With `moving` locked. */
CUresult ds_streams_join(struct ds_vctx *vctx);

/* The NULL stream has waited for a destroyed stream. Under the context's lock. */
void ds_streams_leave_order(struct ds_vstream *stream);

/* cuCtxSynchronize for our own ends: for everything in the current context, graphs included. */
CUresult ds_vctx_wait(void);

/*
 * Wait until the work that is on the streams now has ended, also that of destroyed ones and what was there
 * before a capture began. A capture is left alone: it runs nothing. Returns CUDA_SUCCESS or
 * CUDA_ERROR_OUT_OF_MEMORY.
 */
CUresult ds_streams_wait(struct ds_vctx *vctx);

/* Free destroyed streams whose work has ended, all or only the few longest destroyed. */
void ds_streams_reap(struct ds_vctx *vctx, bool all);

/* order.c: the legacy order. */

/* Whether the stream is being captured. */
bool ds_order_captured(CUstream shadow);

/* Make the NULL stream wait for all work of blocking streams. *shadow is the one that waits. */
CUresult ds_order_null(struct ds_vctx *vctx, CUstream *shadow);

/* Make a blocking stream wait for all work of the NULL stream. *shadow is the one that waits. */
CUresult ds_order_blocking(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream *shadow);

/* If the stream is captured, make the capture invalid. Returns whether it was. */
bool ds_order_break_capture(CUstream shadow);

/* CUDA_ERROR_STREAM_CAPTURE_IMPLICIT if a blocking stream is being captured, else CUDA_SUCCESS. */
CUresult ds_order_null_may_ask(struct ds_vctx *vctx);

/* The NULL stream, all blocking streams included, has no work left when this returns. */
CUresult ds_order_settle(struct ds_vctx *vctx);

/* True if the current context is the primary one, whose default streams are ours. */
static inline bool ds_vctx_current(const struct ds_vctx *vctx)
{
	CUcontext current = NULL;

	return ds_real.cuCtxGetCurrent(&current) == CUDA_SUCCESS && current == vctx->primary;
}

#endif
