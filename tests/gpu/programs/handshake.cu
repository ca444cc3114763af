/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two streams whose kernels wait for each other: one spins until the other, launched later and
 * perhaps in another partition, has answered. Handing over all streams at once would hang here.
 */
#include "check.h"

enum { ROUNDS = 10000 };

static __global__ void ask(volatile uint32_t *cells, uint32_t round)
{
	cells[0] = round;
	__threadfence();
	while (cells[1] != round)
		;
	cells[2] = cells[2] * 69069u + cells[3];
}

static __global__ void answer(volatile uint32_t *cells, uint32_t round)
{
	while (cells[0] != round)
		;
	cells[3] = cells[3] * 1664525u + round;
	__threadfence();
	cells[1] = round;
}

int main()
{
	cudaStream_t asking, answering;
	uint32_t *cells;

	CHECK(cudaStreamCreateWithFlags(&asking, cudaStreamNonBlocking));
	CHECK(cudaStreamCreateWithFlags(&answering, cudaStreamNonBlocking));
	CHECK(cudaMalloc(&cells, 4 * sizeof(*cells)));
	CHECK(cudaMemset(cells, 0, 4 * sizeof(*cells)));
	/* Both kernels are loaded before one of them spins: loading may wait for the GPU. */
	ask<<<1, 1, 0, asking>>>(cells, 0);
	answer<<<1, 1, 0, answering>>>(cells, 0);
	CHECK(cudaDeviceSynchronize());
	for (uint32_t round = 1; round <= ROUNDS; round++) {
		ask<<<1, 1, 0, asking>>>(cells, round);
		answer<<<1, 1, 0, answering>>>(cells, round);
		CHECK(cudaGetLastError());
		if (round % 50 == 0)
			CHECK(cudaStreamSynchronize(asking));
	}
	CHECK(cudaDeviceSynchronize());
	print_hash("cells", cells, 4 * sizeof(*cells));
	return 0;
}
