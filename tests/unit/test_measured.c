/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/measured.h"

static struct ds_port port_of(uint64_t launches, uint64_t samples, uint64_t sampled_ns)
{
	return (struct ds_port){
	    .magic = DS_PORT_MAGIC,
	    .version = DS_PORT_VERSION,
	    .launches = launches,
	    .samples = samples,
	    .sampled_ns = sampled_ns,
	};
}

static void busy_time_follows_from_the_samples(void **state)
{
	static const struct {
		uint64_t launches, samples, sampled_ns;
		double lifetime_s, busy_gpu_s;
	} cases[] = {
	    {1000, 10, 10000000, 60, 1}, /* 1 ms each */
	    {10, 10, 10000000, 60, 0.01},
	    {1000, 0, 0, 60, 0},
	    {1000, 10, 10000000, 0.25, 0.25}, /* several streams at once */
	    {9, 10, 10000000, 60, 0},         /* more samples than launches: made up */
	    {UINT64_MAX, 1, UINT64_MAX, 60, 60},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ds_port port =
		    port_of(cases[i].launches, cases[i].samples, cases[i].sampled_ns);
		struct ds_measured sum = {0};
		struct ds_usage_reported reported;

		ds_measured_add(&sum, &port, sizeof(port), cases[i].lifetime_s);
		ds_measured_report(&sum, &reported);
		assert_true(reported.busy_gpu_s > cases[i].busy_gpu_s - 1e-9 &&
			    reported.busy_gpu_s < cases[i].busy_gpu_s + 1e-9);
	}
}

static void programs_add_up(void **state)
{
	struct ds_port port = port_of(7, 0, 0);
	struct ds_measured sum = {0};
	struct ds_usage_reported reported;

	port.remaps = 3;
	port.stalls = 1;
	port.held_back = 5;
	port.held_back_ns = 800000000;
	for (unsigned i = 0; i < 99; i++)
		ds_sketch_add(&port.steps, 2000000);
	ds_measured_add(&sum, &port, sizeof(port), 1);
	memset(&port.steps, 0, sizeof(port.steps));
	for (unsigned i = 0; i < 101; i++)
		ds_sketch_add(&port.steps, 8000000);
	ds_measured_add(&sum, &port, sizeof(port), 1);
	ds_measured_report(&sum, &reported);
	assert_int_equal(reported.launches, 14);
	assert_int_equal(reported.remaps, 6);
	assert_int_equal(reported.stalls, 2);
	assert_int_equal(reported.held_back, 10);
	assert_true(reported.held_back_s > 1.5999 && reported.held_back_s < 1.6001);
	assert_int_equal(reported.samples, 0);
	assert_int_equal(reported.steps, 200);
	assert_true(reported.step_p50_us > 8000 * 31 / 32 && reported.step_p50_us < 8000 * 33 / 32);
	assert_true(reported.step_p99_us == reported.step_p50_us);
}

static void what_is_no_port_adds_nothing(void **state)
{
	struct ds_port port = port_of(7, 1, 1);
	struct ds_measured sum = {0};

	ds_measured_add(&sum, &port, sizeof(port) - 1, 1);
	port.version++;
	ds_measured_add(&sum, &port, sizeof(port), 1);
	port = port_of(7, 1, 1);
	port.magic = 0;
	ds_measured_add(&sum, &port, sizeof(port), 1);
	assert_int_equal(sum.launches, 0);
}

/* Whatever programs wrote, the record can be made and is accepted. */
static void lies_can_be_recorded(void **state)
{
	struct ds_usage_record record = {.node = "n",
					 .job_id = 1,
					 .class_name = "latency",
					 .share_milli = 500,
					 .gpu_uuid = "GPU-1",
					 .end_unix_s = 1},
			       back;
	struct ds_measured sum = {0};
	struct ds_error err = {""};
	struct ds_port port;
	char *line;

	memset(&port, 0xff, sizeof(port));
	port.magic = DS_PORT_MAGIC;
	port.version = DS_PORT_VERSION;
	for (unsigned i = 0; i < 1000; i++)
		ds_measured_add(&sum, &port, sizeof(port), 1e6);
	ds_measured_report(&sum, &record.reported);
	line = ds_usage_record_format(&record);
	assert_non_null(line);
	assert_int_equal(ds_usage_record_parse(line, strlen(line), &back, &err), 0);
	free(line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(busy_time_follows_from_the_samples),
	    cmocka_unit_test(programs_add_up),
	    cmocka_unit_test(what_is_no_port_adds_nothing),
	    cmocka_unit_test(lies_can_be_recorded),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
