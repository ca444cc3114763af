/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/bell.h"

static char dir[] = "/tmp/detshare-test-bell-XXXXXX", path[64];

static int make_dir(void **state)
{
	(void)state;
	strcpy(strrchr(dir, '-') + 1, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/bell", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static bool rings(int fd)
{
	struct pollfd event = {.fd = fd, .events = POLLIN};

	return poll(&event, 1, 0) == 1;
}

static void many_rings_are_heard_once(void **state)
{
	struct ds_error err;
	int heard = ds_bell_make(path, &err);
	int bell = ds_bell_open(path);

	(void)state;
	assert_true(heard >= 0 && bell >= 0);
	assert_false(rings(heard));
	/* More than there is room for; nobody is held up. */
	for (int i = 0; i < 200000; i++)
		assert_true(ds_bell_ring(bell));
	assert_true(rings(heard));
	ds_bell_hear(heard);
	assert_false(rings(heard));
	/* Nor is the end of who rings a ring. */
	assert_true(ds_bell_ring(bell));
	ds_bell_hear(heard);
	close(bell);
	assert_false(rings(heard));
	close(heard);
}

static void nobody_hears(void **state)
{
	struct ds_error err;

	(void)state;
	assert_int_equal(ds_bell_open(path), -1);
	int heard = ds_bell_make(path, &err);
	int bell = ds_bell_open(path);
	close(heard);
	assert_int_equal(ds_bell_open(path), -1);
	assert_false(ds_bell_ring(bell));
	close(bell);
	/* Whoever begins again finds what was left. */
	heard = ds_bell_make(path, &err);
	assert_true(heard >= 0);
	close(heard);
}

static void what_was_planted_is_not_rung(void **state)
{
	struct ds_error err;

	(void)state;
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(ds_bell_open(path), -1);
	assert_int_equal(ds_bell_make(path, &err), -1);
	assert_non_null(strstr(err.text, path));
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(chmod(path, 0622), 0); /* others could ring, too */
	assert_int_equal(ds_bell_make(path, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(many_rings_are_heard_once, make_dir, remove_dir),
	    cmocka_unit_test_setup_teardown(nobody_hears, make_dir, remove_dir),
	    cmocka_unit_test_setup_teardown(what_was_planted_is_not_rung, make_dir, remove_dir),
	};

	alarm(60);
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("bell", tests, NULL, NULL);
}
