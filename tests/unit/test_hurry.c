/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/hurry.h"

enum { LONG_US = 10000 };

static struct ds_page page;
static struct ds_session session;

/* A page of that epoch, which takes something away in a hurry. */
static void publish(uint64_t epoch, uint32_t spin_us, uint32_t unawaited, uint32_t spin_cpus)
{
	page.spin_us = spin_us;
	page.unawaited = unawaited;
	page.spin_cpus = spin_cpus;
	atomic_store(&page.epoch, epoch);
}

static int begin(void **unused)
{
	memset(&page, 0, sizeof(page));
	session.page = &page;
	ds_hurry_start(&session);
	ds_hurry_followed(2);
	publish(2, 0, 0, 1);
	return 0;
}

static void when_it_is_asked(void **unused)
{
	assert_false(ds_hurry_is_asked());
	publish(4, LONG_US, 0, 1);
	assert_true(ds_hurry_is_asked());
	publish(5, LONG_US, 0, 1); /* half of it */
	assert_false(ds_hurry_is_asked());
	publish(6, LONG_US, 1, 1); /* for nobody */
	assert_false(ds_hurry_is_asked());
	publish(8, 0, 0, 1); /* for one who is in no hurry */
	assert_false(ds_hurry_is_asked());
	publish(10, LONG_US, 0, 1);
	ds_hurry_followed(10);
	assert_false(ds_hurry_is_asked());
	ds_hurry_start(NULL);
	publish(12, LONG_US, 0, 1);
	assert_false(ds_hurry_is_asked());
}

static void for_each_page_once(void **unused)
{
	publish(14, 1, 0, 1);
	assert_true(ds_hurry_is_asked());
	ds_hurry_wait();
	assert_false(ds_hurry_is_asked());
	publish(16, 1, 0, 1);
	assert_true(ds_hurry_is_asked());
	/* Not at all on so few CPUs. */
	publish(18, UINT32_MAX, 0, UINT32_MAX);
	assert_true(ds_hurry_is_asked());
	ds_hurry_wait();
	assert_false(ds_hurry_is_asked());
}

static void *follow(void *unused)
{
	ds_hurry_followed(20);
	return NULL;
}

static void until_it_is_followed(void **unused)
{
	pthread_t acknowledger;

	/* Longer than the test may take; a pause that takes long on a busy machine may end it before. */
	publish(20, UINT32_MAX, 0, 1);
	assert_int_equal(pthread_create(&acknowledger, NULL, follow, NULL), 0);
	ds_hurry_wait();
	pthread_join(acknowledger, NULL);
	assert_false(ds_hurry_is_asked());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(when_it_is_asked, begin),
	    cmocka_unit_test_setup(for_each_page_once, begin),
	    cmocka_unit_test_setup(until_it_is_followed, begin),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
