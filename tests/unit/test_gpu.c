/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <sched.h>
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

#include "noderuntime/gpu.h"

#define TOO_LONG "GPU-00000000000000000000000000000000000000000000000000000000"
#define UUID_A   "GPU-aaaaaaaa-0000-4000-8000-000000000001"
#define UUID_B   "GPU-bbbbbbbb-0000-4000-8000-000000000002"

static char dir[64];

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/ds-gpu-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* What the driver writes for one GPU. */
static void put_information(const char *pci, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, pci);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s/information", dir, pci);
	put(path, text);
}

/* The driver counts by PCI address, Slurm by minor number; here they run against each other. */
static void gpus_are_known_by_minor_number(void **state)
{
	struct ds_gpu gpus[DS_GPUS_MAX], gpu;
	struct ds_error err;

	assert_int_equal(ds_gpu_list(dir, gpus, &err), 0);
	put_information("0000:01:00.0",
			"Model: \t\t NVIDIA H200\nIRQ:   \t\t 200\nGPU UUID: \t " UUID_A "\n"
			"Video BIOS: \t 96.00.a5.00.01\nBus Type: \t PCIe\n"
			"Bus Location: \t 0000:01:00.0\nDevice Minor: \t 3\nGPU Excluded:\t No\n");
	put_information("0000:c1:00.0", "GPU UUID: \t " UUID_B "\nDevice Minor: \t 0\n");
	assert_int_equal(ds_gpu_list(dir, gpus, &err), 2);
	assert_int_equal(gpus[0].minor, 0);
	assert_string_equal(gpus[0].uuid, UUID_B);
	assert_string_equal(gpus[0].pci, "0000:c1:00.0"); /* from the name of the directory */
	assert_int_equal(gpus[1].minor, 3);
	assert_string_equal(gpus[1].pci, "0000:01:00.0");

	assert_int_equal(ds_gpu_find(dir, "3", &gpu, &err), 0);
	assert_string_equal(gpu.uuid, UUID_A);
	assert_int_equal(ds_gpu_find(dir, UUID_B, &gpu, &err), 0);
	assert_int_equal(gpu.minor, 0);
	assert_int_equal(ds_gpu_find(dir, "1", &gpu, &err), -1);
	assert_non_null(strstr(err.text, "3=" UUID_A));
	assert_int_equal(ds_gpu_find(dir, "GPU-", &gpu, &err), -1);
	assert_int_equal(ds_gpu_find(dir, "", &gpu, &err), -1);
	assert_int_equal(ds_gpu_find(dir, "-3", &gpu, &err), -1);
	assert_int_equal(ds_gpu_find(dir, "3x", &gpu, &err), -1);
}

static void broken_information_is_named(void **state)
{
	static const char *const texts[] = {
	    "",
	    "GPU UUID: \t " UUID_A "\n",
	    "Device Minor: \t 0\n",
	    "GPU UUID: \t " UUID_A "\nDevice Minor: \t -1\n",
	    "GPU UUID: \t " UUID_A "\nDevice Minor: \t x\n",
	    "GPU UUID: \t GPU-a/../../b\nDevice Minor: \t 0\n",
	    "GPU UUID: \t MIG-1\nDevice Minor: \t 0\n",
	    "GPU UUID:\nDevice Minor: \t 0\n",
	    ("GPU UUID: \t " TOO_LONG "\nDevice Minor: \t 0\n"),
	};
	struct ds_gpu gpus[DS_GPUS_MAX];
	struct ds_error err;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		put_information("0000:01:00.0", texts[i]);
		assert_int_equal(ds_gpu_list(dir, gpus, &err), -1);
		assert_non_null(strstr(err.text, "0000:01:00.0/information"));
	}
	assert_int_equal(ds_gpu_list("/nonexistent", gpus, &err), -1);
	assert_non_null(strstr(err.text, "/nonexistent"));
}

static void uuids(void **state)
{
	assert_true(ds_gpu_uuid_valid(UUID_A));
	assert_false(ds_gpu_uuid_valid("GPU-?\?\?\?-?\?"));
	assert_false(ds_gpu_uuid_valid("GPU-"));
	assert_false(ds_gpu_uuid_valid(""));
	assert_false(ds_gpu_uuid_valid("GPU-aa/bb"));
	assert_false(ds_gpu_uuid_valid("MIG-aaaaaaaa"));
	assert_false(ds_gpu_uuid_valid(UUID_A UUID_A));
}

static const char whole[] = "boot_id=b\nuuid=" UUID_A "\npci=0000:01:00.0\nname=NVIDIA H200\n"
			    "sm_count=132\nmemory_mib=143360\ncuda=13000\nn_groups=15\ngroup_sms="
			    "8\nrest_sms=12\ncpus=0-3,8\n";

static void topologies_are_read(void **state)
{
	struct ds_topology topology;
	struct ds_error err;

	assert_int_equal(ds_topology_parse(whole, &topology, &err), 0);
	assert_string_equal(topology.name, "NVIDIA H200");
	assert_int_equal(topology.shape.n_groups, 15);
	assert_int_equal(topology.shape.group_sms, 8);
	assert_int_equal(topology.shape.rest_sms, 12);
	assert_string_equal(topology.cpus, "0-3,8");
}

static void broken_topologies_are_refused(void **state)
{
	static const struct {
		const char *from, *to, *words;
	} cases[] = {
	    {"pci=", "pcie=", "unknown key pcie"},
	    {"cpus=0-3,8\n", "", "cpus is missing"},
	    {"cpus=0-3,8\n", "cpus=\ncpus=\n", "cpus comes twice"},
	    {"132", "131", "are not 131 SMs"},
	    {"=15\n", "=0\n", "out of range"},
	    {"=15\n", "=128\n", "out of range"},
	    {"=15\n", "=-1\n", "out of range"},
	    {"=15\n", "=15x\n", "out of range"},
	    {"=8\n", "=99999999999\n", "out of range"},
	    {"boot_id=b\n", "boot_id\n", "not key=value"},
	    {"pci=0000", "pci=000000000000000000000000", "pci is too long"},
	};
	struct ds_topology topology;
	struct ds_error err;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[1024];
		const char *at = strstr(whole, cases[i].from);
		assert_non_null(at);
		snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - whole), whole, cases[i].to,
			 at + strlen(cases[i].from));
		assert_int_equal(ds_topology_parse(text, &topology, &err), -1);
		if (!strstr(err.text, cases[i].words))
			fail_msg("case %zu: %s", i, err.text);
	}
}

static void topologies_are_kept_for_one_boot_and_gpu(void **state)
{
	struct ds_topology topology, read;
	struct ds_error err;
	char path[128];
	struct stat st;

	assert_int_equal(ds_topology_parse(whole, &topology, &err), 0);
	assert_int_equal(ds_topology_read(dir, UUID_A, &read, &err), -1);
	assert_int_equal(ds_topology_write(dir, &topology, &err), 0);
	assert_int_equal(ds_topology_read(dir, UUID_A, &read, &err), -1); /* boot "b" */
	assert_int_equal(ds_boot_id(topology.boot_id, &err), 0);
	assert_int_equal(strlen(topology.boot_id), 36);
	assert_int_equal(ds_topology_write(dir, &topology, &err), 0);
	assert_int_equal(ds_topology_read(dir, UUID_A, &read, &err), 0);
	assert_memory_equal(&read, &topology, sizeof(read));
	assert_int_equal(ds_topology_read(dir, UUID_B, &read, &err), -1);
	snprintf(path, sizeof(path), "%s/topology", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(ds_topology_write("/nonexistent", &topology, &err), -1);
}

static void threads_are_bound_within_what_is_allowed(void **state)
{
	cpu_set_t before, after;
	char list[32];
	int first = 0;

	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	ds_bind_near("");
	ds_bind_near("rubbish");
	ds_bind_near("0-");
	ds_bind_near("1000-1023"); /* none of ours */
	ds_bind_near("99999999999999999999-2");
	assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
	assert_true(CPU_EQUAL(&before, &after));
	while (!CPU_ISSET(first, &before))
		first++;
	snprintf(list, sizeof(list), "%d,1000-1023", first);
	ds_bind_near(list);
	assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
	assert_int_equal(CPU_COUNT(&after), 1);
	assert_true(CPU_ISSET(first, &after));
	sched_setaffinity(0, sizeof(before), &before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(gpus_are_known_by_minor_number, make_dir, remove_dir),
	    cmocka_unit_test_setup_teardown(broken_information_is_named, make_dir, remove_dir),
	    cmocka_unit_test(uuids),
	    cmocka_unit_test(topologies_are_read),
	    cmocka_unit_test(broken_topologies_are_refused),
	    cmocka_unit_test_setup_teardown(topologies_are_kept_for_one_boot_and_gpu, make_dir,
					    remove_dir),
	    cmocka_unit_test(threads_are_bound_within_what_is_allowed),
	};

	alarm(60);
	return cmocka_run_group_tests_name("gpu", tests, NULL, NULL);
}
