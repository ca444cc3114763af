/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/measure_report.h"

static struct ds_kernels kernels;

static struct ds_kernel *find(const char *name, unsigned grid_x)
{
	return ds_kernels_find(&kernels, name,
			       &(struct ds_launch_shape){{grid_x, 1, 1}, {32, 1, 1}});
}

static void name_and_shape_make_a_kernel(void **state)
{
	struct ds_kernel *one = find("one", 1);

	memset(&kernels, 0, sizeof(kernels));
	one = find("one", 1);
	assert_ptr_equal(find("one", 1), one);
	assert_ptr_not_equal(find("one", 2), one);
	assert_ptr_not_equal(find("two", 1), one);
	assert_string_equal(one->name, "one");
	assert_int_equal(one->shape.block[0], 32);
	assert_string_equal(find(NULL, 1)->name, "(unknown)");
}

/* Names of C++ are long, and differ only at their end. */
static void long_names_are_told_apart(void **state)
{
	char a[2000], b[2000];

	memset(&kernels, 0, sizeof(kernels));
	memset(a, 'x', sizeof(a));
	a[sizeof(a) - 1] = '\0';
	memcpy(b, a, sizeof(a));
	b[sizeof(b) - 2] = 'y';
	assert_ptr_not_equal(find(a, 1), find(b, 1));
	assert_int_equal(strlen(find(a, 1)->name), DS_KERNEL_NAME_MAX - 1);
}

static void a_full_table_counts_the_others_together(void **state)
{
	struct ds_kernel *others;

	memset(&kernels, 0, sizeof(kernels));
	for (unsigned i = 0; i < DS_KERNELS_MAX; i++)
		assert_string_equal(find("many", i)->name, "many");
	others = find("many", DS_KERNELS_MAX);
	assert_string_equal(others->name, "others");
	assert_ptr_equal(find("more", 1), others);
	assert_string_equal(find("many", 7)->name, "many");
}

static void the_report_is_one_line_of_json(void **state)
{
	struct ds_port port = {.launches = 1000, .samples = 10, .sampled_ns = 2000000};
	struct ds_kernel *kernel;
	char text[2000], want[2000];
	size_t length;

	memset(&kernels, 0, sizeof(kernels));
	kernel = find("say \"\\\n\x80", 3);
	kernel->samples = 10;
	kernel->sampled_ns = 2000000;
	find("never harvested", 1);
	for (unsigned i = 0; i < 100; i++)
		ds_sketch_add(&port.steps, 1040000);
	length = ds_measure_format(text, sizeof(text), &port, &kernels);
	snprintf(want, sizeof(want),
		 "{\"pid\":%d,\"launches\":1000,\"samples\":10,\"busy_gpu_s\":0.200000,"
		 "\"steps\":100,\"step_p50_us\":1032.192,\"step_p99_us\":1032.192,\"remaps\":0,"
		 "\"stalls\":0,\"export_tables\":0,\"launching_modules\":0,\"unread_modules\":0,"
		 "\"pinned_graphs\":0,\"kernels\":["
		 "{\"name\":\"say \\u0022\\u005c\\u000a\\u0080\",\"grid\":[3,1,1],"
		 "\"block\":[32,1,1],\"samples\":10,\"launches\":1000,\"gpu_us\":200.000}]}\n",
		 (int)getpid());
	assert_string_equal(text, want);
	assert_int_equal(length, strlen(want));
}

/* Cut at a whole kernel, or not at all. */
static void a_report_that_does_not_fit_is_still_json(void **state)
{
	struct ds_port port = {.launches = 40, .samples = 40};
	static char text[65536];
	size_t whole;

	memset(&kernels, 0, sizeof(kernels));
	for (unsigned i = 0; i < 40; i++)
		find("kernel", i)->samples = 1;
	whole = ds_measure_format(text, sizeof(text), &port, &kernels);
	for (size_t size = 0; size < whole + 10; size++) {
		size_t length = ds_measure_format(text, size, &port, &kernels);

		assert_true(length < size || !size);
		if (!length)
			continue;
		assert_string_equal(text + length - 3, "]}\n");
		assert_true(text[length - 4] == '}' || text[length - 4] == '[');
	}
	assert_int_equal(ds_measure_format(text, 100, &port, &kernels), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(name_and_shape_make_a_kernel),
	    cmocka_unit_test(long_names_are_told_apart),
	    cmocka_unit_test(a_full_table_counts_the_others_together),
	    cmocka_unit_test(the_report_is_one_line_of_json),
	    cmocka_unit_test(a_report_that_does_not_fit_is_still_json),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
