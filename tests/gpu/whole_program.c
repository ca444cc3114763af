/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels whose blocks must all be on the GPU at the same time, in grids for all its SMs. What it prints is
 * the same with the coroutine library, in whatever partition, as alone. Runs on a real GPU and on the
 * emulated one.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

enum { THREADS = 128 };
static CUstream stream;
static CUfunction meet;
static CUdeviceptr arrived, sum;

/* Returns how many blocks of the kernel the GPU says it can hold. */
static unsigned start(void)
{
	CUcontext primary;
	CUdevice device;
	int sms, per_sm;

	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
	CALL(cuDevicePrimaryCtxRetain, &primary, device);
	CALL(cuCtxSetCurrent, primary);
	CALL(cuModuleGetFunction, &meet, load_kernels().module, "meet");
	CALL(cuMemAlloc_v2, &arrived, sizeof(unsigned));
	CALL(cuMemAlloc_v2, &sum, sizeof(unsigned));
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	CALL(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
	CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor, &per_sm, meet, THREADS, 0);
	return (unsigned)sms * (unsigned)per_sm;
}

static CUresult launch(const char *how, unsigned blocks, unsigned us)
{
	void *params[] = {&arrived, &sum, &us};
	CUlaunchAttribute cooperative = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
					 .value.cooperative = 1};
	const CUlaunchConfig config = {.gridDimX = blocks,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = THREADS,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .hStream = stream,
				       .attrs = &cooperative,
				       .numAttrs = !strcmp(how, "attribute")};

	if (!strcmp(how, "cooperative"))
		return cu.do_cuLaunchCooperativeKernel(meet, blocks, 1, 1, THREADS, 1, 1, 0, stream,
						       params);
	if (!strcmp(how, "plain"))
		return cu.do_cuLaunchKernel(meet, blocks, 1, 1, THREADS, 1, 1, 0, stream, params,
					    NULL);
	return cu.do_cuLaunchKernelEx(&config, meet, params, NULL);
}

/* One launch after the other, each waited for; or all of them queued at once. */
static void run(const char *how, unsigned launches, unsigned blocks, unsigned us, bool queued)
{
	CUresult result = CUDA_SUCCESS;
	unsigned total = 0;

	CALL(cuMemsetD32Async, sum, 0, 1, stream);
	for (unsigned i = 0; i < launches && result == CUDA_SUCCESS; i++) {
		CALL(cuMemsetD32Async, arrived, 0, 1, stream);
		result = launch(how, blocks, us);
		if (!queued)
			CALL(cuStreamSynchronize, stream);
	}
	CALL(cuMemcpyDtoHAsync_v2, &total, sum, sizeof(total), stream);
	CALL(cuStreamSynchronize, stream);
	printf("%u launches of %u blocks: error %d, sum %u\n", launches, blocks, (int)result,
	       total);
}

static unsigned number(const char *text)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || end == text || value > UINT32_MAX) {
		fprintf(stderr, "whole_program: %s is not a number\n", text);
		exit(2);
	}
	return (unsigned)value;
}

int main(int argc, char **argv)
{
	unsigned most;

	if (argc < 5 || argc > 6) {
		fprintf(stderr, "Usage: whole_program cooperative|attribute|config|plain LAUNCHES "
				"MORE-BLOCKS-THAN-FIT|-LESS MICROSECONDS [queued]\n"
				"Waits for a line on its input before it launches, if that is a "
				"pipe.\n");
		return 2;
	}
	alarm(100);
	setvbuf(stdout, NULL, _IOLBF, 0);
	most = start();
	most = argv[3][0] == '-' ? most - number(argv[3] + 1) : most + number(argv[3]);
	printf("ready\n");
	if (getchar() == EOF && ferror(stdin))
		return 1;
	run(argv[1], number(argv[2]), most, number(argv[4]), argc == 6);
	return fflush(stdout) ? 1 : 0;
}
