/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_STATUS_H
#define DETSHARE_NODERUNTIME_COMMAND_STATUS_H

#include "noderuntime/command/gpu_view.h"

/* The two ways to write the same facts to stdout. Return 0, or -1 with a reason. */
int ds_status_text(const struct ds_gpu_list *list, const char *runtime_dir, struct ds_error *err);
int ds_status_json(const struct ds_gpu_list *list, const char *runtime_dir, struct ds_error *err);

#endif
