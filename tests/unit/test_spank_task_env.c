/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/task_env.h"

#define LIBRARY "/opt/detshare/libdetshare-cuda.so"

static void preload_lists(void **state)
{
	static const struct {
		const char *list, *with, *without;
	} cases[] = {
	    {NULL, LIBRARY, ""},
	    {"", LIBRARY, ""},
	    {":: :", LIBRARY, ""},
	    {"/a.so", LIBRARY ":/a.so", "/a.so"},
	    {"/a.so:b.so", LIBRARY ":/a.so:b.so", "/a.so:b.so"},
	    {"/a.so b.so", LIBRARY ":/a.so:b.so", "/a.so:b.so"},
	    {LIBRARY, LIBRARY, ""},
	    {LIBRARY ":" LIBRARY, LIBRARY, ""},
	    {"/a.so " LIBRARY, LIBRARY ":/a.so", "/a.so"},
	    {"/old/libdetshare-cuda.so:/a.so", LIBRARY ":/a.so", "/a.so"},
	    {"libdetshare-cuda.so:/a.so", LIBRARY ":/a.so", "/a.so"},
	    {"notlibdetshare-cuda.so", LIBRARY ":notlibdetshare-cuda.so", "notlibdetshare-cuda.so"},
	    {LIBRARY ".1", LIBRARY ":" LIBRARY ".1", LIBRARY ".1"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *with = ds_preload_list(cases[i].list, LIBRARY, true);
		char *again = ds_preload_list(with, LIBRARY, true);
		char *without = ds_preload_list(cases[i].list, LIBRARY, false);

		assert_string_equal(with, cases[i].with);
		assert_string_equal(again, with);
		assert_string_equal(without, cases[i].without);
		free(with);
		free(again);
		free(without);
	}
}

static void task_env_good(void **state)
{
	static const char text[] = "DETSHARE_PORT=/run/detshare/job-1/port\n"
				   "CUDA_VISIBLE_DEVICES=GPU-1=2\n"
				   "EMPTY=\n"
				   "LD_PRELOAD=" LIBRARY "\n";
	struct ds_task_env env;
	struct ds_error err = {0};

	assert_int_equal(ds_task_env_parse(text, strlen(text), &env, &err), 0);
	assert_int_equal(env.n, 4);
	assert_string_equal(ds_task_env_value(&env, "DETSHARE_PORT"), "/run/detshare/job-1/port");
	assert_string_equal(ds_task_env_value(&env, "CUDA_VISIBLE_DEVICES"), "GPU-1=2");
	assert_string_equal(ds_task_env_value(&env, "EMPTY"), "");
	assert_null(ds_task_env_value(&env, "DETSHARE"));
	assert_int_equal(ds_task_env_parse("", 0, &env, &err), 0);
	assert_int_equal(env.n, 0);
}

static void task_env_bad(void **state)
{
	static const struct {
		const char *text, *reason;
	} cases[] = {
	    {"A=1", "line 1: is cut off"},
	    {"A=1\nB=2", "line 2: is cut off"},
	    {"\n", "line 1: no '='"},
	    {"A\n", "line 1: no '='"},
	    {"=1\n", "line 1: not a name before '='"},
	    {"a=1\n", "line 1: not a name before '='"},
	    {"1A=1\n", "line 1: not a name before '='"},
	    {"A B=1\n", "line 1: not a name before '='"},
	    {"A=1\r\n", "line 1: A holds a control character"},
	    {"A=1\nA=1\n", "line 2: A is there twice"},
	    {"A=\nB=\nC=\nD=\nE=\nF=\nG=\nH=\nI=\nJ=\nK=\nL=\nM=\nN=\nO=\nP=\nQ=\n",
	     "more than 16 lines"},
	};
	struct ds_task_env env;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ds_error err = {0};
		assert_int_equal(
		    ds_task_env_parse(cases[i].text, strlen(cases[i].text), &env, &err), -1);
		assert_string_equal(err.text, cases[i].reason);
	}

	struct ds_error err = {0};
	char *big = calloc(1, DS_TASK_ENV_TEXT_SIZE);
	assert_int_equal(ds_task_env_parse("A=\0b\n", 5, &env, &err), -1);
	assert_string_equal(err.text, "holds a NUL byte");
	assert_int_equal(ds_task_env_parse(big, DS_TASK_ENV_TEXT_SIZE, &env, &err), -1);
	assert_string_equal(err.text, "longer than 16383 bytes");
	free(big);
}

static void share_texts(void **state)
{
	static const struct {
		uint32_t milli;
		const char *text;
	} cases[] = {{1000, "1"},    {500, "0.5"}, {250, "0.25"},
		     {333, "0.333"}, {10, "0.01"}, {1, "0.001"}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[8];
		ds_share_text(cases[i].milli, text);
		assert_string_equal(text, cases[i].text);
	}
}

/* The edits as "NAME=value -NAME ...", in order. */
static void check_edits(const char *const *current, const struct ds_task_grant *grant,
			const char *expected)
{
	struct ds_env_edits edits;
	struct ds_error err = {0};
	char got[1024] = "";

	assert_int_equal(ds_env_edits_plan(current, grant, &edits, &err), 0);
	for (uint32_t i = 0; i < edits.n; i++) {
		const struct ds_env_edit *e = &edits.list[i];

		strcat(got, i ? " " : "");
		strcat(got, e->value ? "" : "-");
		strcat(got, e->name);
		if (e->value)
			strcat(strcat(got, "="), e->value);
	}
	assert_string_equal(got, expected);
	ds_env_edits_free(&edits);
}

static void edits_of_a_granted_task(void **state)
{
	static const char text[] = "DETSHARE_PORT=/r/job-1/port\nDETSHARE_CLASS=latency\n"
				   "CUDA_VISIBLE_DEVICES=GPU-1\n"
				   "CUDA_MPS_PIPE_DIRECTORY=/r/gpu-1/mps/pipe\n"
				   "LD_PRELOAD=" LIBRARY "\n";
	struct ds_task_env env;
	struct ds_error err = {0};
	struct ds_task_grant grant = {.env = &env,
				      .share_milli = 500,
				      .allocation_here = true,
				      .coroutine_library = LIBRARY,
				      .runtime_dir = "/r"};

	assert_int_equal(ds_task_env_parse(text, strlen(text), &env, &err), 0);

	const char *const plain[] = {"PATH=/bin", NULL};
	check_edits(plain, &grant,
		    "DETSHARE_PORT=/r/job-1/port DETSHARE_CLASS=latency CUDA_VISIBLE_DEVICES=GPU-1 "
		    "CUDA_MPS_PIPE_DIRECTORY=/r/gpu-1/mps/pipe LD_PRELOAD=" LIBRARY
		    " DETSHARE_SHARE=0.5");

	const char *const hostile[] = {"DETSHARE_SHARE=1",
				       "DETSHARE_EVIL=x",
				       "DETSHARE_=",
				       "CUDA_VISIBLE_DEVICES=0,1",
				       "LD_PRELOAD=/a.so:" LIBRARY,
				       "DETSHARE_PORT=/tmp/mine",
				       "CUDA_MPS_PIPE_DIRECTORY=/r/gpu-2/mps/pipe",
				       "MY_DETSHARE_X=kept",
				       "DETSHARE_WHOLE_GPU=kept",
				       "DETSHARE_WHOLE_GPUS=x",
				       NULL};
	check_edits(hostile, &grant,
		    "DETSHARE_SHARE=0.5 -DETSHARE_EVIL -DETSHARE_ DETSHARE_PORT=/r/job-1/port "
		    "-DETSHARE_WHOLE_GPUS "
		    "CUDA_MPS_PIPE_DIRECTORY=/r/gpu-1/mps/pipe "
		    "-CUDA_MPS_ACTIVE_THREAD_PERCENTAGE LD_PRELOAD=" LIBRARY
		    ":/a.so DETSHARE_CLASS=latency CUDA_VISIBLE_DEVICES=GPU-1");
}

static void edits_of_a_task_without_grant(void **state)
{
	struct ds_task_grant grant = {.coroutine_library = LIBRARY, .runtime_dir = "/r"};
	const char *const plain[] = {"PATH=/bin", "LD_PRELOAD=/a.so /b.so",
				     "CUDA_VISIBLE_DEVICES=0",
				     "CUDA_MPS_PIPE_DIRECTORY=/tmp/site-mps", NULL};
	const char *const stale[] = {"DETSHARE_PORT=/r/job-1/port", "LD_PRELOAD=" LIBRARY,
				     "CUDA_MPS_PIPE_DIRECTORY=/r/gpu-1/mps/pipe",
				     "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100", NULL};
	const char *const nothing[] = {NULL};

	check_edits(plain, &grant, "");
	check_edits(nothing, &grant, "");
	check_edits(stale, &grant,
		    "-DETSHARE_PORT -CUDA_MPS_PIPE_DIRECTORY -CUDA_MPS_ACTIVE_THREAD_PERCENTAGE "
		    "-LD_PRELOAD");

	/* a step with --gres=none of a job that shares a GPU here sees no GPU */
	grant.allocation_here = true;
	check_edits(plain, &grant, "CUDA_VISIBLE_DEVICES=");
	check_edits(nothing, &grant, "CUDA_VISIBLE_DEVICES=");
}

/* Without a library in task.env, the user's own copy of it goes, too. */
static void edits_without_library(void **state)
{
	static const char text[] = "DETSHARE_PORT=/r/job-1/port\n";
	const char *const current[] = {"LD_PRELOAD=/a.so:" LIBRARY, NULL};
	struct ds_task_env env;
	struct ds_error err = {0};
	struct ds_task_grant grant = {.env = &env,
				      .share_milli = 1000,
				      .allocation_here = true,
				      .coroutine_library = LIBRARY,
				      .runtime_dir = "/r"};

	assert_int_equal(ds_task_env_parse(text, strlen(text), &env, &err), 0);
	check_edits(current, &grant,
		    "LD_PRELOAD=/a.so DETSHARE_PORT=/r/job-1/port DETSHARE_SHARE=1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(preload_lists),
	    cmocka_unit_test(task_env_good),
	    cmocka_unit_test(task_env_bad),
	    cmocka_unit_test(share_texts),
	    cmocka_unit_test(edits_of_a_granted_task),
	    cmocka_unit_test(edits_of_a_task_without_grant),
	    cmocka_unit_test(edits_without_library),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
