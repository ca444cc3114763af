/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/config.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static void defaults(void **state)
{
	struct ds_site_config config, empty;
	struct ds_error err = {""};

	ds_site_config_defaults(&config);
	assert_string_equal(config.default_class, "throughput");
	assert_int_equal(config.n_classes, 3);
	assert_int_equal(ds_site_config_class(&config, "latency")->kind, DS_KIND_LATENCY);
	assert_int_equal(ds_site_config_class(&config, "besteffort")->kind, DS_KIND_BESTEFFORT);
	assert_int_equal(ds_site_config_class(&config, "throughput")->max_share_milli, 1000);
	assert_null(ds_site_config_class(&config, "Latency"));
	assert_false(config.allow_raw_shard);
	assert_int_equal(config.isolation, DS_ISOLATION_USER);
	assert_int_equal(config.policy, DS_POLICY_STATIC);
	assert_true(ds_site_config_class(&config, "latency")->lends);
	assert_true(ds_site_config_class(&config, "latency")->borrows);
	assert_int_equal(ds_site_config_class(&config, "latency")->reclaim_us, 8000);
	assert_int_equal(ds_site_config_class(&config, "throughput")->reclaim_us, 5000);
	assert_int_equal(ds_site_config_class(&config, "besteffort")->reclaim_us, 20000);
	assert_int_equal(strlen(config.digest), 16);

	assert_int_equal(ds_site_config_parse("", "f", &empty, &err), 0);
	assert_memory_equal(&config, &empty, sizeof(config));
	assert_int_equal(ds_site_config_parse("# nothing\n/* here */\n", "f", &empty, &err), 0);
	assert_string_equal(config.digest, empty.digest);
}

static void everything_set(void **state)
{
	struct ds_site_config config;
	struct ds_error err = {""};
	int rc = ds_site_config_parse("default_class = batch\n"
				      "allow_raw_shard = yes\n"
				      "isolation = none\n"
				      "policy = lend\n"
				      "gpu_memory = 140G\n"
				      "share_memory = 133120M\n"
				      "class besteffort { borrow = off reclaim_budget = 10 "
				      "whole_gpu_ms = 0 }\n"
				      "class latency { lend = no max_share = 0.5 max_memory = 20G "
				      "whole_gpu_ms = 50 advance = 0.25 }\n"
				      "class batch {\n"
				      "  kind = throughput\n"
				      "  min_share = 100\n"
				      "  max_share = \"0.75\"\n"
				      "}\n",
				      "f", &config, &err);

	assert_string_equal(err.text, "");
	assert_int_equal(rc, 0);
	assert_string_equal(config.default_class, "batch");
	assert_true(config.allow_raw_shard);
	assert_int_equal(config.isolation, DS_ISOLATION_NONE);
	assert_int_equal(config.n_classes, 4);
	assert_int_equal(ds_site_config_class(&config, "latency")->max_share_milli, 500);
	assert_int_equal(ds_site_config_class(&config, "latency")->min_share_milli, 2);
	assert_int_equal(ds_site_config_class(&config, "latency")->max_memory_mib, 20480);
	assert_int_equal(ds_site_config_class(&config, "batch")->max_memory_mib, 0);
	assert_int_equal(config.policy, DS_POLICY_LEND);
	assert_int_equal(config.gpu_memory_mib, 143360);
	assert_int_equal(config.share_memory_mib, 133120);
	assert_false(ds_site_config_class(&config, "latency")->lends);
	assert_true(ds_site_config_class(&config, "latency")->borrows);
	assert_false(ds_site_config_class(&config, "besteffort")->borrows);
	assert_int_equal(ds_site_config_class(&config, "besteffort")->reclaim_us, 10);
	assert_int_equal(ds_site_config_class(&config, "batch")->reclaim_us, 5000);
	assert_int_equal(ds_site_config_class(&config, "latency")->whole_ms, 50);
	assert_int_equal(ds_site_config_class(&config, "besteffort")->whole_ms, DS_WHOLE_NEVER);
	assert_int_equal(ds_site_config_class(&config, "batch")->whole_ms, DS_WHOLE_USUAL);
	assert_int_equal(ds_site_config_class(&config, "latency")->advance_milli, 250);
	assert_int_equal(ds_site_config_class(&config, "batch")->advance_milli, 0);
	const struct ds_class *batch = ds_site_config_class(&config, "batch");
	assert_int_equal(batch->kind, DS_KIND_THROUGHPUT);
	assert_int_equal(batch->min_share_milli, 100);
	assert_int_equal(batch->max_share_milli, 750);
}

static void broken_files(void **state)
{
	static const struct {
		const char *text;
		const char *line; /* how the message starts */
	} rows[] = {
	    {"unknown = 1\n", "f:1: "},
	    {"class latency {\nwhole_gpu_ms = 1001 }\n",
	     "f:2: whole_gpu_ms = 1001 is not within 0"},
	    {"class latency { whole_gpu_ms = -1 }\n", "f:1: whole_gpu_ms = -1 is not within 0"},
	    {"\n\nisolation = all\n", "f:3: isolation = \"all\" is neither user"},
	    /* libconfuse 3.3 by itself counts lines wrongly behind comments. */
	    {"# one\n// two\n/* three\n four */ isolation = none # five?\nbad = 1\n",
	     "f:5: no such option 'bad'"},
	    {"class a { # one\n kind = latency // two\n}\ndefault_class = \"# no comment\"\n",
	     "f:4: default_class = \"# no comment\" cannot be a class"},
	    {"default_class = a//b\n", "f:1: default_class = \"a//b\" cannot be a class"},
	    {"allow_raw_shard = maybe\n", "f:1: "},
	    {"default_class = nosuch\n", "f: default_class = nosuch, but there is no class"},
	    {"default_class = \"a b\"\n", "f:1: default_class = \"a b\" cannot be a class"},
	    {"default_class = latency\ndefault_class = latency\n",
	     "f:2: default_class is set a second time"},
	    {"allow_raw_shard = yes\nallow_raw_shard = no\n",
	     "f:2: allow_raw_shard is set a second time"},
	    {"isolation = user\nisolation = user\n", "f:2: isolation is set a second time"},
	    {"class a { kind = latency }\nclass a { kind = latency }\n", "f:2: "},
	    {"class a { kind = latency\n kind = latency }\n", "f:2: kind is set a second time"},
	    {"class a { min_share = 0.5\n min_share = 0.5 }\n", "f:2: min_share is set a second"},
	    {"policy = greedy\n", "f:1: policy = \"greedy\" is neither static"},
	    {"policy = lend\npolicy = lend\n", "f:2: policy is set a second time"},
	    {"class latency { lend = maybe }\n", "f:1: "},
	    {"class latency { lend = no\n lend = no }\n", "f:2: lend is set a second time"},
	    {"class latency { reclaim_budget = 0 }\n",
	     "f:1: reclaim_budget = 0 is not within 1 to 10000000 microseconds"},
	    {"class latency { reclaim_budget = 10000001 }\n", "f:1: reclaim_budget = 10000001"},
	    {"class latency { reclaim_budget = soon }\n", "f:1: "},
	    {"class latency { advance = -1 }\n", "f:1: advance: share \"-1\""},
	    {"class latency { advance = 1.1 }\n", "f:1: advance: share \"1.1\" is more"},
	    {"class latency { advance = 0.1\n advance = 0.1 }\n", "f:2: advance is set a second"},
	    {"class throughput { advance = 0.1 }\n",
	     "f:1: class throughput: advance is for classes of kind latency, and this one is of "
	     "kind "
	     "throughput"},
	    {"class a { }\n", "f:1: class a: kind is missing"},
	    {"class a { kind = fast }\n", "f:1: kind = \"fast\" is none of"},
	    {"class latency { kind = throughput }\n", "f:1: class latency: its kind is built in"},
	    {"class a { kind = latency min_share = 1.5 }\n",
	     "f:1: min_share: share \"1.5\" is more"},
	    {"class a { kind = latency max_share = 0 }\n",
	     "f:1: max_share: share \"0\" is not above"},
	    {"class a { kind = latency min_share = 0.6 max_share = 0.5 }\n",
	     "f:1: class a: min_share is above max_share"},
	    {"class latency { max_memory = 1.5G }\n", "f:1: max_memory: \"1.5G\" is not a size"},
	    {"gpu_memory = 0\n", "f:1: gpu_memory: \"0\" is no memory"},
	    {"share_memory = many\n", "f:1: share_memory: \"many\" is not a size"},
	    {"class latency { max_memory = 0 }\n", "f:1: max_memory: \"0\" is no memory"},
	    {"class latency { max_memory = 1G\n max_memory = 1G }\n",
	     "f:2: max_memory is set a second time"},
	    {"class \"a b\" { kind = latency }\n", "f:1: class \"a b\": not a name"},
	    {"class a { kind = latency\n", "f: ends inside a class"},
	    {"isolation = none\n/* unfinished\n", "f: ends inside a class, a comment"},
	    {"isolation = ", "f:"},
	    {"class { kind = latency }\n", "f:1: "},
	    {"class a { colour = red }\n", "f:1: "},
	    {"default_class\n", "f:"},
	    {"default_class = {latency}\n", "f:1: "},
	    {"= latency\n", "f:1: "},
	    {"include(\"/etc/passwd\")\n", "f:1: "},
	    {"default_class = \"latency\n", "f:"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_site_config config, before;
		struct ds_error err = {""};

		memset(&config, 0x5a, sizeof(config));
		before = config;
		if (ds_site_config_parse(rows[i].text, "f", &config, &err) != -1)
			fail_msg("accepted: %s", rows[i].text);
		if (strncmp(err.text, rows[i].line, strlen(rows[i].line)) != 0)
			fail_msg("\"%s\": %s", rows[i].text, err.text);
		assert_null(strchr(err.text, '\n'));
		/* A broken file keeps the old rules. */
		assert_memory_equal(&config, &before, sizeof(config));
	}
}

static void too_many_classes(void **state)
{
	char text[4096] = "";
	struct ds_site_config config;
	struct ds_error err = {""};

	for (int i = 0; i < DS_CLASSES_MAX - 3; i++)
		sprintf(text + strlen(text),
			"class c%d { kind = latency min_share = 2 max_share = 1 }\n", i);
	assert_int_equal(ds_site_config_parse(text, "f", &config, &err), 0);
	assert_int_equal(config.n_classes, DS_CLASSES_MAX);
	strcat(text, "class onemore { kind = latency }\n");
	assert_int_equal(ds_site_config_parse(text, "f", &config, &err), -1);
	assert_non_null(strstr(err.text, "class onemore: more than 16 classes"));
}

/* The example that administrators start from. */
static void example(void **state)
{
	struct ds_site_config config;
	struct ds_error err = {""};

	if (ds_site_config_read(EXAMPLES_DIR "/detshare.conf", &config, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(ds_site_config_class(&config, "latency")->max_share_milli, 500);
	assert_int_equal(ds_site_config_class(&config, "nightly")->kind, DS_KIND_BESTEFFORT);
}

/* The digest names the meaning of a file, not its bytes. */
static void digests(void **state)
{
	static const char *const same[] = {
	    "class a { kind = latency min_share = 0.5 }\nclass b { kind = besteffort }\n",
	    "# other order\nclass b { kind = besteffort }\nclass a { min_share = 500 kind = "
	    "latency }\n",
	    "class latency { advance = 0 } class a { kind = latency min_share = .5 } class b { "
	    "kind "
	    "= besteffort }",
	    "isolation = user class a { kind = latency min_share = .5 } class b { kind = "
	    "besteffort }",
	};
	static const char *const different[] = {
	    "",
	    "isolation = none",
	    "allow_raw_shard = true",
	    "default_class = latency",
	    "class latency { max_share = 0.5 }",
	    "policy = lend",
	    "gpu_memory = 1G",
	    "share_memory = 1G",
	    "class latency { lend = no }",
	    "class latency { borrow = no }",
	    "class latency { reclaim_budget = 501 }",
	    "class latency { advance = 0.25 }",
	    "class latency { advance = 0.26 }",
	    "class a { kind = latency }",
	    "class a { kind = besteffort }",
	};
	struct ds_site_config first, config;
	char seen[N(different)][17];

	assert_int_equal(ds_site_config_parse(same[0], "f", &first, NULL), 0);
	for (size_t i = 1; i < N(same); i++) {
		assert_int_equal(ds_site_config_parse(same[i], "f", &config, NULL), 0);
		assert_string_equal(config.digest, first.digest);
	}
	for (size_t i = 0; i < N(different); i++) {
		assert_int_equal(ds_site_config_parse(different[i], "f", &config, NULL), 0);
		memcpy(seen[i], config.digest, sizeof(seen[i]));
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(seen[i], seen[j]);
	}
}

static void files(void **state)
{
	char directory[] = "/tmp/test_site_config.XXXXXX";
	char path[256];
	struct ds_site_config config;
	struct ds_error err = {""};

	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/detshare.conf", directory);

	errno = 0;
	assert_int_equal(ds_site_config_read(path, &config, &err), -1);
	assert_int_equal(errno, ENOENT);
	assert_non_null(strstr(err.text, path));

	errno = 0;
	assert_int_equal(ds_site_config_read(directory, &config, &err), -1);
	assert_non_null(strstr(err.text, "is not a regular file"));
	assert_int_not_equal(errno, ENOENT);

	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs("isolation = none\n", file);
	fclose(file);
	assert_int_equal(ds_site_config_read(path, &config, &err), 0);
	assert_int_equal(config.isolation, DS_ISOLATION_NONE);

	file = fopen(path, "w");
	assert_non_null(file);
	fwrite("isolation = none\n\0x", 1, 19, file);
	fclose(file);
	assert_int_equal(ds_site_config_read(path, &config, &err), -1);
	assert_non_null(strstr(err.text, "NUL byte"));

	file = fopen(path, "w");
	assert_non_null(file);
	for (int i = 0; i < 70000; i++)
		fputc('#', file);
	fclose(file);
	assert_int_equal(ds_site_config_read(path, &config, &err), -1);
	assert_non_null(strstr(err.text, "is larger than"));

	unlink(path);
	rmdir(directory);
}

static void paths(void **state)
{
	char path[64];

	setenv("SLURM_CONF", "/opt/slurm/etc/slurm.conf", 1);
	ds_site_config_path(path, sizeof(path));
	assert_string_equal(path, "/opt/slurm/etc/detshare.conf");
	setenv("SLURM_CONF", "slurm.conf", 1);
	ds_site_config_path(path, sizeof(path));
	assert_string_equal(path, "detshare.conf");
	setenv("SLURM_CONF", "", 1);
	ds_site_config_path(path, sizeof(path));
	assert_string_equal(path, "/etc/slurm/detshare.conf");
	unsetenv("SLURM_CONF");
	ds_site_config_path(path, sizeof(path));
	assert_string_equal(path, "/etc/slurm/detshare.conf");
	ds_site_config_path(path, 8);
	assert_string_equal(path, "/etc/sl");
}

static void *parse_often(void *text)
{
	for (int i = 0; i < 300; i++) {
		struct ds_site_config config;
		struct ds_error err = {""};
		if (ds_site_config_parse(text, "f", &config, &err) < 0 ||
		    config.isolation != DS_ISOLATION_NONE)
			return text;
	}
	return NULL;
}

/* Newer Slurm calls job_submit from several threads. */
static void threads(void **state)
{
	static char text[] = "isolation = none\nclass a { kind = latency max_share = 0.5 }\n";
	pthread_t workers[4];

	for (size_t i = 0; i < N(workers); i++)
		assert_int_equal(pthread_create(&workers[i], NULL, parse_often, text), 0);
	for (size_t i = 0; i < N(workers); i++) {
		void *failed = NULL;
		pthread_join(workers[i], &failed);
		assert_null(failed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults),     cmocka_unit_test(everything_set),
	    cmocka_unit_test(broken_files), cmocka_unit_test(too_many_classes),
	    cmocka_unit_test(example),      cmocka_unit_test(digests),
	    cmocka_unit_test(files),        cmocka_unit_test(paths),
	    cmocka_unit_test(threads),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
