/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_BENCH_RECLAIM_GPU_H
#define DETSHARE_TESTS_BENCH_RECLAIM_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Kernels that say when and on how many SMs they ran, on the first device there is, in the program's one stream.
 * What cannot be done ends the program, with a line on stderr. Not for several threads.
 */

/* Load the driver, and be ready for `n_records` launches in all. */
void gpu_open(size_t n_records);

const char *gpu_name(void);
unsigned gpu_sms(void);
size_t gpu_launched(void);

/*
 * Put one kernel of so many units of work, each about half a microsecond on one SM, which all SMs there are take
 * from, whoever is free.
 */
void gpu_launch(unsigned units);

/* Until all that was launched is done. */
void gpu_wait(void);

/* Until the launches are done that came more than `most` before the next one. */
void gpu_wait_behind(unsigned most);

/* How many units a kernel needs that is to take so long on all SMs that there are now. Launches some. */
unsigned gpu_units(double kernel_us);

/* What it is on %globaltimer, as the host's CLOCK_MONOTONIC: somewhere from low_ns to high_ns later. */
struct gpu_clock {
	uint64_t gpu_ns;
	int64_t low_ns, high_ns;
};

/* Compare the clocks, by launches while nothing else is under way. */
struct gpu_clock gpu_compare_clocks(void);

/* The host's time of a time of the GPU between two comparisons, or near them. Pure. */
int64_t gpu_host_ns(const struct gpu_clock *first, const struct gpu_clock *last, uint64_t gpu_ns);

/* By how much that may be wrong, if neither clock changes its pace in between. Pure. */
int64_t gpu_clock_error_ns(const struct gpu_clock *first, const struct gpu_clock *last);

/* When a launch began and ended on the host's clock, and on how many SMs it was. */
struct gpu_run {
	int64_t begin_ns, end_ns;
	uint32_t sms, reserved;
};

/* Of all launches up to `n`, after gpu_wait(). The caller frees it. */
struct gpu_run *gpu_runs(size_t n, const struct gpu_clock *first, const struct gpu_clock *last);

#endif
