/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experiments with CUDA graphs, run with and without the coroutine library: what they print must not tell
 * the two apart. Runs on a real GPU and on the emulated one. Usage: graph_program EXPERIMENT [ROUNDS]
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "graph_program.h"

CUcontext primary;
struct kernels kernels;

/* What a round made and did not end itself. */
enum { MADE_MAX = 64 };
static CUstream streams_made[MADE_MAX];
static CUdeviceptr numbers_made[MADE_MAX];
static atomic_uint n_streams_made, n_numbers_made;

static void start(void)
{
	CUdevice device;

	load_driver();
	if (!cu.do_cuGraphExecUpdate_v2 || !cu.do_cuStreamEndCapture) {
		printf("no graphs here\n");
		exit(77);
	}
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
	CALL(cuDevicePrimaryCtxRetain, &primary, device);
	CALL(cuCtxSetCurrent, primary);
	kernels = load_kernels();
}

/* One that end_round() frees. */
CUdeviceptr new_numbers(float value)
{
	const CUdeviceptr words = numbers(value);

	numbers_made[atomic_fetch_add(&n_numbers_made, 1) % MADE_MAX] = words;
	return words;
}

/* One that end_round() destroys. */
CUstream new_stream(unsigned flags)
{
	CUstream stream;

	CALL(cuStreamCreate, &stream, flags);
	streams_made[atomic_fetch_add(&n_streams_made, 1) % MADE_MAX] = stream;
	return stream;
}

void forget(CUdeviceptr words)
{
	for (unsigned i = 0; i < MADE_MAX; i++)
		if (numbers_made[i] == words)
			numbers_made[i] = 0;
}

static void end_round(void)
{
	const unsigned n_streams = atomic_exchange(&n_streams_made, 0);
	const unsigned n_numbers = atomic_exchange(&n_numbers_made, 0);

	if (n_streams > MADE_MAX || n_numbers > MADE_MAX)
		die("a round made more streams or numbers than are kept", CUDA_ERROR_UNKNOWN);
	CALL(cuCtxSynchronize);
	for (unsigned i = 0; i < n_streams; i++)
		CALL(cuStreamDestroy_v2, streams_made[i]);
	for (unsigned i = 0; i < n_numbers; i++)
		if (numbers_made[i])
			CALL(cuMemFree_v2, numbers_made[i]);
}

void spin_blocks(CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, kernels.spin_us, blocks, 1, 1, 32, 1, 1, 0, stream, args, NULL);
}

void spin(CUstream stream, unsigned us)
{
	spin_blocks(stream, us, 2);
}

CUDA_KERNEL_NODE_PARAMS *add_node(struct add_params *p, CUdeviceptr to, CUdeviceptr a,
				  CUdeviceptr b)
{
	*p = (struct add_params){.a = a, .b = b, .to = to, .n = N};
	p->args[0] = &p->a;
	p->args[1] = &p->b;
	p->args[2] = &p->to;
	p->args[3] = &p->n;
	p->args[4] = &p->smids;
	p->params = (CUDA_KERNEL_NODE_PARAMS){.func = kernels.vector_add,
					      .gridDimX = BLOCKS,
					      .gridDimY = 1,
					      .gridDimZ = 1,
					      .blockDimX = THREADS,
					      .blockDimY = 1,
					      .blockDimZ = 1,
					      .kernelParams = p->args};
	return &p->params;
}

CUgraphExec executable(CUgraph graph)
{
	CUgraphExec exec;

	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	return exec;
}

CUgraph capture_turns(CUstream stream, CUstream side, CUdeviceptr x, CUdeviceptr y, CUdeviceptr z)
{
	CUevent fork, join;
	CUgraph graph;

	CALL(cuEventCreate, &fork, CU_EVENT_DISABLE_TIMING);
	CALL(cuEventCreate, &join, CU_EVENT_DISABLE_TIMING);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
	add(&kernels, stream, x, x, y);
	CALL(cuEventRecord, fork, stream);
	CALL(cuStreamWaitEvent, side, fork, 0);
	CALL(cuMemcpyDtoDAsync_v2, z, x, N * 4, side);
	add(&kernels, side, z, z, z);
	add(&kernels, stream, y, x, y);
	CALL(cuEventRecord, join, side);
	CALL(cuStreamWaitEvent, stream, join, 0);
	CALL(cuMemsetD32Async, x, 0x3f800000, N / 4, stream);
	add(&kernels, stream, y, y, z);
	CALL(cuStreamEndCapture, stream, &graph);
	return graph;
}

void launch_some(const char *what, CUgraphExec exec, CUdeviceptr x, CUdeviceptr y)
{
	CUstream stream;

	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	/* Plain launches between them make the program move, if it does. */
	for (int i = 0; i < 5; i++) {
		CALL(cuGraphLaunch, exec, stream);
		spin(stream, 1);
	}
	CALL(cuStreamSynchronize, stream);
	CALL(cuStreamDestroy_v2, stream);
	printf("%s %016llx %016llx\n", what, hash(x), hash(y));
}

static const struct experiment experiments[] = {
    {"replay", replay},
    {"fork", replay_and_fork},
    {"by-hand", by_hand},
    {"updates", updates},
    {"errors", errors},
    {"child-update", child_update},
    {"large", large},
    {"consecutive", consecutive},
    {"waits", waits},
    {"threads", threads},
    {"memory", memory},
    {"frees", frees},
    {"gone", gone},
    {"endless", endless_movable},
    {"endless-pinned", endless_pinned},
    {"endless-gone", endless_gone},
};

int main(int argc, char **argv)
{
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = experiments,
				  .n = sizeof(experiments) / sizeof(experiments[0]),
				  .start = start,
				  .end_round = end_round});
}
