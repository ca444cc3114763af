/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/grant.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const char good[] =
    "v=1,class=latency,kind=latency,share=500,isolation=user,config=0123456789abcdef";

static void there_and_back(void **state)
{
	for (int kind = DS_KIND_LATENCY; kind <= DS_KIND_BESTEFFORT; kind++)
		for (int isolation = DS_ISOLATION_USER; isolation <= DS_ISOLATION_NONE;
		     isolation++) {
			struct ds_grant grant = {.class_name = "my-class",
						 .kind = (enum ds_class_kind)kind,
						 .share_milli = 2 + (uint32_t)kind,
						 .isolation = (enum ds_isolation)isolation,
						 .config_digest = "00ff00ff00ff00ff"};
			struct ds_grant back;
			struct ds_error err;
			char text[DS_GRANT_TEXT_SIZE];

			assert_int_equal(ds_grant_format(&grant, text, sizeof(text), &err), 0);
			assert_int_equal(ds_grant_parse(text, &back, &err), 0);
			assert_string_equal(back.class_name, grant.class_name);
			assert_int_equal(back.kind, grant.kind);
			assert_int_equal(back.share_milli, grant.share_milli);
			assert_int_equal(back.isolation, grant.isolation);
			assert_string_equal(back.config_digest, grant.config_digest);
		}
}

static void text_form(void **state)
{
	struct ds_grant grant;
	struct ds_error err;
	char text[DS_GRANT_TEXT_SIZE];

	assert_int_equal(ds_grant_parse(good, &grant, &err), 0);
	assert_string_equal(grant.class_name, "latency");
	assert_int_equal(grant.kind, DS_KIND_LATENCY);
	assert_int_equal(grant.share_milli, 500);
	assert_int_equal(grant.isolation, DS_ISOLATION_USER);
	assert_string_equal(grant.config_digest, "0123456789abcdef");
	assert_int_equal(ds_grant_format(&grant, text, sizeof(text), &err), 0);
	assert_string_equal(text, good);
}

static void whole_gpu(void **state)
{
	static const char *const texts[] = {
	    "v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef",
	    "v=1,class=a,kind=besteffort,share=5,isolation=user,config=0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,whole=7,config=0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,whole=1001,config=0123456789abcdef",
	};
	static const uint32_t ms[] = {500, 100, 7, 0};
	static const char *const broken[] = {
	    "v=1,class=a,kind=latency,share=5,isolation=user,whole=0,config=0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,whole=1002,config=0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,whole=x,config=0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,whole=,config=0123456789abcdef",
	};
	struct ds_error err = {""};
	struct ds_grant grant;

	for (size_t i = 0; i < N(texts); i++) {
		char text[DS_GRANT_TEXT_SIZE];

		assert_int_equal(ds_grant_parse(texts[i], &grant, &err), 0);
		assert_int_equal(ds_grant_whole_ms(&grant), ms[i]);
		assert_int_equal(ds_grant_format(&grant, text, sizeof(text), &err), 0);
		assert_string_equal(text, texts[i]);
	}
	for (size_t i = 0; i < N(broken); i++) {
		assert_int_equal(ds_grant_parse(broken[i], &grant, &err), -1);
		assert_non_null(strstr(err.text, "'whole='"));
	}
}

static void memory(void **state)
{
	static const char *const texts[] = {
	    "v=1,class=a,kind=latency,share=5,isolation=user,memory=20480,config=0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,memory=1,memory_max=67108864,config="
	    "0123456789abcdef",
	    "v=1,class=a,kind=latency,share=5,isolation=user,memory_max=512,config="
	    "0123456789abcdef",
	};
	static const uint32_t asked[] = {20480, 1, 0}, cap[] = {0, 67108864, 512};

	for (size_t i = 0; i < N(texts); i++) {
		char text[DS_GRANT_TEXT_SIZE];
		struct ds_grant grant;
		struct ds_error err = {""};

		assert_int_equal(ds_grant_parse(texts[i], &grant, &err), 0);
		assert_int_equal(grant.memory_mib, asked[i]);
		assert_int_equal(grant.memory_max_mib, cap[i]);
		assert_int_equal(ds_grant_format(&grant, text, sizeof(text), &err), 0);
		assert_string_equal(text, texts[i]);
	}
}

static void lending(void **state)
{
	static const char text[] = "v=1,class=latency,kind=latency,share=500,isolation=user,policy="
				   "lend,lend=yes,borrow=no,"
				   "reclaim=500,config=0123456789abcdef";
	static const char *const broken[] = {
	    "policy=static,lend=yes,borrow=no,reclaim=500,",
	    "policy=lend,",
	    "policy=lend,lend=yes,reclaim=500,",
	    "policy=lend,borrow=no,lend=yes,reclaim=500,",
	    "policy=lend,lend=maybe,borrow=no,reclaim=500,",
	    "policy=lend,lend=yes,borrow=no,reclaim=0,",
	    "policy=lend,lend=yes,borrow=no,reclaim=0500,",
	    "policy=lend,lend=yes,borrow=no,reclaim=10000001,",
	    "policy=lend,lend=yes,borrow=no,reclaim=-1,",
	    "policy=lends,lend=yes,borrow=no,reclaim=500,",
	    "lend=yes,",
	    "advance=250,",
	    "policy=lend,lend=yes,borrow=no,reclaim=500,advance=0,",
	    "policy=lend,lend=yes,borrow=no,reclaim=500,advance=1001,",
	    "policy=lend,lend=yes,borrow=no,reclaim=500,advance=0250,",
	    "policy=lend,lend=yes,borrow=no,reclaim=500,advance=,",
	};
	struct ds_site_config config;
	struct ds_grant grant = {.share_milli = 7}, given;
	struct ds_error err;
	char written[DS_GRANT_TEXT_SIZE];

	assert_int_equal(ds_grant_parse(text, &grant, &err), 0);
	assert_int_equal(grant.policy, DS_POLICY_LEND);
	assert_int_equal(grant.lends, 1);
	assert_int_equal(grant.borrows, 0);
	assert_int_equal(grant.reclaim_us, 500);
	assert_int_equal(ds_grant_format(&grant, written, sizeof(written), &err), 0);
	assert_string_equal(written, text);
	for (size_t i = 0; i < N(broken); i++) {
		snprintf(
		    written, sizeof(written),
		    "v=1,class=a,kind=latency,share=5,isolation=user,%sconfig=0123456789abcdef",
		    broken[i]);
		if (ds_grant_parse(written, &given, &err) != -1)
			fail_msg("accepted: %s", written);
	}
	/* An advance is for kind latency. */
	assert_int_equal(grant.advance_milli, 0);
	assert_int_equal(
	    ds_grant_parse("v=1,class=a,kind=latency,share=5,isolation=user,policy=lend,"
			   "lend=yes,borrow=yes,reclaim=10000000,advance=1000,"
			   "whole=1000,config=0123456789abcdef",
			   &grant, &err),
	    0);
	assert_int_equal(grant.advance_milli, 1000);
	assert_int_equal(ds_grant_format(&grant, written, sizeof(written), &err), 0);
	assert_non_null(strstr(written, ",reclaim=10000000,advance=1000,whole=1000,"));
	grant.kind = DS_KIND_THROUGHPUT;
	assert_int_equal(ds_grant_format(&grant, written, sizeof(written), &err), -1);
	assert_int_equal(ds_grant_parse("v=1,class=a,kind=throughput,share=5,isolation=user,"
					"policy=lend,lend=yes,borrow=yes,reclaim=1,advance=1,"
					"config=0123456789abcdef",
					&given, &err),
			 -1);
	grant.kind = DS_KIND_LATENCY;
	ds_site_config_defaults(&config);
	config.policy = DS_POLICY_LEND;
	config.classes[0].advance_milli = 250;
	ds_grant_set_lending(&grant, &config, &config.classes[0]);
	assert_int_equal(grant.advance_milli, 250);
	/* What the site says of a class, and nothing of it with the policy static. */
	ds_site_config_defaults(&config);
	ds_grant_set_lending(&grant, &config, ds_site_config_class(&config, "latency"));
	assert_int_equal(grant.policy, DS_POLICY_STATIC);
	assert_int_equal(grant.lends + grant.borrows + grant.reclaim_us + grant.advance_milli, 0);
	assert_int_equal(ds_grant_format(&grant, written, sizeof(written), &err), 0);
	assert_null(strstr(written, "policy"));
	grant.lends = 1;
	assert_int_equal(ds_grant_format(&grant, written, sizeof(written), &err), -1);
}

static void refused_texts(void **state)
{
	static const struct {
		const char *text;
		const char *reason;
	} rows[] = {
	    {"", "'v='"},
	    {"v=1", "'v='"},
	    {"v=2,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef",
	     "version 2"},
	    {"v=11,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef", "'v='"},
	    {"v=1,kind=latency,class=a,share=5,isolation=user,config=0123456789abcdef", "'class='"},
	    {"v=1,class=,kind=latency,share=5,isolation=user,config=0123456789abcdef", "'class='"},
	    {"v=1,class=a b,kind=latency,share=5,isolation=user,config=0123456789abcdef",
	     "class name"},
	    {"v=1,class=a,kind=x,share=5,isolation=user,config=0123456789abcdef", "unknown kind"},
	    {"v=1,class=a,kind=latency,share=0,isolation=user,config=0123456789abcdef",
	     "not between"},
	    {"v=1,class=a,kind=latency,share=1,isolation=user,config=0123456789abcdef",
	     "not between"},
	    {"v=1,class=a,kind=latency,share=1001,isolation=user,config=0123456789abcdef",
	     "not between"},
	    {"v=1,class=a,kind=latency,share=10000,isolation=user,config=0123456789abcdef",
	     "'share='"},
	    {"v=1,class=a,kind=latency,share=-5,isolation=user,config=0123456789abcdef",
	     "not a number"},
	    {"v=1,class=a,kind=latency,share=+5,isolation=user,config=0123456789abcdef",
	     "not a number"},
	    {"v=1,class=a,kind=latency,share=05,isolation=user,config=0123456789abcdef",
	     "not a number"},
	    {"v=1,class=a,kind=latency,share=0.5,isolation=user,config=0123456789abcdef",
	     "not a number"},
	    {"v=1,class=a,kind=latency,share=5,isolation=all,config=0123456789abcdef",
	     "unknown isolation"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789abcde", "digest"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789ABCDEF", "digest"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef0",
	     "'config='"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef,",
	     "'config='"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef,x=1",
	     "'config='"},
	    {"v=1,class=a,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef",
	     "'kind='"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,memory=0,config=0123456789abcdef",
	     "'memory='"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,memory=07,config=0123456789abcdef",
	     "'memory='"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,memory=5G,config=0123456789abcdef",
	     "'memory='"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,memory=99999999,config="
	     "0123456789abcdef",
	     "memory is out of range"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,memory=6,memory_max=5,config="
	     "0123456789abcdef",
	     "memory is out of range"},
	    {"v=1,class=a,kind=latency,share=5,isolation=user,memory_max=5,memory=5,config="
	     "0123456789abcdef",
	     "'config='"},
	    {" v=1,class=a,kind=latency,share=5,isolation=user,config=0123456789abcdef", "'v='"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_grant grant = {.share_milli = 7};
		struct ds_error err = {""};
		assert_int_equal(ds_grant_parse(rows[i].text, &grant, &err), -1);
		if (!strstr(err.text, rows[i].reason))
			fail_msg("\"%s\": %s", rows[i].text, err.text);
		assert_int_equal(grant.share_milli, 7);
	}
}

static void refused_grants(void **state)
{
	struct ds_grant whole;
	struct ds_error err;
	char text[DS_GRANT_TEXT_SIZE] = "untouched";

	assert_int_equal(ds_grant_parse(good, &whole, &err), 0);
	for (int broken = 0; broken < 6; broken++) {
		struct ds_grant grant = whole;
		switch (broken) {
		case 0:
			grant.class_name[0] = '\0';
			break;
		case 1:
			memset(grant.class_name, 'a', sizeof(grant.class_name));
			break;
		case 2:
			grant.kind = (enum ds_class_kind)99;
			break;
		case 3:
			grant.share_milli = 1001;
			break;
		case 4:
			grant.config_digest[0] = 'g';
			break;
		default:
			strcpy(grant.class_name, "a,b=c");
		}
		assert_int_equal(ds_grant_format(&grant, text, sizeof(text), &err), -1);
		assert_string_equal(text, "");
	}
	assert_int_equal(ds_grant_format(&whole, text, sizeof(good), &err), 0);
	assert_int_equal(ds_grant_format(&whole, text, sizeof(good) - 1, &err), -1);
	assert_int_equal(ds_grant_format(&whole, NULL, 0, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(there_and_back), cmocka_unit_test(text_form),
	    cmocka_unit_test(whole_gpu),      cmocka_unit_test(memory),
	    cmocka_unit_test(refused_texts),  cmocka_unit_test(lending),
	    cmocka_unit_test(refused_grants),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
