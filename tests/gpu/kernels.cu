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

// What a launch of share_out() leaves behind; all zero before it.
struct launch_record {
	unsigned long long end, not_begin; // by %globaltimer; the complement: of two, the larger began first
	unsigned long long taken;          // units of work that blocks have taken
	unsigned long long sms[4]; // one bit for each SM that it ran on, by %smid
};

// `units` pieces of work, of `steps` multiply-adds each, taken by whoever is free: the time that a launch needs goes
// with one over the number of SMs, in steps of one piece. One thread of each block does it.
extern "C" __global__ void share_out(struct launch_record *record, unsigned units, unsigned steps)
{
	unsigned long long now, mine, next;
	unsigned id;
	float x = 1.0f;

	if (threadIdx.x)
		return;
	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
	atomicMax(&record->not_begin, ~now);
	atomicOr(&record->sms[id / 64 % 4], 1ull << id % 64);
	mine = atomicAdd(&record->taken, 1ull);
	while (mine < units) {
		next = atomicAdd(&record->taken, 1ull); // on its way while the piece is done
		for (unsigned i = 0; i < steps; i++)
			x = __fmaf_rn(x, 0.999f, 0.001f);
		mine = next;
	}
	if (x < 0)
		record->taken = 0; // never, but the compiler does not know
	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	atomicMax(&record->end, now);
}

// What time it is, to the host as well.
extern "C" __global__ void tell_time(volatile unsigned long long *when)
{
	unsigned long long now;

	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	*when = now;
}
