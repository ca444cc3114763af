/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_GROUPS_H
#define DETSHARE_COMMON_GROUPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A set of SM groups of one GPU. Bit i is group i of cuDevSmResourceSplitByCount, which numbers the
 * groups alike in every process. The remainder that the split leaves over (12 SMs on an H200) is
 * the bit after the last group: bit n_groups.
 *
 * Plain words, because sets live in memory shared between processes. 128 bits hold every GPU known:
 * the finest split is 2 SMs on compute capability 8.9 (142 SMs, 71 groups).
 */
enum { DS_GROUPS_MAX = 128 };

struct ds_groups {
	uint64_t bits[2];
};

/* How a GPU's SMs divide: read from the driver once per boot, never assumed. */
struct ds_gpu_shape {
	uint32_t n_groups;  /* full groups, 1..DS_GROUPS_MAX-1 */
	uint32_t group_sms; /* SMs in a full group: 8 on compute capability 9.0 */
	uint32_t rest_sms;  /* SMs in the remainder; 0: none */
};

static inline bool ds_groups_has(const struct ds_groups *set, unsigned group)
{
	return group < DS_GROUPS_MAX && (set->bits[group / 64] >> (group % 64) & 1);
}

static inline void ds_groups_add(struct ds_groups *set, unsigned group)
{
	set->bits[group / 64] |= UINT64_C(1) << (group % 64);
}

static inline void ds_groups_remove(struct ds_groups *set, unsigned group)
{
	set->bits[group / 64] &= ~(UINT64_C(1) << (group % 64));
}

static inline unsigned ds_groups_count(const struct ds_groups *set)
{
	return (unsigned)(__builtin_popcountll(set->bits[0]) + __builtin_popcountll(set->bits[1]));
}

static inline bool ds_groups_empty(const struct ds_groups *set)
{
	return !(set->bits[0] | set->bits[1]);
}

static inline bool ds_groups_equal(const struct ds_groups *a, const struct ds_groups *b)
{
	return a->bits[0] == b->bits[0] && a->bits[1] == b->bits[1];
}

static inline bool ds_groups_within(const struct ds_groups *some, const struct ds_groups *all)
{
	return !((some->bits[0] & ~all->bits[0]) | (some->bits[1] & ~all->bits[1]));
}

static inline struct ds_groups ds_groups_union(struct ds_groups a, struct ds_groups b)
{
	return (struct ds_groups){{a.bits[0] | b.bits[0], a.bits[1] | b.bits[1]}};
}

static inline struct ds_groups ds_groups_intersection(struct ds_groups a, struct ds_groups b)
{
	return (struct ds_groups){{a.bits[0] & b.bits[0], a.bits[1] & b.bits[1]}};
}

static inline struct ds_groups ds_groups_difference(struct ds_groups a, struct ds_groups b)
{
	return (struct ds_groups){{a.bits[0] & ~b.bits[0], a.bits[1] & ~b.bits[1]}};
}

/* True if there is more in the set than the GPU's remainder. */
bool ds_groups_has_full(const struct ds_groups *set, const struct ds_gpu_shape *shape);

/* SMs in the set, for a GPU of this shape. */
unsigned ds_groups_sms(const struct ds_groups *set, const struct ds_gpu_shape *shape);

/*
 * Write the set as a list for people: "0-7", "0,2-4", "8-14+rest", "none". Always terminates;
 * returns `buffer`.
 */
const char *ds_groups_format(const struct ds_groups *set, const struct ds_gpu_shape *shape,
			     char *buffer, size_t size);

#endif
