/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs and executables that are changed, in every way, and calls that fail. */
#include <stdio.h>

#include "graph_program.h"

void by_hand(void)
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

void updates(void)
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
void errors(void)
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

void child_update(void)
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
