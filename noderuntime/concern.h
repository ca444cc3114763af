/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_CONCERN_H
#define DETSHARE_NODERUNTIME_CONCERN_H

#include <stdbool.h>

#include "noderuntime/ledger.h"

/*
 * Whom a change of the ledger concerns. Whoever changes it has settled it, for all; so another runtime has to
 * look only where it acts on it: publishes another page, counts other SMs, watches other processes. Pure.
 */

/*
 * True if a change from `before` to `after` may concern everybody: who is there, what is whose own, the
 * policy, anything about a whole-GPU window, as long as there is one. And true where a site's own policy has a say, for not all
 * runtimes can ask it.
 */
bool ds_concerns_all(const struct ds_ledger_state *before, const struct ds_ledger_state *after);

/* For one that does not concern all: whether it concerns resident number `i`. */
bool ds_concerns(const struct ds_ledger_state *before, const struct ds_ledger_state *after,
		 uint32_t i);

/* True if other processes than before are in it, or belong to somebody else. */
bool ds_members_differ(const struct ds_ledger_state *a, const struct ds_ledger_state *b);

#endif
