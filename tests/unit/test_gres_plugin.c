/* SPDX-License-Identifier: Apache-2.0 */
/* gres_detshare.so as slurmstepd and slurmd load it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/granted.h"
#include "gres/slurm_compat.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static void *plugin;
static char log_text[4096];

DS_EXPORT void slurm_error(const char *format, ...)
{
	size_t used = strlen(log_text);
	va_list args;

	va_start(args, format);
	vsnprintf(log_text + used, sizeof(log_text) - used, format, args);
	va_end(args);
}

static int load(void **state)
{
	plugin = dlopen(GRES_PLUGIN, RTLD_NOW);
	if (!plugin)
		print_error("%s\n", dlerror());
	return plugin ? 0 : -1;
}

/* Slurm refuses a gres plugin that lacks one of these. */
static void symbols(void **state)
{
	static const char *const names[] = {
		"plugin_name",
		"plugin_type",
		"plugin_version",
		"init",
		"fini",
		"gres_p_node_config_load",
		"gres_p_job_set_env",
		"gres_p_step_set_env",
		"gres_p_task_set_env",
		"gres_p_send_stepd",
		"gres_p_recv_stepd",
		"gres_p_get_devices",
		"gres_p_step_hardware_init",
		"gres_p_step_hardware_fini",
#if DS_SLURM_SINCE(23, 2)
		"gres_p_prep_build_env",
		"gres_p_prep_set_env",
#else
		"gres_p_epilog_build_env",
		"gres_p_epilog_set_env",
#endif
#if !DS_SLURM_SINCE(24, 11)
		"gres_p_get_job_info",
		"gres_p_get_step_info",
#endif
	};

	for (size_t i = 0; i < N(names); i++)
		if (!dlsym(plugin, names[i]))
			fail_msg("%s", dlerror());
	assert_string_equal((const char *)dlsym(plugin, "plugin_type"), "gres/detshare");
	assert_null(dlsym(plugin, "ds_node_check"));
}

/* What a child does under a daemon's name; its exit status is 0, or the line that failed. */
#define EXPECT(condition) \
	if (!(condition)) \
	return __LINE__ % 250 + 1

static bool granted_is(const char *expected)
{
	const char *kept = getenv(DS_STEP_GRANTED_VARIABLE);

	return kept && strcmp(kept, expected) == 0;
}

static int check_granted_counts(bool keeps)
{
	static const char *const functions[] = {"gres_p_step_set_env", "gres_p_job_set_env"};
	void (*set_env)(char ***, void *, uint64_t, int);

	for (size_t i = 0; i < N(functions); i++) {
		*(void **)&set_env = dlsym(plugin, functions[i]);
		setenv(DS_STEP_GRANTED_VARIABLE, "1000", 1);
		set_env(NULL, NULL, 500, 0);
		EXPECT(granted_is(keeps ? "500" : "1000"));
		set_env(NULL, NULL, 0, 0);
		EXPECT(!getenv(DS_STEP_GRANTED_VARIABLE) == keeps);
	}
	return 0;
}

static int check_reports(bool expected)
{
	int (*load_config)(void *, void *);

	*(void **)&load_config = dlsym(plugin, "gres_p_node_config_load");
	EXPECT(load_config(NULL, NULL) == SLURM_SUCCESS);
	EXPECT(!strstr(log_text, "lists no GPU with minor number 0") == !expected);
	EXPECT(!strstr(log_text, "write Name=shard Count=1000") == !expected);
	setenv("DETSHARE_NODE_CONF", "/nonexistent/detshare-node.conf", 1);
	EXPECT(load_config(NULL, NULL) == SLURM_SUCCESS);
	EXPECT(!strstr(log_text, "/nonexistent/detshare-node.conf") == !expected);
	return 0;
}

static int run_child(const char *check)
{
	if (load(NULL) < 0)
		return 1;
	if (strcmp(check, "keeps") == 0 || strcmp(check, "ignores") == 0)
		return check_granted_counts(strcmp(check, "keeps") == 0);
	return check_reports(strcmp(check, "reports") == 0);
}

static char folder[] = "/tmp/test_gres_plugin.XXXXXX";

static void write_file(const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* The plugin tells daemons by their executable: run a copy of this one under the name. */
static void run_as(const char *program, const char *check)
{
	char copy[128];
	char command[1024];

	snprintf(copy, sizeof(copy), "%s/%s", folder, program);
	snprintf(command, sizeof(command), "cp /proc/%d/exe %s && %s %s", (int)getpid(), copy, copy,
		 check);
	int status = system(command);
	unlink(copy);
	if (status != 0)
		fail_msg("%s %s: status %d", program, check, WEXITSTATUS(status));
}

/* slurmstepd keeps the count for SPANK and forgets one of before; slurmd has threads, and no use. */
static void granted_counts(void **state)
{
	run_as("slurmstepd", "keeps");
	run_as("slurmstepd-wlm", "keeps"); /* Debian's */
	run_as("slurmd", "ignores");
	run_as("slurmctld", "ignores");
}

/* A gres.conf that disagrees with the machine is reported by slurmd, and never stops it. */
static void node_is_checked(void **state)
{
	char path[256], conf[512];

	snprintf(path, sizeof(path), "%s/slurm.conf", folder);
	setenv("SLURM_CONF", path, 1);
	snprintf(path, sizeof(path), "%s/detshare-node.conf", folder);
	setenv("DETSHARE_NODE_CONF", path, 1);
	snprintf(conf, sizeof(conf), "gpu_info_dir = \"%s/gpus\"\n", folder);
	write_file("detshare-node.conf", conf);
	write_file("gres.conf", "Name=gpu Type=a File=/dev/nvidia0\nName=shard Count=10\n");
	run_as("slurmd", "reports");
	run_as("slurmd-wlm", "reports");
	run_as("slurmctld", "silent");
	snprintf(path, sizeof(path), "%s/gres.conf", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/detshare-node.conf", folder);
	unlink(path);
}

static int make_folder(void **state)
{
	return load(state) < 0 || !mkdtemp(folder) ? -1 : 0;
}

static int remove_folder(void **state)
{
	return rmdir(folder);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(symbols),
	    cmocka_unit_test(granted_counts),
	    cmocka_unit_test(node_is_checked),
	};

	alarm(60);
	if (argc == 2)
		return run_child(argv[1]);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
