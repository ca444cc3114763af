/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_ACKNOWLEDGER_H
#define DETSHARE_COROUTINE_ACKNOWLEDGER_H

#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/vctx.h"

/*
 * The thread that follows the allocation's page: it has new work go to what is granted now, waits until
 * nothing is left in what is no longer granted, and says so. The program's own threads may be idle,
 * blocked or launching meanwhile; they need not help.
 */

/*
 * Start it, with all signals blocked, for the life of the process. Both must live as long. If it cannot
 * be, the program keeps the groups it has.
 */
void ds_acknowledger_start(struct ds_session *session, struct ds_vctx *vctx);

/* There is none in the child of a fork. Async-signal-safe. */
void ds_acknowledger_forked(void);

/* Something changed that may let groups go: look again. */
void ds_acknowledger_look(void);

/* The program does something that is to be looked at from time to time. Does not block; any thread. */
void ds_acknowledger_watch(void);

/*
 * The groups that were granted last, other than as the whole GPU for a while: what is pinned must be among
 * them. With `moving` locked, while the program is not suspended.
 */
struct ds_groups ds_acknowledger_own(void);

/* The primary context is being reset: nothing can be said of its work. With `moving` locked. */
void ds_acknowledger_resetting(bool resetting);

#endif
