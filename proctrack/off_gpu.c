/* SPDX-License-Identifier: Apache-2.0 */
#include "proctrack/off_gpu.h"

#include <stdlib.h>

#include "gres/granted.h"
#include "noderuntime/port_protocol.h"
#include "spank/announce.h"

/* The runtime takes DS_PORT_END_MS at most; if it hangs, the signal must not wait for it. */
enum { PATIENCE_MS = DS_PORT_END_MS + 50 };

bool ds_off_gpu_wanted(void)
{
	return getenv(DS_STEP_PORT_VARIABLE) != NULL;
}

int ds_off_gpu(const pid_t *pids, int n, struct ds_error *err)
{
	return ds_announce_end(getenv(DS_STEP_PORT_VARIABLE), pids, n, PATIENCE_MS, err);
}
