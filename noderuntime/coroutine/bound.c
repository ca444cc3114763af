/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/bound.h"

#include <stddef.h>

enum {
	MEAN_OF = 16,       /* samples, about */
	OUTLIER = 4,        /* times the mean count as no more: something else came between */
	RATIO_MILLI = 1500, /* of two sizes that are compared, at least */
};

/* The entry of this size; that with the fewest samples makes room. */
static unsigned entry_of(struct ds_bound *bound, uint32_t sms)
{
	unsigned least = 0;

	for (unsigned i = 0; i < DS_BOUND_SIZES; i++)
		if (bound->sizes[i].sms == sms)
			return i;
	for (unsigned i = 1; i < DS_BOUND_SIZES; i++)
		if (bound->sizes[i].samples < bound->sizes[least].samples)
			least = i;
	bound->sizes[least].sms = sms;
	bound->sizes[least].samples = 0;
	bound->sizes[least].ns = 0;
	return least;
}

static void add(struct ds_bound *bound, unsigned i, uint64_t ns)
{
	const uint64_t mean = bound->sizes[i].ns;
	const uint32_t n =
	    bound->sizes[i].samples < MEAN_OF ? bound->sizes[i].samples + 1 : MEAN_OF;

	if (n > 1 && ns > OUTLIER * mean)
		ns = OUTLIER * mean;
	bound->sizes[i].ns = ns > mean ? mean + (ns - mean) / n : mean - (mean - ns) / n;
	bound->sizes[i].samples += bound->sizes[i].samples < UINT32_MAX;
}

/* The smallest and the largest size that are known. */
static int compare(const struct ds_bound *bound, unsigned *small, unsigned *large)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DS_BOUND_SIZES; i++) {
		if (bound->sizes[i].samples < DS_BOUND_SAMPLES)
			continue;
		if (!n || bound->sizes[i].sms < bound->sizes[*small].sms)
			*small = i;
		if (!n || bound->sizes[i].sms > bound->sizes[*large].sms)
			*large = i;
		n++;
	}
	return n > 1 && bound->sizes[*large].sms * UINT64_C(1000) >=
			    bound->sizes[*small].sms * (uint64_t)RATIO_MILLI;
}

/* How much of its time it loses with the larger size, of what it would lose if it only computed. */
static uint32_t gain_milli(const struct ds_bound *bound, unsigned small, unsigned large)
{
	const uint64_t before = bound->sizes[small].ns, after = bound->sizes[large].ns;
	const uint64_t most = before - before * bound->sizes[small].sms / bound->sizes[large].sms;
	const uint64_t milli = after < before && most ? (before - after) * 1000 / most : 0;

	return milli < 2000 ? (uint32_t)milli : 2000;
}

enum ds_bound_by ds_bound_add(struct ds_bound *bound, uint32_t sms, uint64_t threads, uint64_t ns)
{
	unsigned small = 0, large = 0;
	uint32_t gain;

	if (!sms || threads < (uint64_t)sms * DS_BOUND_SM_THREADS)
		return bound->by;
	add(bound, entry_of(bound, sms), ns);
	if (!compare(bound, &small, &large) || bound->sizes[large].ns < DS_BOUND_LEAST_NS)
		return bound->by;
	gain = gain_milli(bound, small, large);
	if (gain <= DS_BOUND_MEMORY_MILLI)
		bound->by = DS_BOUND_BY_MEMORY;
	else if (gain >= DS_BOUND_SMS_MILLI)
		bound->by = DS_BOUND_BY_SMS;
	bound->gain_milli = gain;
	return bound->by;
}
