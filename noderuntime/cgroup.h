/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_CGROUP_H
#define DETSHARE_NODERUNTIME_CGROUP_H

#include "common/error.h"

/*
 * What a job prolog starts lives in slurmd's cgroup, or in the job's (PrologFlags=RunInJob), and
 * would be ended, limited and accounted with it. So node runtimes move to a group of their own,
 * ROOT/detshare, and MPS, which serves several jobs, to ROOT/detshare/mps.
 */

/*
 * Move the calling process to detshare's group (`sub` NULL) or to its sub-group `sub`, in every
 * hierarchy (v2, or each v1 hierarchy) in which it is not at the root, where nobody would end it.
 * Returns 0 or -1 with the first reason (the other hierarchies are tried all the same).
 */
int ds_cgroup_join(const char *cgroup_root, const char *sub, struct ds_error *err);

/* Remove detshare's groups if nobody is in them. What is still in use stays. */
void ds_cgroup_tidy(const char *cgroup_root);

#endif
