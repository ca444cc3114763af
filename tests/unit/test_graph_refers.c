/* SPDX-License-Identifier: Apache-2.0 */
/* What the nodes of a graph refer to, and that it is noticed when that goes. The driver's answers are made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/graph_refers.h"

#define HANDLE(type, number) ((type)(uintptr_t)(number))

enum node { COPY = 1, FROM_ARRAY, SET, RECORD, WAIT, SIGNAL, KERNEL, LIBRARY_KERNEL, CHILD, END };

enum {
	PAGEABLE = 0x9000,   /* the driver knows nothing of it */
	ALLOCATION = 0x1000, /* so long is each, and begins at a multiple */
	FROM = 0x10000,
	TO = 0x20000,
	NEW = 0x30000,
	SET_TO = 0x40000,
	ARRAY = 0x50,
	RECORDED = 0x60,
	WAITED_FOR = 0x61,
	SEMAPHORE = 0x70,
	MODULE = 0x80,
	LIBRARY = 0x81,
};

static CUdeviceptr copied_to;
static CUexternalSemaphore semaphores[] = {HANDLE(CUexternalSemaphore, SEMAPHORE)};

static const CUgraphNodeType types[END] = {
    [COPY] = CU_GRAPH_NODE_TYPE_MEMCPY,     [FROM_ARRAY] = CU_GRAPH_NODE_TYPE_MEMCPY,
    [SET] = CU_GRAPH_NODE_TYPE_MEMSET,      [RECORD] = CU_GRAPH_NODE_TYPE_EVENT_RECORD,
    [WAIT] = CU_GRAPH_NODE_TYPE_WAIT_EVENT, [SIGNAL] = CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL,
    [KERNEL] = CU_GRAPH_NODE_TYPE_KERNEL,   [LIBRARY_KERNEL] = CU_GRAPH_NODE_TYPE_KERNEL,
    [CHILD] = CU_GRAPH_NODE_TYPE_GRAPH,
};

/* Graph 1 has a child, graph 2, which waits for an event. */
static CUresult get_nodes(CUgraph graph, CUgraphNode *nodes, size_t *n)
{
	size_t found = 0;

	for (unsigned node = 1; node < END; node++) {
		if ((node == WAIT) != (graph == HANDLE(CUgraph, 2)))
			continue;
		if (nodes)
			nodes[found] = HANDLE(CUgraphNode, node);
		found++;
	}
	*n = found;
	return CUDA_SUCCESS;
}

static CUresult get_type(CUgraphNode node, CUgraphNodeType *type)
{
	*type = types[(uintptr_t)node];
	return CUDA_SUCCESS;
}

static CUresult get_child(CUgraphNode node, CUgraph *child)
{
	assert_ptr_equal(node, HANDLE(CUgraphNode, CHILD));
	*child = HANDLE(CUgraph, 2);
	return CUDA_SUCCESS;
}

static CUresult get_copy(CUgraphNode node, CUDA_MEMCPY3D *copy)
{
	const bool from_array = node == HANDLE(CUgraphNode, FROM_ARRAY);

	memset(copy, 0, sizeof(*copy));
	copy->srcMemoryType = from_array ? CU_MEMORYTYPE_ARRAY : CU_MEMORYTYPE_DEVICE;
	copy->srcArray = HANDLE(CUarray, ARRAY);
	copy->srcDevice = FROM + 100;
	copy->dstMemoryType = from_array ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
	copy->dstHost = HANDLE(void *, PAGEABLE);
	copy->dstDevice = copied_to;
	return CUDA_SUCCESS;
}

static CUresult get_set(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS *set)
{
	(void)node;
	*set = (CUDA_MEMSET_NODE_PARAMS){.dst = SET_TO};
	return CUDA_SUCCESS;
}

static CUresult get_event(CUgraphNode node, CUevent *event)
{
	*event = HANDLE(CUevent, node == HANDLE(CUgraphNode, RECORD) ? RECORDED : WAITED_FOR);
	return CUDA_SUCCESS;
}

static CUresult get_signal(CUgraphNode node, CUDA_EXT_SEM_SIGNAL_NODE_PARAMS *signal)
{
	(void)node;
	*signal = (CUDA_EXT_SEM_SIGNAL_NODE_PARAMS){.extSemArray = semaphores, .numExtSems = 1};
	return CUDA_SUCCESS;
}

static CUresult get_kernel(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS *kernel)
{
	if (node == HANDLE(CUgraphNode, KERNEL))
		kernel->func = HANDLE(CUfunction, KERNEL);
	else
		kernel->kern = HANDLE(CUkernel, LIBRARY_KERNEL);
	return CUDA_SUCCESS;
}

static CUresult get_module(CUmodule *module, CUfunction function)
{
	assert_ptr_equal(function, HANDLE(CUfunction, KERNEL));
	*module = HANDLE(CUmodule, MODULE);
	return CUDA_SUCCESS;
}

static CUresult get_library(CUlibrary *library, CUkernel kernel)
{
	assert_ptr_equal(kernel, HANDLE(CUkernel, LIBRARY_KERNEL));
	*library = HANDLE(CUlibrary, LIBRARY);
	return CUDA_SUCCESS;
}

static CUresult get_range(void *begin, CUpointer_attribute attribute, CUdeviceptr address)
{
	assert_int_equal(attribute, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
	if (address == PAGEABLE)
		return CUDA_ERROR_INVALID_VALUE;
	*(CUdeviceptr *)begin = address / ALLOCATION * ALLOCATION;
	return CUDA_SUCCESS;
}

static struct ds_refers collected(void)
{
	struct ds_refers refers = {.all = NULL};

	copied_to = TO + 8;
	ds_real.cuGraphGetNodes = get_nodes;
	ds_real.cuGraphNodeGetType = get_type;
	ds_real.cuGraphChildGraphNodeGetGraph = get_child;
	ds_real.cuGraphMemcpyNodeGetParams = get_copy;
	ds_real.cuGraphMemsetNodeGetParams = get_set;
	ds_real.cuGraphEventRecordNodeGetEvent = get_event;
	ds_real.cuGraphEventWaitNodeGetEvent = get_event;
	ds_real.cuGraphExternalSemaphoresSignalNodeGetParams = get_signal;
	ds_real.cuGraphKernelNodeGetParams_v2 = get_kernel;
	ds_real.cuFuncGetModule = get_module;
	ds_real.cuKernelGetLibrary = get_library;
	ds_real.cuPointerGetAttribute = get_range;
	assert_true(ds_refers_collect(&refers, HANDLE(CUgraph, 1)));
	return refers;
}

static void every_kind_is_noticed(void **state)
{
	static const struct {
		enum ds_refers_kind kind;
		uint64_t first, n;
		bool referred;
	} losses[] = {
	    {DS_REFERS_MEMORY, FROM, 1, true},
	    {DS_REFERS_MEMORY, TO, 1, true},
	    {DS_REFERS_MEMORY, SET_TO, 1, true},
	    {DS_REFERS_MEMORY, NEW, 1, false},
	    {DS_REFERS_MEMORY, PAGEABLE, 1, false},
	    {DS_REFERS_MEMORY, FROM - 16, 32, true}, /* a range that was mapped */
	    {DS_REFERS_MEMORY, FROM + 1, TO - FROM - 1, false},
	    {DS_REFERS_ARRAY, ARRAY, 1, true},
	    {DS_REFERS_ARRAY, 0, UINT64_MAX, true}, /* any */
	    {DS_REFERS_MEMORY, ARRAY, 1, false},
	    {DS_REFERS_EVENT, RECORDED, 1, true},
	    {DS_REFERS_EVENT, WAITED_FOR, 1, true}, /* by a node of the child graph */
	    {DS_REFERS_EVENT, RECORDED + 2, 1, false},
	    {DS_REFERS_SEMAPHORE, SEMAPHORE, 1, true},
	    {DS_REFERS_MODULE, MODULE, 1, true},
	    {DS_REFERS_MODULE, LIBRARY, 1, true},
	    {DS_REFERS_MODULE, KERNEL, 1, false},
	};

	for (size_t i = 0; i < sizeof(losses) / sizeof(losses[0]); i++) {
		struct ds_refers refers = collected();

		assert_false(ds_refers_lost(&refers));
		assert_int_equal(
		    ds_refers_lose(&refers, losses[i].kind, losses[i].first, losses[i].n),
		    losses[i].referred);
		assert_int_equal(ds_refers_lost(&refers), losses[i].referred);
		/* Who loses it once more need not wait for anybody. */
		assert_false(ds_refers_lose(&refers, losses[i].kind, losses[i].first, losses[i].n));
		ds_refers_free(&refers);
	}
}

static void a_node_that_is_changed_refers_anew(void **state)
{
	struct ds_refers refers = collected();

	assert_true(ds_refers_lose(&refers, DS_REFERS_MEMORY, TO, 1));
	copied_to = NEW;
	assert_true(ds_refers_renew(&refers, HANDLE(CUgraphNode, SET)));
	assert_true(ds_refers_lost(&refers)); /* that was another node */
	assert_true(ds_refers_renew(&refers, HANDLE(CUgraphNode, COPY)));
	assert_false(ds_refers_lost(&refers));
	assert_true(ds_refers_lose(&refers, DS_REFERS_MEMORY, NEW, 1));
	ds_refers_free(&refers);
}

static void a_module_stays_referred_to(void **state)
{
	struct ds_refers refers = collected();

	assert_true(ds_refers_lose(&refers, DS_REFERS_MODULE, MODULE, 1));
	assert_true(ds_refers_renew(&refers, HANDLE(CUgraphNode, KERNEL)));
	assert_true(ds_refers_lost(&refers));
	ds_refers_free(&refers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_kind_is_noticed),
	    cmocka_unit_test(a_node_that_is_changed_refers_anew),
	    cmocka_unit_test(a_module_stays_referred_to),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
