/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_POLICY_H
#define DETSHARE_POLICY_H

#include <stdint.h>

/*
 * A policy turns residents, their demand and what was measured of them into wishes: how much of the GPU
 * each could use now. What is guaranteed to a resident is the plan's business and never a policy's:
 * wishes decide only who works in groups that nobody owns or whose owner is idle. So a policy
 * can be wrong, but not unfair.
 *
 * Built in are `static` and `lend`. A site's own is an object that exports
 *     const struct detshare_policy detshare_policy;
 * and that detshare-node.conf names as policy_library; then it is asked in place of `lend`. This
 * header is all that it needs. See contrib/policies in the sources for one.
 *
 * Every node runtime of a GPU asks for itself, and they must all come to the same: the answer has to
 * follow from the arguments alone. No clock, no randomness, no memory of earlier calls, no file.
 */
#define DETSHARE_POLICY_VERSION 2

/* What a resident is like: of the class it was granted. */
enum detshare_policy_kind {
	DETSHARE_POLICY_LATENCY = 0,
	DETSHARE_POLICY_THROUGHPUT = 1,
	DETSHARE_POLICY_BESTEFFORT = 2,
};

struct detshare_policy_gpu {
	uint32_t n_groups;  /* full groups of SMs, at least 1 */
	uint32_t group_sms; /* SMs in each */
	uint32_t rest_sms;  /* SMs beside them; 0: none */
	uint32_t reserved;
};

/*
 * In order of arrival. What was measured is what its programs say of themselves, rounded up by at most a
 * quarter so that it is not another figure all the time; it is looked at when its demand changes.
 * 0: not known.
 */
struct detshare_policy_resident {
	uint32_t share_milli; /* guaranteed, 1..1000 thousandths of the GPU */
	uint32_t kind;        /* enum detshare_policy_kind */
	uint32_t active;      /* 1: works or may work; 0: idle, or has no program */
	uint32_t
	    may_borrow; /* 1: may get groups beyond its own now; 0: may not, whatever it wishes */
	uint32_t may_lend;    /* 1: lends what it owns while it is idle */
	uint32_t reclaim_us;  /* within what time it wants back what it lent */
	uint32_t drain_us;    /* within what time its programs are off a group, at most */
	uint32_t step_p50_us; /* between two host synchronisations, half of its steps */
	uint32_t step_p99_us; /* and 99 of 100 */
	uint32_t busy_milli;  /* thousandths of the time that its kernels run, up to 1000 */
	uint32_t reserved[6]; /* 0 */
};

struct detshare_policy {
	uint32_t version; /* DETSHARE_POLICY_VERSION */
	uint32_t reserved;
	const char *name; /* 1 to 31 letters, digits, '-', '_' */
	/*
	 * Write the wish of each of the n (1 to 64) residents: thousandths of the GPU that it could use,
	 * 0 to 1000; its share or less: no more than its own. Groups to lend go to those that wish
	 * more than their share: to kind latency first, then throughput, then besteffort; within a kind in
	 * proportion to what each wishes beyond its share; to none beyond its wish.
	 * Must not block, nor keep the pointers.
	 */
	void (*wishes)(const struct detshare_policy_gpu *gpu,
		       const struct detshare_policy_resident *residents, uint32_t n,
		       uint32_t *wish_milli);
};

/* Built in: everyone wishes what is guaranteed to it, always. */
extern const struct detshare_policy detshare_policy_static;

/* Built in: who is active can use the whole GPU. */
extern const struct detshare_policy detshare_policy_lend;

#endif
