/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "accounting/merge.h"

static struct ds_usage_record run_of(const char *node, uint32_t restart, double begin, double end,
				     double sm_s)
{
	struct ds_usage_record record = {
	    .job_id = 7,
	    .restart = restart,
	    .uid = 1000,
	    .class_name = "throughput",
	    .share_milli = 500,
	    .begin_unix_s = begin,
	    .end_unix_s = end,
	    .granted_sm_s = sm_s,
	    .programs = 1,
	};

	strcpy(record.node, node);
	return record;
}

/* One character of `records` stands for one record of the table in the test. */
static const struct {
	const char *name;
	const char *records;
	uint32_t nodes, restarts;
	double seconds, granted_sm_s;
	uint64_t programs;
} MERGES[] = {
    {"one node", "a", 1, 0, 10, 100, 1},
    {"two nodes: seconds span both", "ab", 2, 0, 13, 300, 2},
    {"in the other order", "ba", 2, 0, 13, 300, 2},
    {"requeued: runs add up, the last one's nodes count", "abc", 1, 2, 18, 350, 3},
    {"only the second run reported", "c", 1, 2, 5, 50, 1},
    {"twice from one node: the later one counts", "ad", 1, 0, 12, 120, 1},
    {"and in the other order", "da", 1, 0, 12, 120, 1},
    {"the same record twice counts once", "aa", 1, 0, 10, 100, 1},
};

static void records_of_a_job_merge(void **state)
{
	for (size_t i = 0; i < sizeof(MERGES) / sizeof(MERGES[0]); i++) {
		struct ds_usage_record records[8];
		struct ds_usage_summary summary;
		struct ds_error err = {""};
		size_t n = 0;

		for (const char *c = MERGES[i].records; *c; c++) {
			switch (*c) {
			case 'a':
				records[n++] = run_of("node1", 0, 100, 110, 100);
				break;
			case 'b':
				records[n++] = run_of("node2", 0, 101, 113, 200);
				break;
			case 'c':
				records[n++] = run_of("node1", 2, 200, 205, 50);
				break;
			case 'd':
				records[n++] = run_of("node1", 0, 100, 112, 120);
				break;
			}
		}
		assert_int_equal(ds_usage_merge(records, n, &summary, &err), 0);
		if (summary.nodes != MERGES[i].nodes || summary.restarts != MERGES[i].restarts ||
		    summary.seconds != MERGES[i].seconds ||
		    summary.granted_sm_s != MERGES[i].granted_sm_s ||
		    summary.programs != MERGES[i].programs || summary.share_milli != 500)
			fail_msg("%s: nodes %u restarts %u seconds %g sm_s %g programs %u",
				 MERGES[i].name, summary.nodes, summary.restarts, summary.seconds,
				 summary.granted_sm_s, (unsigned)summary.programs);
		assert_string_equal(summary.class_name, "throughput");
	}
}

static void records_that_do_not_belong_together_are_refused(void **state)
{
	struct ds_usage_record records[2] = {run_of("n1", 0, 1, 2, 3), run_of("n2", 0, 1, 2, 3)};
	struct ds_usage_summary summary;
	struct ds_error err = {""};

	assert_int_equal(ds_usage_merge(records, 0, &summary, &err), -1);
	records[1].uid = 1001;
	assert_int_equal(ds_usage_merge(records, 2, &summary, &err), -1);
	assert_non_null(strstr(err.text, "used twice"));
	records[1].job_id = 8;
	assert_int_equal(ds_usage_merge(records, 2, &summary, &err), -1);
	assert_non_null(strstr(err.text, "of job 7 and of job 8"));
}

static void missing_nodes_are_those_of_the_last_run(void **state)
{
	const char *const nodes[] = {"n1", "n2", "n3"};
	struct ds_usage_record records[] = {
	    run_of("n1", 0, 1, 2, 3),
	    run_of("n2", 1, 3, 4, 3),
	    run_of("n3", 1, 3, 4, 3),
	};

	assert_int_equal(ds_usage_missing(records, 1, nodes, 3), 2);
	assert_int_equal(ds_usage_missing(records, 3, nodes, 3), 1);
	assert_int_equal(ds_usage_missing(records, 3, nodes, 0), 0);
}

static void the_line_holds_what_was_measured(void **state)
{
	struct ds_usage_summary summary = {
	    .class_name = "latency",
	    .share_milli = 250,
	    .nodes = 2,
	    .restarts = 1,
	    .seconds = 1.23456,
	    .granted_sm_s = 0.1 + 0.2,
	    .programs = 4,
	    .step_granted_max_milli = 250,
	};
	char *line = ds_usage_summary_format(&summary);

	assert_string_equal(line,
			    "{\"detshare\":{\"v\":1,\"class\":\"latency\",\"share_milli\":250,"
			    "\"nodes\":2,\"restarts\":1,\"seconds\":1.235,\"granted_sm_s\":0.3,"
			    "\"programs\":4,\"step_granted_max_milli\":250}}");
	free(line);
	summary.nodes_missing = 1;
	line = ds_usage_summary_format(&summary);
	assert_non_null(strstr(line, "\"nodes_missing\":1"));
	free(line);
}

#define OURS "{\"detshare\":{\"v\":1}}"
#define OLD  "{\"detshare\":{\"v\":0}}"

static const struct {
	const char *before, *after;
} COMMENTS[] = {
    {NULL, OURS},
    {"", OURS},
    {OLD, OURS},
    {OLD "\n", OURS},
    {"site", "site\n" OURS},
    {"site\n", "site\n" OURS},
    {"site\n\n", "site\n\n" OURS},
    {"a 'quoted' \"text\" \\ \n\ttwo", "a 'quoted' \"text\" \\ \n\ttwo\n" OURS},
    {"site\n" OLD, "site\n" OURS},
    {"site\n" OLD "\nmore", "site\nmore\n" OURS},
    {OLD "\nmore\n", "more\n" OURS},
    {OLD "\n" OLD, OURS},
    {"see " OLD, "see " OLD "\n" OURS},
    {"{\"detshare_other\":1}", "{\"detshare_other\":1}\n" OURS},
    {"\r\n", "\r\n" OURS},
};

static void the_sites_text_is_kept(void **state)
{
	for (size_t i = 0; i < sizeof(COMMENTS) / sizeof(COMMENTS[0]); i++) {
		char *once = ds_usage_comment(COMMENTS[i].before, OURS);
		assert_string_equal(once, COMMENTS[i].after);
		char *twice = ds_usage_comment(once, OURS);
		assert_string_equal(twice, once);
		free(once);
		free(twice);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(records_of_a_job_merge),
	    cmocka_unit_test(records_that_do_not_belong_together_are_refused),
	    cmocka_unit_test(missing_nodes_are_those_of_the_last_run),
	    cmocka_unit_test(the_line_holds_what_was_measured),
	    cmocka_unit_test(the_sites_text_is_kept),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
