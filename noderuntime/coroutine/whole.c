/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/whole.h"

#include <errno.h>
#include <time.h>

#include "noderuntime/coroutine/hold.h"
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/whole_names.h"

enum {
	PATIENCE_MS = 60000, /* unless the page says something else */
	STREAMS_MAX = 16,    /* whose launches are told from other work of the program, at once */
};

/* The last launch that a stream has put on the whole GPU. */
struct last {
	CUstream stream;
	CUevent event; /* behind it; kept for the next one */
	bool pending;
};

static struct {
	pthread_mutex_t
	    lock; /* held for a moment, and taken when no other of ours is but `moving` */
	pthread_cond_t changed;
	struct ds_session *session;
	unsigned waiting; /* launches: from their asking to the driver's answer */
	bool open, refused;
	struct last last[STREAMS_MAX];
	unsigned n_last; /* of them have an event */
} the = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

_Atomic unsigned ds_whole_watch;

/* ---- what fits ---- */

static uint64_t sms_of(const struct ds_groups *groups, const struct ds_gpu_shape *shape)
{
	uint64_t sms = 0;

	for (unsigned i = 0; i < shape->n_groups; i++)
		sms += ds_groups_has(groups, i) ? shape->group_sms : 0;
	return sms + (ds_groups_has(groups, shape->n_groups) ? shape->rest_sms : 0);
}

static struct ds_groups all_groups(const struct ds_gpu_shape *shape)
{
	struct ds_groups all = {{0}};

	for (unsigned i = 0; i < shape->n_groups + (shape->rest_sms > 0); i++)
		ds_groups_add(&all, i);
	return all;
}

/* How many of its blocks can be on `sms` SMs at once: what programs ask, too, before they launch. */
static bool fits(const struct ds_whole_kernel *kernel, uint64_t sms)
{
	int per_sm = 0;

	return ds_real.cuOccupancyMaxActiveBlocksPerMultiprocessor(
		   &per_sm, kernel->function, (int)kernel->threads, kernel->shared) ==
		   CUDA_SUCCESS &&
	       (uint64_t)per_sm * sms >= kernel->blocks;
}

/* The groups that the operation's target is on. Marked. */
static struct ds_groups place_of(const struct ds_op *op)
{
	struct ds_vstream *stream = op->stream;
	struct ds_groups groups = ds_remap_of_stream(stream)->groups;

	pthread_mutex_lock(&stream->lock);
	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++)
		if (stream->shadows[slot] == op->target)
			groups = op->vctx->pctxs[slot].groups;
	pthread_mutex_unlock(&stream->lock);
	return groups;
}

/* ---- to ask for it ---- */

/* Under the lock. */
static void say_wanted(void)
{
	uint32_t wanted = the.waiting;

	if (!the.session)
		return;
	if (the.open) {
		for (unsigned i = 0; i < the.n_last; i++)
			wanted += the.last[i].pending;
	}
	/* Whether any is what the runtime wants to hear; how many is for those who look. */
	if (!atomic_exchange(&the.session->port->whole_wanted, wanted) == !wanted)
		return;
	ds_session_notify_demand(the.session);
}

/* Wait until the program has the GPU, at most until `deadline`. Counted as waiting before and after. */
static bool wait_until(const struct timespec *deadline)
{
	bool open;
	int rc = 0;

	pthread_mutex_lock(&the.lock);
	while (!the.open && !the.refused && rc != ETIMEDOUT)
		rc = pthread_cond_clockwait(&the.changed, &the.lock, CLOCK_MONOTONIC, deadline);
	open = the.open;
	pthread_mutex_unlock(&the.lock);
	return open;
}

static void begin_waiting(void)
{
	pthread_mutex_lock(&the.lock);
	the.waiting++;
	say_wanted();
	pthread_mutex_unlock(&the.lock);
}

static void end_waiting(void)
{
	pthread_mutex_lock(&the.lock);
	the.waiting--;
	say_wanted();
	pthread_mutex_unlock(&the.lock);
}

static struct timespec deadline_of(const struct ds_session *session)
{
	const uint32_t page_ms = session->page->whole_patience_ms;
	const uint32_t ms = page_ms ? page_ms : PATIENCE_MS;
	struct timespec deadline;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += ms / 1000;
	deadline.tv_nsec += ms % 1000 * 1000000L;
	if (deadline.tv_nsec >= 1000000000L) {
		deadline.tv_sec++;
		deadline.tv_nsec -= 1000000000L;
	}
	return deadline;
}

/* Counted as waiting from here on, if it succeeds. The operation is abandoned when this is called. */
static CUresult begin_whole(struct ds_op *op, CUstream handle, bool per_thread)
{
	const struct timespec deadline = deadline_of(the.session);

	begin_waiting();
	ds_measure_stall();
	while (wait_until(&deadline)) {
		struct ds_groups all, place;
		/* The window has seen it. */
		CUresult result = ds_op_begin(op, handle, per_thread);

		if (result != CUDA_SUCCESS || !op->stream) {
			end_waiting();
			return result;
		}
		all = all_groups(&op->vctx->shape);
		place = place_of(op);
		if (ds_groups_equal(&place, &all))
			return CUDA_SUCCESS;
		/* It has ended just now, or another thread has begun to capture the stream. */
		if (ds_order_captured(op->target)) {
			ds_op_abandon(op);
			break;
		}
		ds_op_abandon(op);
	}
	end_waiting();
	ds_vctx_too_large();
	return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
}

/* Whether it is to go to the whole GPU. Marked. */
static bool needs_whole(const struct ds_op *op, const struct ds_whole_kernel *kernel, bool refused)
{
	const struct ds_gpu_shape *shape = &op->vctx->shape;
	const struct ds_groups place = place_of(op), all = all_groups(shape);

	if (!refused && fits(kernel, sms_of(&place, shape)))
		return false;
	/* What does not fit on the whole GPU fails, or hangs, as alone. */
	return !ds_groups_equal(&place, &all) && fits(kernel, sms_of(&all, shape));
}

struct ds_whole_verdict ds_whole_begin(struct ds_op *op, CUstream handle, bool per_thread,
				       const struct ds_whole_kernel *kernel, bool refused)
{
	struct ds_whole_verdict verdict = {
	    .result = refused ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS};
	bool captured;

	if (!op->stream || !needs_whole(op, kernel, refused)) {
		if (refused)
			ds_op_abandon(op);
		else if (op->stream && ds_whole_watched() & DS_WHOLE_OPEN) {
			/* It may be there already: then the GPU is kept for it, too. */
			begin_waiting();
			verdict.whole = true;
		}
		return verdict;
	}
	captured = ds_order_captured(op->target);
	ds_op_abandon(op);
	if (captured) {
		/* A captured stream stays where it is. */
		ds_vctx_too_large();
		verdict.result = CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
		return verdict;
	}
	verdict.result = begin_whole(op, handle, per_thread);
	verdict.whole = verdict.result == CUDA_SUCCESS && op->stream;
	return verdict;
}

/* ---- on it ---- */

static bool make_event(const struct ds_vctx *vctx, CUevent *event)
{
	CUcontext popped;
	bool made;

	/* An event belongs to the current context, which may be another's. */
	if (ds_real.cuCtxPushCurrent_v2(vctx->primary) != CUDA_SUCCESS)
		return false;
	made = ds_real.cuEventCreate(event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS;
	ds_real.cuCtxPopCurrent_v2(&popped);
	return made;
}

/* Under the lock. The stream's own entry, or a free one; NULL: there are none. */
static struct last *entry_of(const struct ds_vctx *vctx, CUstream stream)
{
	struct last *entry = NULL;

	for (unsigned i = 0; i < the.n_last; i++)
		if (the.last[i].pending && the.last[i].stream == stream)
			return &the.last[i];
	for (unsigned i = 0; i < the.n_last && !entry; i++)
		entry = the.last[i].pending ? NULL : &the.last[i];
	if (!entry && the.n_last < STREAMS_MAX && make_event(vctx, &the.last[the.n_last].event))
		entry = &the.last[the.n_last++];
	return entry;
}

/*
 * Under the lock. What gets no entry is waited for, too, as all work is when the GPU has to be given back:
 * only is it given back sooner.
 */
static void note_launched(const struct ds_op *op)
{
	struct last *last = entry_of(op->vctx, op->target);

	if (!last || ds_real.cuEventRecord(last->event, op->target) != CUDA_SUCCESS)
		return;
	last->stream = op->target;
	last->pending = true;
}

struct ds_whole_verdict ds_whole_before(struct ds_op *op, CUstream handle, bool per_thread,
					const struct ds_whole_kernel *kernel)
{
	struct ds_whole_verdict verdict = {.result = CUDA_SUCCESS};

	if (ds_whole_watched() & DS_WHOLE_HOLD)
		verdict.result = ds_hold_launch(op, handle, per_thread, kernel);
	if (verdict.result != CUDA_SUCCESS || !(ds_whole_watched() & DS_WHOLE_NAMED) ||
	    !ds_whole_is_named(kernel->function))
		return verdict;
	return ds_whole_begin(op, handle, per_thread, kernel, false);
}

void ds_whole_end(const struct ds_op *op, CUresult result)
{
	pthread_mutex_lock(&the.lock);
	if (result == CUDA_SUCCESS)
		note_launched(op);
	the.waiting--;
	say_wanted();
	pthread_mutex_unlock(&the.lock);
}

void ds_whole_note(const struct ds_op *op)
{
	if (!op->stream || (atomic_load_explicit(&op->vctx->captures, memory_order_relaxed) > 0 &&
			    ds_order_captured(op->target)))
		return;
	pthread_mutex_lock(&the.lock);
	note_launched(op);
	say_wanted();
	pthread_mutex_unlock(&the.lock);
}

bool ds_whole_look(void)
{
	bool pending = false;

	pthread_mutex_lock(&the.lock);
	for (unsigned i = 0; i < the.n_last; i++) {
		if (the.last[i].pending &&
		    ds_real.cuEventQuery(the.last[i].event) != CUDA_ERROR_NOT_READY)
			the.last[i].pending = false;
		pending |= the.last[i].pending;
	}
	say_wanted();
	pthread_mutex_unlock(&the.lock);
	return pending;
}

/* ---- the page ---- */

void ds_whole_open(void)
{
	pthread_mutex_lock(&the.lock);
	if (!the.open)
		atomic_fetch_add(&the.session->port->whole_windows, 1);
	the.open = true;
	atomic_fetch_or(&ds_whole_watch, DS_WHOLE_OPEN);
	say_wanted();
	pthread_cond_broadcast(&the.changed);
	pthread_mutex_unlock(&the.lock);
}

void ds_whole_close(void)
{
	pthread_mutex_lock(&the.lock);
	the.open = false;
	atomic_fetch_and(&ds_whole_watch, ~(unsigned)DS_WHOLE_OPEN);
	/* Whoever takes the GPU back waits for all work on it, and no event is needed any more. */
	for (unsigned i = 0; i < the.n_last; i++)
		the.last[i].pending = false;
	say_wanted();
	pthread_mutex_unlock(&the.lock);
}

void ds_whole_refuse(bool refused)
{
	pthread_mutex_lock(&the.lock);
	the.refused = refused;
	pthread_cond_broadcast(&the.changed);
	pthread_mutex_unlock(&the.lock);
}

void ds_whole_start(struct ds_session *session)
{
	pthread_mutex_lock(&the.lock);
	the.session = session;
	/* Later ones come with a notice. */
	the.refused = session->page->flags & DS_PAGE_WHOLE_REFUSED;
	pthread_mutex_unlock(&the.lock);
}

void ds_whole_drop(void)
{
	pthread_mutex_lock(&the.lock);
	the.n_last = 0; /* the events go with their context */
	say_wanted();
	pthread_mutex_unlock(&the.lock);
}

void ds_whole_forget(void)
{
	pthread_mutex_init(&the.lock, NULL);
	pthread_cond_init(&the.changed, NULL);
	the.session = NULL;
	the.waiting = 0;
	the.n_last = 0;
	the.open = false;
	the.refused = true;
	atomic_fetch_and(&ds_whole_watch, ~(unsigned)DS_WHOLE_OPEN);
}
