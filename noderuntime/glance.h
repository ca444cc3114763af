/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_GLANCE_H
#define DETSHARE_NODERUNTIME_GLANCE_H

#include "noderuntime/watch.h"

/*
 * Before the ledger is followed: publish what can be seen in it without its lock, if there is nothing to write
 * before. Groups that the page loses it may lose at any time; those that it gains are ours by the ledger, with all
 * of our programs entered for them, which only our runtime takes back.
 */
void ds_glance(struct ds_runtime *rt);

#endif
