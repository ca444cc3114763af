/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_KERNEL_LIST_H
#define DETSHARE_COROUTINE_KERNEL_LIST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Kernels that somebody names: patterns as in a shell, with commas between, for the name that the driver knows
 * or, in a C++ program, for the one in its source.
 */
enum {
	DS_KERNEL_PATTERNS_MAX = 64,
	DS_KERNEL_VERDICTS = 1024, /* kept */
};

/* Zero to begin with. */
struct ds_kernel_list {
	char *patterns[DS_KERNEL_PATTERNS_MAX];
	unsigned n_patterns;
	/* Hashes of names that were looked at, the verdict in the lowest bit; 0: none. */
	_Atomic uint64_t known[DS_KERNEL_VERDICTS];
};

/* Add `patterns` (NULL: none). Returns whether the list has any. Not while another thread asks. */
bool ds_kernel_list_add(struct ds_kernel_list *list, const char *patterns);

/* Whether the name matches one of the patterns. Thread-safe. */
bool ds_kernel_list_matches(const struct ds_kernel_list *list, const char *name);

/* The same, and remembers it. Thread-safe, without a lock. */
bool ds_kernel_list_has(struct ds_kernel_list *list, const char *name);

#endif
