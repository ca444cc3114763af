/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/reclaim_gpu.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cuda.h>

#include "common/clock.h"

#include "../gpu/kernels_ptx.h"

#define DRIVER_CALLS(X)                                                                            \
	X(cuInit, (unsigned))                                                                      \
	X(cuDeviceGetName, (char *, int, CUdevice))                                                \
	X(cuDeviceGetAttribute, (int *, CUdevice_attribute, CUdevice))                             \
	X(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                       \
	X(cuCtxSetCurrent, (CUcontext))                                                            \
	X(cuModuleLoadData, (CUmodule *, const void *))                                            \
	X(cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                             \
	X(cuFuncSetAttribute, (CUfunction, CUfunction_attribute, int))                             \
	X(cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                  \
	X(cuMemHostAlloc, (void **, size_t, unsigned))                                             \
	X(cuMemHostGetDevicePointer_v2, (CUdeviceptr *, void *, unsigned))                         \
	X(cuMemsetD32Async, (CUdeviceptr, unsigned, size_t, CUstream))                             \
	X(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                          \
	X(cuStreamCreate, (CUstream *, unsigned))                                                  \
	X(cuStreamSynchronize, (CUstream))                                                         \
	X(cuEventCreate, (CUevent *, unsigned))                                                    \
	X(cuEventRecord, (CUevent, CUstream))                                                      \
	X(cuEventSynchronize, (CUevent))                                                           \
	X(cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
			   unsigned, CUstream, void **, void **))

#define FIELD(name, args) \
	CUresult(CUDAAPI *do_##name) args; /* NOLINT(bugprone-macro-parentheses) */
static struct {
	DRIVER_CALLS(FIELD)
} cu;

#define CALL(name, ...)                                                             \
	do {                                                                        \
		CUresult call_result = cu.do_##name(__VA_ARGS__);                   \
		if (call_result)                                                    \
			die("%s: error %d of the driver", #name, (int)call_result); \
	} while (0)

enum {
	STEPS = 250, /* multiply-adds of a unit: 1000 cycles */
	THREADS = 32,
	EVERY = 16, /* launches between two events */
	EVENTS = 64,
	COMPARISONS = 200,
	SOON_NS = 200000, /* for a time to come without the driver's help */
	TRIALS = 32,      /* kernels that are measured for their length */
	FIRST_UNITS = 10000,
};

/* As in tests/gpu/kernels.cu. */
struct record {
	uint64_t end, not_begin, taken, sms[4];
};

static struct {
	char name[96];
	unsigned sms, shared;
	CUfunction share_out, tell_time;
	CUstream stream;
	CUevent events[EVENTS]; /* number i / EVERY is behind launch i, the last of its EVERY */
	CUdeviceptr records, when;
	_Atomic uint64_t *told;
	size_t n_records, launched;
} gpu;

#define die(...)                                    \
	do {                                        \
		fputs("reclaim_program: ", stderr); \
		fprintf(stderr, __VA_ARGS__);       \
		fputc('\n', stderr);                \
		exit(1);                            \
	} while (0)

static void load_driver(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);

	if (!library)
		die("cannot load libcuda.so.1: %s", dlerror());
#define LOOK_UP(name, args)                              \
	*(void **)&cu.do_##name = dlsym(library, #name); \
	if (!cu.do_##name)                               \
		die("libcuda.so.1 has no %s: the driver is too old", #name);
	DRIVER_CALLS(LOOK_UP)
}

static int attribute(CUdevice_attribute which)
{
	int value;

	CALL(cuDeviceGetAttribute, &value, which, 0);
	return value;
}

/* Shared memory of which an SM has room for one block only: then every SM gets one. */
static unsigned one_block_per_sm(CUfunction function)
{
	const int per_sm = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
	const int most = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
	const int bytes = per_sm / 2 + 1024 < most ? per_sm / 2 + 1024 : most;

	CALL(cuFuncSetAttribute, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
	return (unsigned)bytes;
}

void gpu_open(size_t n_records)
{
	const size_t bytes = n_records * sizeof(struct record);
	CUcontext context;
	CUmodule module;
	void *told;

	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGetName, gpu.name, sizeof(gpu.name), 0);
	gpu.sms = (unsigned)attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
	CALL(cuDevicePrimaryCtxRetain, &context, 0);
	CALL(cuCtxSetCurrent, context);
	CALL(cuModuleLoadData, &module, kernels_ptx);
	CALL(cuModuleGetFunction, &gpu.share_out, module, "share_out");
	CALL(cuModuleGetFunction, &gpu.tell_time, module, "tell_time");
	gpu.shared = one_block_per_sm(gpu.share_out);
	CALL(cuStreamCreate, &gpu.stream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < EVENTS; i++)
		CALL(cuEventCreate, &gpu.events[i], CU_EVENT_DISABLE_TIMING);
	CALL(cuMemAlloc_v2, &gpu.records, bytes);
	CALL(cuMemsetD32Async, gpu.records, 0, bytes / 4, gpu.stream);
	CALL(cuMemHostAlloc, &told, sizeof(*gpu.told), CU_MEMHOSTALLOC_DEVICEMAP);
	CALL(cuMemHostGetDevicePointer_v2, &gpu.when, told, 0);
	gpu.told = told;
	gpu.n_records = n_records;
	gpu_wait();
}

const char *gpu_name(void)
{
	return gpu.name;
}

unsigned gpu_sms(void)
{
	return gpu.sms;
}

size_t gpu_launched(void)
{
	return gpu.launched;
}

void gpu_launch(unsigned units)
{
	unsigned steps = STEPS;
	CUdeviceptr record = gpu.records + gpu.launched * sizeof(struct record);
	void *parameters[] = {&record, &units, &steps};

	if (gpu.launched == gpu.n_records)
		die("more than %zu launches", gpu.n_records);
	CALL(cuLaunchKernel, gpu.share_out, gpu.sms, 1, 1, THREADS, 1, 1, gpu.shared, gpu.stream,
	     parameters, NULL);
	if (++gpu.launched % EVERY == 0)
		CALL(cuEventRecord, gpu.events[gpu.launched / EVERY % EVENTS], gpu.stream);
}

void gpu_wait(void)
{
	CALL(cuStreamSynchronize, gpu.stream);
}

void gpu_wait_behind(unsigned most)
{
	const size_t group = gpu.launched > most ? (gpu.launched - most) / EVERY : 0;

	if (group && gpu.launched / EVERY - group < EVENTS)
		CALL(cuEventSynchronize, gpu.events[group % EVENTS]);
}

static struct record *copy_records(size_t first, size_t n)
{
	struct record *records = calloc(n + 1, sizeof(*records));

	if (!records)
		die("no memory for %zu records", n);
	if (n)
		CALL(cuMemcpyDtoH_v2, records, gpu.records + first * sizeof(*records),
		     n * sizeof(*records));
	return records;
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* How long a kernel of so many units takes, from the one's end to the next one's; the median. */
static double length_us(unsigned units)
{
	const size_t first = gpu.launched;
	uint64_t ns[TRIALS];

	for (int i = 0; i <= TRIALS; i++)
		gpu_launch(units);
	gpu_wait();
	struct record *records = copy_records(first, TRIALS + 1);
	for (int i = 0; i < TRIALS; i++)
		ns[i] = records[i + 1].end - records[i].end;
	free(records);
	qsort(ns, TRIALS, sizeof(*ns), compare);
	return (double)ns[TRIALS / 2] / 1e3;
}

unsigned gpu_units(double kernel_us)
{
	unsigned units = FIRST_UNITS;

	length_us(units); /* its clocks go up */
	for (int round = 0; round < 4; round++) {
		const double next = units * kernel_us / length_us(units);

		units = next < 1 ? 1 : next > 1e8 ? 100000000 : (unsigned)(next + 0.5);
	}
	return units;
}

struct gpu_clock gpu_compare_clocks(void)
{
	struct gpu_clock clock = {.low_ns = INT64_MIN, .high_ns = INT64_MAX};
	void *parameters[] = {&gpu.when};

	gpu_wait();
	for (int i = 0; i < COMPARISONS; i++) {
		atomic_store(gpu.told, 0);
		const int64_t before = ds_now_ns(CLOCK_MONOTONIC);
		CALL(cuLaunchKernel, gpu.tell_time, 1, 1, 1, 1, 1, 1, 0, gpu.stream, parameters,
		     NULL);
		while (!atomic_load(gpu.told) && ds_now_ns(CLOCK_MONOTONIC) - before < SOON_NS)
			;
		if (!atomic_load(gpu.told))
			gpu_wait();
		const int64_t after = ds_now_ns(CLOCK_MONOTONIC);
		clock.gpu_ns = atomic_load(gpu.told);
		if (before - (int64_t)clock.gpu_ns > clock.low_ns)
			clock.low_ns = before - (int64_t)clock.gpu_ns;
		if (after - (int64_t)clock.gpu_ns < clock.high_ns)
			clock.high_ns = after - (int64_t)clock.gpu_ns;
		gpu_wait();
	}
	return clock;
}

static double middle_ns(const struct gpu_clock *clock)
{
	return (double)clock->low_ns + (double)(clock->high_ns - clock->low_ns) / 2;
}

int64_t gpu_host_ns(const struct gpu_clock *first, const struct gpu_clock *last, uint64_t gpu_ns)
{
	const double span = (double)(last->gpu_ns - first->gpu_ns);
	const double part = span > 0 ? (double)(int64_t)(gpu_ns - first->gpu_ns) / span : 0;
	const int64_t from = first->low_ns + (first->high_ns - first->low_ns) / 2;

	return (int64_t)gpu_ns + from + (int64_t)(part * (middle_ns(last) - middle_ns(first)));
}

int64_t gpu_clock_error_ns(const struct gpu_clock *first, const struct gpu_clock *last)
{
	const int64_t a = first->high_ns - first->low_ns, b = last->high_ns - last->low_ns;

	return ((a > b ? a : b) + 1) / 2;
}

struct gpu_run *gpu_runs(size_t n, const struct gpu_clock *first, const struct gpu_clock *last)
{
	struct gpu_run *runs = calloc(n + 1, sizeof(*runs));
	struct record *records = copy_records(0, n);

	if (!runs)
		die("no memory for %zu launches", n);
	for (size_t i = 0; i < n; i++) {
		runs[i].begin_ns = gpu_host_ns(first, last, ~records[i].not_begin);
		runs[i].end_ns = gpu_host_ns(first, last, records[i].end);
		for (int w = 0; w < 4; w++)
			runs[i].sms += (uint32_t)__builtin_popcountll(records[i].sms[w]);
	}
	free(records);
	return runs;
}
