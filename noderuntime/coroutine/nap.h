/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_NAP_H
#define DETSHARE_COROUTINE_NAP_H

#include <stdint.h>

/*
 * How long to wait before asking again for something that has been waited for since `waited_us`. What takes
 * less than 5 ms is found out about at most 25 us late, what takes longer half a percent late, at most
 * half a millisecond. Pure.
 */
static inline unsigned ds_nap_us(uint64_t waited_us)
{
	enum { FIRST = 5, SHORT = 25, LONGEST = 500 };

	if (waited_us < UINT64_C(4) * SHORT)
		return waited_us < UINT64_C(4) * FIRST ? FIRST : (unsigned)(waited_us / 4);
	if (waited_us < UINT64_C(200) * SHORT)
		return SHORT;
	return waited_us < UINT64_C(200) * LONGEST ? (unsigned)(waited_us / 200) : LONGEST;
}

#endif
