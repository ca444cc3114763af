/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/sketch.h"

enum {
	LINEAR_SHIFT = 6, /* 64 ns */
	FIRST_POWER = 10, /* where the doublings begin */
	PER_2_SHIFT = 4,
};

_Static_assert(DS_SKETCH_LINEAR << LINEAR_SHIFT == 1 << FIRST_POWER,
	       "no gap between the two kinds");
_Static_assert(DS_SKETCH_PER_2 == 1 << PER_2_SHIFT, "a doubling is split by a shift");

static unsigned bucket_of(uint64_t ns)
{
	unsigned power;

	if (ns < UINT64_C(1) << FIRST_POWER)
		return (unsigned)(ns >> LINEAR_SHIFT);
	power = 63 - (unsigned)__builtin_clzll(ns);
	if (power >= FIRST_POWER + DS_SKETCH_DOUBLINGS)
		return DS_SKETCH_BUCKETS - 1;
	return DS_SKETCH_LINEAR + (power - FIRST_POWER) * DS_SKETCH_PER_2 +
	       (unsigned)(ns >> (power - PER_2_SHIFT) & (DS_SKETCH_PER_2 - 1));
}

static uint64_t middle_of(unsigned bucket)
{
	unsigned shift = LINEAR_SHIFT;
	uint64_t low = bucket;

	if (bucket >= DS_SKETCH_LINEAR) {
		shift += (bucket - DS_SKETCH_LINEAR) / DS_SKETCH_PER_2;
		low = DS_SKETCH_PER_2 + (bucket - DS_SKETCH_LINEAR) % DS_SKETCH_PER_2;
	}
	return (low << shift) + (UINT64_C(1) << shift) / 2;
}

void ds_sketch_add(struct ds_sketch *sketch, uint64_t duration_ns)
{
	uint32_t *count = &sketch->counts[bucket_of(duration_ns)];

	if (__atomic_load_n(count, __ATOMIC_RELAXED) < UINT32_MAX)
		__atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

void ds_sketch_merge(struct ds_sketch *to, const struct ds_sketch *from)
{
	for (unsigned i = 0; i < DS_SKETCH_BUCKETS; i++)
		to->counts[i] = from->counts[i] > UINT32_MAX - to->counts[i]
				    ? UINT32_MAX
				    : to->counts[i] + from->counts[i];
}

uint64_t ds_sketch_count(const struct ds_sketch *sketch)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < DS_SKETCH_BUCKETS; i++)
		n += sketch->counts[i];
	return n;
}

uint64_t ds_sketch_quantile_ns(const struct ds_sketch *sketch, unsigned per_mille)
{
	const uint64_t n = ds_sketch_count(sketch);
	uint64_t rank = (n * per_mille + 999) / 1000, seen = 0;
	unsigned bucket = 0;

	if (!n)
		return 0;
	if (!rank)
		rank = 1;
	while ((seen += sketch->counts[bucket]) < rank)
		bucket++;
	return middle_of(bucket);
}
