/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/measured.h"

#include <stdatomic.h>
#include <string.h>

/* Far beyond what one allocation can count, and exact in a double, which JSON numbers often become. */
#define COUNT_MAX (UINT64_C(1) << 52)

static uint64_t sum_of(uint64_t a, uint64_t b)
{
	return b > COUNT_MAX - a ? COUNT_MAX : a + b;
}

/*
 * Every launch is as likely to be a sample as any other, so the samples' mean stands for all. Streams run
 * side by side: their times together may exceed the time there was.
 */
static double busy_s(uint64_t launches, uint64_t samples, uint64_t sampled_ns, double lifetime_s)
{
	double busy = samples ? (double)sampled_ns / 1e9 / (double)samples * (double)launches : 0;

	return busy < lifetime_s ? busy : lifetime_s;
}

/* Threads are held back side by side, too; more than this is no time that it lost. */
static double held_back_s(uint64_t ns, double lifetime_s)
{
	const double s = (double)ns / 1e9;

	return s < lifetime_s ? s : lifetime_s;
}

void ds_measured_add(struct ds_measured *sum, const void *bytes, size_t size, double lifetime_s)
{
	struct ds_port port;
	uint64_t launches, samples;

	if (size < sizeof(port))
		return;
	memcpy(&port, bytes, sizeof(port));
	if (port.magic != DS_PORT_MAGIC || port.version != DS_PORT_VERSION)
		return;
	launches = atomic_load(&port.launches);
	samples = atomic_load(&port.samples);
	sum->launches = sum_of(sum->launches, launches);
	sum->remaps = sum_of(sum->remaps, atomic_load(&port.remaps));
	sum->stalls = sum_of(sum->stalls, atomic_load(&port.stalls));
	sum->held_back = sum_of(sum->held_back, atomic_load(&port.held_back));
	sum->held_back_s += held_back_s(atomic_load(&port.held_back_ns), lifetime_s);
	if (samples <= launches) {
		sum->samples = sum_of(sum->samples, samples);
		sum->busy_gpu_s +=
		    busy_s(launches, samples, atomic_load(&port.sampled_ns), lifetime_s);
	}
	ds_sketch_merge(&sum->steps, &port.steps);
}

void ds_measured_report(const struct ds_measured *sum, struct ds_usage_reported *reported)
{
	*reported = (struct ds_usage_reported){
	    .launches = sum->launches,
	    .remaps = sum->remaps,
	    .stalls = sum->stalls,
	    .held_back = sum->held_back,
	    .held_back_s = sum->held_back_s,
	    .samples = sum->samples,
	    .busy_gpu_s = sum->busy_gpu_s,
	    .steps = ds_sketch_count(&sum->steps),
	    .step_p50_us = (double)ds_sketch_quantile_ns(&sum->steps, 500) / 1e3,
	    .step_p99_us = (double)ds_sketch_quantile_ns(&sum->steps, 990) / 1e3,
	};
}
