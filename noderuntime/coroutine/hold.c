/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/hold.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "noderuntime/coroutine/kernel_list.h"
#include "noderuntime/coroutine/kernel_name.h"
#include "noderuntime/coroutine/learn.h"
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/op.h"
#include "noderuntime/coroutine/whole.h"

enum {
	NAP_NS = 5000, /* at least, and longer the longer it has waited, up to: */
	NAP_MAX_NS = 100000,
	NAP_PART = 8,
};

static struct {
	struct ds_session *session;
	struct ds_kernel_list named;
	_Atomic uint64_t paid_ns;
} the;

/* ---- the budget ---- */

static uint64_t earned_since(uint64_t paid_ns, uint64_t now)
{
	if (paid_ns >= now)
		return 0;
	return now - paid_ns < DS_HOLD_EARNED_NS ? now - paid_ns : DS_HOLD_EARNED_NS;
}

uint64_t ds_hold_may(uint64_t paid_ns, uint64_t now, uint32_t most_milli, uint64_t launch_ns)
{
	const uint64_t ns = earned_since(paid_ns, now) * most_milli / 1000;

	if (ns < launch_ns && ns < DS_HOLD_LEAST_NS)
		return 0;
	return ns < launch_ns ? ns : launch_ns;
}

uint64_t ds_hold_pay(uint64_t paid_ns, uint64_t now, uint32_t most_milli, uint64_t held_ns)
{
	return now - earned_since(paid_ns, now) + (paid_ns > now ? paid_ns - now : 0) +
	       held_ns * 1000 / most_milli;
}

static void pay(uint64_t now, uint32_t most_milli, uint64_t held_ns)
{
	uint64_t paid_ns = atomic_load(&the.paid_ns);

	while (!atomic_compare_exchange_weak(&the.paid_ns, &paid_ns,
					     ds_hold_pay(paid_ns, now, most_milli, held_ns)))
		;
}

/* ---- launches ---- */

bool ds_hold_is_on(void)
{
	return ds_whole_watched() & DS_WHOLE_HOLD;
}

static bool in_step(const struct ds_page *page)
{
	return atomic_load_explicit(&page->neighbours_step, memory_order_relaxed) & 1;
}

bool ds_hold_in_step(void)
{
	return in_step(the.session->page);
}

static bool saturates(const struct ds_whole_kernel *kernel)
{
	const char *name = kernel ? ds_kernel_name(kernel->function) : "(graph)";

	name = name ? name : "(unknown)";
	return ds_kernel_list_has(&the.named, name) ||
	       (kernel && ds_learn_saturates(name, kernel->blocks, kernel->threads));
}

/*
 * Whether it is a launch into the partition, that the GPU is to see. While anything is captured, or inside of another
 * operation of ours, nothing is delayed: who else waits for that we do not know. Marked, if it has a stream of ours.
 */
static bool can_wait(const struct ds_op *op)
{
	return op->stream && atomic_load_explicit(&op->vctx->captures, memory_order_relaxed) <= 0 &&
	       !ds_mark_is_nested(op->mark);
}

static void nap(uint64_t waited_ns)
{
	uint64_t ns = waited_ns / NAP_PART;

	ns = ns < NAP_NS ? NAP_NS : ns < NAP_MAX_NS ? ns : NAP_MAX_NS;
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

static void hold(const struct ds_page *page)
{
	const uint32_t most_milli = page->hold_back_milli;
	const uint64_t begin = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	const uint64_t may_ns = ds_hold_may(atomic_load(&the.paid_ns), begin, most_milli,
					    page->hold_back_us * UINT64_C(1000));
	struct ds_port *port = the.session->port;
	uint64_t now = begin;

	if (!may_ns)
		return;
	while (in_step(page) && now - begin < may_ns && ds_hold_is_on()) {
		nap(now - begin);
		now = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	}
	pay(now, most_milli, now - begin);
	atomic_fetch_add_explicit(&port->held_back, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&port->held_back_ns, now - begin, memory_order_relaxed);
}

CUresult ds_hold_launch(struct ds_op *op, CUstream handle, bool per_thread,
			const struct ds_whole_kernel *kernel)
{
	const struct ds_page *page = the.session->page;

	if (!in_step(page)) {
		if (kernel && ds_learn_draws())
			ds_measure_ask();
		return CUDA_SUCCESS;
	}
	if (!saturates(kernel) || !can_wait(op))
		return CUDA_SUCCESS;
	ds_op_abandon(op);
	hold(page);
	/* The window has seen it. */
	return ds_op_begin(op, handle, per_thread);
}

/* ---- the session ---- */

void ds_hold_start(struct ds_session *session)
{
	char patterns[sizeof(session->page->hold_back_kernels)];

	the.session = session;
	if (!session->page->hold_back_milli || session->page->hold_back_milli > 1000)
		return;
	memcpy(patterns, session->page->hold_back_kernels, sizeof(patterns));
	patterns[sizeof(patterns) - 1] = '\0';
	ds_kernel_list_add(&the.named, patterns);
	ds_learn_start(session);
	atomic_store(&the.paid_ns, (uint64_t)ds_now_ns(CLOCK_MONOTONIC));
	atomic_fetch_or(&ds_whole_watch, DS_WHOLE_HOLD);
}

void ds_hold_stop(void)
{
	atomic_fetch_and(&ds_whole_watch, ~(unsigned)DS_WHOLE_HOLD);
}

void ds_hold_forget(void)
{
	ds_hold_stop();
}
