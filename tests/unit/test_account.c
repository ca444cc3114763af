/* SPDX-License-Identifier: Apache-2.0 */
/* The account in the book of GPU memory, and what the process holds: threads and killed processes that race. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/account.h"
#include "noderuntime/coroutine/holdings.h"

enum { LIMIT = 1000, PER_PROGRAM = 100, THREADS = 4, ROUNDS = 2000 };

static struct ds_book *new_book(unsigned n_programs)
{
	struct ds_book *book =
	    mmap(NULL, DS_BOOK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(book != MAP_FAILED);
	atomic_store(&book->n_used, n_programs);
	for (unsigned i = 0; i < n_programs; i++)
		atomic_store(&book->slots[i].context, PER_PROGRAM);
	return book;
}

static struct ds_account account_of(struct ds_book *book, unsigned slot)
{
	return (struct ds_account){book, slot, LIMIT, PER_PROGRAM};
}

static void one_program(void **state)
{
	struct ds_book *book = new_book(1);
	struct ds_account a = account_of(book, 0);

	assert_true(ds_account_want(&a, LIMIT)); /* its own contexts cost nothing */
	assert_false(ds_account_want(&a, 1));
	ds_account_have(&a, LIMIT, 0); /* the driver gave nothing */
	assert_true(ds_account_want(&a, 600));
	ds_account_have(&a, 600, 700); /* it rounded up */
	assert_int_equal(ds_account_used(&a), 700);
	assert_false(ds_account_want(&a, 301));
	assert_true(ds_account_want(&a, 300));
	ds_account_have(&a, 300, 400);
	assert_true(ds_account_over(&a));
	assert_int_equal(ds_account_used(&a), LIMIT);
	ds_account_free(&a, 400);
	assert_false(ds_account_over(&a));
	assert_int_equal(ds_account_used(&a), 700);
	assert_int_equal(atomic_load(&book->peak), LIMIT);
	ds_account_free(&a, 5000);
	assert_int_equal(ds_account_used(&a), 0);
	assert_false(ds_account_want(&a, UINT64_MAX));
	ds_account_clear(&a);
	munmap(book, DS_BOOK_SIZE);
}

static void two_programs_pay_for_the_second_ones_contexts(void **state)
{
	struct ds_book *book = new_book(2);
	struct ds_account a = account_of(book, 0), b = account_of(book, 1);

	assert_int_equal(ds_account_used(&a), PER_PROGRAM);
	assert_false(ds_account_want(&a, LIMIT - PER_PROGRAM + 1));
	assert_true(ds_account_want(&a, LIMIT - PER_PROGRAM));
	ds_account_have(&a, LIMIT - PER_PROGRAM, LIMIT - PER_PROGRAM);
	assert_false(ds_account_want(&b, 1));
	munmap(book, DS_BOOK_SIZE);
}

static void without_a_book_everything_goes(void **state)
{
	struct ds_account none = {.book = NULL};

	assert_true(ds_account_want(&none, UINT64_MAX));
	ds_account_have(&none, 1, 1);
	ds_account_free(&none, 1);
	ds_account_clear(&none);
	assert_int_equal(ds_account_used(&none), 0);
	assert_false(ds_account_over(&none));
}

/* Somebody else's wish comes to nothing, some milliseconds later. */
static void *end_wish(void *arg)
{
	const struct timespec later = {.tv_nsec = 5000000};
	struct ds_book *book = arg;

	nanosleep(&later, NULL);
	atomic_store(&book->slots[1].wanted, 0);
	return NULL;
}

/* What another one only wants is waited for, a while, and then counts as taken. */
static void a_wish_that_comes_to_nothing_is_waited_for(void **state)
{
	struct ds_book *book = new_book(2);
	struct ds_account a = account_of(book, 0);
	pthread_t other;

	atomic_store(&book->slots[1].wanted, LIMIT - PER_PROGRAM);
	assert_int_equal(pthread_create(&other, NULL, end_wish, book), 0);
	assert_true(ds_account_want(&a, 500));
	pthread_join(other, NULL);
	ds_account_have(&a, 500, 0);
	atomic_store(&book->slots[1].wanted, LIMIT - PER_PROGRAM); /* of one that is stopped */
	assert_false(ds_account_want(&a, 500));
	assert_int_equal(atomic_load(&book->slots[0].wanted), 0);
	munmap(book, DS_BOOK_SIZE);
}

/* Two processes take and give what only one can have; one of them is killed anywhere. */
static void take_and_give(struct ds_book *book, unsigned slot, _Atomic int *inside,
			  _Atomic int *times)
{
	struct ds_account a = account_of(book, slot);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (!ds_account_want(&a, 600))
			continue;
		if (atomic_fetch_add(inside, 1) != 0)
			abort();
		atomic_fetch_sub(inside, 1);
		atomic_fetch_add(times, 1);
		ds_account_have(&a, 600, 0);
	}
}

static void never_two_at_once(void **state)
{
	for (int round = 0; round < 20; round++) {
		struct ds_book *book = new_book(2);
		_Atomic int *inside = (_Atomic int *)(void *)((char *)book + sizeof(*book));
		_Atomic int *times = inside + 1;
		pid_t children[2];
		int status;

		atomic_store(&book->slots[1].context, 0);
		for (unsigned i = 0; i < 2; i++) {
			children[i] = fork();
			if (!children[i])
				take_and_give(book, i, inside, times);
		}
		while (atomic_load(times) < 500 && waitpid(-1, NULL, WNOHANG) == 0)
			sched_yield();
		for (unsigned i = 0; i < 2; i++)
			kill(children[i], SIGKILL);
		for (unsigned i = 0; i < 2; i++) {
			assert_int_equal(waitpid(children[i], &status, 0), children[i]);
			assert_true(WIFSIGNALED(status));
			assert_int_equal(WTERMSIG(status), SIGKILL); /* not by abort() */
		}
		munmap(book, DS_BOOK_SIZE);
	}
}

static void holdings(void **state)
{
	struct ds_holding h = {.kind = DS_HOLD_ADDRESS, .key = 4096, .bytes = 7}, got;

	assert_false(ds_holdings_take(DS_HOLD_ADDRESS, 4096, &got));
	assert_true(ds_holdings_put(&h));
	assert_false(ds_holdings_take(DS_HOLD_ARRAY, 4096, &got));
	assert_true(ds_holdings_find(DS_HOLD_ADDRESS, 4096, &got));
	assert_int_equal(got.bytes, 7);
	h.bytes = 8;
	assert_true(ds_holdings_put(&h));
	assert_true(ds_holdings_take(DS_HOLD_ADDRESS, 4096, &got));
	assert_int_equal(got.bytes, 8);
	assert_false(ds_holdings_take(DS_HOLD_ADDRESS, 4096, &got));
	assert_false(ds_holdings_take(DS_HOLD_NONE, 4096, &got));

	h = (struct ds_holding){.kind = DS_HOLD_PHYSICAL, .key = 1, .uses = 1, .bytes = 5};
	assert_true(ds_holdings_put(&h));
	assert_true(ds_holdings_use(DS_HOLD_PHYSICAL, 1));
	assert_false(ds_holdings_use(DS_HOLD_PHYSICAL, 2));
	assert_false(ds_holdings_unuse(DS_HOLD_PHYSICAL, 1, &got));
	assert_true(ds_holdings_unuse(DS_HOLD_PHYSICAL, 1, &got));
	assert_int_equal(got.bytes, 5);
	assert_false(ds_holdings_unuse(DS_HOLD_PHYSICAL, 1, &got));
}

static void many_holdings(void **state)
{
	struct ds_holding got;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < 5000; i++) {
		struct ds_holding h = {.kind = DS_HOLD_MAPPING, .key = i << 21, .bytes = i};
		assert_true(ds_holdings_put(&h));
	}
	for (uint64_t i = 1000; i < 2000; i++)
		assert_true(ds_holdings_take(DS_HOLD_MAPPING, i << 21, &got));
	assert_false(ds_holdings_take_within(DS_HOLD_MAPPING, UINT64_C(1000) << 21,
					     UINT64_C(2000) << 21, &got));
	while (ds_holdings_take_within(DS_HOLD_MAPPING, 0, UINT64_MAX, &got))
		sum += got.bytes;
	assert_int_equal(sum, 4999 * 5000 / 2 - (1999 * 2000 / 2 - 999 * 1000 / 2));
}

static void *churn(void *arg)
{
	const uint64_t base = (uint64_t)(uintptr_t)arg << 32;
	struct ds_holding got;

	for (uint64_t i = 0; i < ROUNDS; i++) {
		struct ds_holding h = {.kind = DS_HOLD_ADDRESS, .key = base + i, .bytes = i};
		if (!ds_holdings_put(&h) || !ds_holdings_take(DS_HOLD_ADDRESS, base + i, &got) ||
		    got.bytes != i)
			return arg;
	}
	return NULL;
}

static void threads(void **state)
{
	pthread_t all[THREADS];
	void *failed;

	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&all[i], NULL, churn, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(all[i], &failed);
		assert_null(failed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_program),
	    cmocka_unit_test(two_programs_pay_for_the_second_ones_contexts),
	    cmocka_unit_test(without_a_book_everything_goes),
	    cmocka_unit_test(a_wish_that_comes_to_nothing_is_waited_for),
	    cmocka_unit_test(never_two_at_once),
	    cmocka_unit_test(holdings),
	    cmocka_unit_test(many_holdings),
	    cmocka_unit_test(threads),
	};

	alarm(60);
	return cmocka_run_group_tests_name("account", tests, NULL, NULL);
}
