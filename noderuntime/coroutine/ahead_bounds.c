/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/ahead_bounds.h"

enum {
	PATIENCE_NS = 5000000, /* until a launch passes; twice as long each time, so often: */
	PATIENCE_DOUBLINGS = 5,
	PATIENCE_TIMES = 4, /* or so many times as long as what is under way should take */
	PATIENCE_MAX_NS = 1000000000,
	BACKLOG = 2048, /* kernels that may have been queued before the window began */
	FREE = 8,       /* launches that pass at once then, twice as many each time, up to: */
	FREE_MAX = 1024,
};

uint64_t ds_ahead_half_ns(uint32_t window_us)
{
	const uint64_t half_ns = window_us * UINT64_C(500);

	return half_ns > DS_AHEAD_LEAST_NS ? half_ns : DS_AHEAD_LEAST_NS;
}

bool ds_ahead_joins(uint32_t window_us, uint64_t sum_ns, unsigned launches, uint64_t ns,
		    bool overlaps)
{
	const uint64_t half_ns = ds_ahead_half_ns(window_us);

	if (!launches)
		return true;
	if (overlaps)
		return launches < DS_AHEAD_OVERLAPPING && sum_ns + ns / 2 <= half_ns + half_ns / 2;
	return launches < DS_AHEAD_MAX && ns && ns <= half_ns && sum_ns + ns / 2 <= half_ns;
}

uint64_t ds_longest_note(struct ds_longest *longest, uint64_t ns, uint64_t now_ns)
{
	if (!longest->n ||
	    (longest->n >= DS_LONGEST_N && now_ns - longest->since_ns >= DS_LONGEST_NS)) {
		longest->before = longest->now;
		longest->now = 0;
		longest->n = 0;
		longest->since_ns = now_ns;
	}
	longest->n++;
	longest->now = ns > longest->now ? ns : longest->now;
	return longest->now > longest->before ? longest->now : longest->before;
}

uint64_t ds_patience_ns(const struct ds_patience *patience, uint64_t expected_ns)
{
	const unsigned doublings =
	    patience->expiries < PATIENCE_DOUBLINGS ? patience->expiries : PATIENCE_DOUBLINGS;
	uint64_t ns = (uint64_t)PATIENCE_NS << doublings;

	if (expected_ns > ns / PATIENCE_TIMES)
		ns = expected_ns < PATIENCE_MAX_NS ? expected_ns * PATIENCE_TIMES : PATIENCE_MAX_NS;
	return ns < PATIENCE_MAX_NS ? ns : PATIENCE_MAX_NS;
}

void ds_patience_expire(struct ds_patience *patience, uint64_t waited_ns, uint64_t backlog_ns)
{
	patience->stuck_ns += waited_ns;
	if (patience->expiries++ < PATIENCE_DOUBLINGS || patience->stuck_ns < BACKLOG * backlog_ns)
		return;
	if (!patience->free_next)
		patience->free_next = FREE;
	patience->free = patience->free_next;
	if (patience->free_next < FREE_MAX)
		patience->free_next *= 2;
}

bool ds_patience_passes(struct ds_patience *patience)
{
	if (!patience->free)
		return false;
	patience->free--;
	return true;
}
