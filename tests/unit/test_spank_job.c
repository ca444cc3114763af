/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "spank/child_env.h"
#include "spank/giveback.h"
#include "spank/node.h"
#include "spank/prolog_env.h"

#define GRANT "v=1,class=latency,kind=latency,share=500,isolation=user,config=0123456789abcdef"

static const char *const *environment;

static const char *get(const char *name)
{
	size_t length = strlen(name);

	for (const char *const *e = environment; *e; e++) {
		if (!strncmp(*e, name, length) && (*e)[length] == '=')
			return *e + length + 1;
	}
	return NULL;
}

static void not_our_job(void **state)
{
	static const char *const none[] = {"SLURM_JOB_GPUS=0", "DETSHARE_GRANT=" GRANT, NULL};
	struct ds_prolog_env env;

	environment = none;
	ds_prolog_env_read(get, &env);
	assert_null(env.grant_text);
}

static void prolog_environment(void **state)
{
	static const char *const full[] = {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPUS=3",
					   "SLURM_JOB_RESTART_COUNT=2",   "SLURMD_NODENAME=node1",
					   "SLURM_CONF=/etc/s.conf",      NULL};
	struct ds_prolog_env env;
	struct ds_grant grant;
	struct ds_error err = {0};

	environment = full;
	ds_prolog_env_read(get, &env);
	assert_string_equal(env.gpu, "3");
	assert_string_equal(env.restart, "2");
	assert_string_equal(env.node_name, "node1");
	assert_string_equal(env.slurm_conf, "SLURM_CONF=/etc/s.conf");
	assert_int_equal(ds_prolog_env_check(&env, get, &grant, &err), 0);
	assert_int_equal(grant.share_milli, 500);
	assert_string_equal(grant.class_name, "latency");
}

static void jobs_that_cannot_be_served(void **state)
{
	static const struct {
		const char *grant, *gpus, *reason;
	} cases[] = {
	    {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPUS=0,1", "exactly one GPU"},
	    {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPUS=", "exactly one GPU"},
	    {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPUS=0-1", "exactly one GPU"},
	    {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPUS=-1", "exactly one GPU"},
	    {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPUS=99999999999", "exactly one GPU"},
	    {"SPANK_DETSHARE_GRANT=" GRANT, "SLURM_JOB_GPU=0", "gave the job \"\""},
	    {"SPANK_DETSHARE_GRANT=", "SLURM_JOB_GPUS=0", "grant cannot be read"},
	    {"SPANK_DETSHARE_GRANT=v=2," GRANT, "SLURM_JOB_GPUS=0", "grant cannot be read"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *const list[] = {cases[i].grant, cases[i].gpus, NULL};
		struct ds_prolog_env env;
		struct ds_grant grant;
		struct ds_error err = {0};

		environment = list;
		ds_prolog_env_read(get, &env);
		assert_string_equal(env.restart, "0");
		assert_null(env.node_name);
		assert_null(env.slurm_conf);
		assert_int_equal(ds_prolog_env_check(&env, get, &grant, &err), -1);
		assert_non_null(strstr(err.text, cases[i].reason));
		assert_null(strchr(err.text, '\n'));
	}
}

static void what_happens_to_a_job(void **state)
{
	const struct ds_giveback_job base = {.runs = true, .restart = 1};
	struct ds_giveback_job job;

	job = base;
	job.batch = job.may_requeue = true;
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_PROLOG), DS_GIVEBACK_REQUEUE);
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_TASK), DS_GIVEBACK_REQUEUE);
	/* a later run of the job is another one's business */
	assert_int_equal(ds_giveback_decide(&job, 0, DS_FROM_PROLOG), DS_GIVEBACK_NOTHING);
	job.runs = false;
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_PROLOG), DS_GIVEBACK_NOTHING);

	job = base;
	job.batch = true;
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_PROLOG), DS_GIVEBACK_TELL_LATER);
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_TASK), DS_GIVEBACK_CANCEL);
	job.on_batch_host = true;
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_PROLOG), DS_GIVEBACK_LEAVE_TO_TASK);
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_TASK), DS_GIVEBACK_CANCEL);

	job = base;
	job.may_requeue = true; /* Slurm's default, also for what cannot be requeued */
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_PROLOG), DS_GIVEBACK_TELL_CANCEL);
	assert_int_equal(ds_giveback_decide(&job, 1, DS_FROM_TASK), DS_GIVEBACK_CANCEL);
}

static void what_happens_to_a_victim(void **state)
{
	const struct ds_giveback_job base = {
	    .failed = true, .batch = true, .may_requeue = true, .restart = 1};
	struct ds_giveback_job job = base;

	assert_int_equal(ds_giveback_decide_victim(&base, 1, 3), DS_GIVEBACK_REQUEUE);
	/* Not for ever, */
	assert_int_equal(ds_giveback_decide_victim(&base, 1, 2), DS_GIVEBACK_REQUEUE);
	assert_int_equal(ds_giveback_decide_victim(&base, 1, 1), DS_GIVEBACK_NOTHING);
	assert_int_equal(ds_giveback_decide_victim(&base, 1, 0), DS_GIVEBACK_NOTHING);
	/* not twice, when several nodes had it, */
	job.restart = 2;
	assert_int_equal(ds_giveback_decide_victim(&job, 1, 3), DS_GIVEBACK_NOTHING);
	/* not if it ended well or was cancelled, nor if it may or can not be. */
	job = base;
	job.failed = false;
	assert_int_equal(ds_giveback_decide_victim(&job, 1, 3), DS_GIVEBACK_NOTHING);
	job = base;
	job.may_requeue = false;
	assert_int_equal(ds_giveback_decide_victim(&job, 1, 3), DS_GIVEBACK_NOTHING);
	job = base;
	job.batch = false;
	assert_int_equal(ds_giveback_decide_victim(&job, 1, 3), DS_GIVEBACK_NOTHING);
}

static void comments(void **state)
{
	static const char did[] = "could not serve this job";
	static const char line[] = "detshare: node1 could not serve this job: no GPU";
	static const struct {
		const char *old, *begin;
	} cases[] = {
	    {NULL, ""},
	    {"", ""},
	    {"site text", "site text\n"},
	    {"site text\n", "site text\n"},
	    {"detshare: node2 could not serve this job: MPS", ""},
	    {"a\ndetshare: node2 could not serve this job: MPS\nb", "a\nb\n"},
	    {"{\"detshare\":{}}", "{\"detshare\":{}}\n"},
	    {"the detshare: site", "the detshare: site\n"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char expected[256];
		char *got = ds_giveback_comment(cases[i].old, "node1", did, "no GPU");
		char *again = ds_giveback_comment(got, "node1", did, "no GPU");

		strcat(strcpy(expected, cases[i].begin), line);
		assert_string_equal(got, expected);
		assert_string_equal(again, expected);
		free(got);
		free(again);
	}
}

static void plugin_arguments(void **state)
{
	char good[] = "node_conf=/etc/d.conf", empty[] = "node_conf=", other[] = "nodeconf=/x";
	struct ds_error err = {0};
	const char *path;

	assert_int_equal(ds_spank_arguments(0, NULL, &path, &err), 0);
	assert_null(path);
	assert_int_equal(ds_spank_arguments(1, (char *[]){good}, &path, &err), 0);
	assert_string_equal(path, "/etc/d.conf");
	assert_int_equal(ds_spank_arguments(1, (char *[]){empty}, &path, &err), -1);
	assert_int_equal(ds_spank_arguments(2, (char *[]){good, other}, &path, &err), -1);
	assert_non_null(strstr(err.text, "\"nodeconf=/x\""));
}

static void slurmd_command_lines(void **state)
{
#define LINE(text) text, sizeof(text)
	static const struct {
		const char *line;
		size_t length;
		const char *name;
	} cases[] = {
	    {LINE("slurmd"), NULL},
	    {LINE("slurmd\0-D\0-N\0node1"), "node1"},
	    {LINE("slurmd\0-Nnode1\0-D"), "node1"},
	    {LINE("slurmd\0-N\0a\0-N\0b"), "b"},
	    {LINE("slurmd\0-DN\0node1"), "node1"},
	    {LINE("slurmd\0-cDvvNnode1"), "node1"},
	    {LINE("slurmd\0-L\0/log/N"), NULL},
	    {LINE("slurmd\0-N"), NULL},
	    {LINE("slurmd\0-N\0"), NULL},
	    {LINE("slurmd\0-D\0-f\0/N"), NULL},
	    {"slurmd", 6, NULL}, /* cut off */
	    {"", 0, NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *name = ds_slurmd_node_name(cases[i].line, cases[i].length);
		if (cases[i].name)
			assert_string_equal(name, cases[i].name);
		else
			assert_null(name);
	}
}

static void paths_and_environments(void **state)
{
	struct ds_node_config config;
	char path[PATH_MAX];
	const char *env[DS_CHILD_ENV_MAX];

	ds_node_config_defaults(&config, "node1");
	ds_spank_job_path(&config, 123, NULL, path);
	assert_string_equal(path, "/run/detshare/job-123");
	ds_spank_job_path(&config, 123, "port", path);
	assert_string_equal(path, "/run/detshare/job-123/port");
	ds_child_env("SLURM_CONF=/x", env);
	assert_int_equal(strncmp(env[0], "PATH=", 5), 0);
	assert_string_equal(env[1], "SLURM_CONF=/x");
	assert_null(env[2]);
	ds_child_env(NULL, env);
	assert_null(env[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(not_our_job),
	    cmocka_unit_test(prolog_environment),
	    cmocka_unit_test(jobs_that_cannot_be_served),
	    cmocka_unit_test(what_happens_to_a_job),
	    cmocka_unit_test(what_happens_to_a_victim),
	    cmocka_unit_test(comments),
	    cmocka_unit_test(plugin_arguments),
	    cmocka_unit_test(slurmd_command_lines),
	    cmocka_unit_test(paths_and_environments),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
