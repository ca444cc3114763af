/* SPDX-License-Identifier: Apache-2.0 */
/* Work in contexts that come and go. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "context_program.h"
#include "kernels_ptx.h"

void work(void)
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

void threads(void)
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
void graphs(void)
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
void many(void)
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
void reset(void)
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

/* Loads code whose text names a function of the device runtime, and some that does not. */
void launching_code(void)
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
void private_tables(void)
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
void forgets(void)
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
