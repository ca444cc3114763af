/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/acknowledger.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/spin.h"
#include "noderuntime/coroutine/ahead.h"
#include "noderuntime/coroutine/demand.h"
#include "noderuntime/coroutine/evict.h"
#include "noderuntime/coroutine/gate.h"
#include "noderuntime/coroutine/green.h"
#include "noderuntime/coroutine/hold.h"
#include "noderuntime/coroutine/hurry.h"
#include "noderuntime/coroutine/learn.h"
#include "noderuntime/coroutine/mark.h"
#include "noderuntime/coroutine/nap.h"
#include "noderuntime/coroutine/occupied.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/signals.h"
#include "noderuntime/coroutine/suspend.h"
#include "noderuntime/coroutine/target.h"
#include "noderuntime/coroutine/trial.h"
#include "noderuntime/coroutine/whole.h"

enum {
	STACK_BYTES = 1 << 20,
	RETRY_US = 1000000,
	WHOLE_US = 200, /* between two looks at launches on the whole GPU */
	EXIT_PATIENCE_S =
	    5, /* a call of the driver's is over sooner even on a machine that stands still */
	SETTLE_US = 5000, /* between looks whether what was queued before a window is done */
};

/* What is added to the eventfd: a few of either, before it is read. */
static const uint64_t WAKE_LOOK = 1, WAKE_WATCH = UINT64_C(1) << 32;

/* The process does: the driver is not to be called any more. Written without a lock, so on its own. */
static atomic_bool ends;

static struct {
	struct ds_session *session;
	struct ds_vctx *vctx;
	int wake;       /* eventfd; -1: no thread */
	bool resetting; /* under vctx->moving */
	bool alone;     /* the runtime is gone */
	bool waits;     /* the runtime died while the program was suspended, which lasts */
	struct timespec suspended_until; /* CLOCK_MONOTONIC; with `waits` */
	struct ds_groups
	    own;       /* granted last, and not as the whole GPU for a while; under `moving` */
	bool on_whole; /* the program has that; only of the thread itself */
	struct ds_trial trial; /* under `moving` */
	uint32_t spin_us;      /* of the page that was followed last; only of the thread itself, */
	struct ds_spin spin;   /* and this */
} the = {.wake = -1};

/* One look at the page, from the outside in. */
struct look {
	struct ds_granted granted;
	unsigned generation; /* of the virtual context */
	uint64_t waited_us;  /* for what is waited for just now */
};

enum outcome {
	SETTLED,
	AGAIN,  /* the page or the virtual context changed meanwhile */
	FAILED, /* try later */
};

/* Whether the driver may still be called for the virtual context that the look is about. */
static bool still_there(const struct look *look)
{
	struct ds_vctx *vctx = the.vctx;

	return !atomic_load(&ends) && !the.resetting && !ds_session_is_over(the.session) &&
	       atomic_load_explicit(&ds_vctx, memory_order_acquire) == vctx &&
	       look->generation == vctx->generation;
}

/* Whether nothing has changed that the look is about. */
static bool still_about(const struct look *look)
{
	return still_there(look) && ds_session_epoch(the.session) == look->granted.epoch;
}

/* Somebody waits for groups; as long as the page allows, if the program has CPUs for that besides its own work. */
static void begin_to_spin(void)
{
	if (the.spin_us && ds_spin_has_cpus(the.session->page->spin_cpus))
		ds_spin_begin(&the.spin, ds_now_ns(CLOCK_MONOTONIC), the.spin_us);
}

static void stop_spinning(void)
{
	if (ds_spins(&the.spin))
		ds_spin_end(&the.spin, ds_now_ns(CLOCK_MONOTONIC));
}

/*
 * Let go of everything and wait a little. False: what the look was about has changed, begin anew. With
 * `moving` locked.
 */
static bool nap(struct look *look)
{
	const unsigned nap_us = ds_nap_us(look->waited_us);
	const struct timespec time = {.tv_nsec = nap_us * 1000L};
	struct ds_vctx *vctx = the.vctx;
	bool spun;

	pthread_mutex_unlock(&vctx->moving);
	spun = ds_spin_wait(&the.spin);
	if (!spun)
		nanosleep(&time, NULL);
	pthread_mutex_lock(&vctx->moving);
	look->waited_us += spun ? 1 : nap_us;
	return still_about(look);
}

/* Wait until everybody who may have seen what was before has given the driver its work. */
static bool wait_for_launchers(struct look *look)
{
	ds_marks_fence();
	ds_marks_note();
	look->waited_us = 0;
	while (!ds_marks_passed())
		if (!nap(look))
			return false;
	return true;
}

/* For those who want a partition to be left: as wait_for_launchers(). */
static bool quiesce(void *look)
{
	return wait_for_launchers(look);
}

/* ---- the page ---- */

/*
 * Nothing begins any more, and what is under way ends. It comes back to what is pinned: until then
 * nothing of it is there either. With `moving` locked.
 */
static enum outcome suspend(struct ds_vctx *vctx, struct look *look)
{
	const uint32_t every_slot = (UINT32_C(1) << DS_PCTX_MAX) - 1;
	const struct ds_groups pinned = ds_occupied_pinned(vctx);
	const bool settled = ds_green_reap(vctx);

	ds_suspend_begin(vctx);
	ds_hurry_followed(look->granted.epoch);
	if (!wait_for_launchers(look))
		return AGAIN;
	look->waited_us = 0;
	while (ds_occupied_any(vctx, every_slot))
		if (!nap(look))
			return AGAIN;
	ds_session_pinned(the.session, &pinned);
	/* Nobody stands at a gate of the program's own green contexts. */
	ds_session_use(the.session, &vctx->green_pinned);
	ds_session_acknowledge(the.session, &look->granted);
	return settled ? SETTLED : FAILED;
}

/* What launches that wait for the whole GPU are to know before the program leaves it. */
static void note_page(const struct ds_granted *granted)
{
	if (!(granted->flags & DS_PAGE_WHOLE)) {
		if (the.on_whole)
			ds_whole_close();
		the.on_whole = false;
		if (!(granted->flags & DS_PAGE_SUSPENDED))
			the.own = granted->groups;
	}
	ds_whole_refuse(granted->flags & DS_PAGE_WHOLE_REFUSED);
}

static void note_moved(const struct ds_granted *granted)
{
	if (!(granted->flags & DS_PAGE_WHOLE))
		return;
	the.on_whole = true;
	ds_whole_open();
}

/* What the page asks for comes first. Whether the program was in a smaller partition to be tried out. */
static bool stop_trying(void)
{
	ds_learn_often(false);
	return ds_trial_stop(&the.trial);
}

/* With `moving` locked. */
static enum outcome follow(struct look *look)
{
	struct ds_session *session = the.session;
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	struct ds_groups allowed, pinned = {{0}};
	uint32_t slots;
	bool settled;

	if (atomic_load(&ends) || the.resetting || the.alone)
		return SETTLED;
	if (!ds_session_look(session, &look->granted))
		return FAILED;
	note_page(&look->granted);
	the.spin_us = look->granted.spin_us;
	stop_spinning();
	if (!look->granted.unawaited)
		begin_to_spin();
	stop_trying();
	ds_demand_tell(vctx, look->granted.flags & DS_PAGE_TELL_IDLE);
	if (!vctx) { /* no work yet, or no longer; who begins will look at the page */
		if (!(look->granted.flags & DS_PAGE_SUSPENDED))
			ds_suspend_end(the.vctx);
		ds_session_use(session, &the.vctx->green_pinned);
		ds_session_acknowledge(session, &look->granted);
		return SETTLED;
	}
	if (look->granted.flags & DS_PAGE_SUSPENDED) {
		look->generation = vctx->generation;
		ds_real.cuCtxSetCurrent(vctx->primary);
		return suspend(vctx, look);
	}
	if (!ds_session_has_full_group(&look->granted))
		return SETTLED; /* there is nowhere to go: stay */
	look->generation = vctx->generation;
	ds_real.cuCtxSetCurrent(vctx->primary);
	settled = ds_green_reap(vctx);
	allowed = ds_groups_union(session->in_use, look->granted.groups);
	ds_session_use(session, &allowed);
	/* Pages that change fast may have left no time for it; without room there is no way on. */
	if (ds_occupied_count(vctx) == DS_PCTX_MAX)
		ds_evict(vctx, quiesce, look);
	if (!still_about(look))
		return AGAIN;
	ds_ahead_window(vctx, look->granted.flags & DS_PAGE_WINDOW, look->granted.window_us);
	if (ds_groups_empty(&the.own))
		the.own = ds_remap_target(vctx)->groups;
	if (!ds_target_move(vctx, &look->granted)) {
		ds_session_immovable(session, true);
		return FAILED;
	}
	ds_session_immovable(session, false);
	note_moved(&look->granted);
	ds_hurry_followed(look->granted.epoch);
	if (!wait_for_launchers(look))
		return AGAIN;
	look->waited_us = 0;
	for (;;) {
		pinned = ds_occupied_pinned(vctx);
		allowed = ds_groups_union(look->granted.groups, pinned);
		slots = ds_occupied_outside(vctx, &allowed);
		if (!slots || !ds_occupied_any(vctx, slots))
			break;
		if (!nap(look))
			return AGAIN;
	}
	ds_session_pinned(session, &pinned);
	ds_session_use(session, &allowed);
	ds_session_acknowledge(session, &look->granted);
	stop_spinning();
	ds_evict(vctx, quiesce, look);
	if (!still_there(look))
		return AGAIN;
	ds_streams_reap(vctx, true);
	return settled ? SETTLED : FAILED;
}

/* ---- what bounds the program's kernels ---- */

/* Nothing else is asked of the program, nobody waits for it, and no launch needs so many SMs at once. */
static bool may_try(struct ds_vctx *vctx)
{
	struct ds_port *port = the.session->port;

	return !the.alone && !the.on_whole && !ds_suspended(vctx) && !vctx->chaos.every &&
	       !(ds_gate_asked(vctx) & DS_GATE_ASLEEP) && !ds_hold_in_step() &&
	       !(ds_whole_watched() & DS_WHOLE_NAMED) &&
	       !atomic_load(&port->cooperative_too_large) &&
	       atomic_load(&port->acknowledged_epoch) == ds_session_epoch(the.session);
}

/* What is granted stays granted meanwhile, and in use: nobody has to hear of it. */
static void move_within(struct ds_vctx *vctx, struct ds_groups groups)
{
	const struct ds_granted granted = {.groups = groups};

	ds_target_move(vctx, &granted);
}

/* How long until it is to be looked at again, in us; 0: nothing is to be learnt. With `moving` locked. */
static int64_t try_out(struct ds_vctx *vctx)
{
	const enum ds_trial_phase was = the.trial.phase;
	const struct ds_pctx *part = NULL;
	const uint64_t now = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	enum ds_trial_phase is;

	if (!ds_hold_is_on() && was == DS_TRIAL_REST)
		return 0;
	if (ds_groups_empty(&the.own))
		the.own = ds_remap_target(vctx)->groups;
	if (may_try(vctx))
		part = ds_learn_part(vctx, &the.own);
	is = ds_trial_look(&the.trial, now, part,
			   atomic_load_explicit(vctx->launches, memory_order_relaxed));
	ds_learn_often(is != DS_TRIAL_REST);
	if (was != is && is == DS_TRIAL_SMALL && part)
		move_within(vctx, part->groups);
	else if (was != is && was == DS_TRIAL_SMALL && !ds_suspended(vctx) && !the.on_whole)
		move_within(vctx, the.own);
	return the.trial.next_ns > now ? (int64_t)((the.trial.next_ns - now) / 1000 + 1) : 1;
}

/* How long to sleep, in us; -1: until somebody wakes the thread. With `moving` locked. */
static int64_t watch(void)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	int64_t within_us, trial_us, us;

	if (!vctx || atomic_load(&ends) || the.resetting)
		return -1;
	ds_real.cuCtxSetCurrent(vctx->primary);
	within_us = ds_watchdog_look(vctx);
	if (ds_gate_asked(vctx) & DS_GATE_WINDOW && !ds_ahead_settled(vctx) &&
	    (!within_us || within_us > SETTLE_US))
		within_us = SETTLE_US;
	us = ds_demand_look(vctx, within_us);
	trial_us = try_out(vctx);
	/* One that is asleep is not woken for it. */
	if (trial_us && !(ds_gate_asked(vctx) & DS_GATE_ASLEEP) && (us < 0 || us > trial_us))
		us = trial_us;
	/* The runtime is to be told when what the program has the whole GPU for is over. */
	if (the.on_whole && ds_whole_look() && (us < 0 || us > WHOLE_US))
		us = WHOLE_US;
	return us;
}

enum { HEARD = 1 << 0, LOOK = 1 << 1, WATCH = 1 << 2, END = 1 << 3 };

/* Wait for something to do, at most us (-1: for ever). Returns what there is to do; 0: time is over. */
static unsigned wait_for_something(struct pollfd events[2], int64_t us)
{
	const struct timespec time = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
	unsigned found = 0;
	uint64_t why = 0;
	int n = 0;

	while (ds_spins(&the.spin) && n == 0) {
		n = poll(events, 2, 0);
		if (n == 0)
			ds_spin_wait(&the.spin);
	}
	if (n == 0)
		n = ppoll(events, 2, us < 0 ? NULL : &time, NULL);
	if (n < 0)
		return errno == EINTR ? 0 : END;
	if (atomic_load(&ends))
		return END;
	if (events[1].revents && read(the.wake, &why, sizeof(why)) < 0 && errno != EAGAIN)
		return END;
	found |= why % WAKE_WATCH ? LOOK : 0;
	found |= why / WAKE_WATCH ? WATCH : 0;
	if (events[0].revents) {
		found |= HEARD;
		the.alone = ds_session_hear(the.session) < 0;
		if (the.alone)
			events[0].fd = -1; /* without a runtime nothing is granted anew */
	}
	return found;
}

/* How long the program is still to be suspended without a runtime, in us. */
static int64_t suspended_for_us(void)
{
	struct timespec now;
	int64_t us;

	clock_gettime(CLOCK_MONOTONIC, &now);
	us = (the.suspended_until.tv_sec - now.tv_sec) * 1000000 +
	     (the.suspended_until.tv_nsec - now.tv_nsec) / 1000 + 1;
	return us > 0 ? us : 0;
}

/* Go on, if that was long enough. With `moving` locked. */
static void end_waiting(void)
{
	if (suspended_for_us() > 0)
		return;
	the.waits = false;
	ds_suspend_end(the.vctx);
}

/*
 * For whoever has the whole GPU, whose runtime hears that ours has died, and takes it back. With `moving`
 * locked.
 */
static void stay_suspended(void)
{
	const uint32_t ms = the.session->page->orphan_ms;

	clock_gettime(CLOCK_MONOTONIC, &the.suspended_until);
	the.suspended_until.tv_sec += ms / 1000;
	the.suspended_until.tv_nsec += ms % 1000 * 1000000L;
	the.waits = true;
	end_waiting();
}

/*
 * The runtime is gone, and nothing will be granted anew: the program goes on in what it had, a while later
 * if it is suspended; but it leaves the whole GPU, which is its neighbours' again. With `moving` locked.
 */
static void go_on_alone(void)
{
	struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	struct ds_granted own = {.groups = the.own};
	const bool trying = stop_trying();

	if (atomic_load(&ends))
		return;
	ds_demand_tell(vctx, false);
	ds_hold_stop();
	ds_whole_refuse(true);
	if (the.on_whole)
		ds_whole_close();
	if (vctx && (trying || the.on_whole) && !the.resetting) {
		ds_real.cuCtxSetCurrent(vctx->primary);
		ds_target_move(vctx, &own);
	}
	the.on_whole = false;
	if (ds_suspended(the.vctx))
		stay_suspended();
	else
		ds_suspend_end(the.vctx);
}

static void *run(void *unused)
{
	struct pollfd events[] = {{.fd = the.session->fd, .events = POLLIN},
				  {.fd = the.wake, .events = POLLIN}};
	enum outcome outcome = SETTLED;
	int64_t sleep_us = -1, retry_us = RETRY_US;

	pthread_setname_np(pthread_self(), "detshare");
	prctl(PR_SET_TIMERSLACK, 1000UL); /* ns: the naps are short */
	for (;;) {
		struct look look = {.waited_us = 0};
		unsigned found = 0;

		if (outcome == FAILED && (sleep_us < 0 || sleep_us > retry_us))
			sleep_us = retry_us;
		if (outcome == AGAIN)
			sleep_us = 0;
		found = wait_for_something(events, sleep_us);
		retry_us -= sleep_us;
		if (found & END)
			return NULL;
		pthread_mutex_lock(&the.vctx->moving);
		/* Whoever has it after end() had it finds a driver that may be half gone. */
		if (atomic_load(&ends)) {
			pthread_mutex_unlock(&the.vctx->moving);
			return NULL;
		}
		if (ds_driver_ready()) {
			CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

			/* What other threads capture is no business of this one. */
			ds_real.cuThreadExchangeStreamCaptureMode(&mode);
			if (found & HEARD && the.alone)
				go_on_alone();
			if (the.waits)
				end_waiting();
			if (found & (HEARD | LOOK) || outcome == AGAIN ||
			    (outcome == FAILED && retry_us <= 0)) {
				outcome = follow(&look);
				retry_us = RETRY_US;
			}
			/* The program wants its groups back, which come within a moment. */
			stop_spinning();
			if (found & WATCH && !(found & (HEARD | LOOK)))
				begin_to_spin();
			sleep_us = watch();
			if (the.waits && (sleep_us < 0 || sleep_us > suspended_for_us()))
				sleep_us = suspended_for_us();
		}
		pthread_mutex_unlock(&the.vctx->moving);
	}
}

/*
 * At exit the driver goes before us: be sure not to be inside it. Nothing else waits for the thread, for
 * at worst it waits for work that never ends.
 */
static void end(void)
{
	struct timespec deadline;

	if (the.wake < 0)
		return;
	atomic_store(&ends, true);
	ds_hold_stop();
	ds_suspend_give_up();
	ds_whole_refuse(true);
	ds_acknowledger_look();
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += EXIT_PATIENCE_S;
	if (pthread_mutex_timedlock(&the.vctx->moving, &deadline) == 0)
		pthread_mutex_unlock(&the.vctx->moving);
}

void ds_acknowledger_start(struct ds_session *session, struct ds_vctx *vctx)
{
	static atomic_flag registered = ATOMIC_FLAG_INIT;
	sigset_t all, before;
	pthread_attr_t attributes;
	pthread_t thread;
	bool started = false;

	the.session = session;
	the.vctx = vctx;
	ds_demand_start(session);
	ds_hurry_start(session);
	ds_session_immovable(session, true); /* until there is somebody to see to it */
	if (!ds_marks_prepare() || pthread_attr_init(&attributes) != 0)
		return;
	the.wake = ds_session_move_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	ds_signals_of_the_program(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ds_session_immovable(session, false);
	if (the.wake >= 0)
		started = pthread_create(&thread, &attributes, run, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (!started && the.wake >= 0) {
		close(the.wake);
		the.wake = -1;
	}
	if (!started)
		ds_session_immovable(session, true);
	if (started && !atomic_flag_test_and_set(&registered))
		atexit(end);
	/* Others wait to hear that it begins nothing; of later pages there are notices. */
	if (started && session->page->flags & DS_PAGE_SUSPENDED)
		ds_acknowledger_look();
}

void ds_acknowledger_forked(void)
{
	if (the.wake >= 0)
		close(the.wake);
	the.wake = -1;
}

/* If the counter is full, the thread is about to look anyway. */
static void wake_up(uint64_t why)
{
	if (the.wake >= 0 && write(the.wake, &why, sizeof(why)) < 0)
		return;
}

void ds_acknowledger_look(void)
{
	wake_up(WAKE_LOOK);
}

void ds_acknowledger_watch(void)
{
	wake_up(WAKE_WATCH);
}

void ds_acknowledger_resetting(bool resetting)
{
	the.resetting = resetting;
}

struct ds_groups ds_acknowledger_own(void)
{
	return ds_groups_empty(&the.own) ? ds_remap_target(the.vctx)->groups : the.own;
}
