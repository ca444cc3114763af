/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/demand.h"

#include <stdatomic.h>

enum { FIGURE_MAX = 1 << 30 };

/* Up to the next of 5, 6, 7 or 8 times a power of two; up to 8 as it is. */
static uint32_t rounded(uint64_t figure)
{
	uint64_t unit = 1;

	if (figure >= FIGURE_MAX)
		return FIGURE_MAX;
	while (figure > 8 * unit)
		unit *= 2;
	return (uint32_t)((figure + unit - 1) / unit * unit);
}

void ds_demand_add(struct ds_demand_sum *sum, const struct ds_port *port)
{
	bool known = port->magic == DS_PORT_MAGIC && port->version == DS_PORT_VERSION;
	uint32_t drain_us = known ? rounded(atomic_load(&port->drain_us)) : 0;

	/* Overlong work is work, whatever the program says. */
	bool overlong = known && atomic_load(&port->overlong_since_ns);
	sum->demand.overlong |= overlong;
	if (!known || overlong || atomic_load(&port->demand) != DS_DEMAND_IDLE)
		sum->demand.active = 1;
	if (!drain_us)
		sum->drain_unknown = true;
	if (drain_us > sum->demand.drain_us)
		sum->demand.drain_us = drain_us;
}

struct ds_demand ds_demand_enter(const struct ds_demand_sum *sum, const struct ds_demand *entered)
{
	struct ds_demand demand = *entered;
	demand.active = sum->demand.active;
	demand.overlong = sum->demand.overlong;
	demand.drain_us = sum->drain_unknown ? 0 : sum->demand.drain_us;
	return demand;
}

static uint64_t to_us(double us)
{
	return us > 0 && us < FIGURE_MAX ? (uint64_t)us : 0;
}

void ds_demand_measure(struct ds_demand *demand, const struct ds_usage_reported *reported,
		       double lifetime_s)
{
	double busy = lifetime_s > 0 ? reported->busy_gpu_s / lifetime_s : 0;
	uint32_t busy_milli = busy > 0 ? rounded((uint64_t)(busy < 1 ? busy * 1000 : 1000)) : 0;

	demand->busy_milli = busy_milli < 1000 ? busy_milli : 1000;
	demand->step_p50_us = rounded(to_us(reported->step_p50_us));
	demand->step_p99_us = rounded(to_us(reported->step_p99_us));
}
