/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SKETCH_H
#define DETSHARE_COROUTINE_SKETCH_H

#include <stdint.h>

/*
 * How long things took, as counts of durations in buckets: fixed in size, so that it fits into a port,
 * and mergeable by adding. Buckets are 64 ns wide up to 1024 ns, and from there to 2^40 ns (18
 * minutes) each doubling has 16 of equal width. A quantile is the middle of the bucket in which the
 * exact one (nearest rank) lies: off by at most 32 ns below 1024 ns, by at most 1/32 of the exact one
 * above. What is longer counts as 2^40 ns.
 *
 * Pure C, no state but the sketch itself.
 */
enum {
	DS_SKETCH_LINEAR = 16,    /* buckets below 1024 ns */
	DS_SKETCH_PER_2 = 16,     /* buckets of a doubling */
	DS_SKETCH_DOUBLINGS = 30, /* from 2^10 to 2^40 ns */
	DS_SKETCH_BUCKETS = DS_SKETCH_LINEAR + DS_SKETCH_DOUBLINGS * DS_SKETCH_PER_2,
};

struct ds_sketch {
	uint32_t counts[DS_SKETCH_BUCKETS]; /* a full one stays full */
};

/*
 * Count one duration. Any number of threads may, at once, without a lock; one of two that fill a
 * bucket's last place at the same instant may be lost.
 */
void ds_sketch_add(struct ds_sketch *sketch, uint64_t duration_ns);

/* Add all of `from` to `to`. */
void ds_sketch_merge(struct ds_sketch *to, const struct ds_sketch *from);

/* How many durations are in it. */
uint64_t ds_sketch_count(const struct ds_sketch *sketch);

/* The `per_mille` thousandths quantile (500: the median), 0..1000, in ns; 0 of an empty sketch. */
uint64_t ds_sketch_quantile_ns(const struct ds_sketch *sketch, unsigned per_mille);

#endif
