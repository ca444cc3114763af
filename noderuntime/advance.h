/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_ADVANCE_H
#define DETSHARE_NODERUNTIME_ADVANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "noderuntime/ledger.h"

/*
 * What neighbours owe to an allocation of kind latency that may have something in advance (`advance` in
 * detshare.conf), for the groups of its own that it lends to them. It is kept by the allocation's runtime,
 * in group-nanoseconds, one account for each neighbour: it rises while the neighbour holds groups that are
 * the allocation's own, and falls while the neighbour wants, and is kept from, groups that are its own. Pure:
 * the time is an argument.
 *
 * Not more than DS_ADVANCE_BOUND_MS for each of the neighbour's own full groups is ever owed; older debts
 * are forgotten. So whatever was lent for however long, in any interval a neighbour had
 *     (group-ns) >= its own groups x interval - the bound - what the account is below 0 at the end.
 * Below 0 it is only if groups were given back late: the runtime was not woken in time, or a program did not
 * leave. That is not forgotten: before there is another advance it is paid back, and so it does not add up.
 *
 * The remainder of the GPU counts as nothing, nor is it ever taken.
 */
enum {
	DS_ADVANCE_BOUND_MS = 250,
	/* What would have to be given back sooner is not begun: it costs both two moves. */
	DS_ADVANCE_LEAST_MS = 50,
};

/* Full groups between the allocation and a neighbour, at one time. */
struct ds_advance_flow {
	uint32_t lent;  /* the allocation's own that the neighbour holds */
	uint32_t taken; /* the neighbour's own that it wants and that are kept from it */
};

struct ds_advance_account {
	struct ds_process neighbour; /* its runtime: a name or a place may be another's later */
	struct ds_advance_flow flow; /* since the last look */
	int64_t owed_ns;             /* group-ns */
};

/* All accounts of an allocation. Start with {0}. */
struct ds_advance {
	struct ds_advance_account accounts[DS_RESIDENTS_MAX];
	uint32_t n;
	int64_t looked_ns; /* CLOCK_MONOTONIC */
};

/* What `flow` comes to in `passed_ns`, in group-ns, on top of `owed_ns`; `own`: the neighbour's full groups. */
int64_t ds_advance_pass(int64_t owed_ns, const struct ds_advance_flow *flow, uint32_t own,
			int64_t passed_ns);

/* Between resident `self`, an index, and resident `i`. Nothing counts as lent during a whole-GPU window. */
struct ds_advance_flow ds_advance_flow(const struct ds_ledger_state *state, uint32_t self,
				       uint32_t i);

/*
 * Bring the accounts up to `now_ns` (CLOCK_MONOTONIC), where `state` is the ledger as it is found now. When
 * it was changed since the last look is not known; so whichever is less for the allocation counts. Who came
 * has an account then, and who went has none.
 */
void ds_advance_look(struct ds_advance *advance, const struct ds_ledger_state *state, uint32_t self,
		     int64_t now_ns);

/* What flows from now on, in `state` as it was left by us. */
void ds_advance_note(struct ds_advance *advance, const struct ds_ledger_state *state,
		     uint32_t self);

/*
 * Whom `self` may take groups of now, for its entry in the ledger (`owing`): when it becomes active, all that
 * owe it enough; while it is, less and less of them; when it is idle, nobody. `was_active`: before this look.
 */
uint64_t ds_advance_owing(const struct ds_advance *advance, const struct ds_ledger_state *state,
			  uint32_t self, bool was_active);

/* When the first of those that `self` takes groups of owes it nothing any more, on the same clock; 0: never. */
int64_t ds_advance_ends_ns(const struct ds_advance *advance, const struct ds_ledger_state *state,
			   uint32_t self);

/* What resident `i` owes at `now_ns`, in group-ns; 0 if it has no account. */
int64_t ds_advance_owed_ns(const struct ds_advance *advance, const struct ds_ledger_state *state,
			   uint32_t i, int64_t now_ns);

/* `owing` when the resident at `index` is gone and all behind it have moved up. */
uint64_t ds_advance_without(uint64_t owing, uint32_t index);

/* Whether anything flows otherwise in `after`: the runtime of `self` has to look then. */
bool ds_advance_differs(const struct ds_ledger_state *before, const struct ds_ledger_state *after,
			uint32_t self);

#endif
