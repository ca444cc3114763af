/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_TABLE_H
#define DETSHARE_NODERUNTIME_COMMAND_TABLE_H

#include <libsmartcols.h>
#include <stdbool.h>
#include <stddef.h>

struct ds_table_column {
	const char *title;
	bool right; /* numbers */
};

/* A table of n columns for scols_print_table, or NULL when memory is out. scols_unref_table it. */
struct libscols_table *ds_table_new(const struct ds_table_column *columns, size_t n);

/* Add a line of n cells, which are copied. 0, or -1 when memory is out. */
int ds_table_add(struct libscols_table *table, const char *const *cells, size_t n);

#endif
