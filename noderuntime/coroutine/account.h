/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_ACCOUNT_H
#define DETSHARE_COROUTINE_ACCOUNT_H

#include <stdbool.h>

#include "noderuntime/book.h"

/*
 * This process's account in the allocation's book of GPU memory (noderuntime/book.h). Memory is wanted
 * first and held when the driver has given it, so that programs which race for the last of the quota
 * never have more than that together. Knows nothing of CUDA; thread-safe; waits for no lock.
 */
struct ds_account {
	struct ds_book *book; /* NULL: memory is not counted */
	unsigned slot;
	uint64_t limit;       /* bytes that all programs of the job may have together */
	uint64_t per_program; /* bytes that the contexts of one program take */
};

/*
 * Want `bytes`. False, and nothing is wanted: the job would have more than its quota. Where only what
 * others want just now is in the way, waits for what becomes of that, for a fraction of a second.
 */
bool ds_account_want(struct ds_account *account, uint64_t bytes);

/* Of the `wanted` bytes the driver gave `held` (0: none; it may be more, if it rounds up). */
void ds_account_have(struct ds_account *account, uint64_t wanted, uint64_t held);

/* `bytes` that were held are free again. */
void ds_account_free(struct ds_account *account, uint64_t bytes);

/* All that this process held is gone. */
void ds_account_clear(struct ds_account *account);

/* What all programs of the job have, their contexts included; never more than the quota. */
uint64_t ds_account_used(const struct ds_account *account);

/* Whether they have more than the quota: since contexts came, or the driver gave more than was wanted. */
bool ds_account_over(const struct ds_account *account);

#endif
