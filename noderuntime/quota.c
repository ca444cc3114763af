/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/quota.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/size.h"

_Static_assert((int)DS_BOOK_SLOTS >= (int)DS_PROGRAMS_MAX, "every program finds a slot");

#define MIB UINT64_C(1048576)

static uint32_t min(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Of a small quota, contexts take as much again at most: else a small share would have none at all. */
uint32_t ds_quota_room(const struct ds_node_config *config, uint32_t quota_mib)
{
	return quota_mib + min(config->memory_per_program_mib, quota_mib);
}

/* What residents may have together. A reserve beyond the GPU's memory leaves half of that. */
static uint32_t usable(const struct ds_node_config *config, uint32_t memory_mib)
{
	return memory_mib - min(config->memory_reserve_mib, memory_mib / 2);
}

/* The largest quota with no more room than that. */
static uint32_t quota_within(const struct ds_node_config *config, uint32_t room_mib)
{
	uint32_t per_program = config->memory_per_program_mib;

	return room_mib / 2 >= per_program ? room_mib - per_program : room_mib / 2;
}

uint32_t ds_quota_of_share(const struct ds_node_config *config, uint32_t memory_mib,
			   uint32_t share_milli)
{
	uint64_t room = (uint64_t)usable(config, memory_mib) * share_milli / 1000;
	uint32_t quota = quota_within(config, (uint32_t)room);

	return quota ? quota : 1;
}

int ds_quota_of_grant(const struct ds_node_config *config, uint32_t memory_mib,
		      const struct ds_grant *grant, uint32_t *quota_mib, struct ds_error *err)
{
	uint32_t most = quota_within(config, usable(config, memory_mib));
	char asked[DS_SIZE_TEXT_SIZE], has[DS_SIZE_TEXT_SIZE];

	if (grant->memory_mib > most)
		return ds_fail(err,
			       "%s of GPU memory are asked, and a job can have %s of this GPU at "
			       "most: ask for less with --detshare-mem",
			       ds_size_format(grant->memory_mib, asked), ds_size_format(most, has));
	*quota_mib = grant->memory_mib ? grant->memory_mib
				       : ds_quota_of_share(config, memory_mib, grant->share_milli);
	if (grant->memory_max_mib)
		*quota_mib = min(*quota_mib, grant->memory_max_mib);
	return 0;
}

int ds_quota_fits(const struct ds_node_config *config, uint32_t memory_mib,
		  const struct ds_ledger_state *state, const char *name, uint32_t quota_mib,
		  struct ds_error *err)
{
	uint64_t all = usable(config, memory_mib), taken = 0;
	char list[256] = "", size[DS_SIZE_TEXT_SIZE], left[DS_SIZE_TEXT_SIZE];
	size_t used = 0;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *other = &state->residents[i];

		if (!strcmp(other->name, name))
			continue;
		taken += ds_quota_room(config, other->memory_mib);
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s has %s",
						 used ? ", " : "", other->name,
						 ds_size_format(other->memory_mib, size));
	}
	if (taken + ds_quota_room(config, quota_mib) <= all)
		return 0;
	errno = ENOSPC;
	return ds_fail(
	    err, "%s needs %s of GPU %s's memory, and %s are left%s%s", name,
	    ds_size_format(quota_mib, size), state->gpu_uuid,
	    ds_size_format(taken < all ? quota_within(config, (uint32_t)(all - taken)) : 0, left),
	    used ? ": " : "", list);
}

uint32_t ds_quota_hard_limit(const struct ds_node_config *config, uint32_t memory_mib,
			     const struct ds_ledger_state *state)
{
	uint32_t largest = 0;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (state->residents[i].memory_mib > largest)
			largest = state->residents[i].memory_mib;
	}
	return min(largest + config->memory_per_program_mib, memory_mib);
}

/* -- the book ------------------------------------------------------------------------------ */

int ds_quota_create(struct ds_quota *quota, const struct ds_node_config *config, uint32_t quota_mib,
		    struct ds_error *err)
{
	*quota = (struct ds_quota){
	    .fd = memfd_create("detshare-book", MFD_CLOEXEC | MFD_ALLOW_SEALING),
	    .limit = quota_mib * MIB,
	    .per_program = min(config->memory_per_program_mib, quota_mib) * MIB,
	};
	if (quota->fd < 0 || ftruncate(quota->fd, DS_BOOK_SIZE) < 0 ||
	    fcntl(quota->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return ds_fail(err, "cannot make the allocation's book: %s", strerror(errno));
	void *book = mmap(NULL, DS_BOOK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, quota->fd, 0);
	if (book == MAP_FAILED)
		return ds_fail(err, "cannot map the allocation's book: %s", strerror(errno));
	quota->book = book;
	quota->book->magic = DS_BOOK_MAGIC;
	quota->book->version = DS_BOOK_VERSION;
	quota->book->n_slots = DS_BOOK_SLOTS;
	return 0;
}

void ds_quota_destroy(struct ds_quota *quota)
{
	if (quota->book)
		munmap(quota->book, DS_BOOK_SIZE);
	if (quota->fd >= 0)
		close(quota->fd);
	*quota = (struct ds_quota){.fd = -1};
}

int ds_quota_take_slot(struct ds_quota *quota)
{
	for (int slot = 0; slot < DS_BOOK_SLOTS; slot++) {
		uint32_t bit = UINT32_C(1) << (slot % 32);

		if (quota->taken[slot / 32] & bit)
			continue;
		quota->taken[slot / 32] |= bit;
		if (atomic_load(&quota->book->n_used) <= (uint32_t)slot)
			atomic_store(&quota->book->n_used, (uint32_t)slot + 1);
		ds_quota_reset_slot(quota, slot);
		return slot;
	}
	return -1;
}

static void write_slot(struct ds_quota *quota, int slot, uint64_t context)
{
	struct ds_book_slot *s = &quota->book->slots[slot];

	atomic_store(&s->held, 0);
	atomic_store(&s->wanted, 0);
	atomic_store(&s->context, context);
}

void ds_quota_reset_slot(struct ds_quota *quota, int slot)
{
	if (slot >= 0 && quota->book)
		write_slot(quota, slot, quota->per_program);
}

void ds_quota_free_slot(struct ds_quota *quota, int slot)
{
	if (slot < 0 || !quota->book)
		return;
	write_slot(quota, slot, 0);
	quota->taken[slot / 32] &= ~(UINT32_C(1) << (slot % 32));
}

static uint64_t at_most(uint64_t bytes, uint64_t limit)
{
	return bytes < limit ? bytes : limit;
}

uint64_t ds_quota_used(const struct ds_quota *quota)
{
	if (!quota->book)
		return 0;
	struct ds_book_sums sums = ds_book_sum(quota->book);
	return at_most(ds_book_plus(sums.held, ds_book_contexts(&sums, quota->per_program)),
		       quota->limit);
}

uint64_t ds_quota_peak(const struct ds_quota *quota)
{
	return quota->book ? at_most(atomic_load(&quota->book->peak), quota->limit) : 0;
}
