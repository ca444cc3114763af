/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programmatic dependent launch: a kernel may start while the one before it still runs, and waits for
 * its results itself. If that wait meant nothing after a move, the words would differ.
 */
#include "check.h"

enum { WORDS = 1 << 15, COUNT = 20000 };

static __global__ void chain(const uint32_t *in, uint32_t *out, uint32_t n)
{
	const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;

#if __CUDA_ARCH__ >= 900
	cudaGridDependencySynchronize();
#endif
	out[i] = in[(i * 5u + 1u) % WORDS] * 1664525u + n;
#if __CUDA_ARCH__ >= 900
	cudaTriggerProgrammaticLaunchCompletion();
#endif
}

int main()
{
	uint32_t *words[2];
	cudaStream_t stream;
	cudaLaunchAttribute attribute = {};
	cudaLaunchConfig_t config = {};

	CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	for (uint32_t *&buffer : words) {
		CHECK(cudaMalloc(&buffer, WORDS * sizeof(*buffer)));
		CHECK(cudaMemset(buffer, 3, WORDS * sizeof(*buffer)));
	}
	CHECK(cudaDeviceSynchronize());
	attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attribute.val.programmaticStreamSerializationAllowed = 1;
	config.gridDim = dim3(WORDS / 256);
	config.blockDim = dim3(256);
	config.stream = stream;
	config.attrs = &attribute;
	config.numAttrs = 1;
	for (uint32_t n = 0; n < COUNT; n++)
		CHECK(cudaLaunchKernelEx(&config, chain, (const uint32_t *)words[n % 2], words[(n + 1) % 2], n));
	CHECK(cudaStreamSynchronize(stream));
	print_hash("words", words[COUNT % 2], WORDS * sizeof(*words[0]));
	return 0;
}
