/* SPDX-License-Identifier: Apache-2.0 */
#include "common/groups.h"

#include <stdio.h>

bool ds_groups_has_full(const struct ds_groups *set, const struct ds_gpu_shape *shape)
{
	struct ds_groups full = *set;

	ds_groups_remove(&full, shape->n_groups);
	return !ds_groups_empty(&full);
}

unsigned ds_groups_sms(const struct ds_groups *set, const struct ds_gpu_shape *shape)
{
	struct ds_groups full = *set;
	unsigned sms = 0;

	if (shape->n_groups < DS_GROUPS_MAX && ds_groups_has(&full, shape->n_groups)) {
		ds_groups_remove(&full, shape->n_groups);
		sms = shape->rest_sms;
	}
	return sms + ds_groups_count(&full) * shape->group_sms;
}

const char *ds_groups_format(const struct ds_groups *set, const struct ds_gpu_shape *shape,
			     char *buffer, size_t size)
{
	size_t used = 0;

	if (!size)
		return buffer;
	buffer[0] = '\0';
	for (unsigned first = 0; first < shape->n_groups; first++) {
		if (!ds_groups_has(set, first))
			continue;
		unsigned last = first;
		while (last + 1 < shape->n_groups && ds_groups_has(set, last + 1))
			last++;
		if (used < size && last > first)
			used += (size_t)snprintf(buffer + used, size - used, "%s%u-%u",
						 used ? "," : "", first, last);
		else if (used < size)
			used += (size_t)snprintf(buffer + used, size - used, "%s%u",
						 used ? "," : "", first);
		first = last;
	}
	if (used < size && ds_groups_has(set, shape->n_groups))
		used += (size_t)snprintf(buffer + used, size - used, "%srest", used ? "+" : "");
	if (!used)
		snprintf(buffer, size, "none");
	return buffer;
}
