/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/policy.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* Where nobody but us can write, whoever owns the build. */
static char dir[] = "/tmp/detshare-test-policy-XXXXXX";
static char path[sizeof(dir) + 32];

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	unlink(path);
	return rmdir(dir);
}

static void install(const char *built)
{
	static unsigned n;
	struct stat st;
	int from = open(built, O_RDONLY);

	/* Another name: the loader knows by it what is loaded already. */
	unlink(path);
	snprintf(path, sizeof(path), "%s/policy%u.so", dir, n++);
	int to = open(path, O_WRONLY | O_CREAT | O_EXCL, 0755);
	if (from < 0 || to < 0 || fstat(from, &st) < 0 ||
	    sendfile(to, from, NULL, (size_t)st.st_size) != st.st_size)
		fail_msg("cannot copy %s", built);
	close(from);
	close(to);
}

static const struct detshare_policy_gpu gpu = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};

static void a_good_one(void **state)
{
	const struct detshare_policy_resident residents[] = {{.share_milli = 500, .active = 1},
							     {.share_milli = 250}};
	struct ds_policy policy;
	struct ds_error err = {""};
	uint32_t wishes[2];

	install(BUILT "policy_good.so");
	if (ds_policy_load(path, &policy, &err))
		fail_msg("%s", err.text);
	assert_string_equal(policy.id.name, "sample");
	assert_true(policy.id.digest != 0);
	assert_int_equal(policy.id.failed, 0);
	assert_int_equal(ds_policy_ask(policy.table, &gpu, residents, 2, wishes, &err), 0);
	assert_int_equal(wishes[0], 750);
	assert_int_equal(wishes[1], 250);
}

static void the_example(void **state)
{
	const struct detshare_policy_resident residents[] = {
	    {.share_milli = 400, .active = 1, .busy_milli = 900},
	    {.share_milli = 200, .active = 1, .busy_milli = 100},
	    {.share_milli = 100, .kind = DETSHARE_POLICY_BESTEFFORT, .active = 1},
	    {.share_milli = 300}};
	struct ds_policy policy;
	struct ds_error err = {""};
	uint32_t wishes[4];

	install(EXAMPLE);
	if (ds_policy_load(path, &policy, &err))
		fail_msg("%s", err.text);
	assert_string_equal(policy.id.name, "by-busy");
	assert_int_equal(ds_policy_ask(policy.table, &gpu, residents, 4, wishes, &err), 0);
	assert_int_equal(wishes[0], 1000);
	assert_int_equal(wishes[1], 300);
	assert_int_equal(wishes[2], 500);
	assert_int_equal(wishes[3], 300);
}

static void others_are_refused(void **state)
{
	static const struct {
		const char *built;
		const char *reason;
	} rows[] = {
	    {BUILT "policy_old.so", "is of version 1, not 2"},
	    {BUILT "policy_nameless.so", "has no name of 1 to 31 letters"},
	    {BUILT "policy_pretender.so", "or that of one that is built in"},
	    {BUILT "policy_mute.so", "has no function wishes"},
	    {BUILT "policy_other.so", "exports no detshare_policy"},
	    {"/proc/self/exe", "cannot load"},
	    {"/etc/passwd", "cannot load"},
	};
	struct ds_policy policy;
	struct ds_error err;

	for (size_t i = 0; i < N(rows); i++) {
		install(rows[i].built);
		if (ds_policy_load(path, &policy, &err) == 0)
			fail_msg("%s was accepted", rows[i].built);
		if (!strstr(err.text, rows[i].reason) || strchr(err.text, '\n'))
			fail_msg("%s: %s", rows[i].built, err.text);
		assert_null(policy.table);
		assert_int_equal(policy.id.digest, 0);
	}
	assert_int_equal(ds_policy_load("/nonexistent/policy.so", &policy, &err), -1);
	assert_non_null(strstr(err.text, "/nonexistent/policy.so"));
	assert_int_equal(ds_policy_load(dir, &policy, &err), -1);
}

static void what_others_may_write_is_refused(void **state)
{
	struct ds_policy policy;
	struct ds_error err = {""};

	if (geteuid() != 0)
		skip(); /* nobody else than root would run it as root */
	install(BUILT "policy_good.so");
	assert_int_equal(chmod(path, 0757), 0);
	assert_int_equal(ds_policy_load(path, &policy, &err), -1);
	assert_non_null(strstr(err.text, "writable by nobody else"));
	assert_int_equal(chmod(path, 0755), 0);
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(ds_policy_load(path, &policy, &err), -1);
	assert_non_null(strstr(err.text, dir));
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(chown(path, 65534, 0), 0);
	assert_int_equal(ds_policy_load(path, &policy, &err), -1);
	assert_int_equal(chown(path, 0, 0), 0);
	assert_int_equal(ds_policy_load(path, &policy, &err), 0);
}

static void wishes_that_cannot_be(void **state)
{
	const struct detshare_policy_resident residents[] = {{.share_milli = 250},
							     {.share_milli = 500, .active = 1}};
	static const struct {
		const char *built;
		const char *reason;
	} rows[] = {
	    {BUILT "policy_wild.so", "policy wild wished 1001 for resident 1 of 2"},
	    {BUILT "policy_silent.so", "policy silent made no wish for resident 1 of 2"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_policy policy;
		struct ds_error err = {""};
		uint32_t wishes[2];

		install(rows[i].built);
		if (ds_policy_load(path, &policy, &err))
			fail_msg("%s", err.text);
		assert_int_equal(ds_policy_ask(policy.table, &gpu, residents, 2, wishes, &err), -1);
		assert_non_null(strstr(err.text, rows[i].reason));
		assert_int_equal(wishes[0], 250);
		assert_int_equal(wishes[1], 500);
	}
}

static void built_in(void **state)
{
	assert_ptr_equal(ds_policy_built_in("static"), &detshare_policy_static);
	assert_ptr_equal(ds_policy_built_in("lend"), &detshare_policy_lend);
	assert_null(ds_policy_built_in(""));
	assert_null(ds_policy_built_in("Lend"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_good_one),
	    cmocka_unit_test(the_example),
	    cmocka_unit_test(others_are_refused),
	    cmocka_unit_test(what_others_may_write_is_refused),
	    cmocka_unit_test(wishes_that_cannot_be),
	    cmocka_unit_test(built_in),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
