/* SPDX-License-Identifier: Apache-2.0 */
/* Policies for test_policy and test_lending.py: one that is as it should be, and others. */
#include "noderuntime/detshare_policy.h"

#ifndef SAMPLE_VERSION
#define SAMPLE_VERSION DETSHARE_POLICY_VERSION
#endif
#ifndef SAMPLE_NAME
#define SAMPLE_NAME "sample"
#endif
#ifndef SAMPLE_WISH
#define SAMPLE_WISH 750
#endif
#ifndef SAMPLE_SYMBOL
#define SAMPLE_SYMBOL detshare_policy
#endif
#ifndef SAMPLE_FUNCTION
#define SAMPLE_FUNCTION wishes
#endif

/* Only active residents make it wish, so that a bad one shows late. */
__attribute__((unused)) static void wishes(const struct detshare_policy_gpu *gpu,
					   const struct detshare_policy_resident *residents,
					   uint32_t n, uint32_t *wish_milli)
{
	(void)gpu;
	for (uint32_t i = 0; i < n; i++) {
		if (!residents[i].active)
			wish_milli[i] = residents[i].share_milli;
		else if (SAMPLE_WISH >= 0)
			wish_milli[i] = SAMPLE_WISH;
	}
}

extern const struct detshare_policy SAMPLE_SYMBOL;
const struct detshare_policy SAMPLE_SYMBOL = {
    .version = SAMPLE_VERSION,
    .name = SAMPLE_NAME,
    .wishes = SAMPLE_FUNCTION,
};
