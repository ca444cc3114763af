/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_COLLECT_H
#define DETSHARE_ACCOUNTING_COLLECT_H

#include "accounting/collector_config.h"
#include "common/error.h"

/*
 * Listen for records, store them, and have them settled. `for_s` = 0: until SIGTERM or SIGINT;
 * otherwise also end after `for_s` seconds. Returns 0 on a clean end, -1 with a reason when it could
 * not start. One per process: it owns the process's signal mask and children.
 */
int ds_collect(const struct ds_collector_config *config, unsigned for_s, struct ds_error *err);

/*
 * Settle what is stored, once, without listening. Returns 0: nothing waits any more; 1: something
 * does (the reasons, if any, have been logged); -1 with a reason: it could not be done.
 */
int ds_settle_once(const struct ds_collector_config *config, struct ds_error *err);

#endif
