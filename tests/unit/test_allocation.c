/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "noderuntime/allocation.h"
#include "noderuntime/port_protocol.h"

static char dir[64];
static struct ds_node_config config;

static int set_up(void **state)
{
	strcpy(dir, "/tmp/ds-allocation-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	ds_node_config_defaults(&config, "node1");
	snprintf(config.runtime_dir, sizeof(config.runtime_dir), "%s/run", dir);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static void names(void **state)
{
	static const char *const good[] = {
	    "job-1",   "run-4567",       "a",
	    "A_b.c-9", "job-4294967295", "x123456789012345678901234567890"};
	static const char *const bad[] = {
	    "",   ".",   "..",   "../x",  "a/b",      "-x",
	    ".x", "a b", "a\nb", "gpu-1", "\xc3\xa4", "x1234567890123456789012345678901"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(ds_allocation_name_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(ds_allocation_name_valid(bad[i]));
}

static void what_is_held_is_counted(void **state)
{
	const int64_t s = 1000000000;
	struct ds_allocation allocation = {0};

	/* It begins: nothing held before. */
	ds_allocation_count(&allocation, 100 * s, &(struct ds_held_sms){.granted = 64});
	assert_true(allocation.granted_sm_s == 0);
	ds_allocation_count(&allocation, 102 * s,
			    &(struct ds_held_sms){.granted = 68, .borrowed = 8, .lent = 16});
	assert_true(allocation.granted_sm_s == 128);
	assert_true(allocation.borrowed_sm_s == 0 && allocation.lent_sm_s == 0);
	ds_allocation_count(&allocation, 102 * s + s / 2, &(struct ds_held_sms){.granted = 0});
	assert_true(allocation.granted_sm_s == 128 + 34);
	assert_true(allocation.borrowed_sm_s == 4 && allocation.lent_sm_s == 8);
	ds_allocation_count(&allocation, 200 * s, &(struct ds_held_sms){.granted = 8});
	assert_true(allocation.granted_sm_s == 128 + 34);
	/* Never backwards. */
	ds_allocation_count(&allocation, 150 * s, &(struct ds_held_sms){.granted = 8});
	assert_true(allocation.granted_sm_s == 128 + 34);
}

static void whose_sms_they_are(void **state)
{
	struct ds_ledger_state ledger = {.shape = {.n_groups = 15, .group_sms = 8, .rest_sms = 12},
					 .n_residents = 2};
	struct ds_ledger_resident *idle = &ledger.residents[0], *busy = &ledger.residents[1];

	idle->own = (struct ds_groups){{0xff, 0}};
	busy->own = (struct ds_groups){{0xff00, 0}}; /* 8-14+rest */
	idle->held = (struct ds_groups){{0x3, 0}};   /* 2 and 3 are on their way */
	busy->held = (struct ds_groups){{0xfff0, 0}};
	struct ds_held_sms held = ds_allocation_sms(&ledger, idle);
	assert_int_equal(held.granted, 6 * 8);
	assert_int_equal(held.borrowed, 0);
	assert_int_equal(held.lent, 4 * 8);
	held = ds_allocation_sms(&ledger, busy);
	assert_int_equal(held.granted, 7 * 8 + 12);
	assert_int_equal(held.borrowed, 4 * 8);
	assert_int_equal(held.lent, 0);

	/* A group that both share in time is both's. */
	idle->own = idle->held = busy->own = busy->held = (struct ds_groups){{0x1, 0}};
	held = ds_allocation_sms(&ledger, idle);
	assert_int_equal(held.granted, 8);
	assert_int_equal(held.borrowed, 0);
	assert_int_equal(held.lent, 0);
}

static void records(void **state)
{
	struct ds_allocation allocation = {.name = "job-7",
					   .job_id = 7,
					   .restart = 2,
					   .uid = 1000,
					   .gpu_uuid = "GPU-1",
					   .begin_unix_s = 1000,
					   .granted_sm_s = 12.5,
					   .borrowed_sm_s = 1.5,
					   .lent_sm_s = 2.5,
					   .programs = 3,
					   .step_granted_max_milli = 250};
	struct ds_usage_record record;

	strcpy(allocation.grant.class_name, "latency");
	allocation.grant.share_milli = 500;
	ds_allocation_record(&allocation, "node1", 1060, &record);
	assert_string_equal(record.cluster, "");
	assert_string_equal(record.node, "node1");
	assert_int_equal(record.job_id, 7);
	assert_int_equal(record.restart, 2);
	assert_int_equal(record.uid, 1000);
	assert_string_equal(record.class_name, "latency");
	assert_int_equal(record.share_milli, 500);
	assert_string_equal(record.gpu_uuid, "GPU-1");
	assert_true(record.begin_unix_s == 1000 && record.end_unix_s == 1060);
	assert_true(record.granted_sm_s == 12.5);
	assert_true(record.borrowed_sm_s == 1.5 && record.lent_sm_s == 2.5);
	assert_int_equal(record.programs, 3);
	assert_int_equal(record.step_granted_max_milli, 250);
	ds_allocation_record(&allocation, "node1", 900, &record); /* the clock was set back */
	assert_true(record.end_unix_s == 1000);
}

static void the_state_is_whole_or_refused(void **state)
{
	struct ds_allocation allocation = {.name = "job-1", .job_id = 1, .programs = 5}, read;
	struct ds_error err;
	char path[PATH_MAX];

	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(ds_allocation_create(&config, "job-1", &err), 0);
	int fd = ds_allocation_open(&config, &allocation, &err);
	assert_true(fd >= 0);
	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), 0);
	assert_int_equal(read.programs, 5);
	allocation.programs = 6;
	assert_int_equal(ds_allocation_save(fd, &allocation), 0);
	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), 0);
	assert_int_equal(read.programs, 6);

	assert_int_equal(ftruncate(fd, sizeof(allocation) - 1), 0);
	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(ds_allocation_save(fd, &allocation), 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), -1);
	strcpy(allocation.name, "job-2"); /* another one's */
	assert_int_equal(ds_allocation_save(fd, &allocation), 0);
	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), -1);
	assert_non_null(strstr(err.text, "not a whole state"));
	close(fd);
	assert_int_equal(ds_allocation_path(&config, "job-1", "state", path, &err), 0);
	unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(ds_allocation_read(&config, "job-1", &read, &err), -1);
	strcpy(allocation.name, "job-1");
	assert_int_equal(ds_allocation_open(&config, &allocation, &err), -1);
}

static void what_a_neighbour_notes_is_kept_and_makes_no_file(void **state)
{
	struct ds_allocation allocation = {
	    .name = "job-1", .late_programs = 4, .ended_programs = 2};
	struct ds_error err = {""};
	char path[PATH_MAX], text[64];

	assert_int_equal(ds_allocation_create(&config, "job-1", NULL), 0);
	assert_int_equal(ds_allocation_note_late(&config, "job-1", "one", true, &err), -1);
	assert_non_null(strstr(err.text, "job-1/" DS_PORT_LAST_NOTES));
	assert_int_equal(ds_allocation_write(&config, "job-1", DS_PORT_LAST_NOTES, 0644, "", NULL),
			 0);
	assert_int_equal(ds_allocation_note_late(&config, "job-1", "one", true, &err), -1);
	assert_non_null(strstr(err.text, "job-1/state"));
	assert_int_equal(ds_allocation_path(&config, "job-1", "state", path, NULL), 0);
	assert_int_equal(access(path, F_OK), -1);
	close(ds_allocation_open(&config, &allocation, NULL));
	assert_int_equal(ds_allocation_note_late(&config, "job-1", "two", true, &err), 0);
	assert_int_equal(ds_allocation_note_late(&config, "job-1", "three", false, &err), 0);
	assert_int_equal(ds_allocation_read(&config, "job-1", &allocation, &err), 0);
	assert_int_equal(allocation.late_programs, 6);
	assert_int_equal(allocation.ended_programs, 3);
	assert_int_equal(ds_allocation_path(&config, "job-1", DS_PORT_LAST_NOTES, path, NULL), 0);
	assert_int_equal(ds_read_text(path, 0, text, sizeof(text)), 14);
	assert_string_equal(text, "one\ntwo\nthree\n");
}

static void directories(void **state)
{
	struct ds_error err;
	struct stat st;
	char path[PATH_MAX], inner[PATH_MAX];

	mode_t mask = umask(077);
	assert_int_equal(ds_allocation_create(&config, "job-1", &err), 0);
	umask(mask);
	assert_int_equal(stat(config.runtime_dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0755);
	assert_int_equal(ds_allocation_path(&config, "job-1", NULL, path, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0711);
	assert_int_equal(ds_allocation_create(&config, "job-1", &err), -1);
	assert_int_equal(errno, EEXIST);

	assert_int_equal(ds_allocation_write(&config, "job-1", "task.env", 0644, "A=1\n", &err), 0);
	assert_int_equal(ds_allocation_path(&config, "job-1", "task.env", inner, &err), 0);
	assert_int_equal(stat(inner, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(st.st_size, 4);
	assert_int_equal(ds_allocation_write(&config, "job-9", "x", 0644, "", &err), -1);

	/* What is not a file is not ours: it stays, and is told. */
	assert_int_equal(ds_allocation_path(&config, "job-1", "folder", inner, &err), 0);
	assert_int_equal(mkdir(inner, 0700), 0);
	assert_int_equal(ds_allocation_remove(&config, "job-1", &err), -1);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(rmdir(inner), 0);
	assert_int_equal(ds_allocation_remove(&config, "job-1", &err), 0);
	assert_int_equal(ds_allocation_remove(&config, "job-1", &err), 0);
	assert_int_equal(access(path, F_OK), -1);

	assert_int_equal(chmod(config.runtime_dir, 0777), 0);
	assert_int_equal(ds_allocation_create(&config, "job-1", &err), -1);
	assert_non_null(strstr(err.text, "nobody else"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names),
	    cmocka_unit_test(what_is_held_is_counted),
	    cmocka_unit_test(whose_sms_they_are),
	    cmocka_unit_test(records),
	    cmocka_unit_test_setup_teardown(the_state_is_whole_or_refused, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(what_a_neighbour_notes_is_kept_and_makes_no_file,
					    set_up, tear_down),
	    cmocka_unit_test_setup_teardown(directories, set_up, tear_down),
	};

	alarm(60);
	return cmocka_run_group_tests_name("allocation", tests, NULL, NULL);
}
