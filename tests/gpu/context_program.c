/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Experiments with contexts that a program makes itself, run with and without the coroutine library: what
 * they print must not tell the two apart. Runs on a real GPU and on the emulated one.
 * Usage: context_program EXPERIMENT
 */
#include <stdio.h>

#include "context_program.h"

CUdevice device;

static void start(void)
{
	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
}

CUcontext create(unsigned flags)
{
	CUcontext context;

	CALL(cuCtxCreate_v2, &context, flags, device);
	return context;
}

void spin(const struct kernels *code, CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, code->spin_us, blocks, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

CUcontext known[8];
static const char *const names[] = {"none", "primary", "A", "B", "C"};

const char *name_of(CUcontext context)
{
	for (unsigned i = 0; i < 5; i++)
		if (known[i] == context)
			return names[i];
	return "unknown";
}

void show_current(const char *what, CUresult result)
{
	CUcontext current = (CUcontext)1;
	CUdevice of = 99;

	CALL(cuCtxGetCurrent, &current);
	printf("%s: %d, current %s, device %d", what, (int)result, name_of(current),
	       (int)cu.do_cuCtxGetDevice(&of));
	printf(" %d\n", of);
}

static void show_stream(const char *what, CUstream stream)
{
	CUcontext one = NULL, two = NULL;
	CUgreenCtx green = (CUgreenCtx)1;

	CALL(cuStreamGetCtx, stream, &one);
	CALL(cuStreamGetCtx_v2, stream, &two, &green);
	printf("%s: %s %s %d\n", what, name_of(one), name_of(two), green == NULL);
}

void work_in(const char *name, CUcontext context, unsigned rounds)
{
	CUdeviceptr a, b, c;
	struct kernels code;
	CUstream streams[4] = {NULL, CU_STREAM_PER_THREAD};
	CUevent event;

	CALL(cuCtxPushCurrent_v2, context);
	code = load_kernels();
	a = numbers(1.25f);
	b = numbers(0.375f);
	c = numbers(0);
	CALL(cuStreamCreate, &streams[2], CU_STREAM_DEFAULT);
	CALL(cuStreamCreate, &streams[3], CU_STREAM_NON_BLOCKING);
	CALL(cuEventCreate, &event, 0);
	for (unsigned i = 0; i < 4; i++)
		show_stream(name, streams[i]);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < 3; i++) {
			add(&code, streams[i], c, a, b);
			add(&code, NULL, a, c, b);
		}
		CALL(cuEventRecord, event, NULL);
		CALL(cuStreamWaitEvent, streams[3], event, 0);
		add(&code, streams[3], b, a, c);
		CALL(cuEventRecord, event, streams[3]);
		CALL(cuStreamWaitEvent, NULL, event, 0);
	}
	printf("%s %016llx", name, hash(a));
	printf(" %016llx\n", hash(b));
	spin(&code, streams[2], 2000, 1);
	CALL(cuCtxPopCurrent_v2, &context);
}

static const struct experiment experiments[] = {
    {"stack", stack},           {"settings", settings},   {"work", work},
    {"threads", threads},       {"graphs", graphs},       {"many", many},
    {"forgets", forgets},       {"reset", reset},         {"affinity", affinity},
    {"green", green},           {"code", launching_code}, {"private-tables", private_tables},
    {"green-held", green_held},
};

int main(int argc, char **argv)
{
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = experiments,
				  .n = sizeof(experiments) / sizeof(experiments[0]),
				  .start = start});
}
