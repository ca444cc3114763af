/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_HURRY_H
#define DETSHARE_COROUTINE_HURRY_H

#include <stdbool.h>

#include "noderuntime/coroutine/session.h"

/*
 * From when the page takes groups away for an owner of kind latency until the acknowledger has woken up and moved
 * the program, threads would go on to fill the window there, all of which the owner waits for. So who launches
 * within a window looks at the page, and waits until the program is moved: spinning, at most as long as the page
 * allows, and for each page once. Thread-safe.
 */

/* Once, before the first launch. */
void ds_hurry_start(const struct ds_session *session);

/* The acknowledger's: new work goes where the page of that epoch says. */
void ds_hurry_followed(uint64_t epoch);

/* Whether to wait before a launch. */
bool ds_hurry_is_asked(void);

/* Wait; then, unless there is another page, it is not asked any more. Not marked (mark.h), and without locks. */
void ds_hurry_wait(void);

#endif
