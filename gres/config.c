/* SPDX-License-Identifier: Apache-2.0 */
#include "gres/config.h"

#include <confuse.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sha2.h>

#include "common/conf_number.h"
#include "common/conf_text.h"
#include "common/size.h"
#include "gres/grant.h"

enum {
	CANONICAL_SIZE = 256 + DS_CLASSES_MAX * 160,
	SEEN_MAX = 8 * (DS_CLASSES_MAX + 1),
};

/*
 * libconfuse takes a file that ends inside a class, a comment or a string, as one does that is being
 * written. So a last option is put behind the text, and has to arrive.
 */
#define LAST_OPTION "detshare_conf_ends_here"

static const struct ds_class built_in_classes[] = {
    {.name = "latency", .kind = DS_KIND_LATENCY},
    {.name = "throughput", .kind = DS_KIND_THROUGHPUT},
    {.name = "besteffort", .kind = DS_KIND_BESTEFFORT},
};
/*
 * Within what time a class wants back what it lent, unless the site says otherwise. A borrower of short
 * kernels is off within its window, some hundred microseconds, whatever this says; a training's kernels
 * take 1 to 3 ms each, and with less than 8 ms it is lent nothing (doc/results).
 */
static const uint32_t default_reclaim_us[] = {
    [DS_KIND_LATENCY] = 8000,
    [DS_KIND_THROUGHPUT] = 5000,
    [DS_KIND_BESTEFFORT] = 20000,
};
enum { N_BUILT_IN = sizeof(built_in_classes) / sizeof(built_in_classes[0]) };

/*
 * libconfuse's lexer is global and its callbacks carry no pointer of ours: one parser at a time in
 * a process, and its state beside it.
 */
static pthread_mutex_t parser_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	struct ds_error *err;
	const char *name;
	const cfg_opt_t *seen[SEEN_MAX]; /* options set so far: setting one again is an error */
	size_t n_seen;
} parser;

static void __attribute__((format(printf, 2, 0)))
on_error(cfg_t *cfg, const char *format, va_list args)
{
	struct ds_error text;

	if (parser.err->text[0])
		return; /* the first reason is the cause; what follows are its consequences */
	vsnprintf(text.text, sizeof(text.text), format, args);
	ds_fail(parser.err, "%s:%d: %s", parser.name, cfg->line, text.text);
}

static int check_once(cfg_t *cfg, const cfg_opt_t *opt)
{
	for (size_t i = 0; i < parser.n_seen; i++)
		if (parser.seen[i] == opt) {
			cfg_error(cfg, "%s is set a second time", opt->name);
			return -1;
		}
	if (parser.n_seen == SEEN_MAX) {
		cfg_error(cfg, "more than %d classes", DS_CLASSES_MAX);
		return -1;
	}
	parser.seen[parser.n_seen++] = opt;
	return 0;
}

static int check_flag(cfg_t *cfg, cfg_opt_t *opt)
{
	return check_once(cfg, opt);
}

static int check_class_name(cfg_t *cfg, cfg_opt_t *opt)
{
	const char *name = cfg_opt_getnstr(opt, 0);

	if (check_once(cfg, opt) < 0)
		return -1;
	if (!ds_class_name_valid(name)) {
		cfg_error(cfg,
			  "%s = \"%.40s\" cannot be a class: at most %d letters, digits, '-' and "
			  "'_', the "
			  "first a letter",
			  opt->name, name, DS_CLASS_NAME_SIZE - 1);
		return -1;
	}
	return 0;
}

static int check_isolation(cfg_t *cfg, cfg_opt_t *opt)
{
	enum ds_isolation isolation;
	const char *word = cfg_opt_getnstr(opt, 0);

	if (check_once(cfg, opt) < 0)
		return -1;
	if (ds_isolation_parse(word, &isolation) < 0) {
		cfg_error(cfg,
			  "isolation = \"%.40s\" is neither user (a GPU is shared by one user's "
			  "jobs only) "
			  "nor none",
			  word);
		return -1;
	}
	return 0;
}

static int check_kind(cfg_t *cfg, cfg_opt_t *opt)
{
	enum ds_class_kind kind;
	const char *word = cfg_opt_getnstr(opt, 0);

	if (check_once(cfg, opt) < 0)
		return -1;
	if (ds_class_kind_parse(word, &kind) < 0) {
		cfg_error(cfg, "kind = \"%.40s\" is none of latency, throughput, besteffort", word);
		return -1;
	}
	return 0;
}

static int check_share(cfg_t *cfg, cfg_opt_t *opt)
{
	struct ds_error reason = {""};
	uint32_t share_milli;

	if (check_once(cfg, opt) < 0)
		return -1;
	if (ds_share_parse(cfg_opt_getnstr(opt, 0), &share_milli, &reason) < 0) {
		cfg_error(cfg, "%s: %s", opt->name, reason.text);
		return -1;
	}
	return 0;
}

static int check_memory(cfg_t *cfg, cfg_opt_t *opt)
{
	struct ds_error reason = {""};
	uint32_t mib;

	if (check_once(cfg, opt) < 0)
		return -1;
	if (ds_size_parse(cfg_opt_getnstr(opt, 0), &mib, &reason) < 0) {
		cfg_error(cfg, "%s: %s", opt->name, reason.text);
		return -1;
	}
	return 0;
}

static int check_policy(cfg_t *cfg, cfg_opt_t *opt)
{
	enum ds_site_policy policy;
	const char *word = cfg_opt_getnstr(opt, 0);

	if (check_once(cfg, opt) < 0)
		return -1;
	if (ds_site_policy_parse(word, &policy) < 0) {
		cfg_error(cfg,
			  "policy = \"%.40s\" is neither static (idle groups stay idle) nor lend",
			  word);
		return -1;
	}
	return 0;
}

static int check_reclaim(cfg_t *cfg, cfg_opt_t *opt)
{
	if (check_once(cfg, opt) < 0)
		return -1;
	return ds_conf_within(cfg, opt, DS_RECLAIM_US_MAX, "microseconds");
}

/* A share, or none of it: 0. */
static int parse_advance(const char *text, uint32_t *milli, struct ds_error *err)
{
	*milli = 0;
	return strcmp(text, "0") == 0 ? 0 : ds_share_parse(text, milli, err);
}

static int check_advance(cfg_t *cfg, cfg_opt_t *opt)
{
	struct ds_error reason = {""};
	uint32_t milli;

	if (check_once(cfg, opt) < 0)
		return -1;
	if (parse_advance(cfg_opt_getnstr(opt, 0), &milli, &reason) < 0) {
		cfg_error(cfg, "advance: %s", reason.text);
		return -1;
	}
	return 0;
}

static int check_whole_gpu(cfg_t *cfg, cfg_opt_t *opt)
{
	long ms = cfg_opt_getnint(opt, 0);

	if (check_once(cfg, opt) < 0)
		return -1;
	if (ms < 0 || ms > DS_WHOLE_MS_MAX) {
		cfg_error(cfg,
			  "whole_gpu_ms = %ld is not within 0 (never) to %d milliseconds in a "
			  "second",
			  ms, DS_WHOLE_MS_MAX);
		return -1;
	}
	return 0;
}

/* A class as it is when its section says nothing more. */
static void set_class_defaults(struct ds_class *class)
{
	class->min_share_milli = DS_SHARE_MILLI_MIN;
	class->max_share_milli = DS_SHARE_MILLI_MAX;
	class->whole_ms = DS_WHOLE_USUAL;
	class->lends = true;
	class->borrows = true;
	class->reclaim_us = default_reclaim_us[class->kind];
}

static struct ds_class *find_class(struct ds_site_config *config, const char *name)
{
	return (struct ds_class *)ds_site_config_class(config, name);
}

/* Apply one "class NAME { ... }". All values were checked where they stand in the file. */
static int apply_class(cfg_t *section, struct ds_site_config *config, struct ds_error *err)
{
	const char *name = cfg_title(section);
	struct ds_class *class = find_class(config, name);
	bool new = !class;

	if (!ds_class_name_valid(name))
		return ds_fail(
		    err,
		    "class \"%.40s\": not a name: at most %d letters, digits, '-' and '_', the "
		    "first a letter",
		    name, DS_CLASS_NAME_SIZE - 1);
	if (new) {
		if (config->n_classes == DS_CLASSES_MAX)
			return ds_fail(err, "class %s: more than %d classes", name, DS_CLASSES_MAX);
		if (!cfg_size(section, "kind"))
			return ds_fail(
			    err,
			    "class %s: kind is missing; set it to latency, throughput or "
			    "besteffort",
			    name);
		class = &config->classes[config->n_classes++];
		memcpy(class->name, name, strlen(name) + 1);
	}
	if (cfg_size(section, "kind")) {
		enum ds_class_kind kind;
		ds_class_kind_parse(cfg_getstr(section, "kind"), &kind);
		if (!new &&kind != class->kind)
			return ds_fail(
			    err, "class %s: its kind is built in; define a class of another name",
			    name);
		class->kind = kind;
	}
	if (new)
		set_class_defaults(class);
	if (cfg_size(section, "min_share"))
		ds_share_parse(cfg_getstr(section, "min_share"), &class->min_share_milli, NULL);
	if (cfg_size(section, "max_share"))
		ds_share_parse(cfg_getstr(section, "max_share"), &class->max_share_milli, NULL);
	if (cfg_size(section, "max_memory"))
		ds_size_parse(cfg_getstr(section, "max_memory"), &class->max_memory_mib, NULL);
	if (cfg_size(section, "lend"))
		class->lends = cfg_getbool(section, "lend") == cfg_true;
	if (cfg_size(section, "borrow"))
		class->borrows = cfg_getbool(section, "borrow") == cfg_true;
	if (cfg_size(section, "reclaim_budget"))
		class->reclaim_us = (uint32_t)cfg_getint(section, "reclaim_budget");
	if (cfg_size(section, "advance"))
		parse_advance(cfg_getstr(section, "advance"), &class->advance_milli, NULL);
	if (cfg_size(section, "whole_gpu_ms")) {
		class->whole_ms = (uint32_t)cfg_getint(section, "whole_gpu_ms");
		if (!class->whole_ms)
			class->whole_ms = DS_WHOLE_NEVER;
	}
	if (class->min_share_milli > class->max_share_milli)
		return ds_fail(err, "class %s: min_share is above max_share", name);
	if (class->advance_milli && class->kind != DS_KIND_LATENCY)
		return ds_fail(err,
			       "class %s: advance is for classes of kind latency, and this one is "
			       "of kind %s",
			       name, ds_class_kind_name(class->kind));
	return 0;
}

static int compare_class_names(const void *a, const void *b)
{
	return strcmp(((const struct ds_class *)a)->name, ((const struct ds_class *)b)->name);
}

/*
 * The digest is over what the file means, not over its bytes: comments, order and spelling of
 * numbers do not change it.
 */
static void set_digest(struct ds_site_config *config)
{
	struct ds_class sorted[DS_CLASSES_MAX];
	char text[CANONICAL_SIZE];
	char hex[SHA256_DIGEST_STRING_LENGTH];
	size_t used;

	memcpy(sorted, config->classes, sizeof(sorted));
	qsort(sorted, config->n_classes, sizeof(sorted[0]), compare_class_names);
	used = (size_t)snprintf(
	    text, sizeof(text),
	    "detshare.conf 1\ndefault_class=%s\nallow_raw_shard=%d\nisolation=%s\npolicy=%s\n",
	    config->default_class, config->allow_raw_shard, ds_isolation_name(config->isolation),
	    ds_site_policy_name(config->policy));
	if (config->gpu_memory_mib || config->share_memory_mib)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "memory=%u,%u\n",
					 config->gpu_memory_mib, config->share_memory_mib);
	for (uint32_t i = 0; i < config->n_classes; i++) {
		used += (size_t)snprintf(
		    text + used, sizeof(text) - used, "class=%s,%s,%u,%u,%u,%d,%d,%u,%u\n",
		    sorted[i].name, ds_class_kind_name(sorted[i].kind), sorted[i].min_share_milli,
		    sorted[i].max_share_milli, sorted[i].max_memory_mib, sorted[i].lends,
		    sorted[i].borrows, sorted[i].reclaim_us, sorted[i].whole_ms);
		if (sorted[i].advance_milli)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "advance=%u\n",
						 sorted[i].advance_milli);
	}
	SHA256Data((const uint8_t *)text, used, hex);
	memcpy(config->digest, hex, sizeof(config->digest) - 1);
	config->digest[sizeof(config->digest) - 1] = '\0';
}

void ds_site_config_defaults(struct ds_site_config *config)
{
	memset(config, 0, sizeof(*config));
	memcpy(config->classes, built_in_classes, sizeof(built_in_classes));
	config->n_classes = N_BUILT_IN;
	for (uint32_t i = 0; i < config->n_classes; i++)
		set_class_defaults(&config->classes[i]);
	memcpy(config->default_class, "throughput", sizeof("throughput"));
	config->allow_raw_shard = false;
	config->isolation = DS_ISOLATION_USER;
	config->policy = DS_POLICY_STATIC;
	set_digest(config);
}

static int parse_locked(const char *text, struct ds_site_config *config, struct ds_error *err)
{
	cfg_opt_t class_options[] = {
	    CFG_STR("kind", NULL, CFGF_NODEFAULT),
	    CFG_STR("min_share", NULL, CFGF_NODEFAULT),
	    CFG_STR("max_share", NULL, CFGF_NODEFAULT),
	    CFG_STR("max_memory", NULL, CFGF_NODEFAULT),
	    CFG_BOOL("lend", cfg_false, CFGF_NODEFAULT),
	    CFG_BOOL("borrow", cfg_false, CFGF_NODEFAULT),
	    CFG_INT("reclaim_budget", 0, CFGF_NODEFAULT),
	    CFG_STR("advance", NULL, CFGF_NODEFAULT),
	    CFG_INT("whole_gpu_ms", 0, CFGF_NODEFAULT),
	    CFG_END(),
	};
	cfg_opt_t options[] = {
	    CFG_STR("default_class", NULL, CFGF_NODEFAULT),
	    CFG_BOOL("allow_raw_shard", cfg_false, CFGF_NODEFAULT),
	    CFG_STR("isolation", NULL, CFGF_NODEFAULT),
	    CFG_STR("policy", NULL, CFGF_NODEFAULT),
	    CFG_STR("gpu_memory", NULL, CFGF_NODEFAULT),
	    CFG_STR("share_memory", NULL, CFGF_NODEFAULT),
	    CFG_BOOL(LAST_OPTION, cfg_false, CFGF_NODEFAULT),
	    CFG_SEC("class", class_options, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
	    CFG_END(),
	};
	int rv = -1;
	cfg_t *cfg = cfg_init(options, CFGF_NONE);

	if (!cfg)
		return ds_fail(err, "out of memory");
	cfg_set_error_function(cfg, on_error);
	cfg_set_validate_func(cfg, "default_class", check_class_name);
	cfg_set_validate_func(cfg, "allow_raw_shard", check_flag);
	cfg_set_validate_func(cfg, LAST_OPTION, check_flag);
	cfg_set_validate_func(cfg, "isolation", check_isolation);
	cfg_set_validate_func(cfg, "policy", check_policy);
	cfg_set_validate_func(cfg, "gpu_memory", check_memory);
	cfg_set_validate_func(cfg, "share_memory", check_memory);
	cfg_set_validate_func(cfg, "class|kind", check_kind);
	cfg_set_validate_func(cfg, "class|min_share", check_share);
	cfg_set_validate_func(cfg, "class|max_share", check_share);
	cfg_set_validate_func(cfg, "class|max_memory", check_memory);
	cfg_set_validate_func(cfg, "class|lend", check_flag);
	cfg_set_validate_func(cfg, "class|borrow", check_flag);
	cfg_set_validate_func(cfg, "class|reclaim_budget", check_reclaim);
	cfg_set_validate_func(cfg, "class|advance", check_advance);
	cfg_set_validate_func(cfg, "class|whole_gpu_ms", check_whole_gpu);

	bool parsed = cfg_parse_buf(cfg, text) == CFG_SUCCESS;
	if (parsed ? !cfg_size(cfg, LAST_OPTION) : strstr(err->text, LAST_OPTION) != NULL) {
		ds_fail(err, "%s: ends inside a class, a comment or a string", parser.name);
		goto fail;
	}
	if (!parsed) {
		if (!err->text[0])
			ds_fail(err, "%s: cannot be parsed", parser.name);
		goto fail;
	}
	for (unsigned i = 0; i < cfg_size(cfg, "class"); i++) {
		cfg_t *section = cfg_getnsec(cfg, "class", i);
		if (apply_class(section, config, err) < 0) {
			ds_fail_within(err, "%s:%d", parser.name, section->line);
			goto fail;
		}
	}
	if (cfg_size(cfg, "default_class")) {
		const char *name = cfg_getstr(cfg, "default_class");
		if (!find_class(config, name)) {
			ds_fail(err, "%s: default_class = %s, but there is no class of that name",
				parser.name, name);
			goto fail;
		}
		snprintf(config->default_class, sizeof(config->default_class), "%s", name);
	}
	if (cfg_size(cfg, "allow_raw_shard"))
		config->allow_raw_shard = cfg_getbool(cfg, "allow_raw_shard") == cfg_true;
	if (cfg_size(cfg, "isolation"))
		ds_isolation_parse(cfg_getstr(cfg, "isolation"), &config->isolation);
	if (cfg_size(cfg, "policy"))
		ds_site_policy_parse(cfg_getstr(cfg, "policy"), &config->policy);
	if (cfg_size(cfg, "gpu_memory"))
		ds_size_parse(cfg_getstr(cfg, "gpu_memory"), &config->gpu_memory_mib, NULL);
	if (cfg_size(cfg, "share_memory"))
		ds_size_parse(cfg_getstr(cfg, "share_memory"), &config->share_memory_mib, NULL);
	set_digest(config);
	rv = 0;
fail:
	cfg_free(cfg);
	return rv;
}

int ds_site_config_parse(const char *text, const char *name, struct ds_site_config *config,
			 struct ds_error *err)
{
	struct ds_site_config parsed;
	struct ds_error reason = {""};
	char *whole = NULL;

	if (asprintf(&whole, "%s\n" LAST_OPTION " = yes\n", text) < 0)
		return ds_fail(err, "%s: out of memory", name);
	ds_conf_blank_comments(whole);
	ds_site_config_defaults(&parsed);
	pthread_mutex_lock(&parser_lock);
	parser.err = &reason;
	parser.name = name;
	parser.n_seen = 0;
	int rv = parse_locked(whole, &parsed, &reason);
	parser.err = NULL;
	pthread_mutex_unlock(&parser_lock);
	free(whole);

	if (rv < 0)
		return ds_fail(err, "%s", reason.text);
	*config = parsed;
	return 0;
}

int ds_site_config_read(const char *path, struct ds_site_config *config, struct ds_error *err)
{
	char *text = ds_conf_read(path, false, err);

	if (!text)
		return -1;
	int rv = ds_site_config_parse(text, path, config, err);
	free(text);
	if (rv < 0)
		errno = EINVAL;
	return rv;
}

const struct ds_class *ds_site_config_class(const struct ds_site_config *config, const char *name)
{
	for (uint32_t i = 0; i < config->n_classes; i++)
		if (strcmp(config->classes[i].name, name) == 0)
			return &config->classes[i];
	return NULL;
}

void ds_site_config_path(char *path, unsigned long size)
{
	/*
	 * Every Slurm daemon and client puts the path it settled on (its -f option, the variable, the
	 * configless cache or the built-in one) into this variable, for the same purpose.
	 */
	const char *slurm_conf = getenv("SLURM_CONF");
	const char *slash;

	if (!slurm_conf || !*slurm_conf)
		slurm_conf = DS_SLURM_CONF_DEFAULT;
	slash = strrchr(slurm_conf, '/');
	snprintf(path, size, "%.*sdetshare.conf", slash ? (int)(slash - slurm_conf + 1) : 0,
		 slurm_conf);
}
