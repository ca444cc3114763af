/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of many small experiments, each run with and without the coroutine library: what it prints
 * must not tell the two apart, except where the experiment is about the library. Runs on a real GPU
 * and on the emulated one. Usage: coroutine_program EXPERIMENT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "coroutine_program.h"

const char *emugpu_dir;
CUdevice device;
CUcontext primary;
struct kernels kernels;
const char *const kinds[KINDS] = {"null",     "legacy",       "per-thread",
				  "blocking", "blocking-too", "nonblocking"};

void start(void)
{
	CUresult result;

	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
	result = cu.do_cuDevicePrimaryCtxRetain(&primary, device);
	if (result) {
		printf("{\"retain\": %d}\n", (int)result);
		exit(0);
	}
	CALL(cuCtxSetCurrent, primary);
	kernels = load_kernels();
}

void needs_graphs(void)
{
	if (!cu.do_cuStreamEndCapture || !cu.do_cuGraphCreate) {
		printf("no graphs here\n");
		exit(77);
	}
}

CUdeviceptr device_words(size_t n)
{
	CUdeviceptr words;

	CALL(cuMemAlloc_v2, &words, n * 4);
	CALL(cuMemsetD32_v2, words, 0, n);
	CALL(cuCtxSynchronize);
	return words;
}

unsigned read_word(CUdeviceptr word)
{
	unsigned value;

	CALL(cuCtxSynchronize);
	CALL(cuMemcpyDtoH_v2, &value, word, 4);
	return value;
}

CUresult spin(CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	return cu.do_cuLaunchKernel(kernels.spin_us, blocks, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

bool gets_on(double begun_us, unsigned us)
{
	static CUstream stream;
	static CUevent event;
	CUresult result;

	if (!stream) {
		CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
		CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
	}
	spin(stream, 1, 1);
	CALL(cuEventRecord, event, stream);
	do
		result = cu.do_cuEventQuery(event);
	while (result != CUDA_SUCCESS && now_us() - begun_us <= us);
	return result == CUDA_SUCCESS && now_us() - begun_us <= us;
}

void make_streams(CUstream streams[KINDS])
{
	streams[0] = NULL;
	streams[1] = CU_STREAM_LEGACY;
	streams[2] = CU_STREAM_PER_THREAD;
	CALL(cuStreamCreate, &streams[3], CU_STREAM_DEFAULT);
	CALL(cuStreamCreateWithPriority, &streams[4], CU_STREAM_DEFAULT, -1);
	CALL(cuStreamCreate, &streams[5], CU_STREAM_NON_BLOCKING);
}

static const struct experiment experiments[] = {
    {"lookup", lookup},
    {"order", order},
    {"order-chains", order_chains},
    {"order-destroyed", order_destroyed},
    {"work", work},
    {"properties", properties},
    {"capture", capture},
    {"graphs", graphs},
    {"sms", sms},
    {"threads", threads},
    {"own-context", own_context},
    {"cooperative", cooperative},
    {"reset", reset},
    {"reset-later", reset_later},
    {"overlaps", overlaps},
    {"overlaps-in-graph", overlaps_in_graph},
    {"descriptors", descriptors},
    {"fork-before", fork_before},
    {"fork-after", fork_after},
    {"cleared-environment", cleared_environment},
    {"hold", hold},
    {"wake", wake},
    {"moved-properties", moved_properties},
    {"threads-share", threads_share},
    {"pumping", pumping},
    {"blocked", blocked},
    {"capturing", capturing},
    {"exits", exits},
    {"waiting", waiting},
    {"leaving", leaving},
    {"measured", measured},
    {"without-cuda", without_cuda},
};

int main(int argc, char **argv)
{
	const char *dir = getenv("EMUGPU_DIR");

	emugpu_dir = dir ? strdup(dir) : "";
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = experiments,
				  .n = sizeof(experiments) / sizeof(experiments[0])});
}
