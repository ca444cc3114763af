/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/ahead.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/clock.h"
#include "noderuntime/coroutine/ahead_bounds.h"
#include "noderuntime/coroutine/launch_times.h"

enum {
	EVENTS = 4,     /* in a ring; three are looked at */
	TRIES = 100,    /* for a ring that another thread is in, for some calls of the driver */
	SPIN_PART = 16, /* between two questions, of the time waited before, and: */
	SPIN_LEAST_NS = 500,
	SPIN_NS = 100000, /* of waiting; then in naps */
	NAP_PART = 8,     /* as long as one of so many parts of the time waited before, */
	BEHIND_PART = 4,  /* and of what the GPU has to go on with, or: */
	NAP_NS = 10000,   /* at least, and at most: */
	NAP_MAX_NS = 500000,
	NAP_SLACK_NS = 1000,
	BACKLOG_NS = 1000000, /* a kernel that was queued before the window, if nothing is known */
	/* A stream that nothing was launched on for so long, and for as long as it needs, is no more. */
	FORGET_NS = 2000000000,
};

/* Between the event before and this one. */
struct interval {
	uint64_t keys[DS_AHEAD_OVERLAPPING]; /* of the launches, ds_launch_key() */
	unsigned launches;
	uint64_t ns; /* what they should take; what they took, when that is known */
	bool busy;   /* the event before was not done when this was recorded */
};

struct ds_ahead {
	/* Taken with test-and-set, for a few calls of the driver. */
	atomic_flag in_use;
	atomic_bool taken;                      /* by a stream */
	_Atomic uint64_t drain_ns, measured_ns; /* and when that was last looked at */
	struct ds_ahead *next;                  /* of all there are */
	/* With in_use: */
	unsigned user;    /* how many streams it has had */
	unsigned context; /* number of the primary context that the events are of */
	unsigned window;  /* number of the window that the counts are of */
	CUevent events[EVENTS];
	struct interval intervals[EVENTS]; /* up to the event; after the last one, what is open */
	uint64_t recorded, done;           /* events: the ones before these numbers are */
	bool closed;                       /* what comes needs an event before it */
	struct ds_patience patience;
	struct ds_longest longest; /* two intervals */
};

static struct {
	struct ds_session *session;
	_Atomic(CUcontext) primary; /* NULL: there are no events */
	_Atomic unsigned context, window;
	_Atomic uint32_t window_us;
	_Atomic(struct ds_ahead *) all;
	atomic_bool settled;
	_Atomic uint64_t told_us; /* what the runtime was last told of */
} the;

/* ---- rings ---- */

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static bool enter(struct ds_ahead *ring)
{
	for (unsigned tries = 0; tries < TRIES; tries++) {
		if (!atomic_flag_test_and_set_explicit(&ring->in_use, memory_order_acquire))
			return true;
		relax();
	}
	return false;
}

static void leave(struct ds_ahead *ring)
{
	atomic_flag_clear_explicit(&ring->in_use, memory_order_release);
}

/* One that no stream has any more, or a new one; NULL: no memory. */
static struct ds_ahead *take(void)
{
	struct ds_ahead *ring;

	for (ring = atomic_load_explicit(&the.all, memory_order_acquire); ring; ring = ring->next) {
		bool taken = false;

		if (atomic_compare_exchange_strong(&ring->taken, &taken, true))
			break;
	}
	if (!ring) {
		ring = calloc(1, sizeof(*ring));
		if (!ring)
			return NULL;
		atomic_store_explicit(&ring->taken, true, memory_order_relaxed);
		ring->next = atomic_load_explicit(&the.all, memory_order_relaxed);
		while (!atomic_compare_exchange_weak(&the.all, &ring->next, ring))
			;
	}
	while (!enter(ring))
		;
	ring->user++;
	ring->window = 0;
	ring->longest = (struct ds_longest){0};
	leave(ring);
	return ring;
}

static struct ds_ahead *ring_of(struct ds_vstream *stream)
{
	struct ds_ahead *ring = atomic_load_explicit(&stream->ahead, memory_order_acquire);
	struct ds_ahead *fresh;

	if (ring)
		return ring;
	fresh = take();
	if (!fresh || atomic_compare_exchange_strong(&stream->ahead, &ring, fresh))
		return fresh;
	atomic_store(&fresh->taken, false);
	return ring;
}

void ds_ahead_leave(struct ds_vstream *stream)
{
	struct ds_ahead *ring = atomic_exchange(&stream->ahead, NULL);

	if (!ring)
		return;
	atomic_store(&ring->drain_ns, 0);
	atomic_store_explicit(&ring->taken, false, memory_order_release);
}

/* With in_use, in relaxed capture mode. */
static bool make_events(struct ds_ahead *ring)
{
	CUcontext popped;
	unsigned n = 0;

	if (ring->context == atomic_load(&the.context))
		return true;
	if (ds_real.cuCtxPushCurrent_v2(atomic_load(&the.primary)) != CUDA_SUCCESS)
		return false;
	while (n < EVENTS &&
	       ds_real.cuEventCreate(&ring->events[n], CU_EVENT_DEFAULT) == CUDA_SUCCESS)
		n++;
	if (n == EVENTS)
		ring->context = atomic_load(&the.context);
	else
		while (n--)
			ds_real.cuEventDestroy_v2(ring->events[n]);
	ds_real.cuCtxPopCurrent_v2(&popped);
	return ring->context == atomic_load(&the.context);
}

static struct interval *interval_of(struct ds_ahead *ring, uint64_t event)
{
	return &ring->intervals[event % EVENTS];
}

static void open_interval(struct ds_ahead *ring)
{
	struct interval *open = interval_of(ring, ring->recorded);

	open->launches = 0;
	open->ns = 0;
	ring->closed = false;
}

/* Of another window, or another context: nothing of it is known, but how long its kernels are. */
static bool make_current(struct ds_ahead *ring)
{
	const unsigned window = atomic_load(&the.window);
	const bool fresh = ring->context != atomic_load(&the.context) || ring->window != window;

	if (!atomic_load(&the.primary) || !make_events(ring))
		return false;
	if (!fresh)
		return true;
	ring->window = window;
	ring->recorded = ring->done = 0;
	ring->patience = (struct ds_patience){0};
	open_interval(ring);
	/* What was queued before is of unknown length: an event at once. */
	ring->closed = true;
	return true;
}

/* ---- what is measured ---- */

static void say_drain(void)
{
	const uint64_t now = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	uint64_t most = 0, told;

	if (!atomic_load(&the.settled))
		return;
	for (struct ds_ahead *ring = atomic_load(&the.all); ring; ring = ring->next) {
		const uint64_t ns = atomic_load_explicit(&ring->drain_ns, memory_order_relaxed);
		const uint64_t then =
		    atomic_load_explicit(&ring->measured_ns, memory_order_relaxed);

		if (ns > most && now < then + FORGET_NS + 2 * ns)
			most = ns;
	}
	/* Streams that run side by side slow each other down: that is in their times already. */
	most = (most + 999) / 1000;
	atomic_store(&the.session->port->drain_us, most);
	/* The window ended meanwhile: nothing is known any more, whoever of us wrote last. */
	if (!atomic_load(&the.settled)) {
		atomic_store(&the.session->port->drain_us, 0);
		return;
	}
	/* The runtime looks when it is another than when it last looked. */
	told = atomic_load(&the.told_us);
	if ((most > told + told / 4 || most < told - told / 4) &&
	    atomic_compare_exchange_strong(&the.told_us, &told, most))
		ds_session_notify_demand(the.session);
}

static void note_drain(struct ds_ahead *ring, uint64_t two_ns)
{
	const uint64_t now = (uint64_t)ds_now_ns(CLOCK_MONOTONIC),
		       since_ns = ring->longest.since_ns;
	const uint64_t said_ns = atomic_load_explicit(&ring->drain_ns, memory_order_relaxed);
	const uint64_t drain_ns = ds_longest_note(&ring->longest, two_ns, now);

	atomic_store_explicit(&ring->measured_ns, now, memory_order_relaxed);
	if (drain_ns > said_ns + said_ns / 8 || drain_ns + said_ns / 8 < said_ns)
		atomic_store_explicit(&ring->drain_ns, drain_ns, memory_order_relaxed);
	else if (since_ns == ring->longest.since_ns)
		return;
	/* It is another; or it is time to see whether other streams' is. */
	say_drain();
}

/* How long it was until event number `i`, which is done, from the one before. With in_use. */
static void measure(struct ds_ahead *ring, uint64_t i)
{
	struct interval *interval = interval_of(ring, i);
	float ms = 0;
	uint64_t ns, expected_ns;

	if (!i || !interval->launches ||
	    ds_real.cuEventElapsedTime(&ms, ring->events[(i - 1) % EVENTS],
				       ring->events[i % EVENTS]) != CUDA_SUCCESS ||
	    ms < 0)
		return;
	ns = (uint64_t)((double)ms * 1e6);
	ds_launch_times_learn(interval->keys, interval->launches, ns, interval->busy);
	/* The GPU may have done nothing for the most of it. */
	expected_ns = ds_launch_times_sum(interval->keys, interval->launches);
	interval->ns = interval->busy || ns < expected_ns ? ns : expected_ns;
	/* Two intervals may be ahead of the GPU. */
	note_drain(ring, interval->ns + (i > 1 ? interval_of(ring, i - 1)->ns : 0));
}

/* Event number `i`, one of the last two, has been found done, and those before it are. With in_use. */
static void note_done(struct ds_ahead *ring, uint64_t i)
{
	if (i && ring->done < i)
		measure(ring, i - 1);
	measure(ring, i);
	ring->done = i + 1;
	ring->patience = (struct ds_patience){0};
}

/*
 * Whether the event before the last one is still to come: any answer but "not ready" means no, for after
 * a fault nothing runs any more. With in_use, in relaxed capture mode.
 */
static bool is_behind(struct ds_ahead *ring)
{
	const uint64_t i = ring->recorded - 2;

	if (ring->recorded < ring->done + 2)
		return false;
	if (ds_real.cuEventQuery(ring->events[i % EVENTS]) == CUDA_ERROR_NOT_READY)
		return true;
	note_done(ring, i);
	return false;
}

/* ---- launches ---- */

static bool is_captured(struct ds_vctx *vctx, CUstream target)
{
	return atomic_load_explicit(&vctx->captures, memory_order_relaxed) > 0 &&
	       ds_order_captured(target);
}

/* Record the next event behind all launches there have been. With in_use, in relaxed capture mode. */
static void record(struct ds_ahead *ring, CUstream target)
{
	const uint64_t i = ring->recorded;
	bool busy = false;

	if (i > ring->done)
		busy = ds_real.cuEventQuery(ring->events[(i - 1) % EVENTS]) == CUDA_ERROR_NOT_READY;
	if (i > ring->done && !busy)
		note_done(ring, i - 1);
	if (ds_real.cuEventRecord(ring->events[i % EVENTS], target) != CUDA_SUCCESS)
		return;
	interval_of(ring, i)->busy = busy;
	ring->recorded++;
	open_interval(ring);
}

static uint64_t key_of(const struct ds_launch *launch)
{
	const CUlaunchConfig *config = launch->config;
	uint64_t threads = 1;

	for (unsigned i = 0; i < 3; i++)
		threads *= (uint64_t)launch->grid[i] * launch->block[i];
	if (config)
		threads = (uint64_t)config->gridDimX * config->gridDimY * config->gridDimZ *
			  config->blockDimX * config->blockDimY * config->blockDimZ;
	return ds_launch_key(launch->what, threads);
}

/*
 * Returns whether it has to wait. *alone: an event is to follow at once, so that it is known how long it
 * took. With in_use, in relaxed capture mode.
 */
static bool count_launch(struct ds_ahead *ring, CUstream target, const struct ds_launch *launch,
			 bool *alone)
{
	const bool overlaps = launch->config && ds_launch_overlaps(launch->config);
	const uint32_t window_us = atomic_load(&the.window_us);
	const uint64_t key = key_of(launch);
	const struct ds_launch_time time = ds_launch_times_get(key);
	struct interval *open = interval_of(ring, ring->recorded);

	if ((ring->closed && (!overlaps || !ring->recorded)) ||
	    !ds_ahead_joins(window_us, open->ns, open->launches, time.ns, overlaps)) {
		record(ring, target);
		open = interval_of(ring, ring->recorded);
	}
	*alone = !overlaps && !open->launches && !time.exact &&
		 (!time.ns || time.ns > ds_ahead_half_ns(window_us));
	ring->closed = *alone;
	/* More, if no event can be recorded: then nothing is learned of them. */
	if (open->launches < DS_AHEAD_OVERLAPPING) {
		open->keys[open->launches++] = key;
		open->ns += ds_launch_times_sum(&key, 1);
	}
	return is_behind(ring) && !ds_patience_passes(&ring->patience);
}

struct ds_ahead *ds_ahead_launch(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream target,
				 const struct ds_launch *launch, unsigned *user, bool *alone)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	struct ds_ahead *ring = ring_of(stream);
	bool waits = false;

	if (!ring || is_captured(vctx, target) || !enter(ring))
		return NULL;
	/* What another thread captures does not forbid our own calls. */
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	*user = ring->user;
	if (make_current(ring))
		waits = count_launch(ring, target, launch, alone);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	leave(ring);
	return waits ? ring : NULL;
}

void ds_ahead_launched(struct ds_vctx *vctx, struct ds_vstream *stream, CUstream target)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	struct ds_ahead *ring = atomic_load_explicit(&stream->ahead, memory_order_acquire);

	/* If not now, then before the next one. */
	if (!ring || is_captured(vctx, target) || !enter(ring))
		return;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (ring->closed && ring->recorded && ring->window == atomic_load(&the.window) &&
	    ring->context == atomic_load(&the.context) && atomic_load(&the.primary))
		record(ring, target);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	leave(ring);
}

/* ---- waiting ---- */

static uint64_t at_most(uint64_t ns, uint64_t most)
{
	return ns < most ? ns : most;
}

/* What a sampled kernel takes, or any. */
static uint64_t known_kernel_ns(void)
{
	const uint64_t n = atomic_load_explicit(&the.session->port->samples, memory_order_relaxed);

	return n ? atomic_load_explicit(&the.session->port->sampled_ns, memory_order_relaxed) / n
		 : BACKLOG_NS;
}

enum turn { WAIT, GO, EXPIRED };

/* *behind_ns: what the GPU goes on with meanwhile. In relaxed capture mode. */
static enum turn look(struct ds_ahead *ring, unsigned user, uint64_t waited_ns, uint64_t *behind_ns)
{
	enum turn turn = GO;
	uint64_t expected_ns;

	if (!enter(ring))
		return WAIT;
	expected_ns = interval_of(ring, ring->recorded - 2)->ns;
	if (!atomic_load(&the.primary) || ring->user != user ||
	    ring->context != atomic_load(&the.context) ||
	    ring->window != atomic_load(&the.window) || !is_behind(ring)) {
		turn = GO;
	} else if (waited_ns < ds_patience_ns(&ring->patience, expected_ns)) {
		*behind_ns = interval_of(ring, ring->recorded - 1)->ns;
		turn = WAIT;
	} else {
		/* At first there may be much before the ring's first event. */
		ds_patience_expire(&ring->patience, waited_ns, ring->done ? 0 : known_kernel_ns());
		turn = EXPIRED;
	}
	leave(ring);
	return turn;
}

static void pause_for(uint64_t waited_ns, uint64_t behind_ns)
{
	const uint64_t most_ns =
	    behind_ns / BEHIND_PART > NAP_NS ? behind_ns / BEHIND_PART : NAP_NS;
	uint64_t ns;

	/* Not without a break: the driver's own threads may want what the question locks. */
	if (waited_ns < SPIN_NS) {
		const uint64_t end_ns =
		    (uint64_t)ds_now_ns(CLOCK_MONOTONIC) + waited_ns / SPIN_PART + SPIN_LEAST_NS;

		sched_yield();
		while ((uint64_t)ds_now_ns(CLOCK_MONOTONIC) < end_ns)
			relax();
		return;
	}
	ns = at_most(at_most(waited_ns / NAP_PART + NAP_NS, NAP_MAX_NS), most_ns);
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

void ds_ahead_wait(struct ds_vctx *vctx, struct ds_ahead *ring, unsigned user)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	const uint64_t begin = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	uint64_t waited_ns = 0, behind_ns = 0;
	enum turn turn = WAIT;
	int slack_ns = 0;

	atomic_fetch_add_explicit(&the.session->port->window_waits, 1, memory_order_relaxed);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	/* If more is asked for than to keep within the window, that is for the gate. */
	while ((ds_gate_asked(vctx) & ~(uint64_t)DS_GATE_ASLEEP) == DS_GATE_WINDOW &&
	       atomic_load_explicit(&ds_vctx, memory_order_acquire) == vctx) {
		turn = look(ring, user, waited_ns, &behind_ns);
		if (turn != WAIT)
			break;
		/* Else a nap may be 50 us longer, and the GPU be out of work. */
		if (waited_ns >= SPIN_NS && !slack_ns) {
			slack_ns = prctl(PR_GET_TIMERSLACK);
			if (slack_ns > NAP_SLACK_NS)
				prctl(PR_SET_TIMERSLACK, (unsigned long)NAP_SLACK_NS);
		}
		pause_for(waited_ns, behind_ns);
		waited_ns = (uint64_t)ds_now_ns(CLOCK_MONOTONIC) - begin;
	}
	if (slack_ns > NAP_SLACK_NS)
		prctl(PR_SET_TIMERSLACK, (unsigned long)slack_ns);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (turn == EXPIRED)
		atomic_fetch_add_explicit(&the.session->port->window_expired, 1,
					  memory_order_relaxed);
}

/* ---- the acknowledger's side ---- */

void ds_ahead_start(struct ds_session *session, CUcontext primary)
{
	the.session = session;
	ds_launch_times_forget();
	atomic_store(&the.primary, primary);
	atomic_fetch_add(&the.context, 1);
}

void ds_ahead_drop(void)
{
	struct ds_ahead *all = atomic_load(&the.all);

	/* Who is in a ring still has valid events; who comes later finds that there are none. */
	for (struct ds_ahead *ring = all; ring; ring = ring->next)
		while (!enter(ring))
			;
	atomic_store(&the.primary, NULL);
	for (struct ds_ahead *ring = all; ring; ring = ring->next)
		leave(ring);
}

void ds_ahead_window(struct ds_vctx *vctx, bool on, uint32_t window_us)
{
	const bool was_on = ds_gate_asked(vctx) & DS_GATE_WINDOW;

	atomic_store(&the.window_us, window_us);
	if (on && !was_on) {
		atomic_store(&the.settled, false);
		atomic_fetch_add(&the.window, 1);
		ds_gate_ask(vctx, DS_GATE_WINDOW);
	} else if (!on && was_on) {
		ds_gate_stop_asking(vctx, DS_GATE_WINDOW);
		atomic_store(&the.settled, false);
		atomic_store(&the.session->port->drain_us, 0);
		atomic_store(&the.told_us, 0);
	}
}

/* Nothing is left of what was on the stream before the window. Under the context's lock. */
static bool has_settled(struct ds_vstream *stream)
{
	struct ds_ahead *ring = atomic_load_explicit(&stream->ahead, memory_order_acquire);
	CUstream shadow;
	bool settled = false;

	if (ring && enter(ring)) {
		if (ring->window == atomic_load(&the.window)) {
			is_behind(ring);
			settled = ring->done > 0;
		}
		leave(ring);
	}
	/* Locked, no capture begins that the question would break. */
	pthread_mutex_lock(&stream->lock);
	shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);
	settled = settled || !shadow || ds_order_captured(shadow) ||
		  ds_real.cuStreamQuery(shadow) != CUDA_ERROR_NOT_READY;
	pthread_mutex_unlock(&stream->lock);
	return settled;
}

bool ds_ahead_settled(struct ds_vctx *vctx)
{
	bool settled = true;

	if (atomic_load(&the.settled))
		return true;
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream && settled; stream = stream->all_next)
		settled = has_settled(stream);
	pthread_mutex_unlock(&vctx->lock);
	if (settled) {
		atomic_store(&the.settled, true);
		say_drain();
	}
	return settled;
}
