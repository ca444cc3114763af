/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/table.h"

struct libscols_table *ds_table_new(const struct ds_table_column *columns, size_t n)
{
	struct libscols_table *table = scols_new_table();

	for (size_t i = 0; table && i < n; i++) {
		int flags = columns[i].right ? SCOLS_FL_RIGHT : 0;

		if (!scols_table_new_column(table, columns[i].title, 0, flags)) {
			scols_unref_table(table);
			return NULL;
		}
	}
	return table;
}

int ds_table_add(struct libscols_table *table, const char *const *cells, size_t n)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);

	if (!line)
		return -1;
	for (size_t i = 0; i < n; i++) {
		if (scols_line_set_data(line, i, cells[i]))
			return -1;
	}
	return 0;
}
