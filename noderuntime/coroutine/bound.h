/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_BOUND_H
#define DETSHARE_COROUTINE_BOUND_H

#include <stdint.h>

/*
 * What bounds a kernel, from nothing but how long it took in partitions of different sizes: one that is as
 * slow with more SMs waits for memory, one whose time shrinks as the SMs grow computes. Only of kernels with enough threads
 * for every place of the GPU: others have no use for more SMs in any case. Nor of very short ones, whose time
 * is that of a launch. Pure.
 */
enum ds_bound_by {
	DS_BOUND_UNKNOWN,
	DS_BOUND_BY_SMS,
	DS_BOUND_BY_MEMORY,
};

enum {
	DS_BOUND_SIZES = 4,   /* of partitions, kept */
	DS_BOUND_SAMPLES = 4, /* in each of two sizes, before anything is said */
	/* What a thousandth more SMs brings, in thousandths of what it would bring a kernel that computes. */
	DS_BOUND_MEMORY_MILLI = 300, /* no more: memory */
	DS_BOUND_SMS_MILLI = 600,    /* no less: SMs; in between it stays what it was */
	DS_BOUND_LEAST_NS = 20000,
	DS_BOUND_SM_THREADS = 2048, /* that an SM holds */
};

/* One kernel in one launch shape. Zero to begin with. */
struct ds_bound {
	struct {
		uint32_t sms; /* 0: free */
		uint32_t samples;
		uint64_t ns; /* mean, of late */
	} sizes[DS_BOUND_SIZES];
	enum ds_bound_by by;
	uint32_t gain_milli; /* with `by`: what it was last found by */
};

/* A launch of `threads` took `ns` in a partition of `sms`. Returns what bounds the kernel, as far as is known. */
enum ds_bound_by ds_bound_add(struct ds_bound *bound, uint32_t sms, uint64_t threads, uint64_t ns);

#endif
