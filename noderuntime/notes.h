/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_NOTES_H
#define DETSHARE_NODERUNTIME_NOTES_H

#include <stddef.h>

#include "noderuntime/watch.h"

/*
 * What a job's user should know of what became of its programs. The node runtime has no way to a job's
 * output; slurmstepd has, and asks for it when a task has ended.
 */

/* Keep a line for the user, and write it to syslog. */
void ds_note(struct ds_runtime *rt, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* DS_PORT_NOTES: `bytes` are what came on `connection`, which the caller removes in any case. */
void ds_notes_serve(struct ds_runtime *rt, const struct ds_watch *connection, const void *bytes,
		    size_t size);

#endif
