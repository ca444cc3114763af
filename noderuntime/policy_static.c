/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/detshare_policy.h"

static void wishes(const struct detshare_policy_gpu *gpu,
		   const struct detshare_policy_resident *residents, uint32_t n,
		   uint32_t *wish_milli)
{
	(void)gpu;
	for (uint32_t i = 0; i < n; i++)
		wish_milli[i] = residents[i].share_milli;
}

const struct detshare_policy detshare_policy_static = {
    .version = DETSHARE_POLICY_VERSION,
    .name = "static",
    .wishes = wishes,
};
