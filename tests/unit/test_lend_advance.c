/* SPDX-License-Identifier: Apache-2.0 */
/* Who gets what in advance, by examples; test_lend.c has the properties. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/lend_advance.h"
#include "noderuntime/plan.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};

/* Groups `from` to `to`; the remainder is group 15. */
#define G(from, to) ((UINT64_C(2) << (to)) - (UINT64_C(1) << (from)))
#define REST        (UINT64_C(1) << 15)

struct row {
	uint64_t own;
	uint32_t share_milli, wish_milli;
	enum ds_lend_kind kind;
	bool active, lends, borrows;
	uint32_t drain_us;
	uint64_t planned; /* that comes out */
};

#define L DS_LEND_LATENCY
#define T DS_LEND_THROUGHPUT

/* The first one has the advance, and wants groups back within 500 us. */
static const struct {
	const char *what;
	uint32_t advance_milli;
	uint64_t owing;
	struct row rows[4];
} examples[] = {
    {"up to share and advance together, of a neighbour that works and owes it",
     250,
     2,
     {{G(0, 7), 500, 1000, L, 1, 1, 1, 9, G(0, 7) | G(9, 11)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 9, G(8, 8) | G(12, 15)}}},
    {"not of one that owes nothing",
     250,
     4,
     {{G(0, 7), 500, 1000, L, 1, 1, 1, 9, G(0, 7)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 9, G(8, 15)}}},
    {"nor while it is idle itself",
     250,
     2,
     {{G(0, 7), 500, 500, L, 0, 1, 1, 9, G(0, 0)}, {G(8, 15), 500, 1000, T, 1, 1, 1, 9, G(1, 15)}}},
    {"nor of one that is not off in time",
     250,
     2,
     {{G(0, 7), 500, 1000, L, 1, 1, 1, 9, G(0, 7)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 501, G(8, 15)}}},
    {"nor of one of which nobody knows when it is off",
     250,
     2,
     {{G(0, 7), 500, 1000, L, 1, 1, 1, 9, G(0, 7)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 0, G(8, 15)}}},
    {"nor of one of its kind, nor of one that does not lend, nor of one that does not borrow",
     700,
     14,
     {{G(0, 3), 266, 1000, L, 1, 1, 1, 9, G(0, 3)},
      {G(4, 7), 266, 1000, L, 1, 1, 1, 9, G(4, 7)},
      {G(8, 10), 200, 1000, T, 1, 0, 1, 9, G(8, 10)},
      {G(11, 15), 266, 1000, T, 1, 1, 0, 9, G(11, 15)}}},
    {"nor if it neither lends nor borrows itself",
     250,
     2,
     {{G(0, 7), 500, 1000, L, 1, 0, 1, 9, G(0, 7)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 9, G(8, 15)}}},
    {"nor where the policy wishes it no more than its share",
     250,
     2,
     {{G(0, 6), 500, 500, L, 1, 1, 1, 9, G(0, 6)}, {G(7, 15), 500, 1000, T, 1, 1, 1, 9, G(7, 15)}}},
    {"nor beyond its wish",
     500,
     2,
     {{G(0, 7), 500, 600, L, 1, 1, 1, 9, G(0, 7) | G(9, 9)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 9, G(8, 8) | G(10, 15)}}},
    {"a group is left to each, and the remainder is not taken",
     500,
     2,
     {{G(0, 7), 500, 1000, L, 1, 1, 1, 9, G(0, 7) | G(9, 14)},
      {G(8, 15), 500, 1000, T, 1, 1, 1, 9, G(8, 8) | REST}}},
    {"what the idle lend comes first, and then nothing is wanted of those that work",
     334,
     2,
     {{G(0, 3), 266, 1000, L, 1, 1, 1, 9, G(0, 3) | G(9, 15)},
      {G(4, 7), 266, 1000, T, 1, 1, 1, 9, G(4, 7)},
      {G(8, 15), 466, 466, T, 0, 1, 1, 9, G(8, 8)}}},
    {"evenly: of one that owns three times as much, more",
     400,
     6,
     {{G(0, 2), 200, 1000, L, 1, 1, 1, 9, G(0, 2) | G(4, 8) | G(13, 13) | REST},
      {G(3, 11), 600, 1000, T, 1, 1, 1, 9, G(3, 3) | G(9, 11)},
      {G(12, 14), 200, 1000, T, 1, 1, 1, 9, G(12, 12) | G(14, 14)}}},
};

static uint32_t rows_of(size_t example, struct ds_lend_resident *residents)
{
	const struct row *rows = examples[example].rows;
	uint32_t n = 0;

	for (; n < 4 && rows[n].own; n++)
		residents[n] = (struct ds_lend_resident){.own = {{rows[n].own, 0}},
							 .planned = {{rows[n].own, 0}},
							 .held = {{rows[n].own, 0}},
							 .share_milli = rows[n].share_milli,
							 .wish_milli = rows[n].wish_milli,
							 .kind = rows[n].kind,
							 .active = rows[n].active,
							 .lends = rows[n].lends,
							 .borrows = rows[n].borrows,
							 .reclaim_us = 500,
							 .drain_us = rows[n].drain_us};
	residents[0].advance_milli = examples[example].advance_milli;
	residents[0].owing = examples[example].owing;
	return n;
}

static void tables(void **state)
{
	for (size_t e = 0; e < N(examples); e++) {
		struct ds_lend_resident residents[4];
		struct ds_groups planned[4];
		const uint32_t n = rows_of(e, residents);

		ds_lend(&h200, residents, n, planned);
		for (uint32_t i = 0; i < n; i++) {
			if (planned[i].bits[0] != examples[e].rows[i].planned)
				fail_msg("%s: resident %u has %" PRIx64 ", not %" PRIx64,
					 examples[e].what, i, planned[i].bits[0],
					 examples[e].rows[i].planned);
		}
	}
}

/* What it has in advance stays the same groups, whatever the other one holds by then. */
static void what_was_taken_stays(void **state)
{
	struct ds_lend_resident residents[4];
	struct ds_groups planned[4];

	rows_of(0, residents);
	residents[0].planned.bits[0] = G(0, 7) | G(12, 14);
	residents[1].planned.bits[0] = residents[1].held.bits[0] = G(8, 11) | REST;
	ds_lend(&h200, residents, 2, planned);
	assert_int_equal(planned[0].bits[0], G(0, 7) | G(12, 14));
	/* The group that is left to it is one that it is on. */
	residents[0].planned.bits[0] = G(0, 7);
	residents[1].planned.bits[0] = G(8, 14) | REST;
	residents[1].held.bits[0] = G(11, 11);
	residents[0].advance_milli = 500;
	ds_lend(&h200, residents, 2, planned);
	assert_int_equal(planned[1].bits[0], G(11, 11) | REST);
}

/* Two that both are owed something: the earlier first, and each neighbour keeps a group. */
static void two_with_advances(void **state)
{
	struct ds_lend_resident residents[4];
	struct ds_groups planned[4];

	rows_of(0, residents);
	residents[2] = residents[0];
	residents[0].own.bits[0] = residents[0].held.bits[0] = G(0, 3);
	residents[2].own.bits[0] = residents[2].held.bits[0] = G(4, 7);
	residents[0].share_milli = residents[2].share_milli = 266;
	residents[0].advance_milli = residents[2].advance_milli = 300;
	ds_lend(&h200, residents, 3, planned);
	assert_int_equal(planned[0].bits[0], G(0, 3) | G(9, 12));
	assert_int_equal(planned[2].bits[0], G(4, 7) | G(13, 14));
	assert_int_equal(planned[1].bits[0], G(8, 8) | REST);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tables),
	    cmocka_unit_test(what_was_taken_stays),
	    cmocka_unit_test(two_with_advances),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
