/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever programs write into the book of memory: what is told of it stays within the quota. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/quota.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ds_book book;
	struct ds_quota quota = {.book = &book, .fd = -1, .limit = 4096, .per_program = 640};

	memset(&book, 0, sizeof(book));
	memcpy(&book, data, size < sizeof(book) ? size : sizeof(book));
	if (ds_quota_used(&quota) > quota.limit || ds_quota_peak(&quota) > quota.limit)
		abort();
	/* A new program begins with nothing, whoever wrote to its slot before. */
	int slot = ds_quota_take_slot(&quota);
	if (slot != 0 || atomic_load(&book.slots[0].held) || atomic_load(&book.slots[0].wanted))
		abort();
	ds_quota_free_slot(&quota, slot);
	if (ds_quota_used(&quota) > quota.limit)
		abort();
	return 0;
}
