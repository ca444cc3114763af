/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels: what they compute, on which SMs they run, and for how long. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coroutine_program.h"
#include "kernels_ptx.h"

void work(void)
{
	static float a[N], b[N], c[N];
	CUstream streams[KINDS];
	CUdeviceptr da, db, dc, smids = 0;
	unsigned n = N;
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	CUlaunchConfig config = {.gridDimX = BLOCKS,
				 .gridDimY = 1,
				 .gridDimZ = 1,
				 .blockDimX = THREADS,
				 .blockDimY = 1,
				 .blockDimZ = 1};

	start();
	make_streams(streams);
	da = device_words(N);
	db = device_words(N);
	dc = device_words(N);
	for (unsigned i = 0; i < N; i++) {
		a[i] = (float)i / 3;
		b[i] = (float)(N - i) / 7;
	}
	for (int kind = 0; kind < KINDS; kind++) {
		void *args[] = {&da, &db, &dc, &n, &smids};

		CALL(cuMemcpyHtoD_v2, da, a, sizeof(a));
		CALL(cuMemcpyHtoD_v2, db, b, sizeof(b));
		CALL(cuLaunchKernel, kernels.vector_add, BLOCKS, 1, 1, THREADS, 1, 1, 0,
		     streams[kind], args, NULL);
		CALL(cuLaunchKernel_ptsz, kernels.vector_add, BLOCKS, 1, 1, THREADS, 1, 1, 0,
		     streams[kind], args, NULL);
		config.hStream = streams[kind];
		CALL(cuLaunchKernelEx, &config, kernels.vector_add, args, NULL);
		CALL(cuStreamSynchronize, streams[kind]);
		CALL(cuCtxSynchronize);
		CALL(cuMemcpyDtoH_v2, c, dc, sizeof(c));
		for (unsigned i = 0; i < N; i++) {
			uint32_t bits;

			memcpy(&bits, &c[i], 4);
			hash = (hash ^ bits) * UINT64_C(0x100000001b3);
			a[i] = c[i];
		}
	}
	printf("%016llx\n", (unsigned long long)hash);
}

static unsigned distinct_sms(CUdeviceptr smids, unsigned blocks)
{
	static unsigned seen[1 << 12], host[1 << 14];
	unsigned n = 0;

	CALL(cuCtxSynchronize);
	CALL(cuMemcpyDtoH_v2, host, smids, blocks * 4);
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < blocks; i++)
		n += !seen[host[i] & 4095]++;
	return n;
}

enum { MANY = 4096 };

/* How many SMs each way to run a kernel uses: alone all, in a partition those of the partition. */
void sms(void)
{
	CUstream streams[KINDS];
	CUdeviceptr smids;
	unsigned us = 20, blocks = MANY;
	void *args[] = {&us, &smids};
	CUDA_KERNEL_NODE_PARAMS params = {.gridDimX = MANY,
					  .gridDimY = 1,
					  .gridDimZ = 1,
					  .blockDimX = 1024,
					  .blockDimY = 1,
					  .blockDimZ = 1,
					  .kernelParams = args};
	CUgraph graph;
	CUgraphNode node;
	CUgraphExec exec;

	start();
	make_streams(streams);
	smids = device_words(MANY);
	for (int kind = 0; kind < KINDS; kind++) {
		CALL(cuMemsetD32_v2, smids, 0, MANY);
		CALL(cuLaunchKernel, kernels.spin_us, blocks, 1, 1, 1024, 1, 1, 0, streams[kind],
		     args, NULL);
		printf("%s: %u\n", kinds[kind], distinct_sms(smids, blocks));
	}
	needs_graphs();
	for (int kind = 2; kind < KINDS; kind++) {
		CALL(cuStreamBeginCapture_v2, streams[kind], CU_STREAM_CAPTURE_MODE_GLOBAL);
		CALL(cuLaunchKernel, kernels.spin_us, blocks, 1, 1, 1024, 1, 1, 0, streams[kind],
		     args, NULL);
		CALL(cuStreamEndCapture, streams[kind], &graph);
		CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
		for (int on = 0; on < 2; on++) {
			CALL(cuGraphLaunch, exec, on ? streams[kind] : NULL);
			printf("captured on %s: %u\n", kinds[kind], distinct_sms(smids, blocks));
		}
	}
	params.func = kernels.spin_us;
	CALL(cuGraphCreate, &graph, 0);
	CALL(cuGraphAddKernelNode_v2, &node, graph, NULL, 0, &params);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	CALL(cuGraphLaunch, exec, NULL);
	printf("by hand: %u\n", distinct_sms(smids, blocks));
	us = 30;
	printf("updated: %d", (int)cu.do_cuGraphExecKernelNodeSetParams_v2(exec, node, &params));
	CALL(cuGraphLaunch, exec, NULL);
	printf(" %u\n", distinct_sms(smids, blocks));
	CALL(cuGraphKernelNodeGetParams_v2, node, &params);
	printf("context seen %d\n", params.ctx == primary || !params.ctx);
}

void cooperative(void)
{
	int sms;

	start();
	CALL(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
	for (int blocks = 1; blocks < 1 << 16; blocks *= 4) {
		unsigned us = 1;
		CUdeviceptr smids = 0;
		void *args[] = {&us, &smids};

		printf("%d: %d\n", blocks,
		       (int)cu.do_cuLaunchCooperativeKernel(kernels.spin_us, (unsigned)blocks, 1, 1,
							    1024, 1, 1, 0, NULL, args));
	}
	CALL(cuCtxSynchronize);
}

enum { PAIRS = 6, OVERLAPPING_US = 10000 };

/* A kernel, and one that may begin while it still runs. */
static void overlapping(CUstream stream)
{
	unsigned us = OVERLAPPING_US;
	CUdeviceptr smids = 0;
	CUlaunchAttribute attribute;
	const CUlaunchConfig config = {.gridDimX = 1,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = 1,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .hStream = stream,
				       .attrs = &attribute,
				       .numAttrs = 1};

	memset(&attribute, 0, sizeof(attribute));
	attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
	attribute.value.programmaticStreamSerializationAllowed = 1;
	if (spin(stream, OVERLAPPING_US, 1))
		printf("a launch failed\n");
	CALL(cuLaunchKernelEx, &config, kernels.spin_us, (void *[]){&us, &smids}, NULL);
}

void overlaps(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < PAIRS; i++) {
		overlapping(stream);
		CALL(cuStreamSynchronize, stream);
	}
	printf("%u pairs\n", (unsigned)PAIRS);
}

/* The same in a graph, which has an edge of its own kind between them. */
void overlaps_in_graph(void)
{
	CUstream stream;
	CUgraph graph;
	CUgraphExec exec;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	overlapping(stream);
	CALL(cuStreamEndCapture, stream, &graph);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	for (unsigned i = 0; i < PAIRS; i++) {
		CALL(cuGraphLaunch, exec, stream);
		CALL(cuStreamSynchronize, stream);
	}
	printf("%u pairs\n", (unsigned)PAIRS);
}

static int by_length(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/*
 * Kernels of known lengths in steps of known lengths: 40 steps of one of 1 ms on one SM, 10 of two of 3 ms
 * on two SMs, the second of them named by the CUkernel, each after a pause of 30 ms. Prints how long steps
 * took here, which may be longer where others need the CPU: in the middle, at most, and all together.
 */
void measured(void)
{
	CUlibrary library;
	CUkernel kernel;
	void *args[] = {&(unsigned){3000}, &(CUdeviceptr){0}};
	enum { SHORT = 40, LONG = 10 };
	double steps[SHORT + LONG], all = 0;

	start();
	CALL(cuLibraryLoadData, &library, kernels_ptx, NULL, NULL, 0, NULL, NULL, 0);
	CALL(cuLibraryGetKernel, &kernel, library, "spin_us");
	CALL(cuStreamSynchronize, NULL);
	for (unsigned i = 0; i < SHORT; i++) {
		const double begun = now_us();
		if (spin(NULL, 1000, 1))
			die("cuLaunchKernel", 0);
		CALL(cuStreamSynchronize, NULL);
		steps[i] = now_us() - begun;
	}
	for (unsigned i = 0; i < LONG; i++) {
		usleep(30000);
		const double begun = now_us();
		if (spin(NULL, 3000, 2))
			die("cuLaunchKernel", 0);
		CALL(cuLaunchKernel, (CUfunction)kernel, 2, 1, 1, 1, 1, 1, 0, NULL, args, NULL);
		CALL(cuCtxSynchronize);
		steps[SHORT + i] = now_us() - begun;
		CALL(cuCtxSynchronize); /* no step: nothing was launched */
	}
	for (unsigned i = 0; i < SHORT + LONG; i++)
		all += steps[i];
	qsort(steps, SHORT + LONG, sizeof(steps[0]), by_length);
	printf("%.0f %.0f %.0f\n", steps[(SHORT + LONG) / 2], steps[SHORT + LONG - 1], all);
}
