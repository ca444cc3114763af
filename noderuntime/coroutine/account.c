/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/account.h"

#include <time.h>

enum {
	PATIENCE_MS = 300, /* for what others want; the driver takes some milliseconds at most */
	NAP_US = 20,
	NAP_MAX_US = 2000,
};

static struct ds_book_slot *slot_of(const struct ds_account *account)
{
	return &account->book->slots[account->slot];
}

/* Never below 0: another program of the job may have written anything. */
static void subtract(_Atomic uint64_t *from, uint64_t bytes)
{
	uint64_t had = atomic_load(from);

	while (!atomic_compare_exchange_weak(from, &had, had > bytes ? had - bytes : 0))
		;
}

/* How wanting `bytes` stands, which are in the book already. */
enum standing { FITS, TOO_MUCH, DEPENDS /* on what becomes of what others want */ };

static enum standing stand(const struct ds_account *account, uint64_t bytes)
{
	struct ds_book_sums sums = ds_book_sum(account->book);
	uint64_t firm = ds_book_plus(sums.held, ds_book_contexts(&sums, account->per_program));

	if (ds_book_plus(firm, sums.wanted) <= account->limit)
		return FITS;
	return ds_book_plus(firm, bytes) > account->limit ? TOO_MUCH : DEPENDS;
}

/* Of different lengths, so that two who are in each other's way do not come back together. */
static long nap(const struct ds_account *account, unsigned tries)
{
	long us = (long)NAP_US * (1 + (long)tries) * (1 + (long)(account->slot % 7));
	const struct timespec time = {.tv_nsec = (us < NAP_MAX_US ? us : NAP_MAX_US) * 1000};

	nanosleep(&time, NULL);
	return time.tv_nsec;
}

bool ds_account_want(struct ds_account *account, uint64_t bytes)
{
	long napped_ns = 0;

	if (!account->book)
		return true;
	if (bytes > account->limit)
		return false;
	for (unsigned tries = 0;; tries++) {
		enum standing standing;

		atomic_fetch_add(&slot_of(account)->wanted, bytes);
		standing = stand(account, bytes);
		if (standing == FITS)
			return true;
		subtract(&slot_of(account)->wanted, bytes);
		if (standing == TOO_MUCH || napped_ns > PATIENCE_MS * 1000000L)
			return false;
		napped_ns += nap(account, tries);
	}
}

static void note_peak(struct ds_account *account)
{
	uint64_t used = ds_account_used(account), peak = atomic_load(&account->book->peak);

	while (used > peak && !atomic_compare_exchange_weak(&account->book->peak, &peak, used))
		;
}

void ds_account_have(struct ds_account *account, uint64_t wanted, uint64_t held)
{
	if (!account->book)
		return;
	/* In this order: see ds_book_sum(). */
	atomic_fetch_add(&slot_of(account)->held, held);
	subtract(&slot_of(account)->wanted, wanted);
	if (held)
		note_peak(account);
}

void ds_account_free(struct ds_account *account, uint64_t bytes)
{
	if (account->book && bytes)
		subtract(&slot_of(account)->held, bytes);
}

void ds_account_clear(struct ds_account *account)
{
	if (account->book)
		atomic_store(&slot_of(account)->held, 0);
}

static uint64_t taken(const struct ds_account *account)
{
	struct ds_book_sums sums = ds_book_sum(account->book);

	return ds_book_plus(sums.held, ds_book_contexts(&sums, account->per_program));
}

uint64_t ds_account_used(const struct ds_account *account)
{
	uint64_t used = account->book ? taken(account) : 0;

	return used < account->limit ? used : account->limit;
}

bool ds_account_over(const struct ds_account *account)
{
	return account->book && taken(account) > account->limit;
}
