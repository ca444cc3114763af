/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_COLLECTOR_CONFIG_H
#define DETSHARE_ACCOUNTING_COLLECTOR_CONFIG_H

#include <limits.h>
#include <stdint.h>

#include "common/error.h"

/* detshare-usaged.conf, on the controller's host. libconfuse; unknown keys are errors. */
struct ds_collector_config {
	char listen[256];            /* listen = "": every address of this host */
	uint16_t port;               /* port = 6829 */
	char state_dir[PATH_MAX];    /* state_dir = "/var/lib/detshare/usage" */
	char munge_socket[PATH_MAX]; /* munge_socket = "": libmunge's default */
	char slurm_conf[PATH_MAX]; /* slurm_conf = "": Slurm's own choice ($SLURM_CONF, default) */
	char cluster[64];          /* cluster = "": ClusterName of slurm.conf */
	char settle_program
	    [PATH_MAX];     /* settle_program = LIBEXECDIR/detshare/detshare-usage-settle */
	uint32_t grace_s;   /* grace_s = 600: after a job's end, for nodes that are silent */
	uint32_t keep_days; /* keep_days = 30: settled records, and ones of unknown jobs */
};

/*
 * Read `path` (NULL: $DETSHARE_USAGED_CONF, else SYSCONFDIR/detshare/detshare-usaged.conf) over the
 * defaults. A missing file is an error only if it was named. Returns 0, or -1 with one line that
 * names file and line. Not thread-safe.
 */
int ds_collector_config_read(const char *path, struct ds_collector_config *config,
			     struct ds_error *err);

#endif
