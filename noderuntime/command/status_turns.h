/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_STATUS_TURNS_H
#define DETSHARE_NODERUNTIME_COMMAND_STATUS_TURNS_H

#include <jansson.h>

#include "noderuntime/ledger.h"

/* What `detshare status` says of groups that are shared in time: turns.h. */

/* Resident `i`'s part in it, or null: it shares none. */
json_t *ds_status_turn_json(const struct ds_ledger_state *state, uint32_t i);

/* A line for each such group, and for who keeps whose turn waiting. */
void ds_status_print_turns(const struct ds_ledger_state *state);

#endif
