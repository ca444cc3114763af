/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host functions that stand for the kernels of tests/gpu/kernels.cu: the same arithmetic in the same
 * order, so that results are equal bit for bit to those of a real GPU.
 */
#include "tests/emugpu/kernels.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

enum { REDUCE_THREADS = 256, FMA_STARTS = 8 };

#define PARAM(run, i, type) (*(type const *)(run)->params[i])

static bool note_smid(const struct emu_run *run, uint32_t *smids)
{
	if (!smids)
		return true;
	if (!emu_device_may_touch(smids + run->index[0], sizeof(*smids)))
		return false;
	smids[run->index[0]] = run->smid;
	return true;
}

/* vector_add(const float *a, const float *b, float *c, unsigned n, unsigned *smids) */
static int64_t vector_add(const struct emu_run *run)
{
	const float *a = PARAM(run, 0, const float *), *b = PARAM(run, 1, const float *);
	float *c = PARAM(run, 2, float *);
	uint32_t n = PARAM(run, 3, uint32_t);
	size_t begin = (size_t)run->index[0] * run->block[0], end = begin + run->block[0];

	end = end < n ? end : n;
	if (!note_smid(run, PARAM(run, 4, uint32_t *)))
		return EMU_ILLEGAL_ADDRESS;
	if (begin >= end)
		return 0;
	size_t bytes = (end - begin) * sizeof(float);
	if (!emu_device_may_touch(a + begin, bytes) || !emu_device_may_touch(b + begin, bytes) ||
	    !emu_device_may_touch(c + begin, bytes))
		return EMU_ILLEGAL_ADDRESS;
	for (size_t i = begin; i < end; i++)
		c[i] = a[i] + b[i];
	return 0;
}

/*
 * reduce_sum(const float *in, float *out, unsigned n, unsigned *smids): out[block] is the sum of this
 * block's part, in an order that does not depend on where or when it runs.
 */
static int64_t reduce_sum(const struct emu_run *run)
{
	const float *in = PARAM(run, 0, const float *);
	float *out = PARAM(run, 1, float *), sum[REDUCE_THREADS];
	size_t n = PARAM(run, 2, uint32_t), stride = (size_t)run->grid[0] * REDUCE_THREADS;

	if (run->block[0] != REDUCE_THREADS || !note_smid(run, PARAM(run, 3, uint32_t *)) ||
	    (n && !emu_device_may_touch(in, n * sizeof(*in))) ||
	    !emu_device_may_touch(out + run->index[0], sizeof(*out)))
		return EMU_ILLEGAL_ADDRESS;
	for (unsigned t = 0; t < REDUCE_THREADS; t++) {
		sum[t] = 0;
		for (size_t i = (size_t)run->index[0] * REDUCE_THREADS + t; i < n; i += stride)
			sum[t] += in[i];
	}
	for (unsigned half = REDUCE_THREADS / 2; half; half /= 2)
		for (unsigned t = 0; t < half; t++)
			sum[t] += sum[t + half];
	out[run->index[0]] = sum[0];
	return 0;
}

/* spin_us(unsigned us, unsigned *smids): holds its SM for `us` microseconds. */
static int64_t spin_us(const struct emu_run *run)
{
	if (!note_smid(run, PARAM(run, 1, uint32_t *)))
		return EMU_ILLEGAL_ADDRESS;
	return (int64_t)PARAM(run, 0, uint32_t) * 1000;
}

/* copy_us(unsigned us): takes that long on however many SMs, as what only waits for memory does. */
static int64_t copy_us(const struct emu_run *run)
{
	const uint64_t blocks = (uint64_t)run->grid[0] * run->grid[1] * run->grid[2];

	return (int64_t)(PARAM(run, 0, uint32_t) * UINT64_C(1000) * run->n_sms / blocks);
}

/* One chain of `steps` dependent multiply-adds; the same for every thread with this start. */
static float fma_chain(unsigned start, unsigned steps)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	static unsigned known_steps;
	static float known[FMA_STARTS];
	float x;

	pthread_mutex_lock(&mutex);
	if (known_steps != steps) {
		for (unsigned s = 0; s < FMA_STARTS; s++) {
			known[s] = 1.0f + (float)s * 0.125f;
			for (unsigned i = 0; i < steps; i++)
				known[s] = fmaf(known[s], 0.999f, 0.001f);
		}
		known_steps = steps;
	}
	x = known[start];
	pthread_mutex_unlock(&mutex);
	return x;
}

/*
 * fma_chain(float *out, unsigned steps, unsigned *smids). A step takes 4 cycles at 1.98 GHz on the real
 * GPU; here the block holds its SM for as long and the few distinct chains are computed once.
 */
static int64_t fma_work(const struct emu_run *run)
{
	float *out = PARAM(run, 0, float *);
	uint32_t steps = PARAM(run, 1, uint32_t);
	size_t begin = (size_t)run->index[0] * run->block[0];

	if (!note_smid(run, PARAM(run, 2, uint32_t *)) ||
	    !emu_device_may_touch(out + begin, run->block[0] * sizeof(*out)))
		return EMU_ILLEGAL_ADDRESS;
	for (unsigned t = 0; t < run->block[0]; t++)
		out[begin + t] = fma_chain(t % FMA_STARTS, steps);
	return (int64_t)steps * 4000 / 1980;
}

/* trap(unsigned *address): writes to an address, which should be one that no allocation has. */
static int64_t trap(const struct emu_run *run)
{
	uint32_t *address = PARAM(run, 0, uint32_t *);

	if (!emu_device_may_touch(address, sizeof(*address)))
		return EMU_ILLEGAL_ADDRESS;
	*address = 1;
	return 0;
}

/*
 * mix(unsigned *x, const unsigned *y, unsigned n, unsigned a, unsigned b, unsigned us), of
 * random_program.c: takes `us` microseconds, and then makes x = (x ^ y) * a + b.
 */
static int64_t mix(const struct emu_run *run)
{
	return (int64_t)PARAM(run, 5, uint32_t) * 1000;
}

static int64_t mix_ends(const struct emu_run *run)
{
	uint32_t *x = PARAM(run, 0, uint32_t *), n = PARAM(run, 2, uint32_t);
	const uint32_t *y = PARAM(run, 1, const uint32_t *);
	uint32_t a = PARAM(run, 3, uint32_t), b = PARAM(run, 4, uint32_t);
	size_t begin = (size_t)run->index[0] * run->block[0], end = begin + run->block[0];

	end = end < n ? end : n;
	if (begin >= end)
		return 0;
	if (!emu_device_may_touch(x + begin, (end - begin) * sizeof(*x)) ||
	    !emu_device_may_touch(y + begin, (end - begin) * sizeof(*y)))
		return EMU_ILLEGAL_ADDRESS;
	for (size_t i = begin; i < end; i++)
		x[i] = (x[i] ^ y[i]) * a + b;
	return 0;
}

/* meet(unsigned *arrived, unsigned *sum, unsigned us): a barrier of all blocks. */
static int64_t meet(const struct emu_run *run)
{
	return (int64_t)PARAM(run, 2, uint32_t) * 1000 + 1;
}

static int64_t meet_ends(const struct emu_run *run)
{
	uint32_t *arrived = PARAM(run, 0, uint32_t *), *sum = PARAM(run, 1, uint32_t *);

	if (!emu_device_may_touch(arrived, sizeof(*arrived)) ||
	    !emu_device_may_touch(sum, sizeof(*sum)))
		return EMU_ILLEGAL_ADDRESS;
	++*arrived;
	*sum += run->index[0] + 1;
	return 0;
}

/* Of a launch of share_out, as in kernels.cu. */
struct launch_record {
	uint64_t end, not_begin, taken, sms[4];
};

/*
 * share_out(struct launch_record *record, unsigned units, unsigned steps): as many blocks as there are SMs have
 * equal parts, and nothing is left for those that come later.
 */
static int64_t share_out(const struct emu_run *run)
{
	struct launch_record *record = PARAM(run, 0, struct launch_record *);
	const uint64_t step_ps = 4000000 / 1980; /* as in fma_work() */
	const uint64_t work_ns =
	    (uint64_t)PARAM(run, 1, uint32_t) * PARAM(run, 2, uint32_t) * step_ps / 1000;
	const unsigned workers = run->grid[0] < run->n_sms ? run->grid[0] : run->n_sms;

	if (!emu_device_may_touch(record, sizeof(*record)))
		return EMU_ILLEGAL_ADDRESS;
	if (~run->now_ns > record->not_begin)
		record->not_begin = ~run->now_ns;
	record->sms[run->smid / 64 % 4] |= UINT64_C(1) << run->smid % 64;
	record->taken += run->index[0] < workers;
	return run->index[0] < workers ? (int64_t)(work_ns / workers) + 1 : 1;
}

static int64_t share_out_ends(const struct emu_run *run)
{
	struct launch_record *record = PARAM(run, 0, struct launch_record *);

	if (!emu_device_may_touch(record, sizeof(*record)))
		return EMU_ILLEGAL_ADDRESS;
	if (run->now_ns > record->end)
		record->end = run->now_ns;
	return 0;
}

/* tell_time(unsigned long long *when) */
static int64_t tell_time(const struct emu_run *run)
{
	(void)run;
	return 1;
}

static int64_t tell_time_ends(const struct emu_run *run)
{
	_Atomic uint64_t *when = PARAM(run, 0, _Atomic uint64_t *);

	if (!emu_device_may_touch((const void *)when, sizeof(*when)))
		return EMU_ILLEGAL_ADDRESS;
	atomic_store(when, run->now_ns);
	return 0;
}

static const struct emu_kernel kernels[] = {
    {"vector_add", 5, {8, 8, 8, 4, 8}, vector_add, NULL, 0},
    {"reduce_sum", 4, {8, 8, 4, 8}, reduce_sum, NULL, 0},
    {"spin_us", 2, {4, 8}, spin_us, NULL, 0},
    {"copy_us", 1, {4}, copy_us, NULL, 0},
    {"fma_chain", 3, {8, 4, 8}, fma_work, NULL, 0},
    {"trap", 1, {8}, trap, NULL, 0},
    {"mix", 6, {8, 8, 4, 4, 4, 4}, mix, mix_ends, 0},
    {"meet", 3, {8, 8, 4}, meet, meet_ends, 1},
    {"share_out", 3, {8, 4, 4}, share_out, share_out_ends, 0},
    {"tell_time", 1, {8}, tell_time, tell_time_ends, 0},
};

const struct emu_kernel *emu_kernel_find(const char *name)
{
	for (unsigned i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
		if (!strcmp(kernels[i].name, name))
			return &kernels[i];
	return NULL;
}
