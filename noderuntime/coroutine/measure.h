/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_MEASURE_H
#define DETSHARE_COROUTINE_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "noderuntime/coroutine/cuda_api.h"
#include "noderuntime/port_protocol.h"

/*
 * What policies and accounting want to know of a program: how long its kernels run, by name and launch
 * shape, and how long its steps take. With events of our own, never through CUPTI, which is the
 * program's.
 *
 * One launch in some hundred is a sample: an event before it and one after it. Which one is drawn at
 * random, so that a program which launches in a rhythm is not always met at the same kernel. A launch
 * that is no sample pays a count down to zero. Times are read when the next sample is taken, or when
 * the program synchronises, by whoever does that: no thread is needed, and none has to be stopped
 * when the driver goes away.
 *
 * A step ends when a host synchronisation of a thread returns, and began when that thread's one before
 * it did; if the thread launched nothing for more than 10 ms in between, it began with its
 * first launch: waiting for requests is no step. Without any launch of the program there is none.
 */

/* A launch being measured. */
struct ds_sample;

struct ds_launch_shape {
	unsigned grid[3];
	unsigned block[3];
};

/* Of each thread. `until` launches go by before the next that is looked at. */
struct ds_measure_thread {
	uint32_t until;
	uint32_t left; /* of those that are no sample, when the next one is looked at early */
	bool began;
	bool asked;    /* the next launch is to be measured, though it is none that was drawn: */
	uint32_t kept; /* `until`, then */
	bool synced;   /* the next launch is the first of its step */
	uint64_t random;
	uint64_t synced_ns;
	uint64_t first_ns; /* the step's first launch, 0: none yet */
	uint64_t launches; /* the program's, when synced_ns was taken */
};
extern __thread struct ds_measure_thread ds_measure_thread
    __attribute__((visibility("hidden"), tls_model("initial-exec")));

/*
 * A session has begun: `port` takes the figures, `primary` is the context that events belong to. One launch
 * in `sample_launches` is to be a sample, on average; 0: none. DETSHARE_SAMPLE overrules it.
 * Serialised by the caller, like ds_measure_drop().
 */
void ds_measure_start(struct ds_port *port, CUcontext primary, uint32_t sample_launches);

/* The primary context goes away, and with it our events. */
void ds_measure_drop(void);

/* In a child after fork(): the figures are the parent's. Async-signal-safe. */
void ds_measure_forget(void);

/*
 * The thread's next launch is to be measured, if it can be, beside those that are drawn: it does not count as a
 * sample, for it does not stand for others.
 */
void ds_measure_ask(void);

/* The rare part of ds_measure_launch(). */
__attribute__((cold)) struct ds_sample *ds_measure_look(CUfunction function,
							const struct ds_launch_shape *shape,
							bool ours, CUstream target);

/* The rare part of ds_measure_launched(). */
__attribute__((cold)) void ds_measure_end(struct ds_sample *sample, CUstream target,
					  CUresult result);

/* Whether the launch that comes now is to be given to ds_measure_look(), which then must happen. */
static inline bool ds_measure_due(void)
{
	return __builtin_expect(ds_measure_thread.until-- == 0, 0);
}

/*
 * Before a launch of `function` (NULL: of a graph) on `target`, after all else that goes there before
 * it; `ours` if that is a stream in the partition: others are not measured. Returns what
 * ds_measure_launched() is to be given.
 */
static inline struct ds_sample *ds_measure_launch(CUfunction function, unsigned grid_x,
						  unsigned grid_y, unsigned grid_z,
						  unsigned block_x, unsigned block_y,
						  unsigned block_z, bool ours, CUstream target)
{
	if (!ds_measure_due())
		return NULL;
	return ds_measure_look(
	    function,
	    &(struct ds_launch_shape){{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}}, ours,
	    target);
}

/* After it, with what the driver answered. */
static inline void ds_measure_launched(struct ds_sample *sample, CUstream target, CUresult result)
{
	if (__builtin_expect(sample != NULL, 0))
		ds_measure_end(sample, target, result);
}

/* A synchronisation of the calling thread with the GPU has returned. */
void ds_measure_sync(void);

/* A launch had to wait for the library. */
void ds_measure_stall(void);

#endif
