/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many small kernels on the default stream, blocking and non-blocking streams, with events between
 * them and copies among them. A kernel that is lost, doubled or out of order changes every hash.
 *
 * Usage: launches [COUNT]
 */
#include "check.h"

enum { STREAMS = 4, WORDS = 1 << 14, COUNT = 600000, EVERY = 64 };

static __global__ void advance(uint32_t *words, uint32_t n, uint32_t addend)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		words[i] = words[i] * 1664525u + addend + i;
}

/* The neighbour's state of this instant goes in: wrong order, other sum. */
static __global__ void fold(uint32_t *words, const uint32_t *other, uint32_t n)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		words[i] ^= other[(i + 1) % n] * 2654435761u;
}

int main(int argc, char **argv)
{
	const int count = argc > 1 ? atoi(argv[1]) : COUNT;
	cudaStream_t streams[STREAMS] = {NULL};
	cudaEvent_t done[STREAMS];
	uint32_t *words[STREAMS], *pinned;

	CHECK(cudaStreamCreate(&streams[1]));
	CHECK(cudaStreamCreateWithFlags(&streams[2], cudaStreamNonBlocking));
	CHECK(cudaStreamCreateWithPriority(&streams[3], cudaStreamNonBlocking, -1));
	CHECK(cudaMallocHost(&pinned, WORDS * sizeof(*pinned)));
	for (int i = 0; i < STREAMS; i++) {
		CHECK(cudaMalloc(&words[i], WORDS * sizeof(*words[i])));
		CHECK(cudaMemset(words[i], i + 1, WORDS * sizeof(*words[i])));
		CHECK(cudaEventCreateWithFlags(&done[i], cudaEventDisableTiming));
	}
	CHECK(cudaDeviceSynchronize());
	for (int n = 0; n < count; n++) {
		const int i = n % STREAMS, next = (i + 1) % STREAMS;

		advance<<<WORDS / 256, 256, 0, streams[i]>>>(words[i], WORDS, (uint32_t)n);
		if (n % EVERY < STREAMS) {
			/* This stream reads its neighbour's words: before and after, both wait. */
			CHECK(cudaEventRecord(done[next], streams[next]));
			CHECK(cudaStreamWaitEvent(streams[i], done[next], 0));
			fold<<<WORDS / 256, 256, 0, streams[i]>>>(words[i], words[next], WORDS);
			CHECK(cudaEventRecord(done[i], streams[i]));
			CHECK(cudaStreamWaitEvent(streams[next], done[i], 0));
		}
		if (n % 10007 == 0) {
			CHECK(cudaMemcpyAsync(pinned, words[i], WORDS * sizeof(*pinned),
					      cudaMemcpyDeviceToHost, streams[i]));
			CHECK(cudaStreamSynchronize(streams[i]));
			pinned[n % WORDS] ^= 0x5bd1e995u;
			CHECK(cudaMemcpyAsync(words[i], pinned, WORDS * sizeof(*pinned),
					      cudaMemcpyHostToDevice, streams[i]));
			CHECK(cudaStreamSynchronize(streams[i]));
		}
	}
	CHECK(cudaGetLastError());
	CHECK(cudaDeviceSynchronize());
	for (int i = 0; i < STREAMS; i++)
		print_hash("words", words[i], WORDS * sizeof(*words[i]));
	return 0;
}
