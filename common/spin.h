/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_SPIN_H
#define DETSHARE_COMMON_SPIN_H

#include <stdbool.h>
#include <stdint.h>

/*
 * To look again and again, for microseconds, for what is about to come, instead of sleeping until it does: a
 * wake-up costs more than that on many machines. Who spins does so for one wait at most as long as it was
 * allowed to, for a tenth of the time altogether, and no longer than the CPU is its own: if a pause took long,
 * somebody else needs the CPU, and it sleeps. Of one thread. All zero: has never spun.
 */
struct ds_spin {
	int64_t began_ns;  /* CLOCK_MONOTONIC, as the others */
	int64_t until_ns;  /* 0: does not spin */
	int64_t paused_ns; /* since when */
	int64_t paid_ns;   /* when all that it has spun for is worked off */
};

/*
 * Begin, for at most `us` (0: not at all); if it spins already, with a new wait. False: it may not, now. Pure.
 */
bool ds_spin_begin(struct ds_spin *spin, int64_t now_ns, uint32_t us);

/* What was looked for is not there yet. Whether to pause and look again; if not, it has ended. Pure. */
bool ds_spin_goes_on(struct ds_spin *spin, int64_t now_ns);

/* After the pause: ends if it took as long as somebody else's use of the CPU. Pure. */
void ds_spin_paused(struct ds_spin *spin, int64_t now_ns);

/* What was waited for is there, or not waited for any more. Does nothing if it does not spin. Pure. */
void ds_spin_end(struct ds_spin *spin, int64_t now_ns);

static inline bool ds_spins(const struct ds_spin *spin)
{
	return spin->until_ns != 0;
}

/* Whether the calling thread may run on so many CPUs, so that the others need not wait while it spins. */
bool ds_spin_has_cpus(uint32_t cpus);

/*
 * If it goes on, pause for one to two microseconds, in which whoever else is to run on this CPU may, and return true. False, at once,
 * if it does not spin or has ended: sleep instead.
 */
bool ds_spin_wait(struct ds_spin *spin);

#endif
