/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The per-thread default stream (compiled with --default-stream per-thread): several threads, each
 * with work on its own default stream, with stream-ordered memory, copies and host functions.
 */
#include <thread>
#include <vector>

#include "check.h"

enum { THREADS = 8, WORDS = 1 << 14, ROUNDS = 2500 };

static __global__ void mix(float *out, const float *in, unsigned n, float factor)
{
	const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		out[i] = in[(i * 17u + 3u) % n] * factor + 0.25f;
}

static void CUDART_CB count(void *counter)
{
	++*static_cast<unsigned *>(counter);
}

static void work(unsigned number, uint64_t *hash, unsigned *called)
{
	std::vector<float> host(WORDS);
	float *a, *b;

	CHECK(cudaMalloc(&a, WORDS * sizeof(*a)));
	for (unsigned i = 0; i < WORDS; i++)
		host[i] = static_cast<float>((i * 31u + number * 7u) % 1000u) * 0.001f;
	CHECK(cudaMemcpyAsync(a, host.data(), WORDS * sizeof(*a), cudaMemcpyHostToDevice));
	for (unsigned round = 0; round < ROUNDS; round++) {
		CHECK(cudaMallocAsync(&b, WORDS * sizeof(*b), cudaStreamPerThread));
		mix<<<WORDS / 256, 256>>>(b, a, WORDS, 0.97f);
		mix<<<WORDS / 256, 256>>>(a, b, WORDS, 1.01f);
		CHECK(cudaFreeAsync(b, cudaStreamPerThread));
		if (round % 100 == 0)
			CHECK(cudaLaunchHostFunc(cudaStreamPerThread, count, called));
	}
	CHECK(cudaGetLastError());
	CHECK(cudaMemcpyAsync(host.data(), a, WORDS * sizeof(*a), cudaMemcpyDeviceToHost));
	CHECK(cudaStreamSynchronize(cudaStreamPerThread));
	*hash = hash_bytes(host.data(), WORDS * sizeof(*a));
	CHECK(cudaFree(a));
}

int main()
{
	uint64_t hashes[THREADS] = {};
	unsigned called[THREADS] = {};
	std::vector<std::thread> threads;

	for (unsigned i = 0; i < THREADS; i++)
		threads.emplace_back(work, i, &hashes[i], &called[i]);
	for (std::thread &thread : threads)
		thread.join();
	for (unsigned i = 0; i < THREADS; i++)
		printf("thread %u: %016llx, %u calls\n", i, (unsigned long long)hashes[i], called[i]);
	return 0;
}
