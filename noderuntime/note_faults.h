/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_NOTE_FAULTS_H
#define DETSHARE_NODERUNTIME_NOTE_FAULTS_H

#include "noderuntime/watch.h"

/*
 * Look whether the program tells of a fault, by a copy of its port, and write it down once. `ended`: it will
 * tell no more.
 */
void ds_note_fault(struct ds_runtime *rt, struct ds_watch *program, const struct ds_port *port,
		   bool ended);

#endif
