/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_NUMBERS_H
#define DETSHARE_TESTS_GPU_NUMBERS_H

/* Work whose result shows its order: sums of vectors of N floats, in the current context. */

#include "program.h"

enum { N = 1024, THREADS = 128, BLOCKS = N / THREADS };

/* N floats of one value, set before it returns. */
CUdeviceptr numbers(float value);

/* One number that changes with any of theirs; waits as a copy to the host does. */
unsigned long long hash(CUdeviceptr words);

/* to = a + b */
void add(const struct kernels *kernels, CUstream stream, CUdeviceptr to, CUdeviceptr a,
	 CUdeviceptr b);

#endif
