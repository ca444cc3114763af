/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/signals.h"
#include "noderuntime/coroutine/vgraph.h"

enum { EXIT_PATIENCE_S = 5 }; /* for the executable that is just being made */

/*
 * A thread that makes executables which launches will want, started when it first has something to do.
 * It stops before the driver does, at exit.
 */
struct wish {
	struct wish *next;
	struct ds_vgraph *graph;
	struct ds_pctx *pctx;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t wished, idle;
	struct wish *first, **last;
	bool started, stop, busy;
	pthread_t thread;
	pid_t process; /* that the thread is in */
} preparer = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .wished = PTHREAD_COND_INITIALIZER,
    .idle = PTHREAD_COND_INITIALIZER,
};

static void forget(struct wish *wish)
{
	ds_remap_release(wish->pctx);
	ds_vgraph_release(wish->graph);
	free(wish);
}

/* A graph that cannot be made here is found out about by the launch that cannot do without. */
static void grant(struct wish *wish)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

	/* Nothing that the thread does is any business of captures in others. */
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	ds_real.cuCtxSetCurrent(wish->graph->vctx->primary);
	ds_vgraph_make(wish->graph, wish->pctx, true);
	pthread_mutex_lock(&preparer.lock);
	wish->graph->preparing = false;
	pthread_mutex_unlock(&preparer.lock);
	forget(wish);
}

/* Calls the driver only while there is something to do, and not at all once it is to stop. */
static void *prepare(void *unused)
{
	pthread_mutex_lock(&preparer.lock);
	while (!preparer.stop) {
		struct wish *wish = preparer.first;

		if (!wish) {
			pthread_cond_wait(&preparer.wished, &preparer.lock);
			continue;
		}
		preparer.first = wish->next;
		if (!preparer.first)
			preparer.last = &preparer.first;
		preparer.busy = true;
		pthread_mutex_unlock(&preparer.lock);
		grant(wish);
		pthread_mutex_lock(&preparer.lock);
		preparer.busy = false;
		pthread_cond_broadcast(&preparer.idle);
	}
	pthread_mutex_unlock(&preparer.lock);
	return NULL;
}

static void stop(void)
{
	struct timespec deadline;

	/* Not in the child of a fork, which has neither the thread nor, maybe, a usable lock. */
	if (preparer.process != getpid())
		return;
	pthread_mutex_lock(&preparer.lock);
	preparer.stop = true;
	pthread_cond_signal(&preparer.wished);
	pthread_mutex_unlock(&preparer.lock);
	if (pthread_equal(pthread_self(), preparer.thread))
		return;
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += EXIT_PATIENCE_S;
	if (pthread_timedjoin_np(preparer.thread, NULL, &deadline) != 0)
		pthread_detach(preparer.thread);
}

/* Under the lock. The program's signals are none of the thread's business. */
static bool start(void)
{
	sigset_t all, before;

	if (preparer.started)
		return true;
	preparer.last = &preparer.first;
	ds_signals_of_the_program(&all);
	if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0)
		return false;
	preparer.started = pthread_create(&preparer.thread, NULL, prepare, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (preparer.started) {
		preparer.process = getpid();
		pthread_setname_np(preparer.thread, "detshare-graphs");
		atexit(stop);
	}
	return preparer.started;
}

void ds_vgraph_prepare(struct ds_vgraph *graph, struct ds_pctx *pctx)
{
	struct wish *wish = malloc(sizeof(*wish));

	if (!wish)
		return;
	*wish = (struct wish){.graph = graph, .pctx = pctx};
	pthread_mutex_lock(&preparer.lock);
	if (!graph->preparing && !preparer.stop && start()) {
		graph->preparing = true;
		ds_vgraph_hold(graph);
		ds_remap_hold(pctx);
		*preparer.last = wish;
		preparer.last = &wish->next;
		wish = NULL;
		pthread_cond_signal(&preparer.wished);
	}
	pthread_mutex_unlock(&preparer.lock);
	free(wish);
}

void ds_vgraph_prepare_none(void)
{
	struct wish *wishes;

	pthread_mutex_lock(&preparer.lock);
	wishes = preparer.first;
	preparer.first = NULL;
	preparer.last = &preparer.first;
	for (struct wish *wish = wishes; wish; wish = wish->next)
		wish->graph->preparing = false;
	while (preparer.busy)
		pthread_cond_wait(&preparer.idle, &preparer.lock);
	pthread_mutex_unlock(&preparer.lock);
	while (wishes) {
		struct wish *wish = wishes;

		wishes = wish->next;
		forget(wish);
	}
}

/* ---- a new place ---- */

void ds_vgraph_evict(struct ds_pctx *pctx)
{
	size_t n;
	struct ds_vgraph **graphs = ds_vgraph_all(&n);

	for (size_t i = 0; i < n; i++) {
		if (pthread_mutex_trylock(&graphs[i]->making) == 0) {
			struct ds_executable *executable = ds_vgraph_in(graphs[i], pctx);

			if (executable && executable->next)
				ds_vgraph_discard(graphs[i], executable);
			pthread_mutex_unlock(&graphs[i]->making);
		}
		ds_vgraph_release(graphs[i]);
	}
	free(graphs);
}

static int by_use(const void *a, const void *b)
{
	const uint64_t used_a = (*(struct ds_vgraph *const *)a)->sort_key;
	const uint64_t used_b = (*(struct ds_vgraph *const *)b)->sort_key;

	return (used_a < used_b) - (used_a > used_b);
}

void ds_vgraph_make_ready(struct ds_pctx *pctx, unsigned budget_us)
{
	const int64_t deadline_ns = ds_now_ns(CLOCK_MONOTONIC) + budget_us * INT64_C(1000);
	size_t n;
	struct ds_vgraph **graphs = ds_vgraph_all(&n);

	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&graphs[i]->launching);
		graphs[i]->sort_key = graphs[i]->used;
		pthread_mutex_unlock(&graphs[i]->launching);
	}
	if (n)
		qsort(graphs, n, sizeof(struct ds_vgraph *), by_use);
	for (size_t i = 0; i < n; i++) {
		if (graphs[i]->sort_key && !atomic_load(&graphs[i]->pinned) &&
		    ds_now_ns(CLOCK_MONOTONIC) < deadline_ns)
			ds_vgraph_make(graphs[i], pctx, true);
		ds_vgraph_release(graphs[i]);
	}
	free(graphs);
}
