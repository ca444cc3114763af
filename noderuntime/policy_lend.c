/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/detshare_policy.h"

/*
 * Work-conserving: no group stands empty while somebody could use it. Who has a larger share gets less
 * of what is idle than who has a smaller one, since it has more of its own.
 */
static void wishes(const struct detshare_policy_gpu *gpu,
		   const struct detshare_policy_resident *residents, uint32_t n,
		   uint32_t *wish_milli)
{
	(void)gpu;
	for (uint32_t i = 0; i < n; i++)
		wish_milli[i] = residents[i].active ? 1000 : residents[i].share_milli;
}

const struct detshare_policy detshare_policy_lend = {
    .version = DETSHARE_POLICY_VERSION,
    .name = "lend",
    .wishes = wishes,
};
