/* SPDX-License-Identifier: Apache-2.0 */
/* Dynamic parallelism: kernels that launch kernels, whose results the host's next kernel reads. */
#include "check.h"

enum { PARTS = 16, PART = 1024, ROUNDS = 4000 };

static __global__ void child(uint32_t *words, uint32_t round)
{
	const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;

	words[i] = words[i] * 1103515245u + 12345u + round;
}

static __global__ void last(uint32_t *words)
{
	words[threadIdx.x] ^= words[PART - 1 - threadIdx.x] >> 3;
}

static __global__ void parent(uint32_t *words, uint32_t round)
{
	uint32_t *part = words + threadIdx.x * PART;

	child<<<PART / 256, 256>>>(part, round);
	last<<<1, PART / 2, 0, cudaStreamTailLaunch>>>(part);
}

static __global__ void total(const uint32_t *words, uint32_t *sums, uint32_t round)
{
	uint32_t sum = 0;

	for (unsigned i = threadIdx.x; i < PARTS * PART; i += blockDim.x)
		sum += words[i] * (i | 1u);
	atomicAdd(&sums[round % 64], sum);
}

int main()
{
	uint32_t *words, *sums;

	CHECK(cudaMalloc(&words, PARTS * PART * sizeof(*words)));
	CHECK(cudaMalloc(&sums, 64 * sizeof(*sums)));
	CHECK(cudaMemset(words, 7, PARTS * PART * sizeof(*words)));
	CHECK(cudaMemset(sums, 0, 64 * sizeof(*sums)));
	for (uint32_t round = 0; round < ROUNDS; round++) {
		parent<<<1, PARTS>>>(words, round);
		total<<<1, 256>>>(words, sums, round);
		CHECK(cudaGetLastError());
	}
	CHECK(cudaDeviceSynchronize());
	print_hash("words", words, PARTS * PART * sizeof(*words));
	print_hash("sums", sums, 64 * sizeof(*sums));
	return 0;
}
