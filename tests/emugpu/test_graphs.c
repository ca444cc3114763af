/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs and stream capture, as part of test_driver. */
#include "tests/emugpu/test_driver.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum { N = 256, SMS = GROUPS * GROUP_SMS + REST_SMS };

/* x = x + y in N numbers. */
static void add_to(CUstream stream, CUdeviceptr x, CUdeviceptr y)
{
	unsigned n = N;
	CUdeviceptr none = 0;

	OK(cuLaunchKernel(vector_add, 1, 1, 1, N, 1, 1, 0, stream,
			  (void *[]){&x, &y, &x, &n, &none}, NULL));
}

static CUdeviceptr numbers(float value)
{
	uint32_t bits;
	CUdeviceptr p;

	memcpy(&bits, &value, sizeof(bits));
	OK(cuMemAlloc(&p, N * sizeof(float)));
	OK(cuMemsetD32(p, bits, N));
	OK(cuCtxSynchronize());
	return p;
}

static float first(CUdeviceptr p)
{
	float x;

	OK(cuMemcpyDtoH(&x, p, sizeof(x)));
	return x;
}

static CUstream stream(unsigned flags)
{
	CUstream s;

	OK(cuStreamCreate(&s, flags));
	return s;
}

static CUevent event(void)
{
	CUevent e;

	OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	return e;
}

static void begin(CUstream s)
{
	OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
}

static CUgraphExec instantiate(CUgraph graph)
{
	CUgraphExec exec;

	OK(cuGraphInstantiate(&exec, graph, 0));
	return exec;
}

static CUgraphExec end(CUstream s)
{
	CUgraphExec exec;
	CUgraph graph;

	OK(cuStreamEndCapture(s, &graph));
	exec = instantiate(graph);
	OK(cuGraphDestroy(graph));
	return exec;
}

/* End a capture that must have failed so. */
static void end_fails(CUstream s, CUresult expected)
{
	CUgraph graph = (CUgraph)(uintptr_t)1;
	CUstreamCaptureStatus status;

	assert_int_equal(cuStreamEndCapture(s, &graph), expected);
	assert_null(graph);
	OK(cuStreamIsCapturing(s, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_NONE);
}

static _Atomic int called;

static void CUDA_CB call(void *data)
{
	atomic_fetch_add(&called, *(int *)data);
}

void captured_work(void **state)
{
	static int ten = 10;
	CUdeviceptr x = numbers(1), y = numbers(2);
	CUstreamCaptureStatus status;
	const CUgraphNode *after;
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec;
	float host = 0;
	CUgraph graph;
	cuuint64_t id = 0;
	size_t n;

	(void)state;
	begin(s);
	OK(cuStreamIsCapturing(s, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
	add_to(s, x, y);
	OK(cuMemsetD32Async(y, 0x40400000, N, s)); /* 3.0 */
	add_to(s, x, y);
	OK(cuLaunchHostFunc(s, call, &ten));
	OK(cuMemcpyDtoHAsync(&host, x, sizeof(host), s));
	OK(cuStreamGetCaptureInfo(s, &status, &id, &graph, &after, NULL, &n));
	assert_true(id != 0);
	assert_int_equal(n, 1);
	OK(cuGraphGetNodes(graph, NULL, &n));
	assert_int_equal(n, 5);
	exec = end(s);
	OK(cuStreamIsCapturing(s, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_NONE);
	/* Captured work does not run. */
	assert_true(first(x) == 1 && first(y) == 2 && atomic_load(&called) == 0);
	OK(cuGraphLaunch(exec, s));
	OK(cuGraphLaunch(exec, s));
	OK(cuGraphUpload(exec, s));
	OK(cuStreamSynchronize(s));
	assert_true(host == 12 && first(x) == 12 && atomic_load(&called) == 20);
	OK(cuGraphExecDestroy(exec));
	OK(cuStreamDestroy(s));
	OK(cuMemFree(x));
	OK(cuMemFree(y));
}

/* Events bring another stream into the capture and back; how long its work takes does not matter. */
void capture_of_two_streams(void **state)
{
	CUdeviceptr x = numbers(1), y = numbers(5);
	CUstream a = stream(CU_STREAM_NON_BLOCKING), b = stream(CU_STREAM_DEFAULT);
	CUevent fork = event(), join = event();
	CUstreamCaptureStatus status;
	CUgraphNode from[16], to[16];
	size_t n = 16;
	CUgraphExec exec;
	CUgraph graph;

	(void)state;
	begin(a);
	add_to(a, x, y); /* 6 */
	OK(cuEventRecord(fork, a));
	OK(cuStreamWaitEvent(b, fork, 0));
	OK(cuStreamIsCapturing(b, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
	spin(b, 1, 20000, 0);
	add_to(b, y, x); /* 11 */
	OK(cuEventRecord(join, b));
	spin(a, 1, 1, 0);
	OK(cuStreamWaitEvent(a, join, 0));
	add_to(a, x, y); /* 17 */
	OK(cuStreamEndCapture(a, &graph));
	OK(cuStreamIsCapturing(b, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_NONE);
	OK(cuGraphGetEdges(graph, from, to, NULL, &n));
	assert_int_equal(n, 5);
	n = 16;
	OK(cuGraphGetRootNodes(graph, from, &n));
	assert_int_equal(n, 1);
	exec = instantiate(graph);
	OK(cuGraphDestroy(graph));
	OK(cuGraphLaunch(exec, b));
	OK(cuStreamSynchronize(b));
	assert_true(first(x) == 17 && first(y) == 11);
	OK(cuGraphExecDestroy(exec));

	/* Not joined; joined by mistake with another capture; events of no capture. */
	begin(a);
	OK(cuEventRecord(fork, a));
	OK(cuStreamWaitEvent(b, fork, 0));
	add_to(b, x, y);
	end_fails(a, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
	begin(a);
	begin(b);
	OK(cuEventRecord(fork, a));
	assert_int_equal(cuStreamWaitEvent(b, fork, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
	end_fails(a, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	end_fails(b, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuEventRecord(fork, b));
	begin(a);
	assert_int_equal(cuStreamWaitEvent(a, fork, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
	end_fails(a, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuEventDestroy(fork));
	OK(cuEventDestroy(join));
	OK(cuStreamDestroy(a));
	OK(cuStreamDestroy(b));
	OK(cuMemFree(x));
	OK(cuMemFree(y));
}

static void *end_elsewhere(void *arg)
{
	CUgraph graph;

	OK(cuCtxSetCurrent(primary));
	assert_int_equal(cuStreamEndCapture(arg, &graph), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
	return NULL;
}

void capture_refuses(void **state)
{
	CUstream s = stream(CU_STREAM_NON_BLOCKING), blocking = stream(CU_STREAM_DEFAULT);
	CUevent e = event();
	CUstreamCaptureStatus status;
	pthread_t thread;
	CUgraph graph;

	(void)state;
	assert_int_equal(cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_RELAXED),
			 CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	assert_int_equal(cuStreamEndCapture(s, &graph), CUDA_ERROR_ILLEGAL_STATE);
	begin(s);
	assert_int_equal(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED),
			 CUDA_ERROR_ILLEGAL_STATE);
	assert_int_equal(cuStreamSynchronize(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	OK(cuStreamIsCapturing(s, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
	assert_int_equal(cuMemsetD8Async(0, 0, 0, s), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	end_fails(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	begin(s);
	assert_int_equal(cuStreamQuery(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	end_fails(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	begin(s);
	assert_int_equal(cuCtxSynchronize(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	end_fails(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	begin(s);
	OK(cuEventRecord(e, s));
	assert_int_equal(cuEventQuery(e), CUDA_ERROR_CAPTURED_EVENT);
	end_fails(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

	/* The legacy stream beside a blocking stream; beside another one it does as ever. */
	begin(s);
	spin(NULL, 1, 1, 0);
	OK(cuStreamSynchronize(NULL));
	OK(cuStreamEndCapture(s, &graph));
	OK(cuGraphDestroy(graph));
	begin(blocking);
	assert_int_equal(cuStreamIsCapturing(NULL, &status), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
	OK(cuStreamIsCapturing(blocking, &status));
	assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
	assert_int_equal(cuEventRecord(e, NULL), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
	end_fails(blocking, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

	begin(s);
	OK(cuEventRecord(e, s));
	OK(cuStreamWaitEvent(blocking, e, 0));
	assert_int_equal(cuStreamEndCapture(blocking, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
	assert_int_equal(pthread_create(&thread, NULL, end_elsewhere, s), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	OK(cuStreamEndCapture(s, &graph));
	OK(cuGraphDestroy(graph));
	OK(cuEventDestroy(e));
	OK(cuStreamDestroy(s));
	OK(cuStreamDestroy(blocking));
}

/* A call that may order work behind the capture's back, in another thread. */
static void *allocate_elsewhere(void *arg)
{
	CUresult *result = arg;
	CUdeviceptr p;

	OK(cuCtxSetCurrent(primary));
	*result = cuMemAlloc(&p, 4096);
	if (!*result)
		OK(cuMemFree(p));
	return NULL;
}

void capture_modes(void **state)
{
	static const struct {
		CUstreamCaptureMode capture;
		CUresult here, elsewhere;
	} table[] = {
	    {CU_STREAM_CAPTURE_MODE_GLOBAL, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
	     CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED},
	    {CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
	     CUDA_SUCCESS},
	    {CU_STREAM_CAPTURE_MODE_RELAXED, CUDA_SUCCESS, CUDA_SUCCESS},
	};
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	CUresult result;
	pthread_t thread;
	CUgraph graph;

	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		OK(cuStreamBeginCapture(s, table[i].capture));
		allocate_elsewhere(&result);
		assert_int_equal(result, table[i].here);
		result = cuStreamEndCapture(s, &graph);
		assert_int_equal(result, table[i].here ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
						       : CUDA_SUCCESS);
		if (!result)
			OK(cuGraphDestroy(graph));
		OK(cuStreamBeginCapture(s, table[i].capture));
		assert_int_equal(pthread_create(&thread, NULL, allocate_elsewhere, &result), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_int_equal(result, table[i].elsewhere);
		result = cuStreamEndCapture(s, &graph);
		if (!result)
			OK(cuGraphDestroy(graph));
	}
	/* A thread that knows what it does. */
	OK(cuThreadExchangeStreamCaptureMode(&mode));
	assert_int_equal(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
	OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
	allocate_elsewhere(&result);
	OK(result);
	OK(cuStreamEndCapture(s, &graph));
	OK(cuGraphDestroy(graph));
	OK(cuThreadExchangeStreamCaptureMode(&mode));
	assert_int_equal(mode, CU_STREAM_CAPTURE_MODE_RELAXED);
	OK(cuStreamDestroy(s));
}

void capture_to_a_graph(void **state)
{
	CUdeviceptr x = numbers(1), y = numbers(2);
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	CUgraph graph, same;
	CUgraphNode empty;
	CUgraphExec exec;
	size_t n;

	(void)state;
	OK(cuGraphCreate(&graph, 0));
	OK(cuGraphAddEmptyNode(&empty, graph, NULL, 0));
	OK(cuStreamBeginCaptureToGraph(s, graph, &empty, NULL, 1,
				       CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	add_to(s, x, y);
	/* Back to the beginning: what comes now is not after the kernel. */
	OK(cuStreamUpdateCaptureDependencies(s, &empty, NULL, 1,
					     CU_STREAM_SET_CAPTURE_DEPENDENCIES));
	spin(s, 1, 1, 0);
	OK(cuStreamEndCapture(s, &same));
	assert_ptr_equal(same, graph);
	n = 0;
	OK(cuGraphNodeGetDependentNodes(empty, NULL, NULL, &n));
	assert_int_equal(n, 2);
	exec = instantiate(graph);
	OK(cuGraphLaunch(exec, s));
	OK(cuStreamSynchronize(s));
	assert_true(first(x) == 3);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	OK(cuStreamDestroy(s));
	OK(cuMemFree(x));
	OK(cuMemFree(y));
}

static CUgraphNode add_node(CUgraph graph, const CUgraphNode *after, size_t n, CUdeviceptr x,
			    CUdeviceptr y)
{
	unsigned count = N;
	CUdeviceptr none = 0;
	CUDA_KERNEL_NODE_PARAMS p = {.func = vector_add,
				     .gridDimX = 1,
				     .gridDimY = 1,
				     .gridDimZ = 1,
				     .blockDimX = N,
				     .blockDimY = 1,
				     .blockDimZ = 1,
				     .kernelParams = (void *[]){&x, &y, &x, &count, &none}};
	CUgraphNode node;

	OK(cuGraphAddKernelNode(&node, graph, after, n, &p));
	return node;
}

/* Every type of node, and a chain through all of them that is slow at its beginning. */
void explicit_graph(void **state)
{
	static int one = 1;
	CUdeviceptr x = numbers(1), y = numbers(2);
	CUstream s = stream(CU_STREAM_DEFAULT);
	CUevent e = event();
	CUgraph graph, child, clone, inner;
	CUgraphNode node, slow, again, list[16];
	CUgraphNodeType type;
	CUgraphExec exec;
	float host = 0;
	size_t n = 16;
	CUDA_MEMSET_NODE_PARAMS set = {
	    .dst = y, .value = 0x40a00000, .elementSize = 4, .width = N, .height = 1}; /* 5.0 */
	CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
			      .srcDevice = x,
			      .dstMemoryType = CU_MEMORYTYPE_HOST,
			      .dstHost = &host,
			      .WidthInBytes = sizeof(host),
			      .Height = 1,
			      .Depth = 1};
	CUDA_HOST_NODE_PARAMS function = {.fn = call, .userData = &one}, got;

	(void)state;
	atomic_store(&called, 0);
	OK(cuGraphCreate(&child, 0));
	add_node(child, NULL, 0, x, y); /* 3 + 5 */
	OK(cuGraphCreate(&graph, 0));
	OK(cuGraphAddHostNode(&slow, graph, NULL, 0, &function));
	node = add_node(graph, &slow, 1, x, y); /* 3 */
	OK(cuGraphAddEventRecordNode(&node, graph, &node, 1, e));
	OK(cuGraphAddEventWaitNode(&node, graph, &node, 1, e));
	OK(cuGraphAddMemsetNode(&node, graph, &node, 1, &set, primary));
	OK(cuGraphAddChildGraphNode(&node, graph, &node, 1, child));
	OK(cuGraphDestroy(child));
	OK(cuGraphChildGraphNodeGetGraph(node, &inner));
	OK(cuGraphAddEmptyNode(&node, graph, &node, 1));
	OK(cuGraphAddMemcpyNode(&node, graph, &node, 1, &copy, primary));
	OK(cuGraphNodeGetType(node, &type));
	assert_int_equal(type, CU_GRAPH_NODE_TYPE_MEMCPY);
	OK(cuGraphHostNodeGetParams(slow, &got));
	assert_ptr_equal(got.userData, &one);
	assert_int_equal(cuGraphMemsetNodeGetParams(slow, &set), CUDA_ERROR_INVALID_VALUE);

	/* No node can come after itself. */
	OK(cuGraphClone(&clone, graph));
	OK(cuGraphNodeFindInClone(&again, node, clone));
	OK(cuGraphNodeFindInClone(&list[0], slow, clone));
	OK(cuGraphAddDependencies(clone, &again, &list[0], NULL, 1));
	assert_int_equal(cuGraphInstantiate(&exec, clone, 0), CUDA_ERROR_INVALID_VALUE);
	OK(cuGraphRemoveDependencies(clone, &again, &list[0], NULL, 1));
	OK(cuGraphGetNodes(clone, list, &n));
	assert_int_equal(n, 8);
	exec = instantiate(clone);
	OK(cuGraphDestroy(graph));
	OK(cuGraphDestroy(clone));
	assert_int_equal(cuGraphDestroy(clone), CUDA_ERROR_INVALID_VALUE);
	OK(cuGraphLaunch(exec, s));
	OK(cuGraphLaunch(exec, s));
	OK(cuEventSynchronize(e));
	OK(cuStreamSynchronize(s));
	assert_true(first(x) == 18 && host == 18 && atomic_load(&called) == 2);
	OK(cuGraphExecDestroy(exec));
	OK(cuEventDestroy(e));
	OK(cuStreamDestroy(s));
	OK(cuMemFree(x));
	OK(cuMemFree(y));
}

/* ---- where graphs run ---- */

/* Where what was launched on the stream ran. Waiting for the context would not do, in a green one. */
static bool all_within(CUdeviceptr smids, CUstream s, unsigned low, unsigned high)
{
	uint32_t seen[SMS];
	bool within = true;

	OK(cuStreamSynchronize(s));
	OK(cuMemcpyDtoH(seen, smids, sizeof(seen)));
	for (unsigned i = 0; i < SMS; i++)
		within = within && seen[i] >= low && seen[i] <= high;
	return within;
}

/* A partition of two groups at `first`, with a stream. */
static CUgreenCtx partition(unsigned first_group, CUstream *s, CUcontext *ctx)
{
	CUdevResource groups[GROUPS], rest;
	CUgreenCtx green;

	split_all(groups, &rest);
	green = green_of(&groups[first_group], 2);
	OK(cuGreenCtxStreamCreate(s, green, CU_STREAM_NON_BLOCKING, 0));
	OK(cuCtxFromGreenCtx(ctx, green));
	return green;
}

void graph_runs_where_it_was_made(void **state)
{
	CUstream in_a, in_b, outside = stream(CU_STREAM_NON_BLOCKING);
	CUcontext ctx_a, ctx_b;
	CUgreenCtx a = partition(0, &in_a, &ctx_a), b = partition(4, &in_b, &ctx_b);
	CUgraphExec captured, made;
	CUdeviceptr smids;
	CUgraphNode node;
	CUgraph graph;
	unsigned us = 1000;

	(void)state;
	OK(cuMemAlloc(&smids, SMS * sizeof(uint32_t)));
	begin(in_a);
	spin(in_a, SMS, us, smids);
	captured = end(in_a);
	OK(cuGraphLaunch(captured, in_b));
	assert_true(all_within(smids, in_b, 0, 15));
	OK(cuGraphLaunch(captured, outside));
	assert_true(all_within(smids, outside, 0, 15));
	OK(cuGraphLaunch(captured, NULL));
	assert_true(all_within(smids, NULL, 0, 15));

	/* A kernel given as `func`: the current context, whatever `ctx` says. */
	OK(cuGraphCreate(&graph, 0));
	OK(cuCtxPushCurrent(ctx_b));
	OK(cuGraphAddKernelNode(
	    &node, graph, NULL, 0,
	    &(CUDA_KERNEL_NODE_PARAMS){.func = spin_us,
				       .ctx = ctx_a,
				       .gridDimX = SMS,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = 32,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .kernelParams = (void *[]){&us, &smids}}));
	OK(cuCtxPopCurrent(NULL));
	made = instantiate(graph);
	OK(cuGraphLaunch(made, in_a));
	assert_true(all_within(smids, in_a, 32, 47));
	OK(cuGraphExecDestroy(captured));
	OK(cuGraphExecDestroy(made));
	OK(cuGraphDestroy(graph));
	OK(cuMemFree(smids));
	OK(cuStreamDestroy(in_a));
	OK(cuStreamDestroy(in_b));
	OK(cuStreamDestroy(outside));
	OK(cuGreenCtxDestroy(a));
	OK(cuGreenCtxDestroy(b));
}

void graph_is_moved_by_its_kernel_nodes(void **state)
{
	CUstream in_a, in_b;
	CUcontext ctx_a, ctx_b;
	CUgreenCtx a = partition(0, &in_a, &ctx_a), b = partition(4, &in_b, &ctx_b);
	CUdeviceptr smids, x = numbers(1);
	CUgraphExecUpdateResultInfo info;
	CUDA_MEMSET_NODE_PARAMS set;
	CUDA_KERNEL_NODE_PARAMS p;
	CUgraphNode nodes[2];
	CUgraphExec exec, moved;
	CUgraph graph, clone;
	size_t n = 2;

	(void)state;
	OK(cuMemAlloc(&smids, SMS * sizeof(uint32_t)));
	begin(in_a);
	spin(in_a, SMS, 1000, smids);
	OK(cuMemsetD32Async(x, 0, N, in_a));
	OK(cuStreamEndCapture(in_a, &graph));
	exec = instantiate(graph);
	OK(cuGraphClone(&clone, graph));
	OK(cuGraphGetNodes(clone, nodes, &n));
	assert_int_equal(n, 2);
	OK(cuGraphKernelNodeGetParams(nodes[0], &p));
	assert_ptr_equal(p.ctx, ctx_a);
	assert_null(p.kern);
	OK(cuCtxPushCurrent(ctx_b));
	OK(cuGraphKernelNodeSetParams(nodes[0], &p));
	OK(cuCtxPopCurrent(NULL));
	moved = instantiate(clone);
	OK(cuGraphMemsetNodeGetParams(nodes[1], &set));
	OK(cuGraphExecMemsetNodeSetParams(moved, nodes[1], &set, ctx_b));
	OK(cuGraphLaunch(moved, in_b));
	assert_true(all_within(smids, in_b, 32, 47));
	OK(cuGraphLaunch(exec, in_b));
	assert_true(all_within(smids, in_b, 0, 15));

	/* An executable stays where it is. */
	assert_int_equal(cuGraphExecUpdate(exec, clone, &info),
			 CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
	assert_int_not_equal(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
	/* With the primary context current the kernel is in no partition. */
	OK(cuGraphKernelNodeSetParams(nodes[0], &p));
	OK(cuGraphExecDestroy(moved));
	moved = instantiate(clone);
	OK(cuGraphLaunch(moved, in_b));
	assert_false(all_within(smids, in_b, 0, 47));
	OK(cuGraphExecDestroy(moved));
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	OK(cuGraphDestroy(clone));
	OK(cuMemFree(smids));
	OK(cuMemFree(x));
	OK(cuStreamDestroy(in_a));
	OK(cuStreamDestroy(in_b));
	OK(cuGreenCtxDestroy(a));
	OK(cuGreenCtxDestroy(b));
}

/* ---- executables ---- */

void launches_in_order(void **state)
{
	CUstream a = stream(CU_STREAM_NON_BLOCKING), b = stream(CU_STREAM_NON_BLOCKING);
	CUevent e = event();
	CUgraphExec exec;

	(void)state;
	begin(a);
	spin(a, 1, 200000, 0);
	exec = end(a);
	OK(cuGraphLaunch(exec, a));
	OK(cuGraphLaunch(exec, b));
	OK(cuEventRecord(e, b));
	OK(cuStreamSynchronize(a));
	nap_ms(50);
	assert_int_equal(cuEventQuery(e), CUDA_ERROR_NOT_READY);
	/* What runs goes on without the executable. */
	OK(cuGraphExecDestroy(exec));
	OK(cuEventSynchronize(e));
	OK(cuEventDestroy(e));
	OK(cuStreamDestroy(a));
	OK(cuStreamDestroy(b));
}

void executables_change(void **state)
{
	CUdeviceptr x = numbers(1), y = numbers(2), z = numbers(10);
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	CUgraphExecUpdateResultInfo info;
	CUDA_KERNEL_NODE_PARAMS p;
	CUgraph graph, other;
	unsigned n = N, enabled;
	CUdeviceptr none = 0;
	CUgraphNode node;
	CUgraphExec exec;

	(void)state;
	OK(cuGraphCreate(&graph, 0));
	node = add_node(graph, NULL, 0, x, y);
	exec = instantiate(graph);
	OK(cuGraphKernelNodeGetParams(node, &p));
	p.kernelParams = (void *[]){&x, &z, &x, &n, &none};
	OK(cuGraphExecKernelNodeSetParams(exec, node, &p));
	OK(cuGraphLaunch(exec, s));
	OK(cuStreamSynchronize(s));
	assert_true(first(x) == 11);
	OK(cuGraphNodeSetEnabled(exec, node, 0));
	OK(cuGraphNodeGetEnabled(exec, node, &enabled));
	assert_int_equal(enabled, 0);
	OK(cuGraphLaunch(exec, s));
	OK(cuStreamSynchronize(s));
	assert_true(first(x) == 11);
	OK(cuGraphNodeSetEnabled(exec, node, 1));

	OK(cuGraphCreate(&other, 0));
	add_node(other, NULL, 0, y, x);
	OK(cuGraphExecUpdate(exec, other, &info));
	assert_int_equal(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
	OK(cuGraphLaunch(exec, s));
	OK(cuStreamSynchronize(s));
	assert_true(first(y) == 13);
	add_node(other, NULL, 0, y, x);
	assert_int_equal(cuGraphExecUpdate(exec, other, &info),
			 CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
	assert_int_equal(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	OK(cuGraphDestroy(other));
	OK(cuStreamDestroy(s));
	OK(cuMemFree(x));
	OK(cuMemFree(y));
	OK(cuMemFree(z));
}

void memory_nodes(void **state)
{
	CUdeviceptr x = numbers(1), y = numbers(2), temporary;
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec, second;
	CUgraph graph, clone;

	(void)state;
	begin(s);
	OK(cuMemAllocAsync(&temporary, N * sizeof(float), s));
	OK(cuMemcpyDtoDAsync(temporary, x, N * sizeof(float), s));
	add_to(s, temporary, y);
	OK(cuMemcpyDtoDAsync(x, temporary, N * sizeof(float), s));
	OK(cuMemFreeAsync(temporary, s));
	OK(cuStreamEndCapture(s, &graph));
	exec = instantiate(graph);
	assert_int_equal(cuGraphInstantiate(&second, graph, 0), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(cuGraphClone(&clone, graph), CUDA_ERROR_NOT_SUPPORTED);
	OK(cuGraphLaunch(exec, s));
	OK(cuGraphLaunch(exec, s));
	OK(cuStreamSynchronize(s));
	assert_true(first(x) == 5);
	OK(cuGraphExecDestroy(exec));
	exec = instantiate(graph);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	OK(cuStreamDestroy(s));
	OK(cuMemFree(x));
	OK(cuMemFree(y));
}
