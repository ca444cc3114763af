/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_POLICY_H
#define DETSHARE_POLICY_H

#include <stdint.h>

/*
 * A policy turns residents and their measured demand into wishes; the plan turns wishes into
 * partitions and never breaks a guarantee, so a policy can be wrong but not unfair. Versioned,
 * because policies may be loaded from outside (dlopen of an object that exports
 * `const struct detshare_policy detshare_policy`).
 */
#define DETSHARE_POLICY_VERSION 1

struct detshare_policy_resident {
	uint32_t share_milli; /* guaranteed */
	uint32_t kind;        /* enum ds_class_kind: 0 latency, 1 throughput, 2 besteffort */
};

struct detshare_policy {
	uint32_t version; /* DETSHARE_POLICY_VERSION */
	const char *name;
	/* Write the wish of each of the n residents, in thousandths. Pure; must not block. */
	void (*wishes)(const struct detshare_policy_resident *residents, uint32_t n,
		       uint32_t *wish_milli);
};

/* Built in: everyone wishes what is guaranteed to it, always. */
extern const struct detshare_policy detshare_policy_static;

#endif
