/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_CONF_NUMBER_H
#define DETSHARE_COMMON_CONF_NUMBER_H

#include <confuse.h>

/*
 * For libconfuse's validating callbacks: the number just read for `opt`. 0, or -1 with a message to the parser's
 * error function that names key, value and range. Thread-safe as far as the parser is.
 */

/* From `least` to `most`; `what` it is to be, like "a number of seconds". */
int ds_conf_number(cfg_t *cfg, cfg_opt_t *opt, long least, long most, const char *what);

/* From 1 to `most` of a unit, like "microseconds". */
int ds_conf_within(cfg_t *cfg, cfg_opt_t *opt, long most, const char *unit);

#endif
