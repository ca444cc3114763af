/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An example of a site's own policy for lending, to start from. It lends to who makes use of it: a
 * program that keeps its kernels running half of the time or more could use the whole GPU; one that mostly
 * waits for something else gets no more than half as much again as its share; one that nothing is
 * known of yet counts as the former. besteffort never gets more than half of the GPU, so that there is always
 * something to hand that needs not be reclaimed.
 *
 * Build it with nothing but the installed header:
 *     cc -shared -fPIC -O2 -o policy_by_busy.so policy_by_busy.c
 * put it where only root can write, and name it on the nodes, in detshare-node.conf:
 *     policy_library = "/usr/local/lib/detshare/policy_by_busy.so"
 * It is asked on GPUs whose jobs were granted `policy = lend` (detshare.conf). Jobs that begin from then on
 * use it; on a GPU where others of before are left, theirs counts until they have ended.
 */
#include "detshare_policy.h"

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t wish_of(const struct detshare_policy_resident *r)
{
	if (!r->active)
		return r->share_milli; /* nothing beyond its own */
	if (r->busy_milli && r->busy_milli < 500)
		return least(r->share_milli + r->share_milli / 2, 1000);
	return r->kind == DETSHARE_POLICY_BESTEFFORT ? 500 : 1000;
}

/* From the arguments alone: every node runtime of the GPU asks for itself and has to hear the same. */
static void wishes(const struct detshare_policy_gpu *gpu,
		   const struct detshare_policy_resident *residents, uint32_t n,
		   uint32_t *wish_milli)
{
	(void)gpu;
	for (uint32_t i = 0; i < n; i++)
		wish_milli[i] = wish_of(&residents[i]);
}

/* By this name it is found. */
const struct detshare_policy detshare_policy = {
    .version = DETSHARE_POLICY_VERSION,
    .name = "by-busy",
    .wishes = wishes,
};
