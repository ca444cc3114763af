/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/terms.h"

/* -- what the page says ---------------------------------------------------------------------- */

static struct ds_ledger_state state;

static struct ds_ledger_resident *add(enum ds_class_kind kind, uint64_t own, uint64_t held)
{
	struct ds_ledger_resident *r = &state.residents[state.n_residents++];

	*r = (struct ds_ledger_resident){
	    .grant = {.kind = kind,
		      .policy = DS_POLICY_LEND,
		      .lends = 1,
		      .borrows = 1,
		      .reclaim_us = kind == DS_KIND_LATENCY ? 500 : 6000},
	    .own = {{own, 0}},
	    .held = {{held, 0}},
	    .weight_milli = 1000};
	strcpy(r->policy.name, "lend");
	return r;
}

static void expect(const struct ds_ledger_resident *r, uint32_t flags, uint32_t window_us)
{
	struct ds_page_terms terms;

	ds_terms(&state, r, &terms);
	assert_true(ds_groups_equal(&terms.granted, &r->held));
	assert_int_equal(terms.flags, flags);
	assert_int_equal(terms.window_us, window_us);
}

static void new_state(void)
{
	memset(&state, 0, sizeof(state));
	state.shape = (struct ds_gpu_shape){.n_groups = 15, .group_sms = 8, .rest_sms = 12};
}

static void alone(void **unused)
{
	new_state();
	struct ds_ledger_resident *r = add(DS_KIND_THROUGHPUT, 0xff, 0xff);
	expect(r, 0, 0);
	/* Somebody may come who is to own the rest. */
	r->held.bits[0] = 0xffff;
	expect(r, DS_PAGE_WINDOW, 250);
}

static void two(void **unused)
{
	new_state();
	struct ds_ledger_resident *latency = add(DS_KIND_LATENCY, 0xff, 0xff);
	struct ds_ledger_resident *training = add(DS_KIND_THROUGHPUT, 0xff00, 0xff00);

	expect(latency, DS_PAGE_TELL_IDLE, 0);
	expect(training, DS_PAGE_TELL_IDLE | DS_PAGE_WINDOW, 250);
	/* One that borrows of throughput, which has more time. */
	latency->held.bits[0] = 0xffff;
	expect(latency, DS_PAGE_TELL_IDLE | DS_PAGE_WINDOW, 250);
	training->grant.reclaim_us = 498;
	expect(latency, DS_PAGE_TELL_IDLE | DS_PAGE_WINDOW, 249);
	/* Nobody asks who has nothing to lend, or whose groups nobody may have. */
	latency->own.bits[0] = latency->held.bits[0] = 1;
	expect(latency, 0, 0);
	expect(training, DS_PAGE_TELL_IDLE, 0);
	latency->own.bits[0] = latency->held.bits[0] = 0xff;
	training->grant.borrows = 0;
	expect(latency, 0, 0);
	expect(training, DS_PAGE_TELL_IDLE, 0);
	training->grant.borrows = 1;
	training->grant.lends = 0;
	expect(training, DS_PAGE_WINDOW, 250);
	/* A group that is shared in time is not lent. */
	training->weight_milli = 500;
	expect(training, 0, 0);
	expect(latency, 0, 0);
}

static void nothing_of_it_while_nothing_is_lent(void **unused)
{
	new_state();
	struct ds_ledger_resident *first = add(DS_KIND_LATENCY, 0xff, 0xff);
	const struct ds_ledger_resident *second = add(DS_KIND_THROUGHPUT, 0xff00, 0xff01);

	strcpy(first->policy.name, "static");
	expect(second, 0, 0);
	strcpy(first->policy.name, "lend");
	first->policy.failed = 1;
	expect(second, 0, 0);
}

static void held_back_for_a_neighbours_step(void **unused)
{
	new_state();
	struct ds_ledger_resident *latency = add(DS_KIND_LATENCY, 0xff, 0xff);
	struct ds_ledger_resident *training = add(DS_KIND_THROUGHPUT, 0xf00, 0xf00);
	struct ds_ledger_resident *other = add(DS_KIND_LATENCY, 0xf000, 0xf000);

	assert_true(ds_terms_is_held_for(&state, latency));
	assert_false(ds_terms_is_held_for(&state, training));
	assert_false(ds_terms_neighbour_steps(&state, training));
	other->demand.active = 1;
	assert_true(ds_terms_neighbour_steps(&state, training));
	/* Not for one's like, nor for who is not in a hurry. */
	assert_false(ds_terms_neighbour_steps(&state, latency));
	other->grant.kind = DS_KIND_BESTEFFORT;
	assert_false(ds_terms_neighbour_steps(&state, training));
	latency->demand.active = 1;
	assert_true(ds_terms_neighbour_steps(&state, training));
	assert_true(ds_terms_neighbour_steps(&state, other));
	/* Somebody has the whole GPU: the sooner he is through with it, the better. */
	state.whole.phase = DS_WHOLE_OPEN;
	strcpy(state.whole.owner, "training");
	strcpy(training->name, "training");
	assert_false(ds_terms_neighbour_steps(&state, training));
	state.whole.phase = DS_WHOLE_NONE;
	strcpy(latency->policy.name, "static");
	assert_false(ds_terms_neighbour_steps(&state, training));
	strcpy(latency->policy.name, "lend");
	training->grant.kind = other->grant.kind = DS_KIND_LATENCY;
	assert_false(ds_terms_is_held_for(&state, latency));
}

/* -- what programs say of their demand -------------------------------------------------------- */

static struct ds_demand demand_of(const struct ds_port *ports, size_t n)
{
	const struct ds_demand entered = {.busy_milli = 7};
	struct ds_demand_sum sum = {.drain_unknown = false};

	for (size_t i = 0; i < n; i++)
		ds_demand_add(&sum, &ports[i]);
	return ds_demand_enter(&sum, &entered);
}

static void demands(void **unused)
{
	struct ds_port ports[2] = {{.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION},
				   {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION}};

	assert_int_equal(demand_of(ports, 0).active, 0);
	assert_int_equal(demand_of(ports, 1).active, 1); /* unsaid */
	assert_int_equal(demand_of(ports, 1).busy_milli, 7);
	atomic_store(&ports[0].demand, DS_DEMAND_IDLE);
	assert_int_equal(demand_of(ports, 1).active, 0);
	assert_int_equal(demand_of(ports, 2).active, 1);
	atomic_store(&ports[1].demand, 99);
	assert_int_equal(demand_of(ports, 2).active, 1);
	atomic_store(&ports[1].demand, DS_DEMAND_IDLE);
	assert_int_equal(demand_of(ports, 2).active, 0);

	atomic_store(&ports[0].drain_us, 100);
	assert_int_equal(demand_of(ports, 1).drain_us, 112);
	assert_int_equal(demand_of(ports, 2).drain_us, 0); /* one does not know */
	atomic_store(&ports[1].drain_us, 1000);
	assert_int_equal(demand_of(ports, 2).drain_us, 1024);
	atomic_store(&ports[1].drain_us, UINT64_MAX);
	assert_int_equal(demand_of(ports, 2).drain_us, 1 << 30);

	atomic_store(&ports[0].overlong_since_ns, 1);
	assert_int_equal(demand_of(ports, 1).active, 1);
	assert_int_equal(demand_of(ports, 1).overlong, 1);
	ports[0].version++; /* says nothing that we understand */
	assert_int_equal(demand_of(ports, 1).active, 1);
	assert_int_equal(demand_of(ports, 1).overlong, 0);
	assert_int_equal(demand_of(ports, 1).drain_us, 0);
}

static void drains_are_rounded_up_by_a_quarter_at_most(void **unused)
{
	struct ds_port port = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};
	uint32_t before = 0;

	for (uint32_t us = 1; us < 100000; us++) {
		atomic_store(&port.drain_us, us);
		uint32_t rounded = demand_of(&port, 1).drain_us;
		assert_true(rounded >= us && rounded - us <= us / 4 && rounded >= before);
		before = rounded;
	}
}

static void measured(void **unused)
{
	const struct ds_usage_reported reported = {
	    .busy_gpu_s = 2.5, .step_p50_us = 1000, .step_p99_us = 1e300};
	struct ds_demand demand = {.active = 1};

	ds_demand_measure(&demand, &reported, 10);
	assert_int_equal(demand.active, 1);
	assert_int_equal(demand.busy_milli, 256);
	assert_int_equal(demand.step_p50_us, 1024);
	assert_int_equal(demand.step_p99_us, 0);
	ds_demand_measure(&demand, &reported, 1); /* streams side by side */
	assert_int_equal(demand.busy_milli, 1000);
	ds_demand_measure(&demand, &reported, 0);
	assert_int_equal(demand.busy_milli, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(alone),
	    cmocka_unit_test(two),
	    cmocka_unit_test(nothing_of_it_while_nothing_is_lent),
	    cmocka_unit_test(held_back_for_a_neighbours_step),
	    cmocka_unit_test(demands),
	    cmocka_unit_test(drains_are_rounded_up_by_a_quarter_at_most),
	    cmocka_unit_test(measured),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
