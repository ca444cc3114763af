/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/options.h"

#include <string.h>

#include "gres/request.h"

static int check_class(int val, const char *name, int remote)
{
	if (remote || (name && name[0] && strlen(name) < DS_CLASS_NAME_SIZE))
		return 0;
	slurm_error(
	    "--detshare-class=%s: a class's name has 1 to %d characters; `detshare status` lists "
	    "the site's classes",
	    name ? name : "", DS_CLASS_NAME_SIZE - 1);
	return -1;
}

int ds_spank_options_register(spank_t spank)
{
	/* Slurm keeps pointers into it and declares them char *. */
	static struct spank_option options[] = {
	    {
		.name = (char *)"detshare-class",
		.arginfo = (char *)"CLASS",
		.usage = (char *)"workload class of a shared GPU (latency, throughput, besteffort, "
				 "or one of the site's), as in --gres=detshare:CLASS:SHARE",
		.has_arg = 1,
		.cb = check_class,
	    },
	    {
		.name = (char *)"detshare-mem",
		.arginfo = (char *)"SIZE",
		.usage = (char *)"memory of the shared GPU for the job on each node, such as 20G "
				 "(as much as its share of the GPU)",
		.has_arg = 1,
		/* No callback: Slurm adds a line of its own to what that refuses. */
	    },
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		spank_err_t rc = spank_option_register(spank, &options[i]);
		if (rc == ESPANK_SUCCESS)
			continue;
		slurm_error("detshare: cannot register --%s: %s", options[i].name,
			    spank_strerror(rc));
		return -1;
	}
	return 0;
}
