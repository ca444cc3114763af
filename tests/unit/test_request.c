/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/request.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static void shares(void **state)
{
	static const struct {
		const char *text;
		uint32_t share_milli;
	} rows[] = {
	    {"1", 1000},   {"1.0", 1000},  {"1.000000", 1000}, {"01", 1000},  {"1000", 1000},
	    {"0.5", 500},  {".5", 500},    {"0.50", 500},      {"00.5", 500}, {"500", 500},
	    {"0500", 500}, {"0.25", 250},  {".125", 125},      {"0.7", 700},  {"0.29", 290},
	    {"0.57", 570}, {"0.999", 999}, {"999", 999},       {"2", 2},      {"0.002", 2},
	    {"0.0020", 2}, {"0.010", 10},  {".1", 100},        {"0.58", 580},
	};
	struct ds_error err;

	for (size_t i = 0; i < N(rows); i++) {
		uint32_t share_milli = 0;
		assert_int_equal(ds_share_parse(rows[i].text, &share_milli, &err), 0);
		assert_int_equal(share_milli, rows[i].share_milli);
	}
}

/* Every thousandth, in each spelling: no rounding anywhere. */
static void every_share(void **state)
{
	for (uint32_t milli = DS_SHARE_MILLI_MIN; milli < DS_SHARE_MILLI_MAX; milli++) {
		char text[32];
		uint32_t parsed = 0;

		snprintf(text, sizeof(text), "0.%03u", milli);
		assert_int_equal(ds_share_parse(text, &parsed, NULL), 0);
		assert_int_equal(parsed, milli);
		snprintf(text, sizeof(text), "%u", milli);
		assert_int_equal(ds_share_parse(text, &parsed, NULL), 0);
		assert_int_equal(parsed, milli);
		ds_share_format(milli, text);
		assert_int_equal(ds_share_parse(text, &parsed, NULL), 0);
		assert_int_equal(parsed, milli);
	}
}

static void refused_shares(void **state)
{
	static const struct {
		const char *text;
		const char *reason;
	} rows[] = {
	    {"", "is not a number"},
	    {"abc", "is not a number"},
	    {".", "is not a number"},
	    {"1.", "is not a number"},
	    {"0.5.5", "is not a number"},
	    {"nan", "is not a number"},
	    {"inf", "is not a number"},
	    {"infinity", "is not a number"},
	    {"0x1", "is not a number"},
	    {"0x.8p0", "is not a number"},
	    {"5e-1", "is not a number"},
	    {"0.5e0", "is not a number"},
	    {"+0.5", "is not a number"},
	    {"--0.5", "is not a number"},
	    {"-", "is not a number"},
	    {"1K", "is not a number"},
	    {"500k", "is not a number"},
	    {"1M", "is not a number"},
	    {" 0.5", "is not a number"},
	    {"0.5 ", "is not a number"},
	    {"0. 5", "is not a number"},
	    {"0.5\n", "is not a number"},
	    {"1/2", "is not a number"},
	    {"\xd9\xa5", "is not a number"}, /* an Arabic five */
	    {"0,5", "write the fraction with a point"},
	    {"50%", "write it as a fraction, such as 0.5 for 50%"},
	    {"0", "is not above 0"},
	    {"0.0", "is not above 0"},
	    {".000", "is not above 0"},
	    {"000", "is not above 0"},
	    {"-0.5", "is not above 0"},
	    {"-1", "is not above 0"},
	    {"-500", "is not above 0"},
	    {"1.5", "is more than one GPU"},
	    {"1.001", "is more than one GPU"},
	    {"2.0", "is more than one GPU"},
	    {"1001", "is more than one GPU"},
	    {"4294967296", "is more than one GPU"},
	    {"18446744073709551617", "is more than one GPU"},
	    {"99999999999999999999999999999999999", "is more than one GPU"},
	    {"500.0", "is more than one GPU"},
	    {"0.0005", "is finer than a thousandth"},
	    {"0.3333", "is finer than a thousandth"},
	    {"0.00000000000000000000001", "is finer than a thousandth"},
	    {"0.001", "the smallest is 0.002"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		uint32_t share_milli = 77;
		struct ds_error err = {""};
		assert_int_equal(ds_share_parse(rows[i].text, &share_milli, &err), -1);
		if (!strstr(err.text, rows[i].reason))
			fail_msg("\"%s\": %s", rows[i].text, err.text);
		assert_int_equal(share_milli, 77);
		assert_null(strchr(err.text, '\n'));
	}
}

/* A locale with a decimal comma must not change what a share means. */
static void locale_does_not_matter(void **state)
{
	static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"};
	uint32_t share_milli = 0;
	const char *set = NULL;

	for (size_t i = 0; i < N(names) && !set; i++)
		set = setlocale(LC_ALL, names[i]);
	if (!set)
		print_message("no locale with a decimal comma is installed: tested under C only\n");
	assert_int_equal(ds_share_parse("0.5", &share_milli, NULL), 0);
	assert_int_equal(share_milli, 500);
	assert_int_equal(ds_share_parse("0,5", &share_milli, NULL), -1);
	setlocale(LC_ALL, "C");
}

static void formatted_shares(void **state)
{
	char text[DS_SHARE_TEXT_SIZE];

	assert_string_equal(ds_share_format(1000, text), "1");
	assert_string_equal(ds_share_format(500, text), "0.5");
	assert_string_equal(ds_share_format(250, text), "0.25");
	assert_string_equal(ds_share_format(2, text), "0.002");
	assert_string_equal(ds_share_format(0, text), "0");
	assert_string_equal(ds_share_format(UINT32_MAX, text), "4294967.295");
}

static void requests(void **state)
{
	static const struct {
		const char *gres;
		const char *class_name;
		uint32_t share_milli; /* 0: asks no share */
		bool shard, gpu;
		uint64_t shard_count;
		const char *rewritten; /* with class "c" for an empty one */
	} rows[] = {
	    {NULL, "", 0, false, false, 0, NULL},
	    {"", "", 0, false, false, 0, NULL},
	    {",,", "", 0, false, false, 0, NULL},
	    {"none", "", 0, false, false, 0, NULL},
	    {"NONE", "", 0, false, false, 0, NULL},
	    {"gpu", "", 0, false, true, 0, NULL},
	    {"gpu:a100:2", "", 0, false, true, 0, NULL},
	    {"gres/gpu=1", "", 0, false, true, 0, NULL},
	    {"mps:50", "", 0, false, true, 0, NULL},
	    {"gpu:0", "", 0, false, false, 0, NULL},
	    {"gpu:a100:0", "", 0, false, false, 0, NULL},
	    {"shard", "", 0, true, false, 1, NULL},
	    {"shard:4", "", 0, true, false, 4, NULL},
	    {"shard:2k", "", 0, true, false, 2048, NULL},
	    {"shard:1M", "", 0, true, false, 1048576, NULL},
	    {"shard:3,gres:shard:4", "", 0, true, false, 7, NULL},
	    {"shard:a100", "", 0, true, false, 1, NULL},
	    {"shard:0", "", 0, false, false, 0, NULL},
	    {"shard:99999999999999999999", "", 0, false, false, 0, NULL},
	    {"shard:999999999999999999P", "", 0, true, false, UINT64_MAX, NULL},
	    {"gpufoo:1,detsharex:0.5", "", 0, false, false, 0, NULL},
	    {"nic:5,craynetwork:0", "", 0, false, false, 0, NULL},
	    {"detshare", "", 1000, false, false, 0, "detshare:c:1000,shard:1000"},
	    {"detshare:1", "", 1000, false, false, 0, "detshare:c:1000,shard:1000"},
	    {"detshare:0.5", "", 500, false, false, 0, "detshare:c:500,shard:500"},
	    {"detshare=0.5", "", 500, false, false, 0, "detshare:c:500,shard:500"},
	    {"detshare:500", "", 500, false, false, 0, "detshare:c:500,shard:500"},
	    {"detshare:latency", "latency", 1000, false, false, 0,
	     "detshare:latency:1000,shard:1000"},
	    {"detshare:latency:0.5", "latency", 500, false, false, 0,
	     "detshare:latency:500,shard:500"},
	    {"detshare:latency=.25", "latency", 250, false, false, 0,
	     "detshare:latency:250,shard:250"},
	    {"detshare:my-own_class2:2", "my-own_class2", 2, false, false, 0,
	     "detshare:my-own_class2:2,shard:2"},
	    {"gres:detshare:0.5", "", 500, false, false, 0, "gres:detshare:c:500,gres:shard:500"},
	    {"gres/detshare:latency=500", "latency", 500, false, false, 0,
	     "gres/detshare:latency:500,gres/shard:500"},
	    {"gres:nic:1,gres:detshare:0.5,gres:shard:7", "", 500, true, false, 7,
	     "gres:nic:1,gres:detshare:c:500,gres:shard:500"},
	    {"shard:3,nic:1,detshare:latency:0.5,foo:bar:2", "latency", 500, true, false, 3,
	     "nic:1,detshare:latency:500,shard:500,foo:bar:2"},
	    {"detshare:0.5,gpu:1", "", 500, false, true, 0, "detshare:c:500,shard:500,gpu:1"},
	    {",detshare:0.5,,nic,", "", 500, false, false, 0, "detshare:c:500,shard:500,nic"},
	};
	struct ds_error err;

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_request request;
		int rc = ds_request_parse(rows[i].gres, &request, &err);
		if (rc)
			fail_msg("\"%s\": %s", rows[i].gres, err.text);
		assert_int_equal(request.asks_share, rows[i].share_milli != 0);
		assert_int_equal(request.share_milli, rows[i].share_milli);
		assert_string_equal(request.class_name, rows[i].class_name);
		assert_int_equal(request.asks_shard, rows[i].shard);
		assert_int_equal(request.asks_gpu, rows[i].gpu);
		assert_true(request.shard_count == rows[i].shard_count);

		const char *class_name = rows[i].class_name[0] ? rows[i].class_name : "c";
		char *rewritten = ds_request_rewrite(rows[i].gres, class_name, rows[i].share_milli,
						     rows[i].share_milli);
		if (rows[i].rewritten)
			assert_string_equal(rewritten, rows[i].rewritten);
		else
			assert_null(rewritten);
		free(rewritten);
	}
}

static void refused_requests(void **state)
{
	static const struct {
		const char *gres;
		const char *line; /* how the message starts */
	} rows[] = {
	    {"detshare:0", "detshare:0: share \"0\" is not above 0"},
	    {"gres:detshare:1.5", "detshare:1.5: share \"1.5\" is more than one GPU"},
	    {"nic:1,gres/detshare:latency=2.5", "detshare:latency=2.5: share \"2.5\" is more than"},
	    {"detshare:latency:nan", "detshare:latency:nan: share \"nan\" is not a number"},
	    {"detshare:latency:inf", "detshare:latency:inf: share \"inf\" is not a number"},
	    {"detshare:0x10", "detshare:0x10: share \"0x10\" is not a number"},
	    {"detshare:1e3", "detshare:1e3: share \"1e3\" is not a number"},
	    {"detshare:-1", "detshare:-1: share \"-1\" is not above 0"},
	    {"detshare:+1", "detshare:+1: share \"+1\" is not a number"},
	    {"detshare:500K", "detshare:500K: share \"500K\" is not a number"},
	    {"detshare: 0.5", "detshare: 0.5: share \" 0.5\" is not a number"},
	    {"detshare:", "detshare:: the share is missing"},
	    {"detshare=", "detshare=: the share is missing"},
	    {"detshare:latency:", "detshare:latency:: the share is missing"},
	    {"detshare::0.5", "detshare::0.5: the class is empty"},
	    {"detshare:0.5:latency", "detshare:0.5:latency: the class stands before the share"},
	    {"detshare=latency:0.5", "detshare=latency:0.5: '=' stands only before the share"},
	    {"detshare:lat.ency:0.5", "detshare:lat.ency:0.5: \"lat.ency\" cannot be a class"},
	    {"detshare:abcdefghijklmnopqrstuvwxyzabcdef:1",
	     "detshare:abcdefghijklmnopqrstuvwxyzabcdef:1: \"abcdefghijklmnopqrstuvwxyzabcdef\" "
	     "cannot"},
	    {"detshare:0,5", "detshare:0,5: a comma separates list elements"},
	    {"gres:detshare:0,gres:5", "detshare:0,5: a comma separates list elements"},
	    {"detshare:latency:0,25", "detshare:latency:0,25: a comma separates list elements"},
	    {"nic:1, detshare:0.5", " detshare:0.5: a blank beside the name"},
	    {"detshare :0.5", "detshare :0.5: a blank beside the name"},
	    {"detshare:0.5,detshare:0.25", "detshare:0.25: a second share"},
	    {"detshare:latency:0.5,nic,gres:detshare:0.5", "detshare:0.5: a second share"},
	    {"detshare:0.5,shard:a100:500", "shard:a100:500: a shard of a type beside detshare"},
	    {"detshare:\x1b[31m\n", "detshare:?[31m?: share"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_request request;
		struct ds_error err = {""};
		assert_int_equal(ds_request_parse(rows[i].gres, &request, &err), -1);
		if (strncmp(err.text, rows[i].line, strlen(rows[i].line)) != 0)
			fail_msg("\"%s\": %s", rows[i].gres, err.text);
		assert_false(request.asks_share);
		assert_null(strchr(err.text, '\n'));
	}
}

/* xorshift32: the same lists in every run. */
static uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void random_list(uint32_t *seed, char *text, size_t size)
{
	static const char *const prefixes[] = {"", "", "gres:", "gres/"};
	static const char *const others[] = {"gpu:1",    "nic",    "shard",       "shard:3",
					     "shard=40", "mps:10", "license:x=2", "craynetwork:0",
					     "",         "x"};
	static const char *const classes[] = {"", ":latency", ":throughput", ":a-b_9"};
	static const char *const separators[] = {":", "="};
	unsigned n_elements = 1 + next_random(seed) % 5;
	unsigned ours = next_random(seed) % n_elements;

	text[0] = '\0';
	for (unsigned i = 0; i < n_elements; i++) {
		size_t used = strlen(text);
		const char *prefix = prefixes[next_random(seed) % N(prefixes)];
		if (i != ours) {
			snprintf(text + used, size - used, "%s%s%s", i ? "," : "", prefix,
				 others[next_random(seed) % N(others)]);
			continue;
		}
		uint32_t milli = 2 + next_random(seed) % 999;
		char share[24];
		switch (next_random(seed) % 4) {
		case 0:
			snprintf(share, sizeof(share), "0.%03u",
				 milli % 1000 < 2 ? 500 : milli % 1000);
			break;
		case 1:
			snprintf(share, sizeof(share), "%u", milli);
			break;
		case 2:
			snprintf(share, sizeof(share), "1.00");
			break;
		default:
			share[0] = '\0';
		}
		snprintf(text + used, size - used, "%s%sdetshare%s%s%s", i ? "," : "", prefix,
			 classes[next_random(seed) % N(classes)],
			 share[0] ? separators[next_random(seed) % N(separators)] : "", share);
	}
}

/*
 * For any list that is accepted: the rewritten one asks the same share of the same class, with as many
 * shards, keeps everything else, and rewriting it again changes nothing.
 */
static void rewriting_is_idempotent(void **state)
{
	uint32_t seed = 20261120;
	unsigned accepted = 0;

	for (unsigned round = 0; round < 20000; round++) {
		char list[512];
		struct ds_request first, second;

		random_list(&seed, list, sizeof(list));
		/* Now and then a broken one: the parser must not mind. */
		if (next_random(&seed) % 8 == 0 && list[0])
			list[next_random(&seed) % strlen(list)] =
			    (char)(next_random(&seed) % 127 + 1);
		if (ds_request_parse(list, &first, NULL) < 0 || !first.asks_share)
			continue;
		accepted++;
		char *once = ds_request_rewrite(list, first.class_name, first.share_milli,
						first.share_milli);
		assert_non_null(once);
		assert_int_equal(ds_request_parse(once, &second, NULL), 0);
		assert_string_equal(second.class_name, first.class_name);
		assert_int_equal(second.share_milli, first.share_milli);
		assert_true(second.asks_shard && second.shard_count == first.share_milli);
		assert_int_equal(second.asks_gpu, first.asks_gpu);
		char *twice = ds_request_rewrite(once, second.class_name, second.share_milli,
						 second.share_milli);
		assert_string_equal(twice, once);
		free(once);
		free(twice);
	}
	assert_true(accepted > 10000);
}

static void shown_lists(void **state)
{
	char text[16];

	assert_string_equal(ds_gres_show(NULL, text, sizeof(text)), "");
	assert_string_equal(ds_gres_show("gres:gpu:1,gres/x", text, sizeof(text)), "gpu:1,x");
	assert_string_equal(ds_gres_show("a\tb\x7f", text, sizeof(text)), "a?b?");
	ds_gres_show("gpu:1,gpu:2,gpu:3,gpu:4", text, sizeof(text));
	assert_int_equal(strlen(text), sizeof(text) - 1);
}

static void mentioned_words(void **state)
{
	assert_true(ds_tres_mentions("gres/gpu:1", "gpu"));
	assert_true(ds_tres_mentions("cpu:2,gres:shard=5", "shard"));
	assert_true(ds_tres_mentions("gpu", "gpu"));
	assert_false(ds_tres_mentions("gres/gpus:1", "gpu"));
	assert_false(ds_tres_mentions("cpu:2", "gpu"));
	assert_false(ds_tres_mentions("", "gpu"));
	assert_false(ds_tres_mentions(NULL, "gpu"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(shares),           cmocka_unit_test(every_share),
	    cmocka_unit_test(refused_shares),   cmocka_unit_test(locale_does_not_matter),
	    cmocka_unit_test(formatted_shares), cmocka_unit_test(requests),
	    cmocka_unit_test(refused_requests), cmocka_unit_test(rewriting_is_idempotent),
	    cmocka_unit_test(shown_lists),      cmocka_unit_test(mentioned_words),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
