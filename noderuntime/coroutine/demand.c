/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/demand.h"

#include "common/clock.h"
#include "noderuntime/coroutine/acknowledger.h"
#include "noderuntime/coroutine/gate.h"
#include "noderuntime/coroutine/suspend.h"

enum {
	/*
	 * Between looks at an active program. An idle one is found after one to two of these and
	 * QUIET_US: 1 to 3% of the pauses of 100 ms in which lending pays; a look costs some
	 * microseconds of the acknowledger's time, 500 of them a second.
	 */
	LOOK_US = 2000,
	/* Without an operation and empty so long: longer than a program takes from one step to the next. */
	QUIET_US = 1000,
};

static struct {
	struct ds_session *session;
	atomic_bool tell;
	struct ds_quiet quiet;
	bool begins;                   /* a thread waits for groups to begin with; under `moving` */
	const struct ds_vstream *busy; /* only compared */
	/*
	 * Held while what is said in the port and DS_GATE_ASLEEP change together, for an instant: whoever
	 * finds the gate not asked, or no more, is not said to be idle, now or later.
	 */
	pthread_mutex_t saying;
} the = {.saying = PTHREAD_MUTEX_INITIALIZER};

bool ds_quiet_look(struct ds_quiet *quiet, uint64_t operations, bool empty, uint64_t now_ns,
		   uint64_t long_ns)
{
	if (!empty || operations != quiet->operations) {
		quiet->operations = operations;
		quiet->since_ns = 0;
		return false;
	}
	if (!quiet->since_ns) {
		quiet->since_ns = now_ns;
		return false;
	}
	return now_ns - quiet->since_ns >= long_ns;
}

/* Whether that is told at all; then the runtime is to have a notice of it. */
static bool write_down(enum ds_port_demand demand)
{
	const bool tell = atomic_load(&the.tell);

	if (tell)
		atomic_store(&the.session->port->demand, (uint32_t)demand);
	return tell;
}

static void say(enum ds_port_demand demand)
{
	if (write_down(demand))
		ds_session_notify_demand(the.session);
}

/* Unsaid is as good as active. */
static void say_anew(enum ds_port_demand demand)
{
	const bool idle = atomic_load(&the.session->port->demand) == DS_DEMAND_IDLE;

	if (idle != (demand == DS_DEMAND_IDLE))
		say(demand);
}

/* Under the context's lock. One that is captured is as good as busy: its program is about to do something. */
static bool is_busy(struct ds_vstream *stream)
{
	CUstream shadow;
	bool busy = false;

	/* Locked, no capture begins that the question would break. */
	pthread_mutex_lock(&stream->lock);
	shadow = atomic_load_explicit(&stream->shadow, memory_order_relaxed);
	if (shadow)
		busy = ds_order_captured(shadow) ||
		       ds_real.cuStreamQuery(shadow) == CUDA_ERROR_NOT_READY;
	pthread_mutex_unlock(&stream->lock);
	return busy;
}

static bool is_empty(struct ds_vctx *vctx)
{
	bool busy = ds_suspend_waits();

	pthread_mutex_lock(&vctx->lock);
	/* First the one that was busy the last time, if it is still there. */
	for (struct ds_vstream *stream = vctx->all; stream && !busy; stream = stream->all_next)
		busy = stream == the.busy && is_busy(stream);
	for (struct ds_vstream *stream = vctx->all; stream && !busy; stream = stream->all_next) {
		busy = is_busy(stream);
		the.busy = stream;
	}
	for (struct ds_vstream *stream = vctx->destroyed; stream && !busy;
	     stream = stream->all_next)
		busy = stream->moved_recorded &&
		       ds_real.cuEventQuery(stream->moved) == CUDA_ERROR_NOT_READY;
	pthread_mutex_unlock(&vctx->lock);
	return !busy;
}

/*
 * An operation that came before the gate was asked is still marked or was counted; one that comes after it
 * finds the gate, and takes back what is said here. If it does so before that is said, it is not.
 */
static bool fall_asleep(struct ds_vctx *vctx)
{
	bool any_marked = false, asleep, told = false;

	ds_gate_ask(vctx, DS_GATE_ASLEEP);
	ds_marks_fence();
	if (ds_marks_count(&any_marked) != the.quiet.operations || any_marked || !is_empty(vctx)) {
		ds_gate_stop_asking(vctx, DS_GATE_ASLEEP);
		return false;
	}
	pthread_mutex_lock(&the.saying);
	asleep = ds_gate_asked(vctx) & DS_GATE_ASLEEP;
	if (asleep)
		told = write_down(DS_DEMAND_IDLE);
	pthread_mutex_unlock(&the.saying);
	if (told)
		ds_session_notify_demand(the.session);
	return asleep;
}

void ds_demand_start(struct ds_session *session)
{
	the.session = session;
}

void ds_demand_tell(struct ds_vctx *vctx, bool tell)
{
	const bool told = atomic_exchange(&the.tell, tell);

	if (!vctx && tell)
		say_anew(the.begins ? DS_DEMAND_ACTIVE : DS_DEMAND_IDLE);
	if (tell == told)
		return;
	the.quiet.since_ns = 0;
	pthread_mutex_lock(&the.saying);
	if (vctx)
		ds_gate_stop_asking(vctx, DS_GATE_ASLEEP);
	if (vctx || !tell)
		atomic_store(&the.session->port->demand,
			     tell ? DS_DEMAND_ACTIVE : DS_DEMAND_UNSAID);
	pthread_mutex_unlock(&the.saying);
}

void ds_demand_wait(bool begins)
{
	the.begins = begins;
	if (!the.session) /* of one that is not moved: it says nothing */
		return;
	/* Else it has its groups, and says so when it begins. */
	if (begins && the.session->page->flags & DS_PAGE_SUSPENDED)
		say_anew(DS_DEMAND_ACTIVE);
	else if (!begins && !atomic_load(&ds_vctx))
		say(DS_DEMAND_IDLE);
}

void ds_demand_begin(struct ds_vctx *vctx)
{
	ds_gate_stop_asking(vctx, DS_GATE_ASLEEP);
	the.quiet.since_ns = 0;
	say(DS_DEMAND_ACTIVE);
}

int64_t ds_demand_look(struct ds_vctx *vctx, int64_t within_us)
{
	const bool tell = atomic_load(&the.tell);
	const int64_t next_us = tell && (!within_us || LOOK_US < within_us) ? LOOK_US : within_us;
	bool any_marked = false;
	uint64_t operations;

	if (!next_us || ds_gate_asked(vctx) & DS_GATE_ASLEEP)
		return -1;
	operations = ds_marks_count(&any_marked);
	if (ds_quiet_look(&the.quiet, operations,
			  !any_marked && operations == the.quiet.operations && is_empty(vctx),
			  (uint64_t)ds_now_ns(CLOCK_MONOTONIC), QUIET_US * UINT64_C(1000)) &&
	    fall_asleep(vctx))
		return -1;
	return tell && the.quiet.since_ns ? QUIET_US : next_us;
}

void ds_demand_woken(struct ds_vctx *vctx)
{
	bool asleep, told = false;

	pthread_mutex_lock(&the.saying);
	asleep = ds_gate_asked(vctx) & DS_GATE_ASLEEP;
	if (asleep) {
		told = write_down(DS_DEMAND_ACTIVE);
		ds_gate_stop_asking(vctx, DS_GATE_ASLEEP); /* for the others, who go on then */
	}
	pthread_mutex_unlock(&the.saying);
	if (told)
		ds_session_notify_demand(the.session);
	if (asleep)
		ds_acknowledger_watch();
}
