/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_SQUEEZE_H
#define DETSHARE_NODERUNTIME_SQUEEZE_H

#include "noderuntime/ledger.h"

/*
 * How long an allocation's programs are on a group, while a neighbour has some of its groups in advance
 * (advance.h). Kernels take longer in what is left then, and what programs say is the longest of late. But others
 * want to know how soon it is off when it works in all that it owns, and more: else an allocation that pays
 * back what it was lent would be lent nothing any more, and could pay nothing back. Pure: the time is an argument.
 */
struct ds_squeeze {
	int64_t until_ns; /* until then programs may speak of times in less than their own; 0: no */
	uint32_t own_sms; /* what they own, */
	uint32_t least_sms; /* and the least that they had of it */
	uint32_t drain_us;  /* what was entered before that */
};

/* So long programs remember, and more: see ahead_bounds.h. */
enum { DS_SQUEEZE_MS = 3000 };

/*
 * Note how `self` was at the last look, with what is entered for it now. Squeezed is who is active and is not
 * planned all that it owns.
 */
void ds_squeeze_note(struct ds_squeeze *squeeze, const struct ds_ledger_state *seen,
		     const struct ds_ledger_resident *self, int64_t now_ns);

/*
 * What to enter when programs say `said_us` (0: not known). Kernels that fill the SMs take as much longer as
 * there are fewer; those that do not take no longer, and for them what was entered before holds.
 */
uint32_t ds_squeeze_drain_us(const struct ds_squeeze *squeeze, uint32_t said_us, int64_t now_ns);

#endif
