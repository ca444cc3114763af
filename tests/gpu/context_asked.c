/* SPDX-License-Identifier: Apache-2.0 */
/* Which context is current, and what can be asked of it. */
#include <stdio.h>

#include "context_program.h"

void stack(void)
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

void settings(void)
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
