/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_COROUTINE_PROGRAM_H
#define DETSHARE_TESTS_GPU_COROUTINE_PROGRAM_H

#include <stdbool.h>

#include "program.h"

/* What the experiments of coroutine_program have in common. */

enum { THREADS = 256, N = 4096, BLOCKS = N / THREADS };

extern const char *emugpu_dir; /* where emulated GPUs are, if there are any */

/* After start(). */
extern CUdevice device;
extern CUcontext primary;
extern struct kernels kernels;

/* Find the driver, make the primary context current and load the kernels. If there may be no context, say so and exit. */
void start(void);

/* Exit with 77 where the driver has no graphs. */
void needs_graphs(void);

/* `n` words of zeroes. */
CUdeviceptr device_words(size_t n);

/* What the GPU has there when all work is done. */
unsigned read_word(CUdeviceptr word);

/* A kernel whose `blocks` blocks take `us` microseconds each. */
CUresult spin(CUstream stream, unsigned us, unsigned blocks);

double now_us(void);

/*
 * Whether, on a stream that waits for nobody, a kernel is done within `us` of `begun_us`. If it is not, anything
 * may take so long here, and what took so long was perhaps not made to wait.
 */
bool gets_on(double begun_us, unsigned us);

enum { KINDS = 6 }; /* of streams */
extern const char *const kinds[KINDS];
void make_streams(CUstream streams[KINDS]);

/* The experiments. */

/* coroutine_asked.c */
void lookup(void);
void properties(void);
void moved_properties(void);
void descriptors(void);
void without_cuda(void);

/* coroutine_order.c */
void order(void);
void order_chains(void);
void order_destroyed(void);
void wake(void);

/* coroutine_capture.c */
void capture(void);
void graphs(void);
void capturing(void);

/* coroutine_work.c */
void work(void);
void sms(void);
void cooperative(void);
void overlaps(void);
void overlaps_in_graph(void);
void measured(void);

/* coroutine_threads.c */
void threads(void);
void threads_share(void);
void pumping(void);
void leaving(void);

/* coroutine_lives.c */
void own_context(void);
void reset(void);
void reset_later(void);
void fork_before(void);
void fork_after(void);
void cleared_environment(void);
void hold(void);
void blocked(void);
void waiting(void);
void exits(void);

#endif
