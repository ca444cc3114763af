/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cooperative groups: grids that synchronise with themselves, and clusters that read each other's
 * shared memory.
 *
 * Usage: cooperative [whole]
 * With `whole`, the grid is as large as the occupancy calculator and the number of SMs allow.
 */
#include <cooperative_groups.h>
#include <string.h>

#include "check.h"

namespace cg = cooperative_groups;

enum { THREADS = 256, SMALL = 8, CLUSTER = 4, WORDS = 1 << 14, ROUNDS = 10000 };

static __global__ void relax(float *a, float *b, unsigned n, unsigned steps)
{
	cg::grid_group grid = cg::this_grid();

	for (unsigned step = 0; step < steps; step++) {
		for (unsigned i = grid.thread_rank(); i < n; i += grid.size())
			b[i] = 0.5f * a[i] + 0.25f * (a[(i + 1) % n] + a[(i + n - 1) % n]) + 0.001f;
		grid.sync();
		for (unsigned i = grid.thread_rank(); i < n; i += grid.size())
			a[i] = b[i];
		grid.sync();
	}
}

static __global__ void __cluster_dims__(CLUSTER, 1, 1) rotate(uint32_t *words)
{
	__shared__ uint32_t mine[THREADS];
	cg::cluster_group cluster = cg::this_cluster();
	const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;

	mine[threadIdx.x] = words[i] * 22695477u + 1u;
	cluster.sync();
	words[i] = cluster.map_shared_rank(mine, (cluster.block_rank() + 1) % CLUSTER)[threadIdx.x] ^ i;
	cluster.sync();
}

int main(int argc, char **argv)
{
	unsigned blocks = SMALL, n = WORDS, steps = 3;
	int per_sm, sms, rounds = ROUNDS;
	float *a, *b;
	uint32_t *words;

	if (argc > 1 && !strcmp(argv[1], "whole")) {
		CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, relax, THREADS, 0));
		CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
		blocks = (unsigned)(per_sm * sms);
		rounds /= 10;
		printf("grid of %u blocks\n", blocks);
	}
	CHECK(cudaMalloc(&a, WORDS * sizeof(*a)));
	CHECK(cudaMalloc(&b, WORDS * sizeof(*b)));
	CHECK(cudaMalloc(&words, WORDS * sizeof(*words)));
	CHECK(cudaMemset(a, 0, WORDS * sizeof(*a)));
	CHECK(cudaMemset(words, 1, WORDS * sizeof(*words)));
	for (int round = 0; round < rounds; round++) {
		void *arguments[] = {&a, &b, &n, &steps};

		CHECK(cudaLaunchCooperativeKernel((const void *)relax, dim3(blocks), dim3(THREADS), arguments, 0, 0));
		rotate<<<WORDS / THREADS, THREADS>>>(words);
		CHECK(cudaGetLastError());
	}
	CHECK(cudaDeviceSynchronize());
	print_hash("relaxed", a, WORDS * sizeof(*a));
	print_hash("rotated", words, WORDS * sizeof(*words));
	return 0;
}
