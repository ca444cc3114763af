/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/green.h"

#include <limits.h>

static unsigned least_used(const struct ds_gpu_shape *shape, const struct ds_groups *among,
			   const unsigned uses[DS_GROUPS_MAX])
{
	unsigned found = shape->n_groups;

	for (unsigned group = 0; group < shape->n_groups; group++)
		if (ds_groups_has(among, group) &&
		    (found == shape->n_groups || uses[group] < uses[found]))
			found = group;
	return found;
}

struct ds_groups ds_green_choose(const struct ds_gpu_shape *shape, const struct ds_groups *granted,
				 const unsigned uses[DS_GROUPS_MAX], unsigned sms, unsigned most)
{
	struct ds_groups chosen = {{0}}, left = *granted;
	unsigned got = 0;

	for (unsigned n = 0; n == 0 || (got < sms && n < most); n++) {
		const unsigned group = least_used(shape, &left, uses);

		if (group == shape->n_groups)
			break;
		ds_groups_add(&chosen, group);
		ds_groups_remove(&left, group);
		got += shape->group_sms;
	}
	/* The rest is nobody's only group, and weaker than the others. */
	if (got < sms && most == UINT_MAX && shape->rest_sms &&
	    ds_groups_has(granted, shape->n_groups))
		ds_groups_add(&chosen, shape->n_groups);
	return chosen;
}
