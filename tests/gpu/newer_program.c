/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that came with CUDA 13.1 to 13.4, used with and without the coroutine library: what it prints must not
 * tell the two apart. Runs on the emulated GPU and on a real one whose driver has them; else exits with 77.
 * Usage: newer_program EXPERIMENT
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"

enum { ROUNDS = 50 };

static struct {
	CUresult(CUDAAPI *host)(CUstream, CUhostFn, void *, unsigned);
	CUresult(CUDAAPI *copy)(CUdeviceptr, CUdeviceptr, size_t, CUmemcpyAttributes *, CUstream);
	CUresult(CUDAAPI *resource)(CUstream, CUdevResource *, CUdevResourceType);
	CUresult(CUDAAPI *add)(CUgraphNode *, CUgraph, const CUgraphNode *, const CUgraphEdgeData *,
			       size_t, CUgraphNodeParams *);
	CUresult(CUDAAPI *set)(CUgraphNode, CUgraphNodeParams *);
	CUresult(CUDAAPI *get)(CUgraphNode, CUgraphNodeParams *);
} newer;

static struct kernels kernels;
static CUcontext primary;

static void find(void *libcuda, const char *name, int version, void *call)
{
	__typeof__(&cuGetProcAddress_v2) get =
	    (__typeof__(&cuGetProcAddress_v2))(uintptr_t)dlsym(libcuda, "cuGetProcAddress_v2");

	if (get && !get(name, (void **)call, version, 0, NULL) && *(void **)call)
		return;
	printf("the driver has no %s of %d\n", name, version);
	exit(77);
}

static void start(void)
{
	void *libcuda = load_driver();

	CALL(cuInit, 0);
	find(libcuda, "cuLaunchHostFunc", 13010, &newer.host);
	find(libcuda, "cuMemcpyWithAttributesAsync", 13020, &newer.copy);
	find(libcuda, "cuStreamGetDevResource", 13010, &newer.resource);
	find(libcuda, "cuGraphAddNode", 13040, &newer.add);
	find(libcuda, "cuGraphNodeSetParams", 13040, &newer.set);
	find(libcuda, "cuGraphNodeGetParams", 13020, &newer.get);
	CALL(cuDevicePrimaryCtxRetain, &primary, 0);
	CALL(cuCtxSetCurrent, primary);
	kernels = load_kernels();
}

static void must(const char *what, CUresult result)
{
	if (result)
		die(what, result);
}

static void CUDA_CB count(void *data)
{
	++*(unsigned *)data;
}

/* Each copy takes what the kernel before it made, and is overtaken by none behind it. */
static void work(void)
{
	/* Stream order, and nothing else: CUmemcpyAttributes begins with the order of the source's accesses. */
	union {
		int order;
		char room[256];
	} attributes = {.order = 1};
	CUdeviceptr x = numbers(1), y = numbers(0.5f), z = numbers(0);
	unsigned counted = 0;
	CUstream stream;

	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (int i = 0; i < ROUNDS; i++) {
		add(&kernels, stream, x, x, y);
		must("cuMemcpyWithAttributesAsync",
		     newer.copy(z, x, N * 4, (CUmemcpyAttributes *)&attributes, stream));
		add(&kernels, stream, z, z, y);
		must("cuMemcpyWithAttributesAsync",
		     newer.copy(x, z, N * 2, (CUmemcpyAttributes *)&attributes, stream));
		must("cuLaunchHostFunc", newer.host(stream, count, &counted, 0));
	}
	CALL(cuStreamSynchronize, stream);
	printf("%llx %llx, %u calls\n", hash(x), hash(z), counted);
}

static unsigned sms_of(CUstream stream)
{
	CUdevResource resource;

	must("cuStreamGetDevResource", newer.resource(stream, &resource, CU_DEV_RESOURCE_TYPE_SM));
	return resource.sm.smCount;
}

static void resources(void)
{
	CUdevResource all, some, rest;
	CUdevResourceDesc description;
	CUstream stream, green_stream;
	CUgreenCtx green;
	unsigned n = 1;

	CALL(cuStreamCreate, &stream, 0);
	printf("streams %u %u %u\n", sms_of(NULL), sms_of(CU_STREAM_PER_THREAD), sms_of(stream));
	CALL(cuDeviceGetDevResource, 0, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, &some, &n, &all, &rest, 0, 16);
	CALL(cuDevResourceGenerateDesc, &description, &some, 1);
	CALL(cuGreenCtxCreate, &green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM);
	CALL(cuGreenCtxStreamCreate, &green_stream, green, CU_STREAM_NON_BLOCKING, 0);
	printf("a stream of a green context %u\n", sms_of(green_stream));
	printf("no resource %d, no such kind %d\n",
	       (int)newer.resource(stream, NULL, CU_DEV_RESOURCE_TYPE_SM),
	       (int)newer.resource(stream, &all, (CUdevResourceType)77));
}

/* A kernel that adds and a memset behind it; both changed, and launched again. */
static void nodes(void)
{
	CUdeviceptr x = numbers(1), y = numbers(0.25f), smids = 0;
	unsigned n_words = N;
	void *args[] = {&x, &y, &x, &n_words, &smids};
	CUgraphNodeParams params, told;
	CUgraphNode kernel, set;
	CUgraphExec exec;
	CUstream stream;
	CUgraph graph;

	CALL(cuGraphCreate, &graph, 0);
	memset(&params, 0, sizeof(params));
	params.type = CU_GRAPH_NODE_TYPE_KERNEL;
	params.kernel.func = kernels.vector_add;
	params.kernel.gridDimX = BLOCKS;
	params.kernel.gridDimY = params.kernel.gridDimZ = 1;
	params.kernel.blockDimX = THREADS;
	params.kernel.blockDimY = params.kernel.blockDimZ = 1;
	params.kernel.kernelParams = args;
	params.kernel.ctx = primary;
	must("cuGraphAddNode", newer.add(&kernel, graph, NULL, NULL, 0, &params));
	must("cuGraphNodeGetParams", newer.get(kernel, &told));
	printf("kernel: grid %u, its context %d\n", told.kernel.gridDimX,
	       told.kernel.ctx == primary);
	memset(&params, 0, sizeof(params));
	params.type = CU_GRAPH_NODE_TYPE_MEMSET;
	params.memset.dst = y;
	params.memset.value = 0x3f000000;
	params.memset.elementSize = 4;
	params.memset.width = N / 2;
	params.memset.height = 1;
	params.memset.ctx = primary;
	must("cuGraphAddNode", newer.add(&set, graph, &kernel, NULL, 1, &params));
	must("cuGraphNodeGetParams", newer.get(set, &told));
	printf("memset: width %zu, its context %d\n", told.memset.width,
	       told.memset.ctx == primary);
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (int changed = 0; changed < 2; changed++) {
		CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
		for (int i = 0; i < ROUNDS; i++)
			CALL(cuGraphLaunch, exec, stream);
		CALL(cuStreamSynchronize, stream);
		printf("%llx %llx\n", hash(x), hash(y));
		CALL(cuGraphExecDestroy, exec);
		params.memset.value = 0x3e800000;
		must("cuGraphNodeSetParams", newer.set(set, &params));
	}
}

static const struct experiment all[] = {{"work", work}, {"resources", resources}, {"nodes", nodes}};

int main(int argc, char **argv)
{
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = all, .n = sizeof(all) / sizeof(all[0]), .start = start});
}
