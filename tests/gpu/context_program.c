/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experiments with contexts that a program makes itself, run with and without the coroutine library: what
 * they print must not tell the two apart. Runs on a real GPU and on the emulated one.
 * Usage: context_program EXPERIMENT
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels_ptx.h"
#include "numbers.h"

static CUdevice device;

static void start(void)
{
	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
}

static CUcontext create(unsigned flags)
{
	CUcontext context;

	CALL(cuCtxCreate_v2, &context, flags, device);
	return context;
}

static void spin(const struct kernels *code, CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, code->spin_us, blocks, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

/* ---- which context is current ---- */

static CUcontext known[8];
static const char *const names[] = {"none", "primary", "A", "B", "C"};

static const char *name_of(CUcontext context)
{
	for (unsigned i = 0; i < 5; i++)
		if (known[i] == context)
			return names[i];
	return "unknown";
}

static void show_current(const char *what, CUresult result)
{
	CUcontext current = (CUcontext)1;
	CUdevice of = 99;

	CALL(cuCtxGetCurrent, &current);
	printf("%s: %d, current %s, device %d", what, (int)result, name_of(current),
	       (int)cu.do_cuCtxGetDevice(&of));
	printf(" %d\n", of);
}

static void stack(void)
{
	CUcontext popped = NULL;

	show_current("begin", 0);
	known[2] = create(0);
	show_current("create A", 0);
	known[3] = create(CU_CTX_SCHED_YIELD);
	show_current("create B", 0);
	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	show_current("retain", 0);
	show_current("push primary", cu.do_cuCtxPushCurrent_v2(known[1]));
	show_current("push A", cu.do_cuCtxPushCurrent_v2(known[2]));
	show_current("set B", cu.do_cuCtxSetCurrent(known[3]));
	show_current("set primary", cu.do_cuCtxSetCurrent(known[1]));
	for (int i = 0; i < 5; i++) {
		CUresult result = cu.do_cuCtxPopCurrent_v2(&popped);

		show_current(result ? "no pop" : "pop", result);
		printf("  popped %s\n", result ? "-" : name_of(popped));
	}
	show_current("set A", cu.do_cuCtxSetCurrent(known[2]));
	show_current("set none", cu.do_cuCtxSetCurrent(NULL));
	show_current("set none again", cu.do_cuCtxSetCurrent(NULL));
	show_current("set A", cu.do_cuCtxSetCurrent(known[2]));
	show_current("push primary", cu.do_cuCtxPushCurrent_v2(known[1]));
	show_current("push A", cu.do_cuCtxPushCurrent_v2(known[2]));
	show_current("destroy A", cu.do_cuCtxDestroy_v2(known[2]));
	show_current("destroy B", cu.do_cuCtxDestroy_v2(known[3]));
	printf("bad flags %d\n", (int)cu.do_cuCtxCreate_v2(&popped, 3, device));
	printf("bad flags %d\n", (int)cu.do_cuCtxCreate_v2(&popped, 0x100, device));
	printf("no pointer %d\n", (int)cu.do_cuCtxCreate_v2(NULL, 0, device));
	printf("bad device %d\n", (int)cu.do_cuCtxCreate_v2(&popped, 0, 77));
}

/* ---- what a program can ask of its contexts ---- */

static void show_settings(const char *what)
{
	static const CUlimit limits[] = {CU_LIMIT_STACK_SIZE, CU_LIMIT_PRINTF_FIFO_SIZE,
					 CU_LIMIT_MALLOC_HEAP_SIZE};
	unsigned flags = 99;
	CUfunc_cache cache = (CUfunc_cache)99;

	printf("%s: flags %d", what, (int)cu.do_cuCtxGetFlags(&flags));
	printf(" %u cache %d", flags, (int)cu.do_cuCtxGetCacheConfig(&cache));
	printf(" %d limits", (int)cache);
	for (unsigned i = 0; i < 3; i++) {
		size_t value = 0;
		CUresult result = cu.do_cuCtxGetLimit(&value, limits[i]);

		printf(" %d %zu", (int)result, value);
	}
	printf("\n");
}

static void settings(void)
{
	CUcontext primary, a, b;
	unsigned long long ids[3] = {0}, id;
	unsigned version = 0, flags;
	size_t value;
	int active;

	CALL(cuDevicePrimaryCtxGetState, device, &flags, &active);
	printf("active %d\n", active);
	a = create(CU_CTX_SCHED_SPIN);
	CALL(cuDevicePrimaryCtxGetState, device, &flags, &active);
	printf("active %d\n", active);
	show_settings("A");
	printf("set %d\n", (int)cu.do_cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 4096));
	printf("set %d\n", (int)cu.do_cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 16 << 20));
	printf("set %d\n", (int)cu.do_cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_L1));
	show_settings("A set");
	b = create(CU_CTX_SCHED_BLOCKING_SYNC);
	show_settings("B");
	printf("set %d\n", (int)cu.do_cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048));
	printf("set %d\n", (int)cu.do_cuCtxSetLimit((CUlimit)99, 1));
	printf("get %d\n", (int)cu.do_cuCtxGetLimit(&value, (CUlimit)99));
	printf("set flags %d\n", (int)cu.do_cuCtxSetFlags(CU_CTX_SCHED_YIELD));
	printf("set flags %d\n", (int)cu.do_cuCtxSetFlags(7));
	show_settings("B set");
	CALL(cuCtxSetCurrent, a);
	show_settings("A again");
	CALL(cuDevicePrimaryCtxRetain, &primary, device);
	CALL(cuDevicePrimaryCtxGetState, device, &flags, &active);
	printf("active %d\n", active);
	CALL(cuCtxSetCurrent, primary);
	show_settings("primary");
	CALL(cuCtxGetId, primary, &ids[0]);
	CALL(cuCtxGetId, a, &ids[1]);
	CALL(cuCtxGetId, b, &ids[2]);
	printf("ids differ %d\n", ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
	CALL(cuCtxSetCurrent, b);
	CALL(cuCtxGetId, NULL, &id);
	printf("own id %d\n", id == ids[2]);
	CALL(cuCtxGetApiVersion, b, &version);
	printf("version %u\n", version);
}

/* ---- work in several contexts ---- */

static void show_stream(const char *what, CUstream stream)
{
	CUcontext one = NULL, two = NULL;
	CUgreenCtx green = (CUgreenCtx)1;

	CALL(cuStreamGetCtx, stream, &one);
	CALL(cuStreamGetCtx_v2, stream, &two, &green);
	printf("%s: %s %s %d\n", what, name_of(one), name_of(two), green == NULL);
}

/* Every kind of stream of a context, one after the other, in the order that CUDA has for them. */
static void work_in(const char *name, CUcontext context, unsigned rounds)
{
	CUdeviceptr a, b, c;
	struct kernels code;
	CUstream streams[4] = {NULL, CU_STREAM_PER_THREAD};
	CUevent event;

	CALL(cuCtxPushCurrent_v2, context);
	code = load_kernels();
	a = numbers(1.25f);
	b = numbers(0.375f);
	c = numbers(0);
	CALL(cuStreamCreate, &streams[2], CU_STREAM_DEFAULT);
	CALL(cuStreamCreate, &streams[3], CU_STREAM_NON_BLOCKING);
	CALL(cuEventCreate, &event, 0);
	for (unsigned i = 0; i < 4; i++)
		show_stream(name, streams[i]);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < 3; i++) {
			add(&code, streams[i], c, a, b);
			add(&code, NULL, a, c, b);
		}
		CALL(cuEventRecord, event, NULL);
		CALL(cuStreamWaitEvent, streams[3], event, 0);
		add(&code, streams[3], b, a, c);
		CALL(cuEventRecord, event, streams[3]);
		CALL(cuStreamWaitEvent, NULL, event, 0);
	}
	printf("%s %016llx", name, hash(a));
	printf(" %016llx\n", hash(b));
	spin(&code, streams[2], 2000, 1);
	CALL(cuCtxPopCurrent_v2, &context);
}

static void work(void)
{
	known[2] = create(0);
	known[3] = create(0);
	CALL(cuCtxPopCurrent_v2, &known[4]);
	printf("popped %d\n", known[4] == known[3]);
	work_in("A", known[2], 5);
	work_in("B", known[3], 3);
	work_in("A", known[2], 2);
	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	work_in("primary", known[1], 4);
	CALL(cuCtxDestroy_v2, known[2]);
	work_in("B", known[3], 1);
	known[2] = create(0);
	work_in("A", known[2], 1);
	CALL(cuCtxDestroy_v2, known[3]);
	CALL(cuCtxDestroy_v2, known[2]);
	work_in("primary", known[1], 1);
}

static void *in_thread(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUcontext mine = known[2 + id % 2];
	CUdeviceptr a, b, c;
	struct kernels code;
	uint64_t sum = 0;

	CALL(cuCtxSetCurrent, mine);
	code = load_kernels();
	for (unsigned round = 0; round < 6; round++) {
		CUstream stream;

		CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
		a = numbers(1.5f);
		b = numbers((float)id);
		c = numbers(0);
		for (unsigned i = 0; i < 5; i++) {
			add(&code, stream, c, a, b);
			add(&code, stream, a, c, b);
		}
		CALL(cuStreamSynchronize, stream);
		sum += hash(a);
		CALL(cuStreamDestroy_v2, stream);
		CALL(cuMemFree_v2, a);
		CALL(cuMemFree_v2, b);
		CALL(cuMemFree_v2, c);
	}
	return (void *)(uintptr_t)sum;
}

static void threads(void)
{
	enum { COUNT = 6 };
	pthread_t thread[COUNT];
	void *sum;

	known[2] = create(0);
	known[3] = create(0);
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, in_thread, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &sum);
		printf("%u %016lx\n", i, (unsigned long)(uintptr_t)sum);
	}
	CALL(cuCtxDestroy_v2, known[2]);
	CALL(cuCtxDestroy_v2, known[3]);
}

/* Graphs, captured and made by hand, whose nodes name the context. */
static void graphs(void)
{
	CUdeviceptr a, b, c, smids = 0;
	unsigned n = N;
	struct kernels code;
	CUgraph graph;
	CUgraphNode node, set;
	CUgraphExec exec;
	CUstream stream;
	CUDA_KERNEL_NODE_PARAMS params = {0};
	CUDA_MEMSET_NODE_PARAMS zero = {.elementSize = 4, .width = N, .height = 1};
	void *args[] = {&a, &b, &c, &n, &smids};

	known[2] = create(0);
	if (!cu.do_cuStreamEndCapture)
		exit(77);
	code = load_kernels();
	a = numbers(3);
	b = numbers(0.5f);
	c = numbers(0);
	CALL(cuStreamCreate, &stream, CU_STREAM_DEFAULT);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
	add(&code, stream, c, a, b);
	add(&code, stream, a, c, b);
	CALL(cuStreamEndCapture, stream, &graph);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	for (unsigned i = 0; i < 10; i++)
		CALL(cuGraphLaunch, exec, i % 2 ? NULL : stream);
	printf("captured %016llx\n", hash(a));
	CALL(cuGraphCreate, &graph, 0);
	zero.dst = c;
	CALL(cuGraphAddMemsetNode, &set, graph, NULL, 0, &zero, known[2]);
	params.func = code.vector_add;
	params.gridDimX = BLOCKS;
	params.gridDimY = params.gridDimZ = 1;
	params.blockDimX = THREADS;
	params.blockDimY = params.blockDimZ = 1;
	params.kernelParams = args;
	params.ctx = known[2];
	CALL(cuGraphAddKernelNode_v2, &node, graph, &set, 1, &params);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	for (unsigned i = 0; i < 10; i++)
		CALL(cuGraphLaunch, exec, stream);
	CALL(cuStreamSynchronize, stream);
	printf("by hand %016llx\n", hash(c));
	CALL(cuGraphKernelNodeGetParams_v2, node, &params);
	printf("context %s\n", params.ctx ? name_of(params.ctx) : "-");
}

/* Contexts are made and destroyed many times over, with work queued. */
static void many(void)
{
	for (unsigned i = 0; i < 12; i++) {
		CUcontext context = create(0);
		struct kernels code = load_kernels();
		CUdeviceptr a = numbers((float)i), b = numbers(1), c = numbers(0);
		CUstream stream;

		CALL(cuStreamCreate, &stream, i % 2);
		spin(&code, stream, 500, 2);
		add(&code, stream, c, a, b);
		CALL(cuStreamSynchronize, stream);
		printf("%u %016llx\n", i, hash(c));
		spin(&code, stream, 500, 2);
		CALL(cuCtxDestroy_v2, context);
		show_current("destroyed", 0);
	}
}

/* The primary context is reset while another one lives. */
static void reset(void)
{
	known[2] = create(0);
	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	work_in("primary", known[1], 1);
	work_in("A", known[2], 2);
	printf("reset %d\n", (int)cu.do_cuDevicePrimaryCtxReset_v2(device));
	work_in("A", known[2], 2);
	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	work_in("primary", known[1], 1);
	CALL(cuCtxDestroy_v2, known[2]);
	printf("reset %d\n", (int)cu.do_cuDevicePrimaryCtxReset_v2(device));
	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	work_in("primary", known[1], 1);
}

/* ---- contexts for some of the SMs ---- */

static void affinity(void)
{
	CUexecAffinityParam some = {.type = CU_EXEC_AFFINITY_TYPE_SM_COUNT,
				    .param.smCount.val = 16};
	CUexecAffinityParam found;
	int supported = -1;
	CUresult result;

	CALL(cuDeviceGetExecAffinitySupport, &supported, CU_EXEC_AFFINITY_TYPE_SM_COUNT, device);
	printf("supported %d\n", supported);
	result = cu.do_cuCtxCreate_v3(&known[2], &some, 1, 0, device);
	printf("some %d\n", (int)result);
	if (!result) {
		memset(&found, 0, sizeof(found));
		CALL(cuCtxGetExecAffinity, &found, CU_EXEC_AFFINITY_TYPE_SM_COUNT);
		printf("sms %u\n", found.param.smCount.val);
		work_in("A", known[2], 3);
		CALL(cuCtxDestroy_v2, known[2]);
	}
	some.type = (CUexecAffinityType)7;
	printf("bad %d\n", (int)cu.do_cuCtxCreate_v3(&known[2], &some, 1, 0, device));
	printf("none %d\n", (int)cu.do_cuCtxCreate_v3(&known[2], NULL, 0, 0, device));
	work_in("A", known[2], 1);
}

/* ---- green contexts ---- */

static CUgreenCtx green_of(CUdevResource *resources, unsigned n)
{
	CUdevResourceDesc description;
	CUgreenCtx green;

	CALL(cuDevResourceGenerateDesc, &description, resources, n);
	CALL(cuGreenCtxCreate, &green, description, device, CU_GREEN_CTX_DEFAULT_STREAM);
	return green;
}

static void show_green(const char *what, CUgreenCtx green)
{
	CUdevResource own = {0}, of_context = {0};
	CUcontext context;

	CALL(cuCtxFromGreenCtx, &context, green);
	CALL(cuGreenCtxGetDevResource, green, &own, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuCtxGetDevResource, context, &of_context, CU_DEV_RESOURCE_TYPE_SM);
	printf("%s: %u %u SMs\n", what, own.sm.smCount, of_context.sm.smCount);
}

/* Programs take the SMs apart, here into groups of eight, and use each for something. */
static void green(void)
{
	CUdevResource all, split[32], rest, nested[32];
	unsigned n = 32, n_nested = 32;
	CUgreenCtx contexts[3], of_stream = NULL;
	CUcontext current[2], popped;
	CUdevResourceDesc description;
	CUstream streams[3];
	CUdeviceptr a[3], b[3], c[3];
	struct kernels code;
	CUevent event;

	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	CALL(cuCtxSetCurrent, known[1]);
	code = load_kernels();
	CALL(cuDeviceGetDevResource, device, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, split, &n, &all, &rest, 0, 8);
	printf("%u SMs in %u groups of %u, rest %u\n", all.sm.smCount, n, split[0].sm.smCount,
	       rest.sm.smCount);
	CALL(cuCtxGetDevResource, known[1], &all, CU_DEV_RESOURCE_TYPE_SM);
	printf("primary %u\n", all.sm.smCount);
	contexts[0] = green_of(&split[0], 1);
	contexts[1] = green_of(&split[1], 3);
	contexts[2] = green_of(&split[4], 1);
	for (unsigned i = 0; i < 3; i++) {
		show_green("green", contexts[i]);
		CALL(cuGreenCtxStreamCreate, &streams[i], contexts[i], CU_STREAM_NON_BLOCKING, 0);
		a[i] = numbers((float)i + 0.5f);
		b[i] = numbers(2);
		c[i] = numbers(0);
	}
	CALL(cuStreamGetGreenCtx, streams[1], &of_stream);
	printf("stream %d\n", of_stream == contexts[1]);
	for (unsigned round = 0; round < 8; round++) {
		for (unsigned i = 0; i < 3; i++) {
			add(&code, streams[i], c[i], a[i], b[i]);
			add(&code, streams[i], a[i], c[i], b[i]);
		}
	}
	CALL(cuEventCreate, &event, 0);
	CALL(cuGreenCtxRecordEvent, contexts[2], event);
	CALL(cuEventSynchronize, event);
	printf("green %016llx\n", hash(a[2]));
	CALL(cuCtxSynchronize);
	printf("green %016llx", hash(a[0]));
	printf(" %016llx\n", hash(a[1]));
	for (unsigned i = 0; i < 2; i++) {
		CALL(cuCtxFromGreenCtx, &current[i], contexts[i]);
		CALL(cuCtxPushCurrent_v2, current[i]);
		CALL(cuCtxGetCurrent, &popped);
		printf("current %d\n", popped == current[i]);
		add(&code, NULL, c[i], a[i], b[i]);
		CALL(cuStreamSynchronize, NULL);
		printf("null %016llx\n", hash(c[i]));
		CALL(cuCtxPopCurrent_v2, &popped);
	}
	CALL(cuGreenCtxGetDevResource, contexts[1], &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, nested, &n_nested, &all, &rest, 0, 8);
	printf("nested %u\n", n_nested);
	for (unsigned i = 0; i < 3; i++) {
		CALL(cuStreamDestroy_v2, streams[i]);
		CALL(cuGreenCtxDestroy, contexts[i]);
	}
	contexts[0] = green_of(nested, n_nested);
	show_green("again", contexts[0]);
	CALL(cuGreenCtxDestroy, contexts[0]);
	memset(&description, 0, sizeof(description));
	printf("bad %d\n", (int)cu.do_cuGreenCtxCreate(&contexts[0], NULL, device,
						       CU_GREEN_CTX_DEFAULT_STREAM));
	work_in("primary", known[1], 2);
}

/* Keeps a green context with a kernel in it until its input ends. */
static void green_held(void)
{
	CUdevResource all, split[32], rest;
	unsigned n = 32;
	CUgreenCtx held;
	CUstream stream;
	struct kernels code;
	char c;

	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	CALL(cuCtxSetCurrent, known[1]);
	code = load_kernels();
	spin(&code, NULL, 10, 1);
	CALL(cuDeviceGetDevResource, device, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, split, &n, &all, &rest, 0, 8);
	held = green_of(split, 1);
	CALL(cuGreenCtxStreamCreate, &stream, held, CU_STREAM_NON_BLOCKING, 0);
	printf("holding\n");
	while (read(STDIN_FILENO, &c, 1) > 0) {
		if (c == 'd') {
			CALL(cuStreamDestroy_v2, stream);
			CALL(cuGreenCtxDestroy, held);
			printf("destroyed\n");
		} else if (c == 'm') {
			green_of(&split[1], 1);
			printf("made\n");
		} else {
			for (unsigned i = 0; i < 20; i++)
				spin(&code, c == 'g' ? stream : NULL, 100, 64);
			CALL(cuCtxSynchronize);
			printf("ran\n");
		}
	}
}

/* Loads code whose text names a function of the device runtime, and some that does not. */
static void launching_code(void)
{
	char launching[sizeof(kernels_ptx) + 64];
	CUmodule module;

	snprintf(launching, sizeof(launching), "%s\n// cudaGetParameterBufferV2\n", kernels_ptx);
	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	CALL(cuCtxSetCurrent, known[1]);
	CALL(cuModuleLoadData, &module, launching);
	work_in("primary", known[1], 1);
	CALL(cuModuleLoadData, &module, launching);
}

/*
 * As with the CUDA runtime in the program: it makes the primary context current through a table that nobody sees,
 * while one of the program's own is. What it makes from then on is not that one's.
 */
static void private_tables(void)
{
	static const CUuuid id = {"emulated GPU 001"};
	const struct {
		size_t size;
		CUresult (*make_primary_current)(CUdevice);
	} * table;
	CUdeviceptr a, b, c;
	CUstream stream, own;
	struct kernels code;

	known[2] = create(0);
	code = load_kernels();
	CALL(cuStreamCreate, &own, CU_STREAM_NON_BLOCKING);
	spin(&code, own, 10, 1);
	if (cu.do_cuGetExportTable((const void **)&table, &id))
		exit(77);
	if (table->make_primary_current(device))
		die("make_primary_current", 0);
	code = load_kernels();
	a = numbers(1);
	b = numbers(2);
	c = numbers(0);
	CALL(cuStreamCreate, &stream, CU_STREAM_DEFAULT);
	for (unsigned i = 0; i < 4; i++) {
		add(&code, stream, c, a, b);
		add(&code, NULL, a, c, b);
	}
	CALL(cuCtxDestroy_v2, known[2]);
	if (table->make_primary_current(device))
		die("make_primary_current", 0);
	for (unsigned i = 0; i < 4; i++) {
		add(&code, stream, c, a, b);
		add(&code, NULL, a, c, b);
	}
	CALL(cuStreamSynchronize, stream);
	printf("%016llx\n", hash(a));
	CALL(cuStreamDestroy_v2, stream);
}

/* What is made in a context goes with it: more of it all together than there is room for. */
static void forgets(void)
{
	static char page[8192] __attribute__((aligned(4096)));
	CUcontext keeps, of;
	CUdeviceptr kept, big, inside;
	size_t free_bytes, total;
	void *host;

	keeps = create(0);
	kept = numbers(7);
	CALL(cuMemGetInfo_v2, &free_bytes, &total);
	for (unsigned i = 0; i < 6; i++) {
		CUcontext context = create(0);
		CUevent event;

		load_kernels();
		CALL(cuMemAlloc_v2, &big, free_bytes / 3);
		CALL(cuMemAllocHost_v2, &host, 1 << 20);
		CALL(cuMemHostRegister_v2, page, sizeof(page), 0);
		CALL(cuEventCreate, &event, 0);
		CALL(cuEventRecord, event, NULL);
		inside = big + 4096;
		CALL(cuPointerGetAttribute, &of, CU_POINTER_ATTRIBUTE_CONTEXT, inside);
		printf("%u made in mine %d\n", i, of == context);
		if (i == 2) {
			CALL(cuMemFree_v2, big);
			CALL(cuEventDestroy_v2, event);
			CALL(cuMemHostUnregister, page);
		}
		CALL(cuCtxDestroy_v2, context);
	}
	CALL(cuCtxSetCurrent, keeps);
	printf("kept %016llx\n", hash(kept));
	CALL(cuPointerGetAttribute, &of, CU_POINTER_ATTRIBUTE_CONTEXT, kept);
	printf("made in mine %d\n", of == keeps);
	CALL(cuMemHostRegister_v2, page, sizeof(page), 0);
}

static const struct experiment experiments[] = {
    {"stack", stack},           {"settings", settings},   {"work", work},
    {"threads", threads},       {"graphs", graphs},       {"many", many},
    {"forgets", forgets},       {"reset", reset},         {"affinity", affinity},
    {"green", green},           {"code", launching_code}, {"private-tables", private_tables},
    {"green-held", green_held},
};

int main(int argc, char **argv)
{
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = experiments,
				  .n = sizeof(experiments) / sizeof(experiments[0]),
				  .start = start});
}
