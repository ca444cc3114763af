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
#include "accounting/settle.h"

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
	assert_null(strstr(line, "lent_sm_s"));
	free(line);
	summary.lent_sm_s = 7;
	summary.borrowed_sm_s = 0.12345;
	line = ds_usage_summary_format(&summary);
	assert_non_null(strstr(line, ",\"borrowed_sm_s\":0.123,\"lent_sm_s\":7.0}}"));
	free(line);
	summary.lent_sm_s = summary.borrowed_sm_s = 0;
	summary.fault_code = 700;
	line = ds_usage_summary_format(&summary);
	assert_non_null(strstr(line, ",\"fault\":{\"cuda_error\":700}}}"));
	free(line);
	summary.fault_suspect = 12;
	summary.fault_by_other = true;
	line = ds_usage_summary_format(&summary);
	assert_non_null(strstr(line, ",\"fault\":{\"cuda_error\":700,\"suspected_job\":12,"
				     "\"by_neighbour\":true}}}"));
	free(line);
	summary.fault_code = 0;
	summary.reported =
	    (struct ds_usage_reported){.launches = 9, .samples = 1, .busy_gpu_s = 0.12345};
	line = ds_usage_summary_format(&summary);
	assert_non_null(strstr(line, ",\"reported_by_program\":{\"launches\":9,\"samples\":1,"
				     "\"busy_gpu_s\":0.123}}}"));
	free(line);
}

static void reports_add_up_and_the_slowest_node_counts(void **state)
{
	struct ds_usage_record records[2] = {run_of("n1", 0, 1, 2, 3), run_of("n2", 0, 1, 2, 3)};
	struct ds_usage_summary summary;
	struct ds_error err = {""};

	records[0].reported = (struct ds_usage_reported){1, 2, 3, 5, 0.5, 4, 1.5, 6, 100, 500, 70};
	records[1].reported =
	    (struct ds_usage_reported){10, 20, 30, 50, 1, 40, 2, 60, 200, 300, 50};
	assert_int_equal(ds_usage_merge(records, 2, &summary, &err), 0);
	assert_memory_equal(
	    &summary.reported,
	    (&(struct ds_usage_reported){11, 22, 33, 55, 1.5, 44, 3.5, 66, 200, 500, 70}),
	    sizeof(summary.reported));
}

/* A row of job 7, user 1000; `name` differs for a job that got the id by chance. */
static struct ds_job_row row_of(const char *name, time_t submit, time_t start, time_t end,
				uint32_t n_nodes)
{
	return (struct ds_job_row){
	    .job_id = 7,
	    .uid = 1000,
	    .ended = end != 0,
	    .submit = submit,
	    .start = start,
	    .end = end,
	    .name = (char *)name,
	    .n_nodes = n_nodes,
	};
}

enum { GRACE_S = 600, DAY_S = 86400 };

static void a_line_goes_where_and_when_it_belongs(void **state)
{
	const struct ds_job_row ended = row_of("j", 900, 1000, 1100, 1);
	const struct ds_job_row two_nodes = row_of("j", 900, 1000, 1100, 2);
	const struct ds_job_row running = row_of("j", 900, 1000, 0, 1);
	const struct ds_job_row requeued = row_of("j", 1100, 1300, 1400, 1);
	const struct ds_job_row requeued_pending = row_of("j", 1100, 0, 0, 0);
	const struct ds_job_row long_before =
	    row_of("other", 900 - DAY_S, 1000 - DAY_S, 1100 - DAY_S, 1);
	const struct ds_job_row long_after =
	    row_of("other", 900 + DAY_S, 1000 + DAY_S, 1100 + DAY_S, 1);
	struct ds_job_row stranger = ended;
	const struct ds_usage_record first = run_of("n1", 0, 1000, 1100, 10);
	const struct ds_usage_record second = run_of("n1", 1, 1300, 1400, 20);
	const struct ds_usage_record older = run_of("n9", 3, 1000 - DAY_S, 1100 - DAY_S, 40);
	stranger.uid = 1001;

	const struct {
		const char *name;
		struct ds_job_row rows[3];
		size_t n_rows;
		struct ds_usage_record records[3];
		size_t n;
		time_t now;
		size_t target;
		double granted_sm_s;
		enum ds_settle_verdict verdict;
		uint32_t missing;
	} cases[] = {
	    {"not in the database", {{0}}, 0, {first}, 1, 1200, 0, 0, DS_SETTLE_UNKNOWN, 0},
	    {"another user's", {stranger}, 1, {first}, 1, 1200, 0, 0, DS_SETTLE_UNKNOWN, 0},
	    {"the id's job of yesterday",
	     {long_before},
	     1,
	     {first},
	     1,
	     1200,
	     0,
	     0,
	     DS_SETTLE_UNKNOWN,
	     0},
	    {"only pending again",
	     {requeued_pending},
	     1,
	     {first},
	     1,
	     1200,
	     0,
	     0,
	     DS_SETTLE_UNKNOWN,
	     0},
	    {"running", {running}, 1, {first}, 1, 1200, 0, 0, DS_SETTLE_WAIT, 0},
	    {"ended", {ended}, 1, {first}, 1, 1200, 0, 10, DS_SETTLE_WRITE, 0},
	    {"a node is silent",
	     {two_nodes},
	     1,
	     {first},
	     1,
	     1100 + GRACE_S - 1,
	     0,
	     0,
	     DS_SETTLE_WAIT,
	     0},
	    {"and stays so", {two_nodes}, 1, {first}, 1, 1100 + GRACE_S, 0, 10, DS_SETTLE_WRITE, 1},
	    {"requeued, pending",
	     {ended, requeued_pending},
	     2,
	     {first},
	     1,
	     9999,
	     1,
	     0,
	     DS_SETTLE_WAIT,
	     0},
	    {"requeued, silent", {ended, requeued}, 2, {first}, 1, 1400, 1, 10, DS_SETTLE_WRITE, 0},
	    {"requeued, both runs",
	     {ended, requeued},
	     2,
	     {second, first},
	     2,
	     1400,
	     1,
	     30,
	     DS_SETTLE_WRITE,
	     0},
	    {"the id was used before",
	     {long_before, ended},
	     2,
	     {first, older},
	     2,
	     1200,
	     1,
	     10,
	     DS_SETTLE_WRITE,
	     0},
	    {"and again since",
	     {ended, long_after},
	     2,
	     {first},
	     1,
	     1200 + DAY_S,
	     0,
	     10,
	     DS_SETTLE_WRITE,
	     0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct ds_settle_rules rules = {.now = cases[i].now, .grace_s = GRACE_S};
		struct ds_settle_decision got = ds_settle_decide(
		    cases[i].rows, cases[i].n_rows, cases[i].records, cases[i].n, &rules);

		if (got.verdict != cases[i].verdict ||
		    (got.verdict != DS_SETTLE_UNKNOWN && got.target != cases[i].target))
			fail_msg("%s: verdict %d, row %zu", cases[i].name, got.verdict, got.target);
		if (got.verdict == DS_SETTLE_WRITE &&
		    (got.summary.granted_sm_s != cases[i].granted_sm_s ||
		     got.summary.nodes_missing != cases[i].missing))
			fail_msg("%s: %g SM s, %u missing", cases[i].name, got.summary.granted_sm_s,
				 got.summary.nodes_missing);
	}
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
	    cmocka_unit_test(a_line_goes_where_and_when_it_belongs),
	    cmocka_unit_test(the_line_holds_what_was_measured),
	    cmocka_unit_test(reports_add_up_and_the_slowest_node_counts),
	    cmocka_unit_test(the_sites_text_is_kept),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
