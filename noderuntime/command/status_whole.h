/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_STATUS_WHOLE_H
#define DETSHARE_NODERUNTIME_COMMAND_STATUS_WHOLE_H

#include <jansson.h>

#include "noderuntime/ledger.h"

/* Whole-GPU windows, as `detshare status` shows them. The ledger is all they are taken from. */

/* The window that there is on the GPU, or null. */
json_t *ds_status_window_json(const struct ds_ledger_state *state);

/* What resident `i` has had of them. */
json_t *ds_status_whole_json(const struct ds_ledger_state *state, uint32_t i);

/* One line for the window, and one for each resident that had one or wants one. */
void ds_status_print_whole(const struct ds_ledger_state *state);

#endif
