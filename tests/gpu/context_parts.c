/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts for some of the SMs: by affinity, and green ones. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "context_program.h"

void affinity(void)
{
	CUexecAffinityParam some = {.type = CU_EXEC_AFFINITY_TYPE_SM_COUNT,
				    .param.smCount.val = 16};
	CUexecAffinityParam found;
	int supported = -1;
	CUresult result;

	CALL(cuDeviceGetExecAffinitySupport, &supported, CU_EXEC_AFFINITY_TYPE_SM_COUNT, device);
	printf("supported %d\n", supported);
	result = cu.do_cuCtxCreate_v3(&known[2], &some, 1, 0, device);
	printf("some %d\n", (int)result);
	if (!result) {
		memset(&found, 0, sizeof(found));
		CALL(cuCtxGetExecAffinity, &found, CU_EXEC_AFFINITY_TYPE_SM_COUNT);
		printf("sms %u\n", found.param.smCount.val);
		work_in("A", known[2], 3);
		CALL(cuCtxDestroy_v2, known[2]);
	}
	some.type = (CUexecAffinityType)7;
	printf("bad %d\n", (int)cu.do_cuCtxCreate_v3(&known[2], &some, 1, 0, device));
	printf("none %d\n", (int)cu.do_cuCtxCreate_v3(&known[2], NULL, 0, 0, device));
	work_in("A", known[2], 1);
}

static CUgreenCtx green_of(CUdevResource *resources, unsigned n)
{
	CUdevResourceDesc description;
	CUgreenCtx green;

	CALL(cuDevResourceGenerateDesc, &description, resources, n);
	CALL(cuGreenCtxCreate, &green, description, device, CU_GREEN_CTX_DEFAULT_STREAM);
	return green;
}

static void show_green(const char *what, CUgreenCtx green)
{
	CUdevResource own = {0}, of_context = {0};
	CUcontext context;

	CALL(cuCtxFromGreenCtx, &context, green);
	CALL(cuGreenCtxGetDevResource, green, &own, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuCtxGetDevResource, context, &of_context, CU_DEV_RESOURCE_TYPE_SM);
	printf("%s: %u %u SMs\n", what, own.sm.smCount, of_context.sm.smCount);
}

/* Programs take the SMs apart, here into groups of eight, and use each for something. */
void green(void)
{
	CUdevResource all, split[32], rest, nested[32];
	unsigned n = 32, n_nested = 32;
	CUgreenCtx contexts[3], of_stream = NULL;
	CUcontext current[2], popped;
	CUdevResourceDesc description;
	CUstream streams[3];
	CUdeviceptr a[3], b[3], c[3];
	struct kernels code;
	CUevent event;

	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	CALL(cuCtxSetCurrent, known[1]);
	code = load_kernels();
	CALL(cuDeviceGetDevResource, device, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, split, &n, &all, &rest, 0, 8);
	printf("%u SMs in %u groups of %u, rest %u\n", all.sm.smCount, n, split[0].sm.smCount,
	       rest.sm.smCount);
	CALL(cuCtxGetDevResource, known[1], &all, CU_DEV_RESOURCE_TYPE_SM);
	printf("primary %u\n", all.sm.smCount);
	contexts[0] = green_of(&split[0], 1);
	contexts[1] = green_of(&split[1], 3);
	contexts[2] = green_of(&split[4], 1);
	for (unsigned i = 0; i < 3; i++) {
		show_green("green", contexts[i]);
		CALL(cuGreenCtxStreamCreate, &streams[i], contexts[i], CU_STREAM_NON_BLOCKING, 0);
		a[i] = numbers((float)i + 0.5f);
		b[i] = numbers(2);
		c[i] = numbers(0);
	}
	CALL(cuStreamGetGreenCtx, streams[1], &of_stream);
	printf("stream %d\n", of_stream == contexts[1]);
	for (unsigned round = 0; round < 8; round++) {
		for (unsigned i = 0; i < 3; i++) {
			add(&code, streams[i], c[i], a[i], b[i]);
			add(&code, streams[i], a[i], c[i], b[i]);
		}
	}
	CALL(cuEventCreate, &event, 0);
	CALL(cuGreenCtxRecordEvent, contexts[2], event);
	CALL(cuEventSynchronize, event);
	printf("green %016llx\n", hash(a[2]));
	CALL(cuCtxSynchronize);
	printf("green %016llx", hash(a[0]));
	printf(" %016llx\n", hash(a[1]));
	for (unsigned i = 0; i < 2; i++) {
		CALL(cuCtxFromGreenCtx, &current[i], contexts[i]);
		CALL(cuCtxPushCurrent_v2, current[i]);
		CALL(cuCtxGetCurrent, &popped);
		printf("current %d\n", popped == current[i]);
		add(&code, NULL, c[i], a[i], b[i]);
		CALL(cuStreamSynchronize, NULL);
		printf("null %016llx\n", hash(c[i]));
		CALL(cuCtxPopCurrent_v2, &popped);
	}
	CALL(cuGreenCtxGetDevResource, contexts[1], &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, nested, &n_nested, &all, &rest, 0, 8);
	printf("nested %u\n", n_nested);
	for (unsigned i = 0; i < 3; i++) {
		CALL(cuStreamDestroy_v2, streams[i]);
		CALL(cuGreenCtxDestroy, contexts[i]);
	}
	contexts[0] = green_of(nested, n_nested);
	show_green("again", contexts[0]);
	CALL(cuGreenCtxDestroy, contexts[0]);
	memset(&description, 0, sizeof(description));
	printf("bad %d\n", (int)cu.do_cuGreenCtxCreate(&contexts[0], NULL, device,
						       CU_GREEN_CTX_DEFAULT_STREAM));
	work_in("primary", known[1], 2);
}

/* Keeps a green context with a kernel in it until its input ends. */
void green_held(void)
{
	CUdevResource all, split[32], rest;
	unsigned n = 32;
	CUgreenCtx held;
	CUstream stream;
	struct kernels code;
	char c;

	CALL(cuDevicePrimaryCtxRetain, &known[1], device);
	CALL(cuCtxSetCurrent, known[1]);
	code = load_kernels();
	spin(&code, NULL, 10, 1);
	CALL(cuDeviceGetDevResource, device, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, split, &n, &all, &rest, 0, 8);
	held = green_of(split, 1);
	CALL(cuGreenCtxStreamCreate, &stream, held, CU_STREAM_NON_BLOCKING, 0);
	printf("holding\n");
	while (read(STDIN_FILENO, &c, 1) > 0) {
		if (c == 'd') {
			CALL(cuStreamDestroy_v2, stream);
			CALL(cuGreenCtxDestroy, held);
			printf("destroyed\n");
		} else if (c == 'm') {
			green_of(&split[1], 1);
			printf("made\n");
		} else {
			for (unsigned i = 0; i < 20; i++)
				spin(&code, c == 'g' ? stream : NULL, 100, 64);
			CALL(cuCtxSynchronize);
			printf("ran\n");
		}
	}
}
