/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_BOOK_H
#define DETSHARE_NODERUNTIME_BOOK_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * The allocation's book: what each of its programs has of the GPU's memory. A memfd of DS_BOOK_SIZE
 * bytes, sealed against shrinking and growing, mapped by the node runtime and by every program of the
 * allocation, and by nobody else: what a program writes there can deceive its own job, and there is
 * MPS's limit behind it. The quota itself is on the page, which programs cannot write.
 *
 * The runtime gives a program a slot with its welcome, and clears it when the program has ended, however
 * it ended. A program writes to its own slot and to `peak`. There is no lock that a killed or stopped
 * program could keep: who wants memory first says so in `wanted`, then adds up all slots, and takes it
 * back if that is more than the quota. So of two that race at its edge both see the other, or one
 * does.
 * Plain C and fixed layout, as port_protocol.h.
 */
enum {
	DS_BOOK_MAGIC = 0x4453424b, /* "DSBK" */
	DS_BOOK_VERSION = 1,
	DS_BOOK_SLOTS = 256,
	DS_BOOK_SIZE = 12288,
};

struct ds_book_slot {
	_Atomic uint64_t held;   /* bytes that the program has */
	_Atomic uint64_t wanted; /* bytes that it is about to have, if the driver gives them */
	_Atomic uint64_t
	    context; /* bytes that its contexts take; written by the runtime; 0: free */
	uint64_t reserved;
};

struct ds_book {
	uint32_t magic;
	uint16_t version;
	uint16_t n_slots;
	_Atomic uint64_t peak; /* the most that was held at once */
	_Atomic uint32_t
	    n_used; /* slots below it may be in use; grows only; written by the runtime */
	uint32_t reserved;
	uint64_t more[5];
	struct ds_book_slot slots[DS_BOOK_SLOTS];
};

_Static_assert(sizeof(struct ds_book) <= DS_BOOK_SIZE, "the book holds its structure");

/* What is in a book, at one instant or nearly so. Sums stop at UINT64_MAX, whatever stands in it. */
struct ds_book_sums {
	uint64_t held;
	uint64_t wanted;
	uint64_t context;
};

static inline uint64_t ds_book_plus(uint64_t a, uint64_t b)
{
	return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

/*
 * Add up. What goes from `wanted` to `held` meanwhile is counted once or twice, never not at all: hence
 * this order, and the other one in ds_book_slot_has().
 */
static inline struct ds_book_sums ds_book_sum(const struct ds_book *book)
{
	struct ds_book_sums sums = {0, 0, 0};
	const uint32_t n = atomic_load(&book->n_used);

	for (uint32_t i = 0; i < n && i < DS_BOOK_SLOTS; i++) {
		const struct ds_book_slot *slot = &book->slots[i];

		sums.wanted = ds_book_plus(sums.wanted, atomic_load(&slot->wanted));
		sums.held = ds_book_plus(sums.held, atomic_load(&slot->held));
		sums.context = ds_book_plus(sums.context, atomic_load(&slot->context));
	}
	return sums;
}

/*
 * What contexts take of the quota: those of one program are paid for by the reserve that every
 * allocation comes with (quota.h), those of the others are not.
 */
static inline uint64_t ds_book_contexts(const struct ds_book_sums *sums, uint64_t per_program)
{
	return sums->context > per_program ? sums->context - per_program : 0;
}

#endif
