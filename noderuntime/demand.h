/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_DEMAND_H
#define DETSHARE_NODERUNTIME_DEMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accounting/record.h"
#include "noderuntime/port_protocol.h"

/*
 * What an allocation's programs together say of their need for SMs, as it stands in the ledger. It is
 * there so that all runtimes of the GPU see the same, and each change of it wakes them all. So figures
 * that are never the same twice are rounded up, by at most a quarter. All of it comes from programs: it
 * can move what is borrowed, and never what is owned.
 */
struct ds_demand {
	uint32_t active;   /* 0: all of its programs say that they are idle, or it has none */
	uint32_t overlong; /* a kernel of it runs longer than it should: it borrows nothing */
	uint32_t drain_us; /* the largest of its programs'; 0: one of them does not know */
	/* For a site's own policy, or 0: */
	uint32_t busy_milli; /* thousandths of their lifetime */
	uint32_t step_p50_us;
	uint32_t step_p99_us;
};

/* Adds up what the ports of an allocation's programs say. Start with {0}. */
struct ds_demand_sum {
	struct ds_demand demand;
	bool drain_unknown;
};

/* Add one program by a copy of its port. What is no port of this version counts as active. Pure. */
void ds_demand_add(struct ds_demand_sum *sum, const struct ds_port *port);

/* What that comes to, where `entered` stands in the ledger now, whose measured figures stay. Pure. */
struct ds_demand ds_demand_enter(const struct ds_demand_sum *sum, const struct ds_demand *entered);

/* Enter what the allocation's programs measured, who lived for `lifetime_s` seconds together. Pure. */
void ds_demand_measure(struct ds_demand *demand, const struct ds_usage_reported *reported,
		       double lifetime_s);

#endif
