/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/kernel_name.h"
#include "noderuntime/coroutine/learn.h"
#include "noderuntime/coroutine/measure_report.h"
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/seen.h"
#include "noderuntime/coroutine/vctx.h"

enum {
	LAUNCHES_PER_SAMPLE = 512, /* until a session says how many */
	LAUNCHES_PER_SAMPLE_MAX = 1 << 30,
	POOL = 32, /* samples under way */
	IDLE_NS = 10000000,
};

enum sample_state { FREE, TAKEN, UNDER_WAY };

struct ds_sample {
	_Atomic(enum sample_state) state;
	unsigned context; /* which primary context the events are of; of an older one: not made */
	CUevent begin, end;
	struct ds_kernel *kernel;
	bool asked; /* and not drawn */
	struct ds_lesson lesson;
};

__thread struct ds_measure_thread ds_measure_thread;

static _Atomic(struct ds_port *) figures; /* NULL: no session, nothing is measured */
static atomic_uint launches_per_sample = LAUNCHES_PER_SAMPLE; /* on average; 0: no samples */
static bool sample_given;                                     /* in the environment */

/*
 * Taken with test-and-set only: who finds it taken goes without. What it guards is used for a few
 * microseconds by one launch in some hundred.
 */
static atomic_flag in_use = ATOMIC_FLAG_INIT;
static struct ds_sample pool[POOL];
static struct ds_kernels kernels;
static CUcontext events_of;
static unsigned context_number;
static atomic_uint under_way; /* samples in that state */

/* As the program was started with: some clear their environment. */
static char report_path[PATH_MAX];

__attribute__((constructor)) static void read_environment(void)
{
	const char *path = getenv("DETSHARE_REPORT");
	const char *text = getenv("DETSHARE_SAMPLE");
	char *end;

	if (path && strlen(path) < sizeof(report_path))
		strcpy(report_path, path);
	if (!text || !*text)
		return;
	unsigned long value = strtoul(text, &end, 10);
	if (*end || value > LAUNCHES_PER_SAMPLE_MAX)
		return;
	sample_given = true;
	atomic_store(&launches_per_sample, (unsigned)value);
}

/* Launches until the next sample: 1 .. 2 * mean - 1, so that the mean is the mean. */
static uint32_t draw(struct ds_measure_thread *thread, unsigned mean)
{
	if (!thread->random)
		thread->random =
		    ((uint64_t)ds_now_ns(CLOCK_MONOTONIC) ^ (uint64_t)(uintptr_t)thread << 17) | 1;
	thread->random ^= thread->random << 13;
	thread->random ^= thread->random >> 7;
	thread->random ^= thread->random << 17;
	return 1 + (uint32_t)((thread->random >> 32) * (2 * mean - 1) >> 32);
}

/* Makes the events of a sample that has none yet. They are of the primary context, as all our streams. */
static bool make_events(struct ds_sample *sample)
{
	CUcontext popped;

	if (sample->context == context_number)
		return true;
	if (ds_real.cuCtxPushCurrent_v2(events_of) != CUDA_SUCCESS)
		return false;
	if (ds_real.cuEventCreate(&sample->begin, CU_EVENT_DEFAULT) == CUDA_SUCCESS) {
		if (ds_real.cuEventCreate(&sample->end, CU_EVENT_DEFAULT) == CUDA_SUCCESS)
			sample->context = context_number;
		else
			ds_real.cuEventDestroy_v2(sample->begin);
	}
	ds_real.cuCtxPopCurrent_v2(&popped);
	return sample->context == context_number;
}

static void note(struct ds_port *port, const struct ds_sample *sample, uint64_t ns)
{
	struct ds_kernel *kernel = sample->kernel;

	if (!sample->asked) {
		atomic_fetch_add_explicit(&port->sampled_ns, ns, memory_order_relaxed);
		atomic_fetch_add_explicit(&port->samples, 1, memory_order_relaxed);
		kernel->samples++;
		kernel->sampled_ns += ns;
	}
	/* Not of those that are counted together. */
	if (kernel->key)
		ds_learn_end(&sample->lesson, &kernel->bound, kernel->name, ns);
}

/* Read the samples that are over. With `in_use` held, in relaxed capture mode. */
static void harvest(struct ds_port *port)
{
	for (unsigned i = 0; i < POOL; i++) {
		struct ds_sample *sample = &pool[i];
		CUresult result;
		float ms = 0;

		if (atomic_load_explicit(&sample->state, memory_order_acquire) != UNDER_WAY)
			continue;
		result = ds_real.cuEventQuery(sample->end);
		if (result == CUDA_ERROR_NOT_READY)
			continue;
		if (result == CUDA_SUCCESS &&
		    ds_real.cuEventElapsedTime(&ms, sample->begin, sample->end) == CUDA_SUCCESS &&
		    ms >= 0) {
			const uint64_t ns = (uint64_t)((double)ms * 1e6);

			note(port, sample, ns);
		}
		atomic_fetch_sub_explicit(&under_way, 1, memory_order_relaxed);
		atomic_store_explicit(&sample->state, FREE, memory_order_relaxed);
	}
}

static struct ds_sample *take(void)
{
	for (unsigned i = 0; i < POOL; i++)
		if (atomic_load_explicit(&pool[i].state, memory_order_relaxed) == FREE)
			return &pool[i];
	return NULL;
}

/* A captured stream runs nothing now, and our events would become part of the program's graph. */
static bool captured(CUstream target)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;

	return ds_real.cuStreamIsCapturing(target, &status) != CUDA_SUCCESS ||
	       status != CU_STREAM_CAPTURE_STATUS_NONE;
}

static struct ds_sample *begin_sample(CUfunction function, const struct ds_launch_shape *shape,
				      CUstream target, bool asked)
{
	const char *name = function ? ds_kernel_name(function) : "(graph)";
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	struct ds_sample *sample = NULL;
	struct ds_port *port;

	if (captured(target) || atomic_flag_test_and_set_explicit(&in_use, memory_order_acquire))
		return NULL;
	/* What another thread captures does not forbid our own calls. */
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	port = atomic_load_explicit(&figures, memory_order_relaxed);
	if (port && events_of) {
		harvest(port);
		sample = take();
	}
	if (sample && make_events(sample) &&
	    ds_real.cuEventRecord(sample->begin, target) == CUDA_SUCCESS) {
		sample->kernel = ds_kernels_find(&kernels, name, shape);
		sample->asked = asked;
		sample->lesson =
		    ds_learn_begin(function ? name : NULL,
				   (uint64_t)shape->grid[0] * shape->grid[1] * shape->grid[2],
				   (uint64_t)shape->block[0] * shape->block[1] * shape->block[2]);
		atomic_store_explicit(&sample->state, TAKEN, memory_order_relaxed);
	} else {
		sample = NULL;
	}
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	atomic_flag_clear_explicit(&in_use, memory_order_release);
	return sample;
}

struct ds_sample *ds_measure_look(CUfunction function, const struct ds_launch_shape *shape,
				  bool ours, CUstream target)
{
	const unsigned mean = atomic_load_explicit(&launches_per_sample, memory_order_relaxed);
	struct ds_measure_thread *thread = &ds_measure_thread;
	const bool asked = thread->asked;

	thread->asked = false;
	if (asked && thread->kept) {
		thread->until = thread->kept - 1;
		return ours ? begin_sample(function, shape, target, true) : NULL;
	}
	if (!thread->began) {
		thread->began = true;
		thread->left = mean ? draw(thread, mean) - 1 : UINT32_MAX;
	}
	if (thread->synced) {
		thread->synced = false;
		thread->first_ns = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	}
	if (thread->left || !mean) {
		thread->until = (mean ? thread->left : UINT32_MAX) - 1;
		thread->left = 0;
		return NULL;
	}
	thread->until = draw(thread, mean) - 1;
	return ours ? begin_sample(function, shape, target, false) : NULL;
}

void ds_measure_ask(void)
{
	struct ds_measure_thread *thread = &ds_measure_thread;

	if (thread->asked)
		return;
	thread->asked = true;
	thread->kept = thread->until;
	thread->until = 0;
}

void ds_measure_end(struct ds_sample *sample, CUstream target, CUresult result)
{
	if (result == CUDA_SUCCESS && ds_real.cuEventRecord(sample->end, target) == CUDA_SUCCESS) {
		atomic_fetch_add_explicit(&under_way, 1, memory_order_relaxed);
		atomic_store_explicit(&sample->state, UNDER_WAY, memory_order_release);
	} else {
		atomic_store_explicit(&sample->state, FREE, memory_order_release);
	}
}

static void end_step(struct ds_measure_thread *thread, struct ds_port *port)
{
	const uint64_t launches = atomic_load_explicit(&port->launches, memory_order_relaxed);
	const uint64_t now = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	uint64_t begin = thread->synced_ns;

	if (begin && launches != thread->launches) {
		if (thread->first_ns > begin + IDLE_NS)
			begin = thread->first_ns;
		ds_sketch_add(&port->steps, now - begin);
	}
	thread->synced_ns = now;
	thread->first_ns = 0;
	thread->launches = launches;
	/* The next launch is to be looked at, whether or not it is a sample. */
	if (!thread->synced) {
		thread->synced = true;
		thread->left = thread->until;
		thread->until = 0;
	}
}

void ds_measure_sync(void)
{
	struct ds_port *port = atomic_load_explicit(&figures, memory_order_acquire);
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;

	ds_pools_synchronised();
	if (!port)
		return;
	end_step(&ds_measure_thread, port);
	if (!atomic_load_explicit(&under_way, memory_order_relaxed) ||
	    atomic_flag_test_and_set_explicit(&in_use, memory_order_acquire))
		return;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (events_of)
		harvest(port);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	atomic_flag_clear_explicit(&in_use, memory_order_release);
}

void ds_measure_stall(void)
{
	struct ds_port *port = atomic_load_explicit(&figures, memory_order_acquire);

	if (port)
		atomic_fetch_add_explicit(&port->stalls, 1, memory_order_relaxed);
}

void ds_measure_start(struct ds_port *port, CUcontext primary, uint32_t sample_launches)
{
	if (!sample_given)
		atomic_store(&launches_per_sample, sample_launches < LAUNCHES_PER_SAMPLE_MAX
						       ? sample_launches
						       : LAUNCHES_PER_SAMPLE_MAX);
	while (atomic_flag_test_and_set_explicit(&in_use, memory_order_acquire))
		;
	events_of = primary;
	context_number++;
	atomic_store_explicit(&figures, port, memory_order_release);
	ds_seen_start(port);
	atomic_flag_clear_explicit(&in_use, memory_order_release);
}

void ds_measure_drop(void)
{
	while (atomic_flag_test_and_set_explicit(&in_use, memory_order_acquire))
		;
	events_of = NULL;
	for (unsigned i = 0; i < POOL; i++) {
		enum sample_state was = UNDER_WAY;

		if (atomic_compare_exchange_strong(&pool[i].state, &was, FREE))
			atomic_fetch_sub_explicit(&under_way, 1, memory_order_relaxed);
	}
	atomic_flag_clear_explicit(&in_use, memory_order_release);
}

void ds_measure_forget(void)
{
	/* Whoever held it is not in this process. */
	atomic_flag_clear(&in_use);
	atomic_store(&figures, NULL);
	events_of = NULL;
	ds_learn_forget();
	ds_seen_forget();
}

/* An event may be waited for that has nothing to do with us: the step ends all the same. */
CUresult ds_cuEventSynchronize(CUevent hEvent)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuEventSynchronize(hEvent);
	ds_vctx_heard(result);
	ds_measure_sync();
	return result;
}
DS_EXPORT(cuEventSynchronize);

__attribute__((destructor)) static void report(void)
{
	struct ds_port *port = atomic_load_explicit(&figures, memory_order_acquire);

	if (!*report_path || !port)
		return;
	/* The table must not change under the report; a thread that died in it must not stop us. */
	for (unsigned tries = 0; tries < 1000; tries++) {
		const struct timespec nap = {.tv_nsec = 100000};

		if (!atomic_flag_test_and_set_explicit(&in_use, memory_order_acquire))
			break;
		nanosleep(&nap, NULL);
	}
	ds_measure_write_report(report_path, port, &kernels);
	atomic_flag_clear_explicit(&in_use, memory_order_release);
}
