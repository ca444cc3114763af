/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/launch_times.h"

#include <stdatomic.h>
#include <stddef.h>

enum {
	SETS = 256, /* a power of two */
	WAYS = 4,
	UNIT_NS = 16,
	GUESS_NS = 8000,
	RISE_OF_MANY = 4, /* times: it is not known which of them took long */
	FALL_PART = 4,
};

/* Of one word each, so that it needs no lock: 31 bits of the key, whether it is exact, 32 bits of time. */
static _Atomic uint64_t table[SETS][WAYS];

#define EXACT (UINT64_C(1) << 32)

static uint64_t tag_of(uint64_t key)
{
	return (key >> 33 | 1) << 33;
}

uint64_t ds_launch_key(const void *what, uint64_t threads)
{
	unsigned octaves = 0;
	uint64_t key;

	for (; threads >= 8; threads /= 2)
		octaves++;
	key = ((uint64_t)(uintptr_t)what ^ (octaves * 8 + threads) << 48) *
	      UINT64_C(0x9e3779b97f4a7c15);
	key = (key ^ key >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
	return key ^ key >> 32;
}

struct ds_launch_time ds_launch_time_next(struct ds_launch_time known, uint64_t ns, bool exact)
{
	const struct ds_launch_time seen = {ns + !ns, exact};

	if (!known.ns || (exact && !known.exact))
		return seen;
	if (seen.ns >= known.ns)
		return exact ? seen : known;
	if (!known.exact)
		return seen;
	known.ns -= (known.ns - seen.ns + FALL_PART - 1) / FALL_PART;
	return known;
}

static _Atomic uint64_t *find(uint64_t key)
{
	_Atomic uint64_t *ways = table[key % SETS];

	for (unsigned i = 0; i < WAYS; i++)
		if ((atomic_load_explicit(&ways[i], memory_order_relaxed) ^ tag_of(key)) >> 33 == 0)
			return &ways[i];
	return NULL;
}

/* A free place, or that of another. */
static _Atomic uint64_t *place_for(uint64_t key)
{
	_Atomic uint64_t *ways = table[key % SETS];

	for (unsigned i = 0; i < WAYS; i++)
		if (!atomic_load_explicit(&ways[i], memory_order_relaxed))
			return &ways[i];
	return &ways[key / SETS % WAYS];
}

struct ds_launch_time ds_launch_times_get(uint64_t key)
{
	const _Atomic uint64_t *entry = find(key);
	uint64_t word;

	if (!entry)
		return (struct ds_launch_time){0};
	word = atomic_load_explicit(entry, memory_order_relaxed);
	if ((word ^ tag_of(key)) >> 33)
		return (struct ds_launch_time){0};
	return (struct ds_launch_time){(word & UINT32_MAX) * UNIT_NS, word & EXACT};
}

static void set(uint64_t key, struct ds_launch_time time)
{
	_Atomic uint64_t *entry = find(key);
	uint64_t units = time.ns / UNIT_NS + (time.ns % UNIT_NS > 0);

	if (units > UINT32_MAX)
		units = UINT32_MAX;
	atomic_store_explicit(entry ? entry : place_for(key),
			      tag_of(key) | (time.exact ? EXACT : 0) | units, memory_order_relaxed);
}

static uint64_t expected(uint64_t key)
{
	const uint64_t ns = ds_launch_times_get(key).ns;

	return ns ? ns : GUESS_NS;
}

uint64_t ds_launch_times_sum(const uint64_t *keys, unsigned n)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += expected(keys[i]);
	return sum;
}

static bool is_first(const uint64_t *keys, unsigned i)
{
	for (unsigned before = 0; before < i; before++)
		if (keys[before] == keys[i])
			return false;
	return true;
}

void ds_launch_times_learn(const uint64_t *keys, unsigned n, uint64_t ns, bool busy)
{
	const uint64_t sum = ds_launch_times_sum(keys, n);
	double part = n ? (double)ns / (double)sum : 0;

	if (n > 1 && part > RISE_OF_MANY)
		part = RISE_OF_MANY;
	for (unsigned i = 0; i < n; i++)
		if (is_first(keys, i))
			set(keys[i],
			    ds_launch_time_next(
				ds_launch_times_get(keys[i]),
				n == 1 ? ns : (uint64_t)((double)expected(keys[i]) * part), busy));
}

void ds_launch_times_forget(void)
{
	for (unsigned i = 0; i < SETS; i++)
		for (unsigned way = 0; way < WAYS; way++)
			atomic_store_explicit(&table[i][way], 0, memory_order_relaxed);
}
