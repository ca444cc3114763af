/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_RECALL_H
#define DETSHARE_NODERUNTIME_RECALL_H

#include <stdbool.h>

#include "common/node_config.h"
#include "noderuntime/ledger.h"

/*
 * What is known of a GPU's ledger without it. Each runtime keeps, in its allocation's directory, the ledger as
 * of its own latest change (ds_ledger_keep_copy). A change is kept before it holds, so the newest of these
 * copies is the latest state, but for what allocations did that have ended since; and what is dead in it goes
 * with the next settlement. It does not matter whether the runtimes can answer: a stopped one keeps its place.
 */
struct ds_recall {
	struct ds_ledger_past past; /* for ds_ledger_open_with() */
	const struct ds_node_config *config;
};

/* `recall` and `config` must outlive the ledger. */
void ds_recall_init(struct ds_recall *recall, const struct ds_node_config *config);

/*
 * True, with its name, if an allocation that is ready on the GPU of `state` has a living runtime and is not in
 * it: its copy was lost, too. One whose state is of another version may be on any GPU.
 */
bool ds_recall_missing(const struct ds_node_config *config, struct ds_ledger_state *state,
		       char name[DS_NAME_SIZE]);

#endif
