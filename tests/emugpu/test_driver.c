/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The emulated driver, called directly: what Python cannot reach. Each test states a property of the
 * real driver that detshare relies on.
 */
#include "tests/emugpu/test_driver.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/gpu/kernels_ptx.h" /* in the build tree */

enum { THREADS = 4, ROUNDS = 20 };

static char dir[] = "/tmp/emugpu-test-XXXXXX";
CUcontext primary;
CUmodule module;
CUfunction spin_us, vector_add;

void nap_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

void spin(CUstream stream, unsigned blocks, unsigned us, CUdeviceptr smids)
{
	OK(cuLaunchKernel(spin_us, blocks, 1, 1, 32, 1, 1, 0, stream, (void *[]){&us, &smids},
			  NULL));
}

static int set_up(void **state)
{
	CUdevice dev;

	(void)state;
	OK(cuInit(0));
	OK(cuDeviceGet(&dev, 0));
	OK(cuDevicePrimaryCtxRetain(&primary, dev));
	OK(cuCtxSetCurrent(primary));
	OK(cuModuleLoadData(&module, kernels_ptx));
	OK(cuModuleGetFunction(&spin_us, module, "spin_us"));
	OK(cuModuleGetFunction(&vector_add, module, "vector_add"));
	return 0;
}

static void devices(void **state)
{
	int value, n;
	char text[64];
	size_t bytes;
	CUdevice dev;
	CUuuid uuid;

	(void)state;
	OK(cuDriverGetVersion(&value));
	assert_int_equal(value, 13000);
	OK(cuDeviceGetCount(&n));
	assert_int_equal(n, 2);
	OK(cuDeviceGetName(text, sizeof(text), 1));
	assert_string_equal(text, "Emulated GPU (detshare tests)");
	OK(cuDeviceGetPCIBusId(text, sizeof(text), 1));
	OK(cuDeviceGetByPCIBusId(&dev, text));
	assert_int_equal(dev, 1);
	OK(cuDeviceGetByPCIBusId(&dev, "02:00.0"));
	assert_int_equal(dev, 1);
	OK(cuDeviceGetUuid(&uuid, 1));
	assert_int_equal((unsigned char)uuid.bytes[0], 0xe0);
	OK(cuDeviceTotalMem(&bytes, 0));
	assert_true(bytes == (size_t)1 << 30);
	OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
	assert_int_equal(value, GROUPS * GROUP_SMS + REST_SMS);
	assert_int_equal(cuDeviceGet(&dev, 2), CUDA_ERROR_INVALID_DEVICE);
	assert_int_equal(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX, 0),
			 CUDA_ERROR_INVALID_VALUE);
}

static void null_pointers(void **state)
{
	(void)state;
	assert_int_equal(cuDeviceGetCount(NULL), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuDeviceGetName(NULL, 10, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuDevicePrimaryCtxRetain(NULL, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuMemAlloc(NULL, 1), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemGetInfo(NULL, NULL));
	assert_int_equal(cuStreamCreate(NULL, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuEventCreate(NULL, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuModuleLoadData(NULL, kernels_ptx), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuModuleGetFunction(NULL, module, "trap"), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL),
			 CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cuLaunchKernel(spin_us, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL),
			 CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuGetErrorName(CUDA_SUCCESS, NULL), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuStreamSynchronize((CUstream)(uintptr_t)0x123450),
			 CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cuEventQuery(NULL), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cuGreenCtxDestroy(NULL), CUDA_ERROR_INVALID_VALUE);
}

static void proc_addresses(void **state)
{
	static const struct {
		const char *name;
		cuuint64_t flags;
		int version;
		CUdriverProcAddressQueryResult status;
	} table[] = {
	    {"cuMemAlloc", 0, 12000, CU_GET_PROC_ADDRESS_SUCCESS},
	    {"cuLaunchKernel", 0, 4000, CU_GET_PROC_ADDRESS_SUCCESS},
	    {"cuGreenCtxCreate", 0, 12040, CU_GET_PROC_ADDRESS_SUCCESS},
	    {"cuGreenCtxCreate", 0, 12030, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT},
	    {"cuNoSuchThing", 0, 12000, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND},
	    {"cuMemAlloc_v2", 0, 12000, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND},
	    {"cuStreamQuery", CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, 12000,
	     CU_GET_PROC_ADDRESS_SUCCESS},
	};
	void *legacy, *twin;

	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		CUdriverProcAddressQueryResult status = 77;
		void *p = &p;
		OK(cuGetProcAddress(table[i].name, &p, table[i].version, table[i].flags, &status));
		assert_int_equal(status, table[i].status);
		assert_int_equal(p != NULL, status == CU_GET_PROC_ADDRESS_SUCCESS);
		OK(cuGetProcAddress(table[i].name, &p, table[i].version, table[i].flags, NULL));
	}
	OK(cuGetProcAddress("cuStreamQuery", &legacy, 12000, 0, NULL));
	OK(cuGetProcAddress("cuStreamQuery", &twin, 12000,
			    CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, NULL));
	assert_ptr_not_equal(legacy, twin);
	assert_int_equal(cuGetProcAddress("cuInit", &twin, 99000, 0, NULL),
			 CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuGetProcAddress("cuInit", NULL, 12000, 0, NULL),
			 CUDA_ERROR_INVALID_VALUE);
}

/* ---- green contexts ---- */

void split_all(CUdevResource groups[GROUPS], CUdevResource *rest)
{
	CUdevResource all;
	unsigned n = GROUPS;

	OK(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
	OK(cuDevSmResourceSplitByCount(groups, &n, &all, rest, 0, GROUP_SMS));
	assert_int_equal(n, GROUPS);
}

static void splits(void **state)
{
	static const struct {
		unsigned wanted, min_count, flags, n, sms, rest;
	} table[] = {
	    {15, 8, 0, 15, 8, 12},   {99, 8, 0, 15, 8, 12},   {2, 8, 0, 2, 8, 116},
	    {99, 1, 0, 15, 8, 12},   {99, 0, 0, 15, 8, 12},   {99, 9, 0, 8, 16, 4},
	    {99, 17, 0, 5, 24, 12},  {99, 64, 0, 2, 64, 4},   {99, 113, 0, 1, 120, 12},
	    {99, 128, 0, 1, 128, 4}, {99, 132, 0, 1, 132, 0}, {99, 0, 1, 66, 2, 0},
	    {99, 7, 1, 16, 8, 4},    {99, 129, 1, 1, 130, 2},
	};
	CUdevResource all, out[99], rest;
	CUdevResourceDesc desc;
	unsigned n;

	(void)state;
	OK(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
	assert_int_equal(all.sm.smCount, 132);
	assert_int_equal(all.sm.minSmPartitionSize, 8);
	assert_int_equal(all.sm.smCoscheduledAlignment, 8);
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		n = table[i].wanted;
		OK(cuDevSmResourceSplitByCount(out, &n, &all, &rest, table[i].flags,
					       table[i].min_count));
		assert_int_equal(n, table[i].n);
		assert_int_equal(out[n - 1].sm.smCount, table[i].sms);
		assert_int_equal(out[0].sm.minSmPartitionSize, 0);
		if (table[i].rest)
			assert_int_equal(rest.sm.smCount, table[i].rest);
		else
			assert_int_equal(rest.type, CU_DEV_RESOURCE_TYPE_INVALID);
	}
	n = 0;
	OK(cuDevSmResourceSplitByCount(NULL, &n, &all, NULL, 0, 8));
	assert_int_equal(n, GROUPS);
	assert_int_equal(cuDevSmResourceSplitByCount(out, &n, &all, NULL, 0, 133),
			 CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);

	/*
	 * Groups of two splits do not mix and a group counts once: so says cuda.h, and so it is here,
	 * although driver 580 takes them. A group cannot be split again.
	 */
	CUdevResource a[2], b[2], mixed[2];
	n = 2;
	OK(cuDevSmResourceSplitByCount(a, &n, &all, NULL, 0, 8));
	OK(cuDevSmResourceSplitByCount(b, &n, &all, NULL, 0, 8));
	mixed[0] = a[0];
	mixed[1] = b[1];
	assert_int_equal(cuDevResourceGenerateDesc(&desc, mixed, 2),
			 CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
	mixed[1] = a[0];
	assert_int_equal(cuDevResourceGenerateDesc(&desc, mixed, 2),
			 CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
	mixed[1] = a[1];
	OK(cuDevResourceGenerateDesc(&desc, mixed, 2));
	assert_int_equal(cuDevSmResourceSplitByCount(b, &n, &a[0], NULL, 0, 8),
			 CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
}

CUgreenCtx green_of(CUdevResource *resources, unsigned n)
{
	CUdevResourceDesc desc;
	CUgreenCtx green;

	OK(cuDevResourceGenerateDesc(&desc, resources, n));
	OK(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
	return green;
}

/* Groups 0-1, 2, and the remainder: a block runs on its context's SMs only, and on all of them. */
static void partitions(void **state)
{
	static const struct {
		unsigned first, last; /* SMs */
	} expected[3] = {{0, 15}, {16, 23}, {120, 131}};
	CUdevResource groups[GROUPS], rest, got;
	CUgreenCtx green[3], which;
	CUcontext ctx;
	CUstream stream[3];
	CUdeviceptr smids[3];
	uint32_t seen[64];

	(void)state;
	split_all(groups, &rest);
	green[0] = green_of(groups, 2);
	green[1] = green_of(&groups[2], 1);
	green[2] = green_of(&rest, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(cuGreenCtxStreamCreate(&stream[i], green[i], CU_STREAM_DEFAULT, 0),
				 CUDA_ERROR_INVALID_VALUE);
		OK(cuGreenCtxStreamCreate(&stream[i], green[i], CU_STREAM_NON_BLOCKING, 0));
		OK(cuStreamGetGreenCtx(stream[i], &which));
		assert_ptr_equal(which, green[i]);
		OK(cuStreamGetCtx(stream[i], &ctx));
		assert_ptr_equal(ctx,
				 green[i]); /* cuCtxFromGreenCtx's, which is the same handle here */
		OK(cuStreamGetCtx_v2(stream[i], &ctx, &which));
		assert_ptr_equal(ctx, primary);
		assert_ptr_equal(which, green[i]);
		OK(cuGreenCtxGetDevResource(green[i], &got, CU_DEV_RESOURCE_TYPE_SM));
		assert_int_equal(got.sm.smCount, expected[i].last - expected[i].first + 1);
		OK(cuMemAlloc(&smids[i], sizeof(seen)));
		/* The function was loaded in the primary context, which is current. */
		spin(stream[i], 64, 1000, smids[i]);
	}
	OK(cuCtxSynchronize()); /* the primary's: waits for green-context streams, too */
	for (int i = 0; i < 3; i++) {
		unsigned all = 0;
		OK(cuStreamQuery(stream[i]));
		OK(cuMemcpyDtoH(seen, smids[i], sizeof(seen)));
		for (unsigned sm = expected[i].first; sm <= expected[i].last; sm++)
			for (unsigned b = 0; b < 64; b++)
				if (seen[b] == sm) {
					all++;
					break;
				}
		for (unsigned b = 0; b < 64; b++)
			assert_in_range(seen[b], expected[i].first, expected[i].last);
		assert_int_equal(all, expected[i].last - expected[i].first + 1);
		OK(cuMemFree(smids[i]));
		OK(cuStreamDestroy(stream[i]));
		OK(cuGreenCtxDestroy(green[i]));
	}
	OK(cuStreamGetGreenCtx(NULL, &which));
	assert_null(which);
}

static void cooperative(void **state)
{
	CUdevResource groups[GROUPS], rest;
	CUgreenCtx green;
	CUstream stream;
	unsigned us = 1;
	CUdeviceptr none = 0;
	void *params[] = {&us, &none};

	(void)state;
	split_all(groups, &rest);
	green = green_of(groups, 1);
	OK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
	OK(cuLaunchCooperativeKernel(spin_us, 8, 1, 1, 32, 1, 1, 0, stream, params));
	assert_int_equal(
	    cuLaunchCooperativeKernel(spin_us, 1000, 1, 1, 32, 1, 1, 0, stream, params),
	    CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
	OK(cuLaunchCooperativeKernel(spin_us, 132, 1, 1, 32, 1, 1, 0, NULL, params));
	OK(cuCtxSynchronize());
	OK(cuStreamDestroy(stream));
	OK(cuGreenCtxDestroy(green));
}

/* A function of a cuCtxCreate context does not launch in the primary's green contexts. */
static void foreign_function(void **state)
{
	CUdevResource groups[GROUPS], rest;
	CUgreenCtx green;
	CUstream stream;
	CUcontext own;
	CUmodule own_module;
	CUfunction f;
	unsigned us = 1;
	CUdeviceptr none = 0;

	(void)state;
	split_all(groups, &rest);
	green = green_of(groups, 1);
	OK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
	OK(cuCtxCreate_v2(&own, 0, 0));
	OK(cuModuleLoadData(&own_module, kernels_ptx));
	OK(cuModuleGetFunction(&f, own_module, "spin_us"));
	assert_int_equal(
	    cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, stream, (void *[]){&us, &none}, NULL),
	    CUDA_ERROR_INVALID_HANDLE);
	/* The primary's functions do, although another context is current. */
	spin(stream, 1, 1, 0);
	OK(cuStreamSynchronize(stream));
	OK(cuModuleUnload(own_module));
	OK(cuCtxDestroy(own));
	OK(cuCtxSetCurrent(primary));
	OK(cuStreamDestroy(stream));
	OK(cuGreenCtxDestroy(green));
}

/* ---- the legacy NULL stream ---- */

/* Does work on `second` wait for work that is running on `first`? */
static bool waits(CUstream first, CUstream second)
{
	CUevent event;
	CUresult rc;
	bool waited;

	OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
	spin(first, 1, 300000, 0);
	spin(second, 1, 1, 0);
	OK(cuEventRecord(event, second));
	nap_ms(60);
	rc = cuEventQuery(event);
	assert_true(rc == CUDA_SUCCESS || rc == CUDA_ERROR_NOT_READY);
	waited = rc == CUDA_ERROR_NOT_READY;
	OK(cuCtxSynchronize());
	OK(cuEventQuery(event));
	OK(cuEventDestroy(event));
	return waited;
}

static void null_stream_order(void **state)
{
	CUstream blocking, other, free_running;

	(void)state;
	OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
	OK(cuStreamCreate(&other, CU_STREAM_DEFAULT));
	OK(cuStreamCreate(&free_running, CU_STREAM_NON_BLOCKING));
	assert_true(waits(blocking, NULL));
	assert_true(waits(NULL, blocking));
	assert_true(waits(CU_STREAM_LEGACY, blocking));
	assert_true(waits(CU_STREAM_PER_THREAD, NULL));
	assert_true(waits(NULL, CU_STREAM_PER_THREAD));
	assert_false(waits(blocking, other));
	assert_false(waits(free_running, NULL));
	assert_false(waits(NULL, free_running));
	assert_false(waits(CU_STREAM_PER_THREAD, blocking));
	OK(cuStreamDestroy(blocking));
	OK(cuStreamDestroy(other));
	OK(cuStreamDestroy(free_running));
}

/* As measured: inside a green context the driver does not keep that order. */
static void null_stream_in_green_context(void **state)
{
	CUdevResource groups[GROUPS], rest;
	CUgreenCtx green;
	CUcontext ctx;
	CUstream blocking;

	(void)state;
	split_all(groups, &rest);
	green = green_of(groups, 2);
	OK(cuCtxFromGreenCtx(&ctx, green));
	OK(cuCtxPushCurrent(ctx));
	OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
	assert_false(waits(blocking, NULL));
	OK(cuStreamDestroy(blocking));
	OK(cuCtxPopCurrent(NULL));
	OK(cuGreenCtxDestroy(green));
}

/* ---- events, values, host functions ---- */

/* As measured: the work of a destroyed blocking stream still counts. */
static void null_stream_waits_for_destroyed_ones(void **state)
{
	CUstream blocking;
	CUevent event;

	(void)state;
	OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
	OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
	spin(blocking, 1, 300000, 0);
	OK(cuStreamDestroy(blocking));
	spin(NULL, 1, 1, 0);
	OK(cuEventRecord(event, NULL));
	nap_ms(60);
	assert_int_equal(cuEventQuery(event), CUDA_ERROR_NOT_READY);
	OK(cuCtxSynchronize());
	OK(cuEventQuery(event));
	OK(cuEventDestroy(event));
}

static void events(void **state)
{
	CUstream a, b;
	CUevent begin, end;
	float ms;

	(void)state;
	OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
	OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
	OK(cuEventCreate(&begin, CU_EVENT_DEFAULT));
	OK(cuEventCreate(&end, CU_EVENT_DEFAULT));
	OK(cuEventQuery(begin)); /* never recorded: complete */
	assert_int_equal(cuEventElapsedTime(&ms, begin, end), CUDA_ERROR_INVALID_HANDLE);
	OK(cuEventRecord(begin, a));
	spin(a, 1, 20000, 0);
	OK(cuEventRecord(end, a));
	OK(cuStreamWaitEvent(b, end, 0));
	assert_int_equal(cuStreamQuery(b), CUDA_ERROR_NOT_READY);
	OK(cuStreamSynchronize(b));
	OK(cuEventElapsedTime(&ms, begin, end));
	assert_true(ms >= 20 && ms < 20000);
	OK(cuEventDestroy(begin));
	OK(cuEventDestroy(end));
	OK(cuStreamDestroy(a));
	OK(cuStreamDestroy(b));
}

/* An event of a whole green context comes after all its streams; another context waits for it. */
static void context_events(void **state)
{
	CUdevResource groups[GROUPS], rest;
	CUgreenCtx a, b;
	CUstream in_a[2], in_b;
	CUevent event;

	(void)state;
	split_all(groups, &rest);
	a = green_of(groups, 1);
	b = green_of(&groups[1], 1);
	for (int i = 0; i < 2; i++)
		OK(cuGreenCtxStreamCreate(&in_a[i], a, CU_STREAM_NON_BLOCKING, 0));
	OK(cuGreenCtxStreamCreate(&in_b, b, CU_STREAM_NON_BLOCKING, 0));
	OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
	spin(in_a[0], 1, 300000, 0);
	spin(in_a[1], 1, 1, 0);
	OK(cuGreenCtxRecordEvent(a, event));
	OK(cuGreenCtxWaitEvent(b, event));
	spin(in_b, 1, 1, 0);
	nap_ms(60);
	OK(cuStreamQuery(in_a[1]));
	assert_int_equal(cuEventQuery(event), CUDA_ERROR_NOT_READY);
	assert_int_equal(cuStreamQuery(in_b), CUDA_ERROR_NOT_READY);
	OK(cuStreamSynchronize(in_b));
	OK(cuStreamQuery(in_a[0]));
	OK(cuEventDestroy(event));
	OK(cuStreamDestroy(in_b));
	OK(cuStreamDestroy(in_a[0]));
	OK(cuStreamDestroy(in_a[1]));
	OK(cuGreenCtxDestroy(a));
	OK(cuGreenCtxDestroy(b));
}

/* Two streams that wait for each other: neither may be held up as a whole. */
static void values(void **state)
{
	static uint32_t shared[2];
	CUdeviceptr p;
	CUstream a, b;

	(void)state;
	OK(cuMemHostRegister(shared, sizeof(shared), CU_MEMHOSTREGISTER_DEVICEMAP));
	OK(cuMemHostGetDevicePointer(&p, shared, 0));
	OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
	OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
	OK(cuStreamWaitValue32(a, p, 7, CU_STREAM_WAIT_VALUE_EQ));
	OK(cuStreamWriteValue32(a, p + 4, 9, 0));
	OK(cuStreamWriteValue32(b, p, 7, 0));
	OK(cuStreamWaitValue32(b, p + 4, 9, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cuStreamSynchronize(a));
	OK(cuStreamSynchronize(b));
	assert_int_equal(shared[1], 9);
	assert_int_equal(cuStreamWriteValue32(a, 0x1000, 1, 0), CUDA_ERROR_INVALID_VALUE);
	OK(cuStreamDestroy(a));
	OK(cuStreamDestroy(b));
	OK(cuMemHostUnregister(shared));
}

static _Atomic int host_calls;
static _Atomic int inner_result;

static void CUDA_CB host_function(void *data)
{
	CUstream s;

	atomic_store(&inner_result, (int)cuStreamCreate(&s, 0));
	atomic_store(&host_calls, atomic_load(&host_calls) * 10 + (int)(intptr_t)data);
}

static void CUDA_CB callback(CUstream stream, CUresult status, void *data)
{
	(void)stream;
	atomic_store(&host_calls,
		     atomic_load(&host_calls) * 10 + (int)(intptr_t)data + (int)status);
}

static void host_functions(void **state)
{
	CUstream s;

	(void)state;
	OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	OK(cuLaunchHostFunc(s, host_function, (void *)1));
	spin(s, 3, 1000, 0);
	OK(cuStreamAddCallback(s, callback, (void *)2, 0));
	OK(cuLaunchHostFunc(s, host_function, (void *)3));
	OK(cuStreamSynchronize(s));
	assert_int_equal(atomic_load(&host_calls), 123);
	assert_int_equal(atomic_load(&inner_result), CUDA_ERROR_NOT_PERMITTED);
	OK(cuStreamDestroy(s));
}

/* ---- memory ---- */

static void memory(void **state)
{
	size_t before, after, total;
	CUdeviceptr p, q, base;
	unsigned char bytes[512];
	unsigned type;
	void *pinned;

	(void)state;
	OK(cuMemGetInfo(&before, &total));
	OK(cuMemAlloc(&p, 1 << 20));
	OK(cuMemGetInfo(&after, NULL));
	assert_true(before - after == 1 << 20);
	assert_int_equal(cuMemAlloc(&q, total), CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(cuMemAlloc(&q, 0), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemGetAddressRange(&base, &total, p + 100));
	assert_true(base == p && total == 1 << 20);
	OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
	assert_int_equal(type, CU_MEMORYTYPE_DEVICE);

	OK(cuMemsetD8(p, 0x11, 512));
	OK(cuMemsetD2D8(p, 64, 0x22, 2, 4));
	OK(cuMemsetD32(p + 256, 0x01020304, 2));
	OK(cuMemcpyDtoH(bytes, p, sizeof(bytes)));
	assert_int_equal(bytes[1], 0x22);
	assert_int_equal(bytes[2], 0x11);
	assert_int_equal(bytes[193], 0x22);
	assert_int_equal(bytes[256], 4);
	assert_int_equal(bytes[264], 0x11);
	assert_int_equal(cuMemcpyHtoD(p + (1 << 20) - 4, bytes, 8), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cuMemsetD32(p + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);

	/* A copy from pageable memory has read it when the call returns. */
	spin(NULL, 1, 20000, 0);
	bytes[0] = 0x33;
	OK(cuMemcpyHtoDAsync(p, bytes, 1, NULL));
	bytes[0] = 0x44;
	OK(cuMemcpyDtoH(bytes, p, 1));
	assert_int_equal(bytes[0], 0x33);

	OK(cuMemHostAlloc(&pinned, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
	OK(cuMemHostGetDevicePointer(&q, pinned, 0));
	OK(cuMemcpyAsync(q, p, 512, NULL));
	OK(cuCtxSynchronize());
	assert_int_equal(*(unsigned char *)pinned, 0x33);
	OK(cuMemFreeHost(pinned));

	OK(cuMemAllocAsync(&q, 4096, NULL));
	OK(cuMemFreeAsync(q, NULL));
	OK(cuMemFree(p));
	assert_int_equal(cuMemFree(p), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemFree(0));
	OK(cuCtxSynchronize()); /* only now the pool gives back what it had for q */
	OK(cuMemGetInfo(&after, NULL));
	assert_true(after == before);
}

/* ---- processes and threads ---- */

static void child_of_fork(void **state)
{
	int status, n;
	pid_t child;

	(void)state;
	child = fork();
	assert_true(child >= 0);
	if (!child)
		_exit(cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED &&
			      cuInit(0) == CUDA_ERROR_NOT_INITIALIZED
			  ? 0
			  : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	spin(NULL, 1, 1, 0);
	OK(cuCtxSynchronize());
}

static void *busy_thread(void *arg)
{
	unsigned n = 1000, me = (unsigned)(uintptr_t)arg;
	float host[1000];
	CUdeviceptr a, none = 0;
	CUstream s;
	CUevent e;

	OK(cuCtxSetCurrent(primary));
	OK(cuStreamCreate(&s, me % 2 ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT));
	OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	OK(cuMemAlloc(&a, sizeof(host)));
	for (unsigned i = 0; i < n; i++)
		host[i] = (float)(i + me);
	OK(cuMemcpyHtoDAsync(a, host, sizeof(host), s));
	for (int r = 0; r < ROUNDS; r++) {
		OK(cuLaunchKernel(vector_add, 4, 1, 1, 256, 1, 1, 0, s,
				  (void *[]){&a, &a, &a, &n, &none}, NULL));
		OK(cuEventRecord(e, s));
		OK(cuStreamWaitEvent(r % 3 ? s : NULL, e, 0));
		if (r % 4 == 0)
			OK(cuEventSynchronize(e));
	}
	OK(cuMemcpyDtoHAsync(host, a, sizeof(host), s));
	OK(cuStreamSynchronize(s));
	for (unsigned i = 0; i < n; i++)
		assert_true(host[i] == (float)(i + me) * (float)(1 << ROUNDS));
	OK(cuMemFree(a));
	OK(cuEventDestroy(e));
	OK(cuStreamDestroy(s));
	return NULL;
}

static void threads(void **state)
{
	pthread_t thread[THREADS];

	(void)state;
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, busy_thread, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(thread[i], NULL), 0);
}

static void contexts(void **state)
{
	CUcontext own, now;
	unsigned flags;
	int active;
	CUdevice dev;

	(void)state;
	OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
	assert_int_equal(active, 1);
	OK(cuDevicePrimaryCtxGetState(1, NULL, &active));
	assert_int_equal(active, 0);
	OK(cuCtxCreate_v2(&own, CU_CTX_SCHED_YIELD, 1));
	OK(cuCtxGetDevice(&dev));
	assert_int_equal(dev, 1);
	OK(cuCtxGetFlags(&flags));
	assert_int_equal(flags, CU_CTX_SCHED_YIELD);
	OK(cuCtxPopCurrent(&now));
	assert_ptr_equal(now, own);
	OK(cuCtxGetCurrent(&now));
	assert_ptr_equal(now, primary);
	OK(cuCtxSetCurrent(own));
	OK(cuCtxDestroy(own));
	assert_int_equal(cuCtxSetCurrent(own), CUDA_ERROR_INVALID_CONTEXT);
	OK(cuCtxSetCurrent(primary));
}

/* Last: a fault stays for the life of the process. */
static void fault_is_sticky(void **state)
{
	CUfunction trap;
	CUdeviceptr nowhere = 0x10, p;

	(void)state;
	OK(cuModuleGetFunction(&trap, module, "trap"));
	OK(cuLaunchKernel(trap, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&nowhere}, NULL));
	assert_int_equal(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(cuMemAlloc(&p, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(cuStreamQuery(NULL), CUDA_ERROR_ILLEGAL_ADDRESS);
}

/*
 * "test_driver real" runs the same on a real GPU: it shows where the emulation differs. devices, memory
 * and partitions have numbers of the emulated one in them.
 */
int main(int argc, char **argv)
{
	bool real = argc > 1 && !strcmp(argv[1], "real");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(devices),
	    cmocka_unit_test(null_pointers),
	    cmocka_unit_test(proc_addresses),
	    cmocka_unit_test(splits),
	    cmocka_unit_test(partitions),
	    cmocka_unit_test(cooperative),
	    cmocka_unit_test(foreign_function),
	    cmocka_unit_test(null_stream_order),
	    cmocka_unit_test(null_stream_in_green_context),
	    cmocka_unit_test(null_stream_waits_for_destroyed_ones),
	    cmocka_unit_test(events),
	    cmocka_unit_test(values),
	    cmocka_unit_test(host_functions),
	    cmocka_unit_test(context_events),
	    cmocka_unit_test(kernels_overlap),
	    cmocka_unit_test(edges_have_ports),
	    cmocka_unit_test(captured_work),
	    cmocka_unit_test(capture_of_two_streams),
	    cmocka_unit_test(capture_refuses),
	    cmocka_unit_test(capture_modes),
	    cmocka_unit_test(capture_to_a_graph),
	    cmocka_unit_test(explicit_graph),
	    cmocka_unit_test(graph_runs_where_it_was_made),
	    cmocka_unit_test(graph_is_moved_by_its_kernel_nodes),
	    cmocka_unit_test(launches_in_order),
	    cmocka_unit_test(executables_change),
	    cmocka_unit_test(memory_nodes),
	    cmocka_unit_test(memory),
	    cmocka_unit_test(child_of_fork),
	    cmocka_unit_test(threads),
	    cmocka_unit_test(contexts),
	    cmocka_unit_test(fault_is_sticky),
	};
	char command[512];
	int failed;

	alarm(60);
	if (real)
		return cmocka_run_group_tests(tests, set_up, NULL);
	if (!mkdtemp(dir))
		return 1;
	snprintf(command, sizeof(command), "%s create %s --gpus 2 --memory-mib 1024", EMUGPU_HOST,
		 dir);
	if (system(command))
		return 1;
	setenv("EMUGPU_DIR", dir, 1);
	unsetenv("CUDA_VISIBLE_DEVICES");
	setenv("CUDA_MPS_PIPE_DIRECTORY", dir, 1); /* no daemon there */
	failed = cmocka_run_group_tests(tests, set_up, NULL);
	snprintf(command, sizeof(command), "%s destroy %s", EMUGPU_HOST, dir);
	return system(command) || failed;
}
