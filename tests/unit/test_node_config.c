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

#include "common/node_config.h"

static int parse(const char *text, struct ds_node_config *config, struct ds_error *err)
{
	*err = (struct ds_error){""};
	return ds_node_config_parse(text, "node.conf", "node7", config, err);
}

static void defaults(void **state)
{
	struct ds_node_config config, empty;
	struct ds_error err;

	ds_node_config_defaults(&config, "node7");
	assert_string_equal(config.node_name, "node7");
	assert_string_equal(config.file, "");
	assert_string_equal(config.runtime_dir, "/run/detshare");
	assert_string_equal(config.spool_dir, "/var/spool/detshare");
	assert_string_equal(config.gpu_info_dir, "/proc/driver/nvidia/gpus");
	assert_string_equal(config.cuda_library, "libcuda.so.1");
	assert_string_equal(config.mps_control, "nvidia-cuda-mps-control");
	assert_string_equal(config.usage_host, "");
	assert_int_equal(config.usage_port, 6829);
	assert_string_equal(config.without_partition, "refuse");
	assert_true(config.move_programs);
	assert_int_equal(config.sample_launches, 512);
	assert_string_equal(config.whole_gpu_kernels, "");
	assert_int_equal(config.whole_gpu_deadline_ms, 2000);
	assert_int_equal(config.whole_gpu_patience_ms, 60000);
	assert_int_equal(config.overlong_kernel_s, 5);
	assert_false(config.realtime);
	assert_int_equal(config.reclaim_spin_us, 500);
	assert_int_equal(config.reclaim_spin_cpus, 3);
	assert_false(config.hold_back);
	assert_int_equal(config.hold_back_milli, 250);
	assert_int_equal(config.hold_back_us, 5000);
	assert_string_equal(config.hold_back_kernels, "");
	assert_int_equal(config.acknowledge_deadline_s, 300);
	assert_string_equal(config.on_no_acknowledgement, "end");
	assert_string_equal(config.on_neighbour_fault, "record");
	assert_int_equal(config.neighbour_fault_requeues, 3);
	assert_int_equal(config.memory_reserve_mib, 1024);
	assert_int_equal(config.memory_per_program_mib, 640);
	assert_int_equal(parse("", &empty, &err), 0);
	assert_memory_equal(&config, &empty, sizeof(config));
	assert_int_equal(parse("# only a comment\n", &empty, &err), 0);
	assert_memory_equal(&config, &empty, sizeof(config));
}

static void the_node_name_stays_in_its_directory(void **state)
{
	static const struct {
		const char *given, *name;
	} cases[] = {
	    {"node1", "node1"}, {"a.b", "a.b"},   {"../x", "_._x"}, {".", "_"},
	    {"a/b", "a_b"},     {"a%nb", "a_nb"}, {"a\nb", "a_b"},
	};
	struct ds_node_config config;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ds_node_config_defaults(&config, cases[i].given);
		assert_string_equal(config.node_name, cases[i].name);
	}
	setenv("SLURMD_NODENAME", "node8", 1);
	ds_node_config_defaults(&config, "node1");
	assert_string_equal(config.node_name, "node1");
	ds_node_config_defaults(&config, NULL);
	assert_string_equal(config.node_name, "node8");
	unsetenv("SLURMD_NODENAME");
	ds_node_config_defaults(&config, NULL);
	assert_true(config.node_name[0]);
	assert_null(strchr(config.node_name, '.'));
	ds_node_config_defaults(&config, "");
	assert_true(config.node_name[0]);
}

static void values(void **state)
{
	struct ds_node_config config;
	struct ds_error err;

	assert_int_equal(parse("runtime_dir = \"/run/%n/detshare-%n\"\n"
			       "usage_host = \"slurm.example.org\"\n"
			       "usage_port = 7000 # behind a value\n"
			       "mps_control = \"\"\n"
			       "munge_socket = '/run/munge/other'\n"
			       "gpu_device_prefix = /tmp/dev/emugpu\n"
			       "memory_reserve = 2G\n"
			       "memory_per_program = 0\n"
			       "without_partition = run\n"
			       "move_programs = no\n"
			       "sample_launches = 0\n"
			       "realtime = yes\n"
			       "reclaim_spin_us = 0\n"
			       "reclaim_spin_cpus = 1\n"
			       "hold_back = yes\n"
			       "hold_back_most = 0.4\n"
			       "hold_back_us = 700\n"
			       "hold_back_kernels = \"*norm*, copy_*\"\n"
			       "acknowledge_deadline_s = 0\n"
			       "on_no_acknowledgement = warn\n"
			       "on_neighbour_fault = requeue\n"
			       "neighbour_fault_requeues = 1\n"
			       "overlong_kernel_s = 90\n",
			       &config, &err),
			 0);
	assert_string_equal(config.runtime_dir, "/run/node7/detshare-node7");
	assert_string_equal(config.usage_host, "slurm.example.org");
	assert_int_equal(config.usage_port, 7000);
	assert_string_equal(config.mps_control, "");
	assert_string_equal(config.munge_socket, "/run/munge/other");
	assert_string_equal(config.gpu_device_prefix, "/tmp/dev/emugpu");
	assert_string_equal(config.spool_dir, "/var/spool/detshare");
	assert_string_equal(config.without_partition, "run");
	assert_int_equal(config.memory_reserve_mib, 2048);
	assert_int_equal(config.memory_per_program_mib, 0);
	assert_false(config.move_programs);
	assert_int_equal(config.sample_launches, 0);
	assert_int_equal(config.overlong_kernel_s, 90);
	assert_true(config.realtime);
	assert_int_equal(config.reclaim_spin_us, 0);
	assert_int_equal(config.reclaim_spin_cpus, 1);
	assert_true(config.hold_back);
	assert_int_equal(config.hold_back_milli, 400);
	assert_int_equal(config.hold_back_us, 700);
	assert_string_equal(config.hold_back_kernels, "*norm*, copy_*");
	assert_int_equal(config.acknowledge_deadline_s, 0);
	assert_string_equal(config.on_no_acknowledgement, "warn");
	assert_string_equal(config.on_neighbour_fault, "requeue");
	assert_int_equal(config.neighbour_fault_requeues, 1);
}

static void refused(void **state)
{
	static const struct {
		const char *text, *words;
	} cases[] = {
	    {"runtime_dri = \"/x\"", "node.conf:1: no such option 'runtime_dri'"},
	    {"\n\nruntime_dir = \"x\"", "node.conf:3: runtime_dir = \"x\" is not an absolute path"},
	    {"runtime_dir = \"\"", "node.conf:1: runtime_dir is empty"},
	    {"cuda_library = \"\"", "cuda_library is empty"},
	    {"mps_control = \"a/b\"", "mps_control = \"a/b\" is not an absolute path"},
	    {"spool_dir = \"/a\\nb\"", "spool_dir holds a control character"},
	    {"without_partition = no",
	     "without_partition = \"no\" is neither \"refuse\" nor \"run\""},
	    {"without_partition = \"\"", "without_partition is empty"},
	    {"usage_port = 0", "usage_port = 0 is not a TCP port"},
	    {"usage_port = 65536", "usage_port = 65536 is not a TCP port"},
	    {"memory_reserve = 1.5G", "node.conf:1: memory_reserve: \"1.5G\" is not a size"},
	    {"memory_per_program = -1", "node.conf:1: memory_per_program: \"-1\" is not"},
	    {"whole_gpu_deadline_ms = 0",
	     "node.conf:1: whole_gpu_deadline_ms = 0 is not within 1 to 3600000 milliseconds"},
	    {"whole_gpu_patience_ms = 4000000", "is not within 1 to 3600000 milliseconds"},
	    {"reclaim_spin_us = 10001", "is not within 1 to 10000 microseconds"},
	    {"reclaim_spin_us = -1", "is not within 1 to 10000 microseconds"},
	    {"reclaim_spin_cpus = 0", "reclaim_spin_cpus = 0 is not within 1 to 1024 CPUs"},
	    {"hold_back_most = 0", "node.conf:1: hold_back_most = 0 is not a part of the time"},
	    {"hold_back_most = 1.5", "hold_back_most = 1.5 is not a part of the time"},
	    {"hold_back_us = 0", "hold_back_us = 0 is not within 1 to 1000000 microseconds"},
	    {"sample_launches = -1", "sample_launches = -1 is not a number of launches"},
	    {"overlong_kernel_s = 86401", "overlong_kernel_s = 86401 is not a number of seconds"},
	    {"acknowledge_deadline_s = -1",
	     "acknowledge_deadline_s = -1 is not a number of seconds (0 to 86400)"},
	    {"on_no_acknowledgement = kill",
	     "on_no_acknowledgement = \"kill\" is neither \"warn\" nor \"end\""},
	    {"on_neighbour_fault = restart", "is none of \"record\", \"notify\" and \"requeue\""},
	    {"neighbour_fault_requeues = 1001", "is not a number of times (0 to 1000)"},
	    {"move_programs = maybe",
	     "node.conf:1: invalid boolean value for option 'move_programs'"},
	    {"usage_port = many", "node.conf:1: invalid integer"},
	    {"runtime_dir = \"/x", "node.conf:1: "},
	    {"runtime_dir", "node.conf:1: "},
	    {"runtime_dir = {\"/a\"}", "node.conf:1: "},
	    {"= 1", "node.conf:1: "},
	};
	struct ds_node_config config, untouched;
	struct ds_error err;

	ds_node_config_defaults(&untouched, "node7");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(parse(cases[i].text, &config, &err), -1);
		if (!strstr(err.text, cases[i].words))
			fail_msg("\"%s\": %s", cases[i].text, err.text);
		assert_null(strchr(err.text, '\n'));
		assert_memory_equal(&config, &untouched, sizeof(config));
	}
}

static void too_long(void **state)
{
	char text[PATH_MAX + 100];
	struct ds_node_config config;
	struct ds_error err;

	memset(text, 'a', sizeof(text));
	memcpy(text, "runtime_dir = \"/", 16);
	strcpy(text + sizeof(text) - 3, "\"\n");
	assert_int_equal(parse(text, &config, &err), -1);
	assert_non_null(strstr(err.text, "longer than"));
	/* Short enough as written, too long with the node's name in it. */
	for (size_t i = 16; i < PATH_MAX - 20; i += 2)
		memcpy(text + i, "%n", 2);
	strcpy(text + PATH_MAX - 20, "\"\n");
	assert_int_equal(parse(text, &config, &err), -1);
	assert_non_null(strstr(err.text, "longer than"));
}

static void put(const char *path, const char *text, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, size), size);
	close(fd);
}

static void files(void **state)
{
	char dir[] = "/tmp/ds-node-config-XXXXXX", path[64], other[80];
	struct ds_node_config config;
	struct ds_error err;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/conf", dir);
	unsetenv("DETSHARE_NODE_CONF");
	assert_int_equal(ds_node_config_read(path, "n", &config, &err), -1);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(ds_node_config_read(NULL, "n", &config, &err),
			 0); /* SYSCONFDIR has none */
	assert_string_equal(config.file, "");

	put(path, "usage_port = 1\n", 15);
	assert_int_equal(ds_node_config_read(path, "n", &config, &err), 0);
	assert_int_equal(config.usage_port, 1);
	assert_string_equal(config.file, path);
	setenv("DETSHARE_NODE_CONF", path, 1);
	assert_int_equal(ds_node_config_read(NULL, "n", &config, &err), 0);
	assert_int_equal(config.usage_port, 1);

	put(path, "usage_port = 1\n\0x", 17);
	assert_int_equal(ds_node_config_read(path, "n", &config, &err), -1);
	assert_non_null(strstr(err.text, "NUL"));
	assert_int_equal(ds_node_config_read(dir, "n", &config, &err), -1);
	assert_non_null(strstr(err.text, "not a regular file"));

	char *big = malloc(70000);
	assert_non_null(big);
	memset(big, '\n', 70000);
	put(path, big, 70000);
	free(big);
	assert_int_equal(ds_node_config_read(path, "n", &config, &err), -1);
	assert_non_null(strstr(err.text, "larger than"));

	if (geteuid() == 0) {
		put(path, "", 0);
		chmod(path, 0666);
		assert_int_equal(ds_node_config_read(path, "n", &config, &err), -1);
		assert_non_null(strstr(err.text, "chmod go-w"));
		chmod(path, 0644);
		assert_int_equal(chown(path, 65534, 65534), 0);
		assert_int_equal(ds_node_config_read(path, "n", &config, &err), -1);
	}
	snprintf(other, sizeof(other), "%s/none", path);
	setenv("DETSHARE_NODE_CONF", other, 1);
	assert_int_equal(ds_node_config_read(NULL, "n", &config, &err), -1);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults), cmocka_unit_test(the_node_name_stays_in_its_directory),
	    cmocka_unit_test(values),   cmocka_unit_test(refused),
	    cmocka_unit_test(too_long), cmocka_unit_test(files),
	};

	alarm(60);
	return cmocka_run_group_tests_name("node_config", tests, NULL, NULL);
}
