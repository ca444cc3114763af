/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SEEN_H
#define DETSHARE_COROUTINE_SEEN_H

#include <stdbool.h>

#include "noderuntime/coroutine/device_launch.h"
#include "noderuntime/port_protocol.h"

/*
 * What a program has that may lead past the library: seen before there is a session, as a rule, and counted in
 * the port from then on.
 */

/* The session has this port. Once for each. */
void ds_seen_start(struct ds_port *port);

/* In a forked child: the port is the parent's. Async-signal-safe. */
void ds_seen_forget(void);

/* The program has loaded code. */
void ds_seen_module(enum ds_device_launch launches);

/*
 * Whether the program has asked the driver for its private tables, as the CUDA runtime does. They change,
 * for one, which context is current, and nobody sees it.
 */
bool ds_seen_tables(void);

#endif
