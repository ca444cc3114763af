/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_PEERS_H
#define DETSHARE_NODERUNTIME_PEERS_H

#include "noderuntime/watch.h"

/* Who connects to the allocation's port, until it is welcomed or answered. */

/* Somebody connects. */
void ds_peer_comes(struct ds_runtime *rt, const struct ds_watch *listener);

/* It says what it wants, or went away. */
void ds_peer_said(struct ds_runtime *rt, struct ds_watch *connection);

/* Groups may have come free: let those in who wait for them. */
void ds_greet_waiting(struct ds_runtime *rt);

/* Those who wait have waited long enough: refuse them. */
void ds_patience_over(struct ds_runtime *rt);

#endif
