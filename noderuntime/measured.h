/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_MEASURED_H
#define DETSHARE_NODERUNTIME_MEASURED_H

#include <stddef.h>
#include <stdint.h>

#include "accounting/record.h"
#include "noderuntime/port_protocol.h"

/*
 * What the programs of an allocation measured, added up as they end. It comes from their ports, where
 * anything can stand: nothing here is trusted, and no value makes the sum one that cannot be recorded.
 * Pure.
 */
struct ds_measured {
	uint64_t launches;
	uint64_t remaps;
	uint64_t stalls;
	uint64_t samples;
	uint64_t held_back;
	double held_back_s;
	double busy_gpu_s;
	struct ds_sketch steps;
};

/*
 * Add the port of a program that lived for `lifetime_s` seconds: `bytes` is a copy of `size` bytes of it,
 * of which DS_PORT_SIZE are looked at. One that is no port of this version adds nothing.
 */
void ds_measured_add(struct ds_measured *sum, const void *bytes, size_t size, double lifetime_s);

/* The figures for the usage record. */
void ds_measured_report(const struct ds_measured *sum, struct ds_usage_reported *reported);

#endif
