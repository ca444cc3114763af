/* SPDX-License-Identifier: Apache-2.0 */
#include "common/spin.h"

#include <sched.h>

#include "common/clock.h"

enum {
	PART = 10,           /* of the time, one in so many, */
	BURST_NS = 20000000, /* of which so much can be used at once */
	MISSED_NS = 100000,  /* in a pause: somebody else had the CPU */
	PAUSES = 40,         /* one to two microseconds */
};

bool ds_spin_begin(struct ds_spin *spin, int64_t now_ns, uint32_t us)
{
	ds_spin_end(spin, now_ns);
	if (!us || spin->paid_ns - now_ns > (int64_t)BURST_NS * PART)
		return false;
	spin->began_ns = now_ns;
	spin->until_ns = now_ns + (int64_t)us * 1000;
	return true;
}

bool ds_spin_goes_on(struct ds_spin *spin, int64_t now_ns)
{
	if (!spin->until_ns)
		return false;
	if (now_ns >= spin->until_ns) {
		ds_spin_end(spin, now_ns);
		return false;
	}
	spin->paused_ns = now_ns;
	return true;
}

void ds_spin_paused(struct ds_spin *spin, int64_t now_ns)
{
	if (now_ns - spin->paused_ns > MISSED_NS)
		ds_spin_end(spin, now_ns);
}

void ds_spin_end(struct ds_spin *spin, int64_t now_ns)
{
	if (!spin->until_ns)
		return;
	if (spin->paid_ns < now_ns)
		spin->paid_ns = now_ns;
	spin->paid_ns +=
	    PART * ((now_ns < spin->until_ns ? now_ns : spin->until_ns) - spin->began_ns);
	spin->until_ns = 0;
}

bool ds_spin_has_cpus(uint32_t cpus)
{
	cpu_set_t allowed;

	/* One that does not fit in the set has CPUs in plenty. */
	return sched_getaffinity(0, sizeof(allowed), &allowed) < 0 ||
	       (uint32_t)CPU_COUNT(&allowed) >= cpus;
}

static void pause_briefly(void)
{
	for (int i = 0; i < PAUSES; i++) {
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#elif defined(__aarch64__)
		__asm__ volatile("isb");
#endif
	}
	sched_yield();
}

bool ds_spin_wait(struct ds_spin *spin)
{
	if (!ds_spins(spin) || !ds_spin_goes_on(spin, ds_now_ns(CLOCK_MONOTONIC)))
		return false;
	pause_briefly();
	ds_spin_paused(spin, ds_now_ns(CLOCK_MONOTONIC));
	return true;
}
