/* SPDX-License-Identifier: Apache-2.0 */
/* What a program learns of its kernels, with a page, a port and partitions of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/learn.h"
#include "noderuntime/coroutine/vctx.h"

#define BLOCKS UINT64_C(4096)

static struct ds_page page;
static struct ds_port port;
static struct ds_session session = {.port = &port, .page = &page};
static struct ds_vctx vctx;

/* Slot i is on these groups of 8 SMs; group 15 is the rest, of 12. */
static void partition(unsigned slot, uint64_t groups)
{
	vctx.pctxs[slot].groups = (struct ds_groups){{groups, 0}};
	vctx.pctxs[slot].slot = slot;
	atomic_store(&vctx.pctxs[slot].context, (CUcontext)&vctx.pctxs[slot]);
}

static int anew(void **state)
{
	memset(&page, 0, sizeof(page));
	memset(&port, 0, sizeof(port));
	memset(&vctx, 0, sizeof(vctx));
	page.share_milli = 500;
	vctx.shape = (struct ds_gpu_shape){.n_groups = 15, .group_sms = 8, .rest_sms = 12};
	partition(0, 0xff00);
	partition(1, 0xffff);
	ds_learn_start(&session);
	atomic_store(&ds_vctx, &vctx);
	return 0;
}

static void in_slot(unsigned slot)
{
	atomic_store(&vctx.target, &vctx.pctxs[slot]);
}

/* One launch that is measured. */
static void lesson(const char *name, struct ds_bound *bound, uint64_t ns)
{
	struct ds_lesson lesson = ds_learn_begin(name, BLOCKS, 256);

	ds_learn_end(&lesson, bound, name, ns);
}

static void lessons(const char *name, struct ds_bound *bound, uint64_t small_ns, uint64_t large_ns)
{
	for (unsigned i = 0; i < DS_BOUND_SAMPLES; i++) {
		in_slot(0);
		lesson(name, bound, small_ns);
		in_slot(1);
		lesson(name, bound, large_ns);
	}
}

static void found_out_reported_and_remembered(void **state)
{
	struct ds_bound copies = {.gain_milli = 0}, computes = {.gain_milli = 0};

	lessons("copies", &copies, 100000, 96000);
	lessons("computes", &computes, 100000, 52000);
	assert_true(ds_learn_saturates("copies", BLOCKS, 256));
	assert_false(ds_learn_saturates("copies", BLOCKS, 128));
	assert_false(ds_learn_saturates("copies", BLOCKS - 1, 256));
	assert_false(ds_learn_saturates("computes", BLOCKS, 256));
	assert_string_equal(port.kernels[0].name, "copies");
	assert_int_equal(port.kernels[0].by, DS_BOUND_BY_MEMORY);
	assert_int_equal(port.kernels[0].blocks, BLOCKS);
	assert_int_equal(port.kernels[0].threads, 256);
	assert_string_equal(port.kernels[1].name, "computes");
	assert_int_equal(port.kernels[1].by, DS_BOUND_BY_SMS);
	assert_int_equal(port.kernels[2].key, 0);
	/* It has changed: another shape of its data. */
	for (unsigned i = 0; i < 20; i++)
		lessons("copies", &copies, 200000, 100000);
	assert_false(ds_learn_saturates("copies", BLOCKS, 256));
	assert_int_equal(port.kernels[0].by, DS_BOUND_BY_SMS);
}

static void not_while_a_neighbour_is_in_a_step(void **state)
{
	struct ds_bound bound = {.gain_milli = 0};

	atomic_store(&page.neighbours_step, 1);
	lessons("copies", &bound, 100000, 100000);
	assert_int_equal(bound.sizes[0].samples, 0);
	/* It began, or ended, or both, before the kernel was done. */
	for (uint32_t after = 1; after < 3; after++) {
		struct ds_lesson lesson;

		atomic_store(&page.neighbours_step, 2);
		in_slot(0);
		lesson = ds_learn_begin("copies", BLOCKS, 256);
		atomic_store(&page.neighbours_step, 2 + after);
		ds_learn_end(&lesson, &bound, "copies", 100000);
	}
	assert_int_equal(bound.sizes[0].samples, 0);
}

static void what_memory_bounds_has_room_in_the_port(void **state)
{
	char name[16];

	for (unsigned i = 0; i < DS_PORT_KERNELS; i++) {
		struct ds_bound bound = {.gain_milli = 0};

		snprintf(name, sizeof(name), "computes %u", i);
		lessons(name, &bound, 100000, 50000);
	}
	for (unsigned i = 0; i < DS_PORT_KERNELS + 3; i++) {
		struct ds_bound bound = {.gain_milli = 0};

		snprintf(name, sizeof(name), "copies %u", i);
		lessons(name, &bound, 100000, 100000);
		assert_true(ds_learn_saturates(name, BLOCKS, 256));
	}
	for (unsigned i = 0; i < DS_PORT_KERNELS; i++) {
		snprintf(name, sizeof(name), "copies %u", i);
		assert_string_equal(port.kernels[i].name, name);
	}
}

static unsigned part_of(uint64_t granted)
{
	const struct ds_groups groups = {{granted, 0}};
	const struct ds_pctx *part = ds_learn_part(&vctx, &groups);

	return part ? part->slot : DS_PCTX_MAX;
}

static void tried_out_where_it_was_and_in_no_less_than_its_share(void **state)
{
	assert_int_equal(part_of(0xffff), 0);
	/* Not beside what it has, nor in nearly all of it. */
	assert_int_equal(part_of(0x00ff), DS_PCTX_MAX);
	assert_int_equal(part_of(0xff0f), DS_PCTX_MAX);
	/* Seven of 15 groups are half of them, six are not. */
	partition(2, 0x003f);
	partition(3, 0x007f);
	assert_int_equal(part_of(0x7fff), 3);
	page.share_milli = 400;
	atomic_store(&vctx.pctxs[3].context, NULL);
	assert_int_equal(part_of(0x7fff), 2);
	partition(4, 0x01ff);
	assert_int_equal(part_of(0x7fff), 4);
	page.share_milli = 1;
	assert_int_equal(part_of(0xc000), DS_PCTX_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(found_out_reported_and_remembered, anew),
	    cmocka_unit_test_setup(not_while_a_neighbour_is_in_a_step, anew),
	    cmocka_unit_test_setup(what_memory_bounds_has_room_in_the_port, anew),
	    cmocka_unit_test_setup(tried_out_where_it_was_and_in_no_less_than_its_share, anew),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
