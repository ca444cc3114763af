/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_SEND_H
#define DETSHARE_ACCOUNTING_SEND_H

#include "common/error.h"
#include "common/node_config.h"

/*
 * Deliver the records of the node's spool to the collector. `for_s` = 0: try each once; otherwise try
 * again, with growing pauses, until the spool is empty or `for_s` seconds are over. What is left
 * waits for the next call. Broken records go to SPOOL_DIR/broken, ones that the collector refuses to
 * SPOOL_DIR/refused: said once, never tried again, never lost. If another sender is at work on the
 * spool, it takes over what is there now, and the deadline if this one's is later.
 *
 * Returns 0 when nothing waits (or somebody else works), -1 with a reason when something does.
 */
int ds_send(const struct ds_node_config *config, unsigned for_s, struct ds_error *err);

#endif
