/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/rules.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static struct ds_site_config site, lax, measured;

static int read_sites(void **state)
{
	struct ds_error err;

	return ds_site_config_parse(
		   "class latency { min_share = 0.1 max_share = 0.5 max_memory = 20G }\n"
		   "class nightly { kind = besteffort }\n",
		   "site", &site, &err) < 0 ||
	       ds_site_config_parse("allow_raw_shard = yes\n", "lax", &lax, &err) < 0 ||
	       ds_site_config_parse("gpu_memory = 140G share_memory = 130G\n", "measured",
				    &measured, &err) < 0;
}

static void check(const struct ds_site_config *config, const struct ds_submission *submission,
		  enum ds_verdict verdict, const char *gres_or_line)
{
	struct ds_decision decision;
	struct ds_error err = {""};
	enum ds_verdict got = ds_rules_decide(config, submission, &decision, &err);

	if (got != verdict)
		fail_msg("--gres=%s: verdict %d, not %d: %s", submission->gres, got, verdict,
			 err.text);
	if (verdict == DS_ACCEPTED) {
		assert_string_equal(decision.gres, gres_or_line);
		assert_int_equal(decision.shard_count, decision.share_milli);
		assert_string_equal(err.text, "");
	} else {
		assert_null(decision.gres);
	}
	if (verdict == DS_REFUSED) {
		assert_string_equal(err.text, gres_or_line);
		/* One line that a terminal can show. */
		assert_null(strchr(err.text, '\n'));
		assert_true(strlen(err.text) < 240);
	}
	free(decision.gres);
}

static void accepted(void **state)
{
	static const struct {
		const char *gres, *class_option, *rewritten;
	} rows[] = {
	    {"detshare:0.5", NULL, "detshare:throughput:500,shard:500"},
	    {"detshare", NULL, "detshare:throughput:1000,shard:1000"},
	    {"detshare:latency:0.5", NULL, "detshare:latency:500,shard:500"},
	    {"detshare:0.1", "latency", "detshare:latency:100,shard:100"},
	    {"detshare:latency:0.1", "latency", "detshare:latency:100,shard:100"},
	    {"detshare:nightly:2", NULL, "detshare:nightly:2,shard:2"},
	    {"detshare:besteffort:0.3", NULL, "detshare:besteffort:300,shard:300"},
	    /* The shard count is ours to say, whatever a client wrote. */
	    {"detshare:throughput:500,shard:1", NULL, "detshare:throughput:500,shard:500"},
	    {"shard:1000000,detshare:0.25", NULL, "detshare:throughput:250,shard:250"},
	    {"gres:nic:1,gres:detshare:0.5", NULL,
	     "gres:nic:1,gres:detshare:throughput:500,gres:shard:500"},
	    {"gres/detshare:throughput=0.5", NULL, "gres/detshare:throughput:500,gres/shard:500"},
	    {"gpu:0,detshare:0.5", NULL, "gpu:0,detshare:throughput:500,shard:500"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_submission submission = {.gres = rows[i].gres,
						   .class_option = rows[i].class_option};
		check(&site, &submission, DS_ACCEPTED, rows[i].rewritten);
	}
}

static void memory(void **state)
{
	static const struct {
		const char *gres, *option;
		uint32_t mib, max_mib;
	} rows[] = {
	    {"detshare:0.5", NULL, 0, 0},
	    {"detshare:0.5", "300G", 300 << 10, 0},
	    {"detshare:latency:0.5", NULL, 0, 20480},
	    {"detshare:latency:0.5", "20G", 20480, 20480},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_submission submission = {.gres = rows[i].gres, .memory = rows[i].option};
		struct ds_decision decision;
		struct ds_error err = {""};

		assert_int_equal(ds_rules_decide(&site, &submission, &decision, &err), DS_ACCEPTED);
		assert_int_equal(decision.memory_mib, rows[i].mib);
		assert_int_equal(decision.memory_max_mib, rows[i].max_mib);
		free(decision.gres);
		assert_int_equal(ds_rules_decide(NULL, &submission, &decision, &err), DS_ACCEPTED);
		assert_int_equal(decision.memory_mib, rows[i].mib);
		free(decision.gres);
	}
}

/* What no node could give, or would not fit beside the shares of others. */
static void memory_that_cannot_be(void **state)
{
	static const struct {
		const char *gres, *option, *line;
	} rows[] = {
	    {"detshare:1", "130G", NULL},
	    {"detshare:0.5", "65G", NULL},
	    {"detshare:0.5", NULL, NULL},
	    {"detshare:0.5", "141G",
	     "--detshare-mem=141G: no GPU here has more than 140G for a job; ask for less"},
	    {"detshare:1", "131G",
	     "--detshare-mem=131G: with a share of 1 a job may have 130G here, and with no share "
	     "so much; ask for less"},
	    {"detshare:0.5", "66561M",
	     "--detshare-mem=66561M: with a share of 0.5 a job may have 65G here; ask for less, or "
	     "for a share of 0.501"},
	    {"detshare:0.25", "65G",
	     "--detshare-mem=65G: with a share of 0.25 a job may have 33280M here; ask for less, "
	     "or "
	     "for a share of 0.5"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_submission submission = {.gres = rows[i].gres, .memory = rows[i].option};
		struct ds_decision decision;
		struct ds_error err = {""};

		assert_int_equal(ds_rules_decide(&measured, &submission, &decision, &err),
				 rows[i].line ? DS_REFUSED : DS_ACCEPTED);
		assert_string_equal(err.text, rows[i].line ? rows[i].line : "");
		free(decision.gres);
	}
}

static void not_ours(void **state)
{
	static const struct ds_submission rows[] = {
	    {.gres = NULL},
	    {.gres = ""},
	    {.gres = "none"},
	    {.gres = "gpu:2"},
	    {.gres = "gres:gpu:a100:1,gres:nic:1"},
	    {.gpus = "2", .gpu_bind = "single:1", .exclusive = true},
	    {.gres = "shard:0"},
	    {.tres_per_task = "cpu:2,gres/gpu:1"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		check(&site, &rows[i], DS_NOT_OURS, NULL);
		check(NULL, &rows[i], DS_NOT_OURS, NULL);
	}
}

static void refused(void **state)
{
	static const struct {
		struct ds_submission submission;
		const char *line;
	} rows[] = {
	    {{.gres = "detshare:0"},
	     "--gres=detshare:0: share \"0\" is not above 0; write a fraction of one GPU, such as "
	     "0.5"},
	    {{.gres = "detshare:-0.5"},
	     "--gres=detshare:-0.5: share \"-0.5\" is not above 0; write a fraction of one GPU, "
	     "such as "
	     "0.5"},
	    {{.gres = "gres:nic:1,gres:detshare:1.5"},
	     "--gres=detshare:1.5: share \"1.5\" is more than one GPU, but a share lies on one; "
	     "write at "
	     "most 1, or ask whole GPUs with --gres=gpu:N instead"},
	    {{.gres = "detshare:latency:x"},
	     "--gres=detshare:latency:x: share \"x\" is not a number; write a fraction such as "
	     "0.5, or 1 "
	     "for a whole GPU, or thousandths such as 500"},
	    {{.gres = "detshare:latncy:0.5"},
	     "--gres=detshare:latncy: there is no class latncy here; choose one of latency, "
	     "throughput, "
	     "besteffort, nightly"},
	    {{.gres = "detshare:0.5", .class_option = "latncy"},
	     "--detshare-class=latncy: there is no class latncy here; choose one of latency, "
	     "throughput, "
	     "besteffort, nightly"},
	    {{.gres = "detshare:0.5", .class_option = "a b"},
	     "--detshare-class=a b is not the name of a class"},
	    {{.gres = "detshare:latency:0.5", .class_option = "throughput"},
	     "--gres=detshare:latency and --detshare-class=throughput name different classes; give "
	     "the "
	     "class once"},
	    {{.gres = "detshare:latency:0.6"},
	     "--gres=detshare:latency:0.6: class latency takes shares from 0.1 to 0.5 here"},
	    {{.gres = "detshare:50", .class_option = "latency"},
	     "--gres=detshare:latency:0.05: class latency takes shares from 0.1 to 0.5 here"},
	    {{.gres = "detshare:0.5", .gpus = "2"},
	     "--gpus=2 beside --gres=detshare: a share brings its GPU with it; leave --gpus out"},
	    {{.gres = "detshare:0.5", .gpus_per_node = "a100:1"},
	     "--gpus-per-node=a100:1 beside --gres=detshare: a share brings its GPU with it; leave "
	     "--gpus-per-node out"},
	    {{.gres = "detshare:0.5", .gpus_per_socket = "1"},
	     "--gpus-per-socket=1 beside --gres=detshare: a share brings its GPU with it; leave "
	     "--gpus-per-socket out"},
	    {{.gres = "detshare:0.5", .gpus_per_task = "1"},
	     "--gpus-per-task=1 beside --gres=detshare: the tasks of a job on one node use its one "
	     "share; "
	     "leave --gpus-per-task out"},
	    {{.gres = "detshare:0.5", .gpu_bind = "closest"},
	     "--gpu-bind=closest beside --gres=detshare: a share lies on one GPU; leave --gpu-bind "
	     "out"},
	    {{.gres = "detshare:0.5", .gpu_freq = "high"},
	     "--gpu-freq=high beside --gres=detshare: other jobs run on the same GPU; leave "
	     "--gpu-freq "
	     "out"},
	    {{.gres = "detshare:0.5", .mem_per_gpu = "10G"},
	     "--mem-per-gpu=10G beside --gres=detshare: use --mem instead"},
	    {{.gres = "detshare:0.5", .cpus_per_gpu = "4"},
	     "--cpus-per-gpu=4 beside --gres=detshare: use --cpus-per-task instead"},
	    {{.gres = "detshare:0.5", .ntasks_per_gpu = "2"},
	     "--ntasks-per-gpu=2 beside --gres=detshare: use --ntasks-per-node instead"},
	    {{.gres = "detshare:0.5", .tres_per_task = "gres/gpu:1"},
	     "--tres-per-task=gres/gpu:1 beside --gres=detshare: a share is per node, not per "
	     "task; leave "
	     "the GPU out of --tres-per-task"},
	    {{.tres_per_task = "gres/detshare:0.5"},
	     "--tres-per-task=gres/detshare:0.5: part of a GPU is asked per node, with --gres "
	     "only; write "
	     "--gres=detshare:0.5"},
	    {{.tres_per_task = "cpu:1,gres/shard:5"},
	     "--tres-per-task=cpu:1,gres/shard:5: part of a GPU is asked per node, with --gres "
	     "only; write "
	     "--gres=detshare:0.5"},
	    {{.gpus = "gres:shard:500"},
	     "--gpus=gres:shard:500: part of a GPU is asked per node, with --gres only; write "
	     "--gres=detshare:0.5"},
	    {{.gres = "detshare:0.5", .exclusive = true},
	     "--exclusive beside --gres=detshare: the job would wait for a whole node it cannot "
	     "fill; "
	     "leave --exclusive out, or ask a whole GPU with --gres=gpu:1"},
	    {{.gres = "gres:gpu:1,gres:detshare:0.5"},
	     "--gres=gpu:1,detshare:0.5: a whole GPU (gpu or mps) beside detshare, but a share "
	     "brings its "
	     "GPU with it; leave the other out"},
	    {{.gres = "detshare:0.5,mps:10"},
	     "--gres=detshare:0.5,mps:10: a whole GPU (gpu or mps) beside detshare, but a share "
	     "brings its "
	     "GPU with it; leave the other out"},
	    {{.gres = "gres:shard:500"},
	     "--gres=shard:500: shard without detshare is not allowed here; ask for part of a GPU "
	     "with "
	     "--gres=detshare:0.5"},
	    {{.gres = "detshare:0.5", .memory = "20GB"},
	     "--detshare-mem=\"20GB\" is not a size of memory; write a whole number with M, G or T "
	     "behind it, such as 20G or 512M (MiB without one)"},
	    {{.gres = "detshare:0.5", .memory = "0"},
	     "--detshare-mem=\"0\" is no memory at all; write at least 1M"},
	    {{.gres = "detshare:latency:0.5", .memory = "20481M"},
	     "--detshare-mem=20481M: jobs of class latency may have 20G here"},
	    {{.gres = "gpu:1", .memory = "20G"},
	     "--detshare-mem=20G without a share; add --gres=detshare:0.5, or leave "
	     "--detshare-mem out"},
	    {{.gres = "detshare:0.5", .memory = "20G", .is_step = true},
	     "--detshare-mem=20G: memory is given to a job, and its steps use it together; ask for "
	     "it when the job is submitted"},
	    {{.memory = "20G", .is_step = true},
	     "--detshare-mem=20G: memory is given to a job, and its steps use it together; ask for "
	     "it when the job is submitted"},
	    {{.gres = "gpu:1", .class_option = "latency"},
	     "--detshare-class=latency without a share; add --gres=detshare:0.5, or leave "
	     "--detshare-class out"},
	    {{.class_option = "latency"},
	     "--detshare-class=latency without a share; add --gres=detshare:0.5, or leave "
	     "--detshare-class out"},
	};

	for (size_t i = 0; i < N(rows); i++)
		check(&site, &rows[i].submission, DS_REFUSED, rows[i].line);
}

/* --cpus-per-task reaches Slurm as part of --tres-per-task in newer releases. */
static void harmless_beside_a_share(void **state)
{
	struct ds_submission submission = {.gres = "detshare:0.5",
					   .tres_per_task = "cpu=2,license/x=1"};

	check(&site, &submission, DS_ACCEPTED, "detshare:throughput:500,shard:500");
}

static void raw_shard_where_allowed(void **state)
{
	struct ds_submission submission = {.gres = "shard:500"};

	check(&lax, &submission, DS_NOT_OURS, NULL);
	check(NULL, &submission, DS_NOT_OURS, NULL);
}

/* A client without detshare.conf leaves classes to the controller and checks all else. */
static void without_rules(void **state)
{
	struct ds_submission plain = {.gres = "detshare:0.5"};
	struct ds_submission named = {.gres = "detshare:nosuch:0.5"};
	struct ds_submission wrong = {.gres = "detshare:0.5", .gpus = "1"};

	check(NULL, &plain, DS_ACCEPTED, "detshare:500,shard:500");
	check(NULL, &named, DS_ACCEPTED, "detshare:nosuch:500,shard:500");
	check(NULL, &wrong, DS_REFUSED,
	      "--gpus=1 beside --gres=detshare: a share brings its GPU with it; leave --gpus out");
}

static void steps(void **state)
{
	static const struct ds_request half = {
	    .asks_share = true, .class_name = "latency", .share_milli = 500};
	static const struct ds_request none = {.asks_share = false};
	static const struct {
		struct ds_submission submission;
		enum ds_verdict verdict;
		const char *text;
	} rows[] = {
	    {{.gres = "detshare:0.2", .job = &half}, DS_ACCEPTED, "detshare:latency:200,shard:200"},
	    {{.gres = "detshare:latency:0.5", .job = &half},
	     DS_ACCEPTED,
	     "detshare:latency:500,shard:500"},
	    /* Smaller than the class allows a job: a step may have part of its job's share. */
	    {{.gres = "detshare:0.01", .job = &half}, DS_ACCEPTED, "detshare:latency:10,shard:10"},
	    {{.gres = "detshare:0.2", .job = &half, .exclusive = true},
	     DS_ACCEPTED,
	     "detshare:latency:200,shard:200"},
	    {{.gres = "detshare:0.2"}, DS_ACCEPTED, "detshare:200,shard:200"},
	    {{.gres = "detshare:throughput:0.2", .job = &half},
	     DS_REFUSED,
	     "--gres=detshare:throughput: this step's job has class latency, and so have its "
	     "steps; leave "
	     "the class out"},
	    {{.gres = "detshare:0.2", .class_option = "throughput", .job = &half},
	     DS_REFUSED,
	     "--detshare-class=throughput: this step's job has class latency, and so have its "
	     "steps; leave "
	     "the class out"},
	    {{.gres = "detshare:0.6", .job = &half},
	     DS_REFUSED,
	     "--gres=detshare:0.6: this step's job has a share of 0.5 only"},
	    {{.gres = "detshare:0.2", .job = &none},
	     DS_REFUSED,
	     "--gres=detshare: this step's job has no share of a GPU; ask for it when the job is "
	     "submitted"},
	    {{.gres = "detshare:0.2", .job = &half, .gpus_per_task = "1"},
	     DS_REFUSED,
	     "--gpus-per-task=1 beside --gres=detshare: the tasks of a job on one node use its one "
	     "share; "
	     "leave --gpus-per-task out"},
	    {{.gres = "none", .job = &half}, DS_NOT_OURS, NULL},
	    {{.gres = NULL, .job = &half}, DS_NOT_OURS, NULL},
	    {{.class_option = "latency", .job = &half}, DS_NOT_OURS, NULL},
	    {{.class_option = "throughput", .job = &half},
	     DS_REFUSED,
	     "--detshare-class=throughput: this step's job has class latency, and so have its "
	     "steps; leave "
	     "the class out"},
	    {{.class_option = "latency", .job = &none},
	     DS_REFUSED,
	     "--detshare-class=latency without a share; add --gres=detshare:0.5, or leave "
	     "--detshare-class out"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_submission submission = rows[i].submission;
		submission.is_step = true;
		check(&site, &submission, rows[i].verdict, rows[i].text);
		if (!submission.job || submission.job->asks_share)
			check(NULL, &submission, rows[i].verdict, rows[i].text);
	}
}

/* What a hostile client sends stays one short line. */
static void hostile_values(void **state)
{
	char longer[5000];
	struct ds_submission submission = {.gres = "detshare:0.5", .gpus = longer};
	struct ds_decision decision;
	struct ds_error err;

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(ds_rules_decide(&site, &submission, &decision, &err), DS_REFUSED);
	assert_true(strlen(err.text) < 240);
	submission = (struct ds_submission){.gres = longer, .class_option = longer};
	assert_int_equal(ds_rules_decide(&site, &submission, &decision, &err), DS_REFUSED);
	assert_true(strlen(err.text) < 240);
}

/* No line of a client's own making gets into slurmctld's log. */
static void forged_lines(void **state)
{
	static const char forged[] = "1\n[2026-11-20T00:00:00] error: fire\x1b[31m";
	const struct ds_submission rows[] = {
	    {.gres = "detshare:0.5", .gpus = forged},
	    {.gres = "detshare:0.5", .class_option = forged},
	    {.gres = forged, .class_option = forged},
	    {.gres = "detshare:1\n.5"},
	    {.tres_per_task = "gres/detshare:1\n5"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_decision decision;
		struct ds_error err = {""};
		assert_int_equal(ds_rules_decide(&site, &rows[i], &decision, &err), DS_REFUSED);
		for (const char *c = err.text; *c; c++)
			assert_true((unsigned char)*c >= ' ' && *c != 0x7f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(accepted),
	    cmocka_unit_test(memory),
	    cmocka_unit_test(memory_that_cannot_be),
	    cmocka_unit_test(not_ours),
	    cmocka_unit_test(refused),
	    cmocka_unit_test(harmless_beside_a_share),
	    cmocka_unit_test(raw_shard_where_allowed),
	    cmocka_unit_test(without_rules),
	    cmocka_unit_test(steps),
	    cmocka_unit_test(hostile_values),
	    cmocka_unit_test(forged_lines),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, read_sites, NULL);
}
