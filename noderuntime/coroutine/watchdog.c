/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/watchdog.h"

#include <stdio.h>

#include "common/clock.h"
#include "noderuntime/coroutine/kernel_name.h"
#include "noderuntime/coroutine/vctx.h"

enum {
	LOOKS = 4,             /* until a kernel is overlong: so much later it may be named */
	QUEUE_MAX = 1024,      /* launches that the driver queues */
	UNKNOWN_NS = 1000000,  /* for a kernel, if nothing is known of them */
	LOOK_LEAST_US = 20000, /* however short the limit */
};

static struct {
	struct ds_session *session;
	uint64_t overlong_ns, looked_ns;
	const struct ds_watched *named; /* whose kernel the port names; only compared */
} the;

uint64_t ds_watchdog_patience_ns(uint64_t overlong_ns, uint64_t queued, uint64_t kernel_ns)
{
	if (queued <= 1)
		return overlong_ns;
	if (queued > QUEUE_MAX)
		queued = QUEUE_MAX;
	/* Twice as long as on the average: what is queued now may be of the longer ones. */
	return overlong_ns + 2 * queued * (kernel_ns ? kernel_ns : UNKNOWN_NS);
}

static uint64_t kernel_ns(void)
{
	const struct ds_port *port = the.session->port;
	const uint64_t n = atomic_load_explicit(&port->samples, memory_order_relaxed);

	return n ? atomic_load_explicit(&port->sampled_ns, memory_order_relaxed) / n : 0;
}

static void name(const struct ds_watched *watched)
{
	struct ds_port *port = the.session->port;
	const char *kernel =
	    watched->function == DS_LAUNCHED_GRAPH ? "(graph)" : ds_kernel_name(watched->function);
	const uint64_t ran_ns = (uint64_t)ds_now_ns(CLOCK_MONOTONIC) - watched->since_ns;

	if (the.named)
		return;
	the.named = watched;
	snprintf(port->overlong_kernel, sizeof(port->overlong_kernel), "%s",
		 kernel ? kernel : "(unknown)");
	atomic_store(&port->overlong_since_ns, (uint64_t)ds_now_ns(CLOCK_BOOTTIME) - ran_ns);
	ds_session_notify_demand(the.session);
}

static void unname(const struct ds_watched *watched)
{
	struct ds_port *port;

	if (the.named != watched)
		return;
	the.named = NULL;
	port = the.session->port;
	/* In a child of fork() there is none. */
	if (!port)
		return;
	atomic_store(&port->overlong_since_ns, 0);
	port->overlong_kernel[0] = '\0';
	ds_session_notify_demand(the.session);
}

static bool make_event(struct ds_vctx *vctx, struct ds_watched *watched)
{
	CUcontext popped;

	if (watched->event)
		return true;
	if (ds_real.cuCtxPushCurrent_v2(vctx->primary) != CUDA_SUCCESS)
		return false;
	if (ds_real.cuEventCreate(&watched->event, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS)
		watched->event = NULL;
	ds_real.cuCtxPopCurrent_v2(&popped);
	return watched->event;
}

/* The stream has got on: watch what it has now. */
static void watch_anew(struct ds_vctx *vctx, struct ds_watched *watched, CUstream shadow)
{
	const uint64_t launches = atomic_load_explicit(vctx->launches, memory_order_relaxed);

	unname(watched);
	watched->queued = launches - watched->launches;
	watched->launches = launches;
	watched->function = atomic_load_explicit(&watched->launched, memory_order_relaxed);
	watched->since_ns = 0;
	if (make_event(vctx, watched) &&
	    ds_real.cuEventRecord(watched->event, shadow) == CUDA_SUCCESS)
		watched->since_ns = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
}

/* With the stream locked, so that no capture begins that the questions would break. */
static void look_at(struct ds_vctx *vctx, struct ds_vstream *stream, uint64_t now)
{
	struct ds_watched *watched = &stream->watched;
	CUfunction launched = atomic_load_explicit(&watched->launched, memory_order_relaxed);
	CUstream shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);

	if (!launched || !shadow || ds_order_captured(shadow))
		return;
	if (ds_real.cuStreamQuery(shadow) != CUDA_ERROR_NOT_READY) {
		unname(watched);
		watched->since_ns = 0;
		watched->launches = atomic_load_explicit(vctx->launches, memory_order_relaxed);
		/* Not asked any more, unless there has been another launch meanwhile. */
		atomic_compare_exchange_strong(&watched->launched, &launched, NULL);
	} else if (!watched->since_ns ||
		   ds_real.cuEventQuery(watched->event) != CUDA_ERROR_NOT_READY) {
		watch_anew(vctx, watched, shadow);
	} else if (now - watched->since_ns >=
		   ds_watchdog_patience_ns(the.overlong_ns, watched->queued, kernel_ns())) {
		name(watched);
	}
}

void ds_watchdog_start(struct ds_session *session, uint32_t overlong_ms)
{
	the.session = session;
	the.overlong_ns = overlong_ms * UINT64_C(1000000);
}

int64_t ds_watchdog_look(struct ds_vctx *vctx)
{
	const uint64_t now = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	int64_t within_us = (int64_t)(the.overlong_ns / LOOKS / 1000);

	if (!the.overlong_ns)
		return 0;
	if (within_us < LOOK_LEAST_US)
		within_us = LOOK_LEAST_US;
	/* Once it is named, at every look: it may be the last before the program is asleep. */
	if (!the.named && now - the.looked_ns < (uint64_t)within_us * 1000)
		return within_us;
	the.looked_ns = now;
	pthread_mutex_lock(&vctx->lock);
	for (struct ds_vstream *stream = vctx->all; stream; stream = stream->all_next) {
		pthread_mutex_lock(&stream->lock);
		look_at(vctx, stream, now);
		pthread_mutex_unlock(&stream->lock);
	}
	pthread_mutex_unlock(&vctx->lock);
	return within_us;
}

void ds_watchdog_leave(const struct ds_watched *watched)
{
	unname(watched);
}
