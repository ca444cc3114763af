/* SPDX-License-Identifier: Apache-2.0 */
/* Programmatic dependent launch, as part of test_driver. */
#include "tests/emugpu/test_driver.h"

#include <string.h>

/* Some headers have it by another name. */
CUresult CUDAAPI cuGraphGetEdges_v2(CUgraph, CUgraphNode *, CUgraphNode *, CUgraphEdgeData *,
				    size_t *);

enum { LONG_US = 300000 }; /* others may have the CPU for a while between two launches */

/* A kernel that may begin while the one before it still runs. */
static void spin_beside(CUstream stream, unsigned us, CUevent event)
{
	CUdeviceptr smids = 0;
	CUlaunchAttribute attributes[2];
	const CUlaunchConfig config = {.gridDimX = 1,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = 32,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .hStream = stream,
				       .attrs = attributes,
				       .numAttrs = event ? 2 : 1};

	memset(attributes, 0, sizeof(attributes));
	attributes[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
	attributes[0].value.programmaticStreamSerializationAllowed = 1;
	attributes[1].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT;
	attributes[1].value.programmaticEvent.event = event;
	OK(cuLaunchKernelEx(&config, spin_us, (void *[]){&us, &smids}, NULL));
}

static CUevent event(unsigned flags)
{
	CUevent e;

	OK(cuEventCreate(&e, flags));
	return e;
}

/* How long it takes, on the GPU's clock, in microseconds. */
static float us_between(CUevent begin, CUevent end)
{
	float ms;

	OK(cuEventSynchronize(end));
	OK(cuEventElapsedTime(&ms, begin, end));
	return ms * 1000;
}

void kernels_overlap(void **state)
{
	CUevent begin = event(0), end = event(0), between = event(CU_EVENT_DISABLE_TIMING);
	CUstream stream, other;

	(void)state;
	OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
	OK(cuEventRecord(begin, stream));
	spin(stream, 1, LONG_US, 0);
	spin_beside(stream, LONG_US, NULL);
	spin_beside(stream, LONG_US, NULL);
	OK(cuEventRecord(end, stream));
	assert_true(us_between(begin, end) < 2 * LONG_US);
	/* Not if anything is between them. */
	OK(cuEventRecord(begin, stream));
	spin(stream, 1, LONG_US, 0);
	OK(cuEventRecord(between, stream));
	spin_beside(stream, LONG_US, NULL);
	OK(cuEventRecord(end, stream));
	assert_true(us_between(begin, end) >= 2 * LONG_US);
	/* What comes later comes after both. */
	OK(cuEventRecord(begin, stream));
	spin(stream, 1, LONG_US, 0);
	spin_beside(stream, 1, between);
	OK(cuStreamWaitEvent(other, between, 0));
	OK(cuEventRecord(end, stream));
	assert_true(us_between(begin, end) >= LONG_US);
	OK(cuStreamSynchronize(other));
	OK(cuStreamDestroy(stream));
	OK(cuStreamDestroy(other));
	OK(cuEventDestroy(between));
	OK(cuEventDestroy(begin));
	OK(cuEventDestroy(end));
}

static float us_of_launch(CUgraph graph, CUstream stream)
{
	CUevent begin = event(0), end = event(0);
	CUgraphExec exec;
	float us;

	OK(cuGraphInstantiate(&exec, graph, 0));
	OK(cuEventRecord(begin, stream));
	OK(cuGraphLaunch(exec, stream));
	OK(cuEventRecord(end, stream));
	us = us_between(begin, end);
	OK(cuGraphExecDestroy(exec));
	OK(cuEventDestroy(begin));
	OK(cuEventDestroy(end));
	return us;
}

void edges_have_ports(void **state)
{
	CUgraphNode from[4], to[4];
	CUgraphEdgeData data[4];
	CUgraph graph, clone;
	CUstream stream;
	size_t n = 4;

	(void)state;
	OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
	OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	spin(stream, 1, LONG_US, 0);
	spin_beside(stream, LONG_US, NULL);
	spin(stream, 1, 1, 0);
	OK(cuStreamEndCapture(stream, &graph));
	OK(cuGraphClone(&clone, graph));
	OK(cuGraphDestroy(graph));
	OK(cuGraphGetEdges_v2(clone, from, to, data, &n));
	assert_int_equal(n, 2);
	assert_int_equal(data[0].type, CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC);
	assert_int_equal(data[0].from_port, CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC);
	assert_int_equal(data[1].type, CU_GRAPH_DEPENDENCY_TYPE_DEFAULT);
	assert_int_equal(cuGraphGetEdges_v2(clone, from, to, NULL, &n), CUDA_ERROR_LOSSY_QUERY);
	assert_true(us_of_launch(clone, stream) < 2 * LONG_US);
	OK(cuGraphDestroy(clone));
	OK(cuStreamDestroy(stream));
}
