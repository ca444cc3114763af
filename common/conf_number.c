/* SPDX-License-Identifier: Apache-2.0 */
#include "common/conf_number.h"

int ds_conf_number(cfg_t *cfg, cfg_opt_t *opt, long least, long most, const char *what)
{
	const long value = cfg_opt_getnint(opt, 0);

	if (value < least || value > most) {
		cfg_error(cfg, "%s = %ld is not %s (%ld to %ld)", opt->name, value, what, least,
			  most);
		return -1;
	}
	return 0;
}

int ds_conf_within(cfg_t *cfg, cfg_opt_t *opt, long most, const char *unit)
{
	const long value = cfg_opt_getnint(opt, 0);

	if (value < 1 || value > most) {
		cfg_error(cfg, "%s = %ld is not within 1 to %ld %s", opt->name, value, most, unit);
		return -1;
	}
	return 0;
}
