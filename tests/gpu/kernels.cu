// SPDX-License-Identifier: Apache-2.0
// The kernels of gpuwork. kernels.ptx is made from this file and committed:
//   nvcc -ptx -arch=compute_75 -fmad=false kernels.cu      (then see Makefile.am, target kernels.ptx)
// The emulated GPU has a host function of the same name, with the same arithmetic, for each
// (tests/emugpu/kernels.c).

// The SM that runs this block; NULL: nobody asks.
static __device__ void note_smid(unsigned *smids)
{
	unsigned id;

	asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
	if (smids && threadIdx.x == 0)
		smids[blockIdx.x] = id;
}

extern "C" __global__ void vector_add(const float *a, const float *b, float *c, unsigned n,
				      unsigned *smids)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		c[i] = a[i] + b[i];
	note_smid(smids);
}

// Blocks of 256 threads. The order of additions does not depend on where or when a block runs.
extern "C" __global__ void reduce_sum(const float *in, float *out, unsigned n, unsigned *smids)
{
	__shared__ float sum[256];
	unsigned t = threadIdx.x;
	size_t stride = (size_t)gridDim.x * 256;
	float s = 0;

	for (size_t i = (size_t)blockIdx.x * 256 + t; i < n; i += stride)
		s += in[i];
	sum[t] = s;
	__syncthreads();
	for (unsigned half = 128; half; half /= 2) {
		if (t < half)
			sum[t] += sum[t + half];
		__syncthreads();
	}
	if (t == 0)
		out[blockIdx.x] = sum[0];
	note_smid(smids);
}

// Holds its SM for `us` microseconds of the GPU's own clock.
extern "C" __global__ void spin_us(unsigned us, unsigned *smids)
{
	unsigned long long begin, now;

	note_smid(smids);
	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
	do
		asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	while (now - begin < us * 1000ull);
}

// `steps` multiply-adds in a row, each waiting for the one before.
extern "C" __global__ void fma_chain(float *out, unsigned steps, unsigned *smids)
{
	float x = 1.0f + (float)(threadIdx.x % 8) * 0.125f;

	note_smid(smids);
	for (unsigned i = 0; i < steps; i++)
		x = __fmaf_rn(x, 0.999f, 0.001f);
	out[(size_t)blockIdx.x * blockDim.x + threadIdx.x] = x;
}

// Writes where it is told; told a bad address, it faults.
extern "C" __global__ void trap(unsigned *address)
{
	*address = 1;
}

// Every block waits until all of them have arrived, without telling the driver that they must be there at
// the same time; then each adds its number, from 1, to the sum, and holds its SM for `us` microseconds.
// One thread of each block does it.
extern "C" __global__ void meet(unsigned *arrived, unsigned *sum, unsigned us)
{
	unsigned long long begin, now;

	if (threadIdx.x)
		return;
	atomicAdd(arrived, 1);
	while (*(volatile unsigned *)arrived < gridDim.x)
		;
	atomicAdd(sum, blockIdx.x + 1);
	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
	do
		asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	while (now - begin < us * 1000ull);
}
