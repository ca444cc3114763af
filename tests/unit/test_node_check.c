/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/node_check.h"
#include "gres/slurm_compat.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static char findings[4096];

static void collect(void *arg, const char *line)
{
	size_t used = strlen(findings);

	snprintf(findings + used, sizeof(findings) - used, "%s\n", line);
}

static void checks(void **state)
{
	static const struct {
		const char *conf;
		uint64_t minors;
		const char *finding; /* NULL: none */
	} rows[] =
	{ {"", 3, NULL},
	  {"NodeName=node[1-4] Name=gpu Type=a File=/dev/nvidia[0-1]\n"
	   "NodeName=node2 Name=gpu Type=a File=/dev/nvidia[0-7]\n"
	   "NodeName=node1 Name=shard Count=2000\n"
	   "NodeName=node1 Name=detshare Type=latency Count=2000 # comment\n",
	   3, NULL},
	  {"AutoDetect=off\nName=gpu Type=a \\\nFile=/dev/nvidia[0,1]\nName=shard Count=2K\n", 3,
	   NULL},
	  /* headroom for besteffort tokens */
	  {"Name=gpu Type=a File=/dev/nvidia[0-1]\nName=shard Count=2008\n", 3, NULL},
	  {"Name=gpu Type=a File=/dev/nvidia[0-1]\nname=SHARD count=2\n", 3,
	   "2 shards on the 2 GPUs of node node1, but a share counts thousandths: write Name=shard "
	   "Count=2000"},
	  {"Name=gpu Type=a File=/dev/nvidia[0-1]\nName=shard Count=2001\n", 3, "2001 shards"},
	  {"Name=gpu Type=a File=/dev/nvidia[0-2]\n", 3,
	   "File=/dev/nvidia2 of node node1, but the driver lists no GPU with minor number 2 in "
	   "/proc/x"},
	  {"Name=gpu Type=a File=/dev/nvidia0\n", 0, "the driver lists no GPU with minor number 0"},
	  {"Name=gpu Type=a File=/dev/nvidia64\n", UINT64_MAX, "minor number 64"},
	  {"Name=gpu Type=a File=/dev/dri/card0\n", 3, "is not /dev/nvidia and a number"},
	  {"Name=gpu Type=a File=/dev/nvidiactl\n", 3, "is not /dev/nvidia and a number"},
	  {"Name=gpu Type=a File=/dev/nvidia0\nName=detshare Count=1000\n", 3, "has no Type="},
	  {"Name=gpu Cores=0-7 File=/dev/nvidia0\n", 3, NULL},
	  {"AutoDetect=nvml\nName=shard Count=5000\n", 3, NULL},
	  {"Include other.conf\nName=gpu Type=a File=/dev/nvidia0\nName=shard Count=5\n", 3, NULL},
	  {"NodeName=other Name=gpu File=/dev/nvidia9\n", 3, NULL},
#if !DS_SLURM_SINCE(23, 11)
	  {"Name=gpu File=/dev/nvidia[0-1]\n", 3, "neither Type= nor Cores="},
#endif
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_node_gpus gpus = {"/proc/x", "/dev/nvidia", rows[i].minors};

		findings[0] = '\0';
		unsigned n = ds_node_check(rows[i].conf, "node1", &gpus, collect, NULL);
		if (n != (rows[i].finding ? 1 : 0) ||
		    (rows[i].finding && !strstr(findings, rows[i].finding)))
			fail_msg("row %zu: %u findings: %s", i, n, findings);
	}
}

static void minors(void **state)
{
	char directory[] = "/tmp/test_node_check.XXXXXX";
	char path[128];

	assert_non_null(mkdtemp(directory));
	assert_int_equal(ds_node_gpu_minors(directory), 0);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/0000:0%d:00.0", directory, i);
		assert_int_equal(mkdir(path, 0700), 0);
		if (i == 1)
			continue; /* a GPU that is going away: a folder without information */
		strcat(path, "/information");
		FILE *file = fopen(path, "w");
		assert_non_null(file);
		fprintf(file, "Model: \t\t X\nDevice Minor: \t %d\nGPU UUID: \t GPU-1\n", i * 31);
		fclose(file);
	}
	assert_true(ds_node_gpu_minors(directory) == (UINT64_C(1) | UINT64_C(1) << 62));
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/0000:0%d:00.0/information", directory, i);
		unlink(path);
		*strrchr(path, '/') = '\0';
		rmdir(path);
	}
	rmdir(directory);
	assert_int_equal(ds_node_gpu_minors(directory), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(checks),
	    cmocka_unit_test(minors),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
