/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_REPORTED_H
#define DETSHARE_NODERUNTIME_COMMAND_REPORTED_H

#include <stdbool.h>

#include "noderuntime/port_protocol.h"

/*
 * Ask the node runtime of allocation `name` what its programs say of themselves. Waits at most
 * `timeout_ms`. False, and nobody in the report, if it does not answer: it is stopped or gone, of
 * another version, or the caller is neither root nor the allocation's user.
 */
bool ds_reported_read(const char *runtime_dir, const char *name, unsigned timeout_ms,
		      struct ds_port_report *report);

/* What the report has of process `pid`, or NULL. */
const struct ds_port_reported *ds_reported_find(const struct ds_port_report *report, int pid);

/* How long the overlong kernel that it names has run, by its own word: 0 or more, in s. */
double ds_reported_overlong_s(const struct ds_port_reported *reported);

/*
 * Ask the runtime of allocation `name` what its user should know of what became of its programs, without what
 * was told before; unless `last`, without what may soon be known better (`pending`). False: no answer, and
 * there are none.
 */
bool ds_reported_notes(const char *runtime_dir, const char *name, unsigned timeout_ms, bool last,
		       struct ds_port_notes *notes);

#endif
