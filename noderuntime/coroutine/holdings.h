/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_HOLDINGS_H
#define DETSHARE_COROUTINE_HOLDINGS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * What this process was given of the GPU's memory, by handle, so that it can be counted as free again when
 * the program gives it back: the driver does not say how much that was. Thread-safe. Knows nothing of CUDA.
 */
enum ds_holding_kind {
	DS_HOLD_NONE,     /* calls that free what is not counted */
	DS_HOLD_ADDRESS,  /* by device address */
	DS_HOLD_ARRAY,    /* CUarray */
	DS_HOLD_MIPMAP,   /* CUmipmappedArray */
	DS_HOLD_PHYSICAL, /* CUmemGenericAllocationHandle; `uses`: handles, mappings */
	DS_HOLD_MAPPING, /* address of a mapping; `other`: the physical memory; bytes: its length */
	DS_HOLD_EXTERNAL,  /* CUexternalMemory */
	DS_HOLD_FROM_POOL, /* address; `other`: a pool that the program made */
	DS_HOLD_LIMIT,     /* CUlimit: memory that kernels use by themselves */
	DS_HOLD_GRAPH,     /* CUgraphExec; bytes that its memory nodes want when it runs */
};

struct ds_holding {
	enum ds_holding_kind kind;
	uint32_t uses;
	uint64_t key;
	uint64_t bytes;
	uint64_t other;
};

/* Keep it. False: no memory; it is not known then. One of the same kind and key is replaced. */
bool ds_holdings_put(const struct ds_holding *holding);

/* Take it out, so that nobody else can. False: it is not known. */
bool ds_holdings_take(enum ds_holding_kind kind, uint64_t key, struct ds_holding *taken);

/* A copy of it. */
bool ds_holdings_find(enum ds_holding_kind kind, uint64_t key, struct ds_holding *found);

/* One more use of it, if it is known. */
bool ds_holdings_use(enum ds_holding_kind kind, uint64_t key);

/* One use less; if that was the last, it is taken out, and true is returned. */
bool ds_holdings_unuse(enum ds_holding_kind kind, uint64_t key, struct ds_holding *taken);

/* In a forked child: it has none of them. */
void ds_holdings_forget(void);

/* Take out any one of the kind with from <= key < end, while there is one. */
bool ds_holdings_take_within(enum ds_holding_kind kind, uint64_t from, uint64_t end,
			     struct ds_holding *taken);

#endif
