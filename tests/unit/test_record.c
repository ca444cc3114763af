/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "accounting/directory.h"
#include "accounting/record.h"

#define UUID "GPU-11111111-2222-3333-4444-555555555555"

static struct ds_usage_record sample(void)
{
	return (struct ds_usage_record){
	    .cluster = "c1",
	    .node = "node1",
	    .job_id = 42,
	    .restart = 1,
	    .uid = 1000,
	    .class_name = "latency",
	    .share_milli = 500,
	    .gpu_uuid = UUID,
	    .begin_unix_s = 1763617429.123456,
	    .end_unix_s = 1763617439.25,
	    .granted_sm_s = 668.316,
	    .programs = 3,
	    .step_granted_max_milli = 250,
	};
}

static struct ds_usage_reported measured(void)
{
	return (struct ds_usage_reported){
	    .launches = 5000000000,
	    .remaps = 17,
	    .stalls = 2,
	    .samples = 9000,
	    .busy_gpu_s = 7.25,
	    .steps = 1200,
	    .step_p50_us = 1761.5,
	    .step_p99_us = 2544,
	    .memory_peak_mib = 20480,
	};
}

static void formatting_and_parsing_agree(void **state)
{
	struct ds_usage_record record = sample(), back;
	struct ds_error err = {""};
	char *line = ds_usage_record_format(&record);

	assert_non_null(line);
	assert_null(strchr(line, '\n'));
	assert_int_equal(ds_usage_record_parse(line, strlen(line), &back, &err), 0);
	assert_string_equal(back.cluster, "c1");
	assert_string_equal(back.node, "node1");
	assert_int_equal(back.job_id, 42);
	assert_int_equal(back.restart, 1);
	assert_int_equal(back.uid, 1000);
	assert_string_equal(back.class_name, "latency");
	assert_int_equal(back.share_milli, 500);
	assert_string_equal(back.gpu_uuid, UUID);
	assert_true(back.begin_unix_s > 1763617429.1234 && back.begin_unix_s < 1763617429.1235);
	assert_true(back.end_unix_s == 1763617439.25);
	assert_true(back.granted_sm_s == 668.316);
	assert_int_equal(back.programs, 3);
	assert_int_equal(back.step_granted_max_milli, 250);
	assert_null(strstr(line, "reported"));
	assert_null(strstr(line, "borrowed"));
	assert_true(back.borrowed_sm_s == 0 && back.lent_sm_s == 0);
	free(line);

	record.borrowed_sm_s = 12.5;
	record.lent_sm_s = 7;
	line = ds_usage_record_format(&record);
	assert_int_equal(ds_usage_record_parse(line, strlen(line), &back, &err), 0);
	assert_true(back.borrowed_sm_s == 12.5 && back.lent_sm_s == 7);
	free(line);
}

static void what_programs_reported_is_labelled_so(void **state)
{
	struct ds_usage_record record = sample(), back;
	struct ds_error err = {""};
	char *line;

	record.reported = measured();
	line = ds_usage_record_format(&record);
	assert_non_null(line);
	assert_non_null(strstr(line, "\"reported_by_program\":{\"launches\":5000000000,"));
	assert_int_equal(ds_usage_record_parse(line, strlen(line), &back, &err), 0);
	assert_memory_equal(&back.reported, &record.reported, sizeof(back.reported));
	free(line);

	/* Not measured is not zero. */
	record.reported = (struct ds_usage_reported){.launches = 3};
	line = ds_usage_record_format(&record);
	assert_non_null(strstr(line, "\"reported_by_program\":{\"launches\":3}"));
	free(line);
}

static void numbers_that_are_not_finite_are_not_formatted(void **state)
{
	struct ds_usage_record record = sample();

	record.granted_sm_s = 0.0 / 0.0;
	assert_null(ds_usage_record_format(&record));
}

#define GOOD                                                                              \
	"{\"v\":1,\"cluster\":\"\",\"node\":\"n1\",\"job_id\":7,\"restart\":0,\"uid\":0," \
	"\"class\":\"throughput\",\"share_milli\":1000,\"gpu_uuid\":\"" UUID "\","        \
	"\"begin_unix_s\":1,\"end_unix_s\":2,\"granted_sm_s\":3,\"programs\":0,"          \
	"\"step_granted_max_milli\":0}"

/* `from` in GOOD is replaced by `to`; `reason` must be in the message, NULL: accepted. */
static const struct {
	const char *from, *to, *reason;
} VARIANTS[] = {
    {"\"n1\"", "\"n1\"", NULL},
    {"\"v\":1", "\"v\":1,\"later\":{\"a\":[]}", NULL},
    {"\"begin_unix_s\":1", "\"begin_unix_s\":1.5", NULL},
    {"\"v\":1,", "", "v is not 1"},
    {"\"v\":1", "\"v\":2", "v is not 1"},
    {"\"cluster\":\"\",", "", "cluster is missing"},
    {"\"n1\"", "\"\"", "node is empty"},
    {"\"n1\"", "7", "node is not a string"},
    {"\"n1\"", "null", "node is not a string"},
    {"\"n1\"", "\"../etc\"", "node has a character"},
    {"\"n1\"", "\".\"", "node has a character"},
    {"\"n1\"", "\"a b\"", "node has a character"},
    {"\"n1\"", "\"a\\nb\"", "node has a character"},
    {"\"n1\"", "\"a\\u0000b\"", "not JSON"},
    {"\"n1\"", "\"a\",\"node\":\"b\"", "not JSON"},
    {"\"throughput\"", "\"a-class-name-of-more-than-31-chars\"", "class is longer than 31"},
    {"\"job_id\":7", "\"job_id\":0", "job_id = 0"},
    {"\"job_id\":7", "\"job_id\":-1", "job_id = -1"},
    {"\"job_id\":7", "\"job_id\":4294967294", "job_id = 4294967294"},
    {"\"job_id\":7", "\"job_id\":7.5", "job_id is not an integer"},
    {"\"job_id\":7", "\"job_id\":\"7\"", "job_id is not an integer"},
    {"\"job_id\":7", "\"job_id\":99999999999999999999", "not JSON"},
    {"1000", "1001", "share_milli = 1001"},
    {"1000", "0", "share_milli = 0"},
    {"\"end_unix_s\":2", "\"end_unix_s\":0.5", "before"},
    {"\"end_unix_s\":2", "\"end_unix_s\":1e300", "end_unix_s = 1e+300"},
    {"\"end_unix_s\":2", "\"end_unix_s\":true", "end_unix_s is not a number"},
    {"\"granted_sm_s\":3", "\"granted_sm_s\":-1", "granted_sm_s = -1"},
    {"\"programs\":0", "\"programs\":-1", "programs = -1"},
    {"_max_milli\":0", "_max_milli\":1001", "step_granted_max_milli = 1001"},
    {"\"v\":1", "\"v\":1,\"reported_by_program\":{}", NULL},
    {"\"v\":1", "\"v\":1,\"reported_by_program\":{\"steps\":1,\"later\":[]}", NULL},
    {"\"v\":1", "\"v\":1,\"reported_by_program\":[]", "reported_by_program is not a JSON object"},
    {"\"v\":1", "\"v\":1,\"reported_by_program\":{\"steps\":-1}", "steps = -1"},
    {"\"v\":1", "\"v\":1,\"reported_by_program\":{\"busy_gpu_s\":\"x\"}",
     "busy_gpu_s is not a number"},
    {GOOD, "[]", "not a JSON object"},
    {GOOD, "", "not JSON"},
    {GOOD, "{", "not JSON"},
    {"}", "} trailing", "not JSON"},
};

static void every_broken_record_is_refused_with_its_reason(void **state)
{
	for (size_t i = 0; i < sizeof(VARIANTS) / sizeof(VARIANTS[0]); i++) {
		char json[2048];
		struct ds_usage_record record;
		struct ds_error err = {""};
		const char *at = strstr(GOOD, VARIANTS[i].from);

		assert_non_null(at);
		snprintf(json, sizeof(json), "%.*s%s%s", (int)(at - GOOD), GOOD, VARIANTS[i].to,
			 at + strlen(VARIANTS[i].from));
		int rc = ds_usage_record_parse(json, strlen(json), &record, &err);
		if (!VARIANTS[i].reason) {
			assert_int_equal(rc, 0);
			assert_int_equal(record.job_id, 7);
			continue;
		}
		assert_int_equal(rc, -1);
		if (!strstr(err.text, VARIANTS[i].reason))
			fail_msg("variant %zu: \"%s\" is not in \"%s\"", i, VARIANTS[i].reason,
				 err.text);
		assert_int_equal(record.job_id, 0);
	}
}

static void a_record_longer_than_the_limit_is_refused(void **state)
{
	static char json[DS_USAGE_RECORD_MAX + 2];
	struct ds_usage_record record;
	struct ds_error err;

	memset(json, ' ', sizeof(json) - 1);
	assert_int_equal(ds_usage_record_parse(json, sizeof(json) - 1, &record, &err), -1);
	assert_non_null(strstr(err.text, "4097 bytes"));
}

static char *temporary_directory(char *path, size_t size)
{
	const char *base = getenv("TMPDIR");

	snprintf(path, size, "%s/detshare-test-record-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(path));
	return path;
}

static void spooling_replaces_and_leaves_nothing_else(void **state)
{
	char base[256], spool_path[300], file[400];
	struct ds_usage_record record = sample(), back;
	struct ds_error err = {""};
	struct ds_directory spool;
	size_t n, length;

	snprintf(spool_path, sizeof(spool_path), "%s/a/spool",
		 temporary_directory(base, sizeof(base)));
	assert_int_equal(ds_usage_record_spool(spool_path, &record, &err), 0);
	record.programs = 9;
	assert_int_equal(ds_usage_record_spool(spool_path, &record, &err), 0);

	struct stat st;
	assert_int_equal(stat(spool_path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);

	assert_int_equal(ds_directory_open(spool_path, &spool, &err), 0);
	char **names = ds_directory_names(&spool, &n, &err);
	assert_int_equal(n, 1);
	assert_string_equal(names[0], "job-42.1.json");
	char *data = ds_directory_read(&spool, names[0], DS_USAGE_RECORD_MAX, &length, NULL, &err);
	assert_non_null(data);
	assert_int_equal(ds_usage_record_parse(data, length, &back, &err), 0);
	assert_int_equal(back.programs, 9);
	free(data);
	ds_directory_names_free(names);
	ds_directory_close(&spool);

	snprintf(file, sizeof(file), "rm -rf '%s'", base);
	assert_int_equal(system(file), 0);
}

static void a_record_that_no_collector_would_take_is_not_spooled(void **state)
{
	char base[256], spool_path[300];
	struct ds_usage_record record = sample();
	struct ds_error err = {""};

	snprintf(spool_path, sizeof(spool_path), "%s/spool",
		 temporary_directory(base, sizeof(base)));
	record.share_milli = 0;
	assert_int_equal(ds_usage_record_spool(spool_path, &record, &err), -1);
	assert_non_null(strstr(err.text, "share_milli = 0"));
	assert_int_equal(access(spool_path, F_OK), -1);
	assert_int_equal(rmdir(base), 0);
}

static void a_spool_that_others_can_write_to_is_refused(void **state)
{
	char base[256];
	struct ds_usage_record record = sample();
	struct ds_error err = {""};

	temporary_directory(base, sizeof(base));
	assert_int_equal(chmod(base, 0770), 0);
	assert_int_equal(ds_usage_record_spool(base, &record, &err), -1);
	assert_non_null(strstr(err.text, "lets others write"));
	assert_int_equal(rmdir(base), 0);
}

static void only_regular_files_of_bounded_size_are_read(void **state)
{
	char base[256], path[400];
	struct ds_error err = {""};
	struct ds_directory directory;

	temporary_directory(base, sizeof(base));
	assert_int_equal(ds_directory_open(base, &directory, &err), 0);
	assert_int_equal(symlinkat("/etc/passwd", directory.fd, "link"), 0);
	assert_null(ds_directory_read(&directory, "link", 100, NULL, NULL, &err));
	assert_non_null(strstr(err.text, "symbolic link"));
	assert_int_equal(mkfifoat(directory.fd, "pipe", 0600), 0);
	assert_null(ds_directory_read(&directory, "pipe", 100, NULL, NULL, &err));
	assert_non_null(strstr(err.text, "not a regular file"));
	assert_int_equal(ds_directory_write(&directory, "file", "12345", 5, &err), 0);
	assert_null(ds_directory_read(&directory, "file", 4, NULL, NULL, &err));
	assert_non_null(strstr(err.text, "too long"));
	ds_directory_close(&directory);
	snprintf(path, sizeof(path), "rm -rf '%s'", base);
	assert_int_equal(system(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(formatting_and_parsing_agree),
	    cmocka_unit_test(what_programs_reported_is_labelled_so),
	    cmocka_unit_test(numbers_that_are_not_finite_are_not_formatted),
	    cmocka_unit_test(every_broken_record_is_refused_with_its_reason),
	    cmocka_unit_test(a_record_longer_than_the_limit_is_refused),
	    cmocka_unit_test(spooling_replaces_and_leaves_nothing_else),
	    cmocka_unit_test(a_record_that_no_collector_would_take_is_not_spooled),
	    cmocka_unit_test(a_spool_that_others_can_write_to_is_refused),
	    cmocka_unit_test(only_regular_files_of_bounded_size_are_read),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
