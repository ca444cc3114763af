/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_LIST_H
#define DETSHARE_ACCOUNTING_LIST_H

#include <stdbool.h>

#include "common/error.h"

/*
 * Print what waits in `spool_dir` (of a node) and in `state_dir` (of the collector), and what was set
 * aside there, as a table or as one JSON object. Directories that do not exist hold nothing and are
 * not made. Returns 0 or -1.
 */
int ds_list(const char *spool_dir, const char *state_dir, bool as_json, struct ds_error *err);

#endif
