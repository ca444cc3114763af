/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_BELL_H
#define DETSHARE_NODERUNTIME_BELL_H

#include <stdbool.h>

#include "common/error.h"

/*
 * A runtime's bell: a FIFO in its allocation's directory by which other runtimes of the GPU, and nobody else,
 * tell it that they changed the ledger in a way that concerns it. That wakes one runtime, where inotify on the
 * ledger would wake all. However often it is rung before it is heard, it is heard once.
 */

/* Make it at `path` and open it to be heard. A descriptor, or -1 with the reason. */
int ds_bell_make(const char *path, struct ds_error *err);

/* Forget all rings so far. */
void ds_bell_hear(int fd);

/* The bell at `path`, to be rung. A descriptor; -1: there is none that is ours and that somebody hears. */
int ds_bell_open(const char *path);

/* Never blocks. False: nobody hears it any more. */
bool ds_bell_ring(int fd);

#endif
