/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/collector_config.h"

#include <confuse.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf_text.h"

static const struct text_key {
	const char *name;
	const char *value; /* default */
	size_t offset;
	size_t size;
} TEXT_KEYS[] = {
#define KEY(field, value)                                                   \
	{                                                                   \
#field, value, offsetof(struct ds_collector_config, field), \
		    sizeof(((struct ds_collector_config *)NULL)->field)     \
	}
    KEY(listen, ""),       KEY(state_dir, LOCALSTATEDIR "/lib/detshare/usage"),
    KEY(munge_socket, ""), KEY(slurm_conf, ""),
    KEY(cluster, ""),      KEY(settle_program, PKGLIBEXECDIR "/detshare-usage-settle"),
#undef KEY
};

static const struct number_key {
	const char *name;
	long value; /* default */
	long min, max;
} NUMBER_KEYS[] = {
    {"port", 6829, 1, 65535},
    {"grace_s", 600, 0, 30L * 86400},
    {"keep_days", 30, 1, 3650},
};

enum {
	N_TEXT = sizeof(TEXT_KEYS) / sizeof(TEXT_KEYS[0]),
	N_NUMBER = sizeof(NUMBER_KEYS) / sizeof(NUMBER_KEYS[0]),
};

/* libconfuse's callbacks carry no pointer of ours. */
static struct ds_error *parse_error;
static const char *parse_path;

static void __attribute__((format(printf, 2, 0)))
on_error(cfg_t *cfg, const char *format, va_list args)
{
	struct ds_error text;

	if (parse_error->text[0])
		return; /* the first reason is the cause */
	vsnprintf(text.text, sizeof(text.text), format, args);
	ds_fail(parse_error, "%s:%d: %s", parse_path, cfg->line, text.text);
}

static int check_text(cfg_t *cfg, cfg_opt_t *opt)
{
	const char *value = cfg_opt_getnstr(opt, 0);

	for (size_t i = 0; value && i < N_TEXT; i++) {
		if (strcmp(TEXT_KEYS[i].name, opt->name) == 0 &&
		    strlen(value) >= TEXT_KEYS[i].size) {
			cfg_error(cfg, "%s is longer than %zu characters", opt->name,
				  TEXT_KEYS[i].size - 1);
			return -1;
		}
	}
	return 0;
}

static int check_number(cfg_t *cfg, cfg_opt_t *opt)
{
	long value = cfg_opt_getnint(opt, 0);

	for (size_t i = 0; i < N_NUMBER; i++) {
		if (strcmp(NUMBER_KEYS[i].name, opt->name) == 0 &&
		    (value < NUMBER_KEYS[i].min || value > NUMBER_KEYS[i].max)) {
			cfg_error(cfg, "%s = %ld is not within %ld to %ld", opt->name, value,
				  NUMBER_KEYS[i].min, NUMBER_KEYS[i].max);
			return -1;
		}
	}
	return 0;
}

static void take(cfg_t *cfg, struct ds_collector_config *config)
{
	for (size_t i = 0; i < N_TEXT; i++)
		snprintf((char *)config + TEXT_KEYS[i].offset, TEXT_KEYS[i].size, "%s",
			 cfg_getstr(cfg, TEXT_KEYS[i].name));
	config->port = (uint16_t)cfg_getint(cfg, "port");
	config->grace_s = (uint32_t)cfg_getint(cfg, "grace_s");
	config->keep_days = (uint32_t)cfg_getint(cfg, "keep_days");
}

static int parse(const char *text, const char *name, struct ds_collector_config *config,
		 struct ds_error *err)
{
	cfg_opt_t options[N_TEXT + N_NUMBER + 1];
	struct ds_error reason = {""};

	for (size_t i = 0; i < N_TEXT; i++)
		options[i] = (cfg_opt_t)CFG_STR(TEXT_KEYS[i].name, TEXT_KEYS[i].value, CFGF_NONE);
	for (size_t i = 0; i < N_NUMBER; i++)
		options[N_TEXT + i] =
		    (cfg_opt_t)CFG_INT(NUMBER_KEYS[i].name, NUMBER_KEYS[i].value, CFGF_NONE);
	options[N_TEXT + N_NUMBER] = (cfg_opt_t)CFG_END();

	cfg_t *cfg = cfg_init(options, CFGF_NONE);
	if (!cfg)
		return ds_fail(err, "cannot read %s: memory is out", name);
	parse_error = &reason;
	parse_path = name;
	cfg_set_error_function(cfg, on_error);
	for (size_t i = 0; i < N_TEXT; i++)
		cfg_set_validate_func(cfg, TEXT_KEYS[i].name, check_text);
	for (size_t i = 0; i < N_NUMBER; i++)
		cfg_set_validate_func(cfg, NUMBER_KEYS[i].name, check_number);
	int rc = cfg_parse_buf(cfg, text);
	if (rc == CFG_SUCCESS)
		take(cfg, config);
	cfg_free(cfg);
	if (rc == CFG_SUCCESS)
		return 0;
	return ds_fail(err, "%s", reason.text[0] ? reason.text : "memory is out");
}

int ds_collector_config_read(const char *path, struct ds_collector_config *config,
			     struct ds_error *err)
{
	const char *named = path ? path : secure_getenv("DETSHARE_USAGED_CONF");
	const char *file = named ? named : SYSCONFDIR "/detshare/detshare-usaged.conf";
	struct ds_error reason = {""};
	char *text = ds_conf_read(file, true, &reason);

	*config = (struct ds_collector_config){0};
	if (!text && (named || errno != ENOENT))
		return ds_fail(err, "%s", reason.text);
	if (text)
		ds_conf_blank_comments(text);
	int rc = parse(text ? text : "", file, config, err);
	free(text);
	return rc;
}
