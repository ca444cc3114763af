/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experiments with CUDA graphs, run with and without the coroutine library: what they print must not tell
 * the two apart. Runs on a real GPU and on the emulated one. Usage: graph_program EXPERIMENT [ROUNDS]
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "numbers.h"

static CUcontext primary;
static struct kernels kernels;

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
static CUdeviceptr new_numbers(float value)
{
	const CUdeviceptr words = numbers(value);

	numbers_made[atomic_fetch_add(&n_numbers_made, 1) % MADE_MAX] = words;
	return words;
}

/* One that end_round() destroys. */
static CUstream new_stream(unsigned flags)
{
	CUstream stream;

	CALL(cuStreamCreate, &stream, flags);
	streams_made[atomic_fetch_add(&n_streams_made, 1) % MADE_MAX] = stream;
	return stream;
}

/* It was freed. */
static void forget(CUdeviceptr words)
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

static void spin_blocks(CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, kernels.spin_us, blocks, 1, 1, 32, 1, 1, 0, stream, args, NULL);
}

static void spin(CUstream stream, unsigned us)
{
	spin_blocks(stream, us, 2);
}

/* The same as a node. */
struct add_params {
	CUdeviceptr a, b, to, smids;
	unsigned n;
	void *args[5];
	CUDA_KERNEL_NODE_PARAMS params;
};

static CUDA_KERNEL_NODE_PARAMS *add_node(struct add_params *p, CUdeviceptr to, CUdeviceptr a,
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

static CUgraphExec executable(CUgraph graph)
{
	CUgraphExec exec;

	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	return exec;
}

/* Order shows: x and y take turns, y is taken over by a copy, and a part is set anew each time. */
static CUgraph capture_turns(CUstream stream, CUstream side, CUdeviceptr x, CUdeviceptr y,
			     CUdeviceptr z)
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

/* ---- experiments ---- */

static void replay(void)
{
	CUstream stream = new_stream(0), side = new_stream(CU_STREAM_NON_BLOCKING), on[4];
	CUdeviceptr x = new_numbers(1.5f), y = new_numbers(0.25f), z = new_numbers(0);
	CUgraph graph = capture_turns(stream, side, x, y, z);
	CUgraphExec exec = executable(graph);

	CALL(cuGraphDestroy, graph);
	on[0] = stream;
	on[1] = NULL;
	on[2] = CU_STREAM_PER_THREAD;
	on[3] = new_stream(0);
	for (int i = 0; i < 40; i++) {
		CALL(cuGraphLaunch, exec, on[i % 4]);
		if (i % 4 == 3) {
			/* The legacy order puts them all in a row. */
			add(&kernels, NULL, z, z, y);
			CALL(cuMemcpyDtoDAsync_v2, y, z, N, NULL);
		}
		if (i % 10 == 9)
			printf("%d %016llx %016llx\n", i, hash(x), hash(y));
	}
	CALL(cuGraphExecDestroy, exec);
}

/* A child of a program whose graphs were prepared ends at once. */
static void replay_and_fork(void)
{
	int status = -1;
	pid_t child;

	replay();
	fflush(stdout);
	child = fork();
	if (child == 0) {
		const struct itimerval soon = {.it_value = {.tv_usec = 800000}};

		signal(SIGALRM, SIG_DFL);
		setitimer(ITIMER_REAL, &soon, NULL);
		exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0)
		die("fork", CUDA_ERROR_UNKNOWN);
	printf("child %d\n", status);
}

static void by_hand(void)
{
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), z = new_numbers(3);
	CUDA_MEMSET_NODE_PARAMS set = {
	    .dst = z, .value = 0x40400000, .elementSize = 4, .width = N / 2, .height = 1};
	CUgraphNode a, b, c, d;
	CUDA_KERNEL_NODE_PARAMS seen;
	CUstream stream = new_stream(0);
	CUgraph graph, child, inner;
	struct add_params p;
	CUgraphExec exec;

	CALL(cuGraphCreate, &inner, 0);
	CALL(cuGraphAddKernelNode_v2, &a, inner, NULL, 0, add_node(&p, z, z, x));
	CALL(cuGraphCreate, &child, 0);
	CALL(cuGraphAddKernelNode_v2, &a, child, NULL, 0, add_node(&p, y, y, x));
	CALL(cuGraphAddChildGraphNode, &b, child, &a, 1, inner);
	CALL(cuGraphCreate, &graph, 0);
	CALL(cuGraphAddKernelNode_v2, &a, graph, NULL, 0, add_node(&p, x, x, y));
	CALL(cuGraphAddMemsetNode, &b, graph, &a, 1, &set, primary);
	CALL(cuGraphAddChildGraphNode, &c, graph, &b, 1, child);
	CALL(cuGraphAddKernelNode_v2, &d, graph, &c, 1, add_node(&p, x, x, z));
	CALL(cuGraphKernelNodeGetParams_v2, d, &seen);
	printf("context seen %d\n", seen.ctx == primary || !seen.ctx);
	exec = executable(graph);
	for (int i = 0; i < 3; i++)
		CALL(cuGraphLaunch, exec, stream);
	printf("%016llx\n", hash(x));
	/* What becomes of the graphs is nothing to the executable. */
	CALL(cuGraphKernelNodeSetParams_v2, d, add_node(&p, y, x, x));
	CALL(cuGraphDestroyNode, b);
	for (int i = 0; i < 3; i++)
		CALL(cuGraphLaunch, exec, stream);
	printf("%016llx\n", hash(x));
	CALL(cuGraphDestroy, graph);
	CALL(cuGraphDestroy, child);
	CALL(cuGraphDestroy, inner);
	for (int i = 0; i < 10; i++)
		CALL(cuGraphLaunch, exec, i % 2 ? NULL : stream);
	printf("%016llx %016llx %016llx\n", hash(x), hash(y), hash(z));
	CALL(cuGraphExecDestroy, exec);
}

struct changing {
	CUgraph graph;
	CUgraphNode add, set, child, last;
	CUgraphNode inner;
};

static struct changing make_changing(CUdeviceptr x, CUdeviceptr y, CUdeviceptr z, unsigned value)
{
	CUDA_MEMSET_NODE_PARAMS set = {
	    .dst = z, .value = value, .elementSize = 4, .width = N, .height = 1};
	struct changing it;
	struct add_params p;
	CUgraph child;

	CALL(cuGraphCreate, &child, 0);
	CALL(cuGraphAddKernelNode_v2, &it.inner, child, NULL, 0, add_node(&p, y, y, z));
	CALL(cuGraphCreate, &it.graph, 0);
	CALL(cuGraphAddMemsetNode, &it.set, it.graph, NULL, 0, &set, primary);
	CALL(cuGraphAddKernelNode_v2, &it.add, it.graph, &it.set, 1, add_node(&p, x, x, z));
	CALL(cuGraphAddChildGraphNode, &it.child, it.graph, &it.add, 1, child);
	CALL(cuGraphAddKernelNode_v2, &it.last, it.graph, &it.child, 1, add_node(&p, x, x, y));
	CALL(cuGraphDestroy, child);
	return it;
}

static void launch_some(const char *what, CUgraphExec exec, CUdeviceptr x, CUdeviceptr y)
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

static void updates(void)
{
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), z = new_numbers(0), w = new_numbers(7);
	CUDA_MEMSET_NODE_PARAMS set = {
	    .dst = z, .value = 0x3e800000, .elementSize = 4, .width = N, .height = 1};
	struct changing it = make_changing(x, y, z, 0x3f000000), other;
	CUgraphExecUpdateResultInfo info;
	CUgraphExec exec = executable(it.graph);
	struct add_params p;
	unsigned enabled = 9;
	cuuint64_t flags = 99;

	launch_some("made", exec, x, y);
	CALL(cuGraphExecKernelNodeSetParams_v2, exec, it.last, add_node(&p, x, x, w));
	launch_some("kernel set", exec, x, y);
	CALL(cuGraphExecMemsetNodeSetParams, exec, it.set, &set, primary);
	launch_some("memset set", exec, x, y);
	CALL(cuGraphNodeSetEnabled, exec, it.last, 0);
	CALL(cuGraphNodeGetEnabled, exec, it.last, &enabled);
	printf("enabled %u\n", enabled);
	launch_some("disabled", exec, x, y);
	CALL(cuGraphNodeSetEnabled, exec, it.last, 1);
	CALL(cuGraphNodeGetEnabled, exec, it.last, &enabled);
	printf("enabled %u\n", enabled);
	launch_some("enabled", exec, x, y);
	/* A change of the graph reaches the executable by an update only. */
	CALL(cuGraphKernelNodeSetParams_v2, it.last, add_node(&p, y, y, w));
	launch_some("graph set", exec, x, y);
	printf("update %d", (int)cu.do_cuGraphExecUpdate_v2(exec, it.graph, &info));
	printf(" %d\n", (int)info.result);
	launch_some("updated", exec, x, y);
	other = make_changing(y, x, z, 0x40000000);
	printf("update %d", (int)cu.do_cuGraphExecUpdate_v2(exec, other.graph, &info));
	printf(" %d\n", (int)info.result);
	CALL(cuGraphDestroy, other.graph);
	launch_some("updated to another", exec, x, y);
	launch_some("again", exec, x, y);
	CALL(cuGraphExecGetFlags, exec, &flags);
	printf("flags %llu\n", (unsigned long long)flags);
	/* After an update, by node again. */
	CALL(cuGraphExecKernelNodeSetParams_v2, exec, it.add, add_node(&p, y, y, w));
	launch_some("kernel set after an update", exec, x, y);
	CALL(cuGraphExecDestroy, exec);
	CALL(cuGraphDestroy, it.graph);
}

/* Results of calls that fail, and that a failed call changes nothing. */
static void errors(void)
{
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), z = new_numbers(0);
	CUDA_MEMSET_NODE_PARAMS set = {
	    .dst = z, .value = 1, .elementSize = 4, .width = N, .height = 1};
	struct changing it = make_changing(x, y, z, 0x3f000000);
	CUgraphExecUpdateResultInfo info;
	CUgraphExec exec = executable(it.graph), none = NULL;
	struct add_params p;
	CUgraphNode extra;
	CUgraph graph;

	launch_some("made", exec, x, y);
	printf("memset of a kernel %d\n",
	       (int)cu.do_cuGraphExecMemsetNodeSetParams(exec, it.last, &set, primary));
	printf("kernel of a memset %d\n",
	       (int)cu.do_cuGraphExecKernelNodeSetParams_v2(exec, it.set, add_node(&p, x, x, y)));
	CALL(cuGraphCreate, &graph, 0);
	CALL(cuGraphAddKernelNode_v2, &extra, graph, NULL, 0, add_node(&p, x, x, y));
	printf("a strange node %d\n",
	       (int)cu.do_cuGraphExecKernelNodeSetParams_v2(exec, extra, add_node(&p, x, x, y)));
	info.result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
	printf("update %d", (int)cu.do_cuGraphExecUpdate_v2(exec, graph, &info));
	printf(" %d\n", (int)info.result);
	CALL(cuGraphAddEmptyNode, &extra, it.graph, NULL, 0);
	printf("update %d", (int)cu.do_cuGraphExecUpdate_v2(exec, it.graph, &info));
	printf(" %d\n", (int)info.result);
	printf("no graph %d\n", (int)cu.do_cuGraphInstantiateWithFlags(&none, NULL, 0));
	printf("no executable %d %d %d\n", (int)cu.do_cuGraphLaunch(NULL, NULL),
	       (int)cu.do_cuGraphExecDestroy(NULL), (int)cu.do_cuGraphUpload(NULL, NULL));
	launch_some("unchanged", exec, x, y);
	CALL(cuGraphExecDestroy, exec);
}

static void child_update(void)
{
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), z = new_numbers(0);
	struct changing it = make_changing(x, y, z, 0x3f000000);
	CUgraphExec exec = executable(it.graph);
	struct add_params p;
	CUgraph child;
	CUgraphNode node;

	launch_some("made", exec, x, y);
	CALL(cuGraphCreate, &child, 0);
	CALL(cuGraphAddKernelNode_v2, &node, child, NULL, 0, add_node(&p, y, y, x));
	printf("child %d\n", (int)cu.do_cuGraphExecChildGraphNodeSetParams(exec, it.child, child));
	launch_some("child set", exec, x, y);
	CALL(cuGraphExecDestroy, exec);
}

static void large(void)
{
	enum { NODES = 1000 };
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUdeviceptr x = new_numbers(1), y = new_numbers(0.001f);
	CUgraphNode last = NULL;
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuGraphCreate, &graph, 0);
	for (int i = 0; i < NODES; i++) {
		struct add_params p;
		CUgraphNode node;

		add_node(&p, i % 2 ? y : x, x, y);
		p.params.gridDimX = 1;
		CALL(cuGraphAddKernelNode_v2, &node, graph, last ? &last : NULL, last != NULL,
		     &p.params);
		last = node;
	}
	exec = executable(graph);
	CALL(cuGraphDestroy, graph);
	for (int i = 0; i < 6; i++) {
		CALL(cuMemsetD32Async, x, 0x3f800000, N, stream);
		CALL(cuMemsetD32Async, y, 0x3a83126f + (unsigned)i, N, stream);
		CALL(cuGraphLaunch, exec, stream);
		spin(stream, 1);
	}
	CALL(cuStreamSynchronize, stream);
	printf("%016llx %016llx\n", hash(x), hash(y));
	CALL(cuGraphExecDestroy, exec);
}

/* One executable on streams that nothing else puts in order: its launches never overlap. */
static void consecutive(void)
{
	CUdeviceptr x = new_numbers(0), y = new_numbers(0), one = new_numbers(1);
	CUstream streams[4], capture = new_stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, capture, CU_STREAM_CAPTURE_MODE_RELAXED);
	/* Read, wait, write: two at once would lose one. */
	CALL(cuMemcpyDtoDAsync_v2, y, x, N * 4, capture);
	spin(capture, 100);
	add(&kernels, capture, x, y, one);
	CALL(cuStreamEndCapture, capture, &graph);
	exec = executable(graph);
	for (int i = 0; i < 4; i++)
		streams[i] = new_stream(CU_STREAM_NON_BLOCKING);
	for (int i = 0; i < 200; i++)
		CALL(cuGraphLaunch, exec, streams[i * 7 % 4]);
	CALL(cuCtxSynchronize);
	printf("%016llx\n", hash(x));
	/* Destroyed while it runs, it runs to its end. */
	for (int i = 0; i < 8; i++)
		CALL(cuGraphLaunch, exec, streams[i % 4]);
	CALL(cuGraphExecDestroy, exec);
	CALL(cuGraphDestroy, graph);
	CALL(cuCtxSynchronize);
	printf("%016llx\n", hash(x));
}

/* ---- every way to wait for graphs ---- */

enum way { CONTEXT, STREAMS, EVENTS, QUERIES, NULL_STREAM, CONTEXT_EVENT, WAYS };

static void wait_by(enum way way, CUstream streams[4], CUevent events[4])
{
	if (way == CONTEXT)
		CALL(cuCtxSynchronize);
	if (way == CONTEXT_EVENT) {
		CALL(cuCtxRecordEvent, primary, events[0]);
		CALL(cuEventSynchronize, events[0]);
	}
	for (int i = 0; i < 4 && way != CONTEXT && way != CONTEXT_EVENT; i++) {
		if (way == STREAMS)
			CALL(cuStreamSynchronize, streams[i]);
		if (way == EVENTS || way == NULL_STREAM)
			CALL(cuEventRecord, events[i], streams[i]);
		if (way == EVENTS)
			CALL(cuEventSynchronize, events[i]);
		if (way == NULL_STREAM) /* what copies the result */
			CALL(cuStreamWaitEvent, NULL, events[i], 0);
		while (way == QUERIES && cu.do_cuStreamQuery(streams[i]) == CUDA_ERROR_NOT_READY)
			;
	}
}

static CUgraphExec adding(CUdeviceptr x, CUdeviceptr y, CUdeviceptr one, bool copies)
{
	CUstream capture = new_stream(CU_STREAM_NON_BLOCKING);
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, capture, CU_STREAM_CAPTURE_MODE_RELAXED);
	if (copies)
		CALL(cuMemcpyDtoDAsync_v2, y, x, N * 4, capture);
	spin(capture, 100);
	add(&kernels, capture, x, copies ? y : x, one);
	CALL(cuStreamEndCapture, capture, &graph);
	exec = executable(graph);
	CALL(cuGraphDestroy, graph);
	return exec;
}

/* When a wait is over, all that was launched before it has been done. */
static void waits(void)
{
	static const char *const names[] = {"context", "streams",     "events",
					    "queries", "NULL stream", "context's event"};
	CUdeviceptr x = new_numbers(0), y = new_numbers(0), one = new_numbers(1);
	CUstream streams[4];
	CUevent events[4];

	for (int i = 0; i < 4; i++) {
		streams[i] = new_stream(CU_STREAM_NON_BLOCKING);
		CALL(cuEventCreate, &events[i], CU_EVENT_DISABLE_TIMING);
	}
	for (int copies = 0; copies < 2; copies++) {
		CUgraphExec exec = adding(x, y, one, copies);

		for (int used = 1; used <= 4; used += 3) {
			for (int way = 0; way < WAYS; way++) {
				if (way == CONTEXT_EVENT && !cu.do_cuCtxRecordEvent)
					continue;
				printf("%s, %d streams, %s:", copies ? "copies" : "kernels", used,
				       names[way]);
				for (int i = 0; i < 6; i++) {
					for (int k = 0; k < 5 + i; k++)
						CALL(cuGraphLaunch, exec, streams[k % used]);
					wait_by(way, streams, events);
					printf(" %08x", (unsigned)hash(x));
					CALL(cuStreamSynchronize, streams[0]);
				}
				printf("\n");
			}
		}
		CALL(cuGraphExecDestroy, exec);
	}
}

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t all_here;
static CUgraphExec shared;

static void *work(void *number)
{
	const float id = (float)(uintptr_t)number;
	CUstream stream, side;
	CUdeviceptr x, y, z;
	uint64_t *result = malloc(sizeof(*result));

	CALL(cuCtxSetCurrent, primary);
	stream = new_stream(CU_STREAM_NON_BLOCKING);
	side = new_stream(CU_STREAM_NON_BLOCKING);
	x = new_numbers(1 + id);
	y = new_numbers(2);
	z = new_numbers(id);
	/* What waits for the whole context fails while any thread captures. */
	pthread_barrier_wait(&all_here);
	for (int round = 0; round < 4; round++) {
		CUgraph graph = capture_turns(stream, side, x, y, z);
		CUgraphExec exec = executable(graph);

		CALL(cuGraphDestroy, graph);
		for (int i = 0; i < 10; i++) {
			CALL(cuGraphLaunch, exec, stream);
			pthread_mutex_lock(&turn);
			CALL(cuGraphLaunch, shared, i % 2 ? stream : side);
			pthread_mutex_unlock(&turn);
		}
		CALL(cuGraphExecDestroy, exec);
	}
	CALL(cuStreamSynchronize, stream);
	pthread_barrier_wait(&all_here);
	*result = hash(y);
	return result;
}

static void threads(void)
{
	CUdeviceptr x = new_numbers(0), one = new_numbers(1);
	CUstream capture = new_stream(CU_STREAM_NON_BLOCKING);
	pthread_t threads[4];
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, capture, CU_STREAM_CAPTURE_MODE_RELAXED);
	add(&kernels, capture, x, x, one);
	CALL(cuStreamEndCapture, capture, &graph);
	shared = executable(graph);
	pthread_barrier_init(&all_here, NULL, 4);
	for (uintptr_t i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i))
			die("pthread_create", CUDA_ERROR_UNKNOWN);
	for (int i = 0; i < 4; i++) {
		void *result;

		pthread_join(threads[i], &result);
		printf("%d %016llx\n", i, (unsigned long long)*(uint64_t *)result);
		free(result);
	}
	CALL(cuCtxSynchronize);
	printf("shared %016llx\n", hash(x));
}

/* Memory nodes: such a graph cannot be made executable twice. */
static void memory(void)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), scratch;
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	CALL(cuMemAllocAsync, &scratch, N * 4, stream);
	add(&kernels, stream, scratch, x, y);
	add(&kernels, stream, x, scratch, y);
	CALL(cuMemFreeAsync, scratch, stream);
	CALL(cuStreamEndCapture, stream, &graph);
	exec = executable(graph);
	launch_some("made", exec, x, y);
	for (int i = 0; i < 20; i++) {
		CALL(cuGraphLaunch, exec, i % 2 ? NULL : stream);
		spin(stream, 1);
	}
	CALL(cuCtxSynchronize);
	printf("%016llx\n", hash(x));
	CALL(cuGraphExecDestroy, exec);
	CALL(cuGraphDestroy, graph);
}

static atomic_bool captured_enough;

/* Memory is freed while kernels may still use it: the driver waits, and ends no capture of another thread. */
static void *free_all_the_time(void *unused)
{
	CUstream stream;
	long *frees = calloc(1, sizeof(*frees));

	CALL(cuCtxSetCurrent, primary);
	stream = new_stream(CU_STREAM_NON_BLOCKING);
	do {
		CUdeviceptr words;

		CALL(cuMemAlloc_v2, &words, N * 4);
		spin(stream, 200);
		add(&kernels, stream, words, words, words);
		CALL(cuMemFree_v2, words);
		++*frees;
	} while (!atomic_load(&captured_enough));
	CALL(cuStreamSynchronize, stream);
	return frees;
}

static void *free_once(void *words)
{
	int *result = malloc(sizeof(*result));

	CALL(cuCtxSetCurrent, primary);
	*result = (int)cu.do_cuMemFree_v2((CUdeviceptr)(uintptr_t)words);
	return result;
}

/* What a free says while a stream is captured, in the same thread or in another. */
static void free_in_capture(CUstreamCaptureMode mode, bool same_thread)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING);
	CUdeviceptr words = new_numbers(1);
	pthread_t thread;
	CUgraph graph;
	void *result;

	CALL(cuStreamBeginCapture_v2, stream, mode);
	add(&kernels, stream, words, words, words);
	if (same_thread)
		result = free_once((void *)(uintptr_t)words);
	else if (pthread_create(&thread, NULL, free_once, (void *)(uintptr_t)words) ||
		 pthread_join(thread, &result))
		die("pthread_create", CUDA_ERROR_UNKNOWN);
	printf("mode %d, %s thread: free %d, capture %d\n", (int)mode,
	       same_thread ? "same" : "other", *(int *)result,
	       (int)cu.do_cuStreamEndCapture(stream, &graph));
	if (*(int *)result == CUDA_SUCCESS)
		forget(words);
	free(result);
}

static void frees(void)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING), side = new_stream(0);
	CUdeviceptr x = new_numbers(1), y = new_numbers(2), z = new_numbers(0);
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, free_all_the_time, NULL))
			die("pthread_create", CUDA_ERROR_UNKNOWN);
	for (int i = 0; i < 600; i++) {
		CUgraph graph = capture_turns(stream, side, x, y, z);
		CUgraphExec exec = executable(graph);

		CALL(cuGraphDestroy, graph);
		CALL(cuGraphLaunch, exec, stream);
		CALL(cuGraphExecDestroy, exec);
	}
	atomic_store(&captured_enough, true);
	for (int i = 0; i < 2; i++) {
		void *result;

		pthread_join(threads[i], &result);
		if (!*(long *)result)
			printf("nothing was freed\n");
		free(result);
	}
	CALL(cuCtxSynchronize);
	printf("%016llx %016llx\n", hash(x), hash(y));
	for (int mode = 0; mode < 3; mode++) {
		free_in_capture((CUstreamCaptureMode)mode, true);
		free_in_capture((CUstreamCaptureMode)mode, false);
	}
}

/* Launches until its input ends; says "launching" after the first one. */
static void endless(bool memory_nodes)
{
	CUstream stream = new_stream(CU_STREAM_NON_BLOCKING), side = new_stream(0);
	CUdeviceptr x = new_numbers(0), one = new_numbers(1), scratch;
	struct pollfd input = {.fd = 0, .events = POLLIN};
	unsigned long launches = 0;
	float result[N];
	CUgraphExec exec;
	CUgraph graph;

	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	if (memory_nodes)
		CALL(cuMemAllocAsync, &scratch, N * 4, stream);
	spin_blocks(stream, 100, 24);
	add(&kernels, stream, x, x, one);
	if (memory_nodes)
		CALL(cuMemFreeAsync, scratch, stream);
	CALL(cuStreamEndCapture, stream, &graph);
	exec = executable(graph);
	do {
		for (int i = 0; i < 4; i++, launches++)
			CALL(cuGraphLaunch, exec, i % 2 ? stream : side);
		CALL(cuCtxSynchronize);
		if (launches == 4)
			printf("launching\n");
	} while (launches < 1000000 && poll(&input, 1, 0) == 0);
	CALL(cuMemcpyDtoH_v2, result, x, sizeof(result));
	for (int i = 0; i < N; i++)
		if (result[i] != (float)launches)
			launches = 0;
	printf("right %d\n", launches > 0);
}

static void endless_movable(void)
{
	endless(false);
}

static void endless_pinned(void)
{
	endless(true);
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
    {"endless", endless_movable},
    {"endless-pinned", endless_pinned},
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
