/* SPDX-License-Identifier: Apache-2.0 */
/* What the CUDA test programs share. */
#ifndef DETSHARE_TESTS_GPU_CHECK_H
#define DETSHARE_TESTS_GPU_CHECK_H

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(call)                                                                              \
	do {                                                                                     \
		cudaError_t check_error = (call);                                                \
		if (check_error != cudaSuccess) {                                                \
			fprintf(stderr, "%s:%d: %s: %s (%s)\n", __FILE__, __LINE__, #call,       \
				cudaGetErrorString(check_error), cudaGetErrorName(check_error)); \
			exit(1);                                                                 \
		}                                                                                \
	} while (0)

/* FNV-1a over memory of the host. */
static inline uint64_t hash_bytes(const void *data, size_t size)
{
	const unsigned char *bytes = (const unsigned char *)data;
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return hash;
}

/* Copies `size` bytes from the device and prints their hash. */
static inline void print_hash(const char *name, const void *device, size_t size)
{
	void *host = malloc(size);

	if (!host)
		exit(1);
	CHECK(cudaMemcpy(host, device, size, cudaMemcpyDefault));
	printf("%s %016llx\n", name, (unsigned long long)hash_bytes(host, size));
	free(host);
}

#endif
