/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_BENCH_FAKE_RUNTIME_H
#define DETSHARE_BENCH_FAKE_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "noderuntime/coroutine/cuda_api.h"
#include "noderuntime/port_protocol.h"

/*
 * What benchmarks of the coroutine library share: the driver, looked up by name as most programs do;
 * a kernel that does nothing; statistics; and the node runtime's part, played by a thread, for programs
 * that are this one again in another role (/proc/self/exe ROLE). Errors end the process.
 */
#define CALL(symbol, ...)                                                                \
	do {                                                                             \
		CUresult call_result =                                                   \
		    ((__typeof__(&symbol))(uintptr_t)fake_driver(#symbol))(__VA_ARGS__); \
		if (call_result)                                                         \
			fake_die(#symbol, (int)call_result);                             \
	} while (0)

_Noreturn void fake_die(const char *what, int error);

/* The driver's call of this name. Ends the process with 77 if there is no driver. */
void *fake_driver(const char *symbol);

double fake_now_ns(void);

/* Of n > 0 values, which it sorts; quantile 0 to 1. */
double fake_quantile(double *values, size_t n, double quantile);

/* Makes the first device's primary context current; a kernel there, of (unsigned, pointer), that only returns. */
CUfunction fake_empty_kernel(void);

/* The same kernel as a function of `context`, which is current then. */
CUfunction fake_empty_kernel_in(CUcontext context);

/* The SM groups of the first device, at most DS_GROUPS_MAX, and what is left over; returns how many. */
unsigned fake_split(CUdevResource *groups, CUdevResource *rest);

/* The library to measure: `argument`, else DETSHARE_LIBRARY, else that of this build, else the installed one. */
const char *fake_library(const char *argument);

/*
 * Listen, and set DETSHARE_PORT for what is run from now on. Every program is granted half of the
 * first device's groups.
 */
void fake_runtime_start(void);
void fake_runtime_stop(void);

/* What the page asks of programs that start from now on: enum ds_page_flags. */
void fake_runtime_ask(uint32_t flags, uint32_t window_us);

/* Grant these groups to programs from now on, the one that runs included. Returns the page's new epoch. */
uint64_t fake_runtime_grant(const struct ds_groups *groups);

/* When a program acknowledged the epoch, on the clock of fake_now_ns(), or 0: none has within `seconds`. */
double fake_runtime_acknowledged_ns(uint64_t epoch, double seconds);

/* The shape of the first device. After fake_runtime_start(). */
struct ds_gpu_shape fake_runtime_shape(void);

/* Whether a program is there now. */
bool fake_runtime_has_program(void);

/* In main(), first: if this process was run to look at the GPU, does so and ends. */
void fake_runtime_role(int argc, char **argv);

/*
 * Run this program as `role`, with the library unless NULL, with DETSHARE_CHAOS set unless NULL.
 * What it prints goes to `output`, `size` bytes; returns its length. `port`, unless NULL, gets what the
 * program left in its port.
 */
size_t fake_run(const char *role, const char *library, const char *chaos, char *output, size_t size,
		struct ds_port *port);

#endif
