/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/gpu_users.h"

static void jobs_by_their_cgroup(void **state)
{
	static const struct {
		const char *text;
		bool in;
	} cases[] = {
	    {"0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0\n", true},
	    {"4:freezer:/slurm/uid_0/job_12/step_batch\n3:cpu:/\n", true},
	    {"0::/slurm/job_12\n", true},
	    {"0::/slurm/job_12", true},
	    {"0::/slurm/job_123/step_0\n", false},
	    {"0::/slurm/job_1/step_12\n", false},
	    {"0::/slurm/myjob_12/step_0\n", false},
	    {"0::/slurm/job_123/x/job_12/y\n", true},
	    {"0::/\n", false},
	    {"", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (ds_cgroup_in_job(cases[i].text, 12) != cases[i].in)
			fail_msg("case %zu", i);
	}
}

static void what_stands_in_for_a_gpu_is_no_gpu(void **state)
{
	char dir[] = "/tmp/ds-users-XXXXXX", path[128];
	static struct ds_node_config config;
	struct ds_gpu_files files;

	assert_non_null(mkdtemp(dir));
	ds_node_config_defaults(&config, "n");
	snprintf(config.gpu_info_dir, sizeof(config.gpu_info_dir), "%s", dir);
	assert_int_equal(
	    ds_gpu_files_find(&config, "GPU-aaaaaaaa-0000-4000-8000-000000000001", &files), -1);
	snprintf(path, sizeof(path), "%s/0000:01:00.0", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/0000:01:00.0/information", dir);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs("Model: \t x\nGPU UUID: \t GPU-aaaaaaaa-0000-4000-8000-000000000001\nBus Location: "
	      "\t 0000:01:00.0\nDevice Minor: \t 3\n",
	      file);
	fclose(file);

	snprintf(config.gpu_device_prefix, sizeof(config.gpu_device_prefix), "%s.dev", dir);
	char device[128], uvm[128];
	snprintf(device, sizeof(device), "%s.dev3", dir);
	snprintf(uvm, sizeof(uvm), "%s.dev-uvm", dir);
	assert_int_equal(
	    ds_gpu_files_find(&config, "GPU-aaaaaaaa-0000-4000-8000-000000000001", &files), -1);
	assert_int_equal(symlink("/dev/null", device), 0);
	assert_int_equal(
	    ds_gpu_files_find(&config, "GPU-aaaaaaaa-0000-4000-8000-000000000001", &files), -1);
	unlink(device);
	fclose(fopen(device, "w"));
	assert_int_equal(
	    ds_gpu_files_find(&config, "GPU-aaaaaaaa-0000-4000-8000-000000000001", &files), 0);
	assert_string_equal(files.device, device);
	assert_string_equal(files.uvm, "");
	fclose(fopen(uvm, "w"));
	assert_int_equal(
	    ds_gpu_files_find(&config, "GPU-aaaaaaaa-0000-4000-8000-000000000001", &files), 0);
	assert_string_equal(files.uvm, uvm);

	unlink(uvm);
	unlink(device);
	unlink(path);
	snprintf(path, sizeof(path), "%s/0000:01:00.0", dir);
	rmdir(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(jobs_by_their_cgroup),
	    cmocka_unit_test(what_stands_in_for_a_gpu_is_no_gpu),
	};

	alarm(60);
	return cmocka_run_group_tests_name("gpu_users", tests, NULL, NULL);
}
