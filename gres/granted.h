/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_GRANTED_H
#define DETSHARE_GRES_GRANTED_H

/*
 * How gres_detshare.so tells spank_detshare.so, in the same slurmstepd, what a step was granted:
 * a variable in slurmstepd's own environment (setenv), which no user can reach. Absent: the step
 * was granted nothing. Value: thousandths, decimal.
 */
#define DS_STEP_GRANTED_VARIABLE "DETSHARE_STEPD_GRANTED_MILLI"

/*
 * How spank_detshare.so tells the proctrack plugins, in the same way, where the node runtime of the
 * step's job listens. Absent: the job has no part of a GPU here.
 */
#define DS_STEP_PORT_VARIABLE "DETSHARE_STEPD_PORT"

/* What tasks see. Whatever the user had under these names is overwritten or removed. */
#define DS_TASK_PORT_VARIABLE  "DETSHARE_PORT"  /* path of the allocation's port socket */
#define DS_TASK_SHARE_VARIABLE "DETSHARE_SHARE" /* the step's share: "0.5" */
#define DS_TASK_CLASS_VARIABLE "DETSHARE_CLASS" /* the allocation's class */

#endif
