/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many streams that wait for each other, drawn at random; what must come of it is computed beside it. With
 * fewer hardware queues than streams, the driver works streams off one behind the other: what waits in
 * front of a queue holds up the rest of it. Usage: streams_program STREAMS ROUNDS SEED
 * Prints "streams N wrong M hash H". Runs on a real GPU and on the emulated one.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

enum { STREAMS_MAX = 256 };

static struct {
	CUstream stream;
	CUevent event; /* behind what it did last */
	CUdeviceptr word;
	float expected;
} all[STREAMS_MAX];

static struct kernels kernels;

static uint64_t draw(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random >> 16;
}

static void launch(CUfunction function, CUstream stream, void **args)
{
	CALL(cuLaunchKernel, function, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

static void set(unsigned i, float value)
{
	unsigned bits;

	memcpy(&bits, &value, sizeof(bits));
	CALL(cuMemsetD32Async, all[i].word, bits, 1, all[i].stream);
	all[i].expected = value;
}

/* One takes what the other has, which may go on only then. */
static void add(unsigned to, unsigned from)
{
	CUdeviceptr smids = 0;
	unsigned n = 1;
	void *args[] = {&all[to].word, &all[from].word, &all[to].word, &n, &smids};

	CALL(cuEventRecord, all[from].event, all[from].stream);
	CALL(cuStreamWaitEvent, all[to].stream, all[from].event, 0);
	launch(kernels.vector_add, all[to].stream, args);
	CALL(cuEventRecord, all[to].event, all[to].stream);
	CALL(cuStreamWaitEvent, all[from].stream, all[to].event, 0);
	all[to].expected += all[from].expected;
}

static void start(unsigned n)
{
	CUcontext primary;

	CALL(cuInit, 0);
	CALL(cuDevicePrimaryCtxRetain, &primary, 0);
	CALL(cuCtxSetCurrent, primary);
	kernels = load_kernels();
	for (unsigned i = 0; i < n; i++) {
		CALL(cuStreamCreate, &all[i].stream, CU_STREAM_NON_BLOCKING);
		CALL(cuEventCreate, &all[i].event, CU_EVENT_DISABLE_TIMING);
		CALL(cuMemAlloc_v2, &all[i].word, 4);
		set(i, (float)i);
	}
}

int main(int argc, char **argv)
{
	const unsigned n = argc > 3 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
	const unsigned rounds = n ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	uint64_t random = n ? strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15 | 1 : 0;
	unsigned wrong = 0;
	uint32_t hash = 2166136261;

	if (n < 2 || n > STREAMS_MAX) {
		fprintf(stderr, "usage: streams_program STREAMS ROUNDS SEED\n");
		return 2;
	}
	load_driver();
	start(n);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned k = 0; k < n; k++) {
			const unsigned to = (unsigned)draw(&random) % n;
			const unsigned from = (to + 1 + (unsigned)draw(&random) % (n - 1)) % n;
			unsigned us = (unsigned)draw(&random) % 50;

			if (all[to].expected > 1e6F)
				set(to, (float)(round % 100));
			else if (draw(&random) % 8)
				add(to, from);
			else
				launch(kernels.spin_us, all[to].stream,
				       (void *[]){&us, &(CUdeviceptr){0}});
		}
	}
	CALL(cuCtxSynchronize);
	for (unsigned i = 0; i < n; i++) {
		float value;

		CALL(cuMemcpyDtoH_v2, &value, all[i].word, 4);
		wrong += value != all[i].expected;
		hash = (hash ^ (uint32_t)value) * 16777619;
	}
	printf("streams %u wrong %u hash %08x\n", n, wrong, (unsigned)hash);
	return wrong != 0;
}
