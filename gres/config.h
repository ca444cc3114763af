/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_CONFIG_H
#define DETSHARE_GRES_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "gres/request.h"

/*
 * detshare.conf, beside slurm.conf on the controller: what a site decides. Parsed by libconfuse;
 * unknown keys are errors. Everything here is plain data; rules.h decides with it.
 */

/* How a class may use a GPU; the words are those of doc/design.md. */
enum ds_class_kind { DS_KIND_LATENCY, DS_KIND_THROUGHPUT, DS_KIND_BESTEFFORT };

/* Who may share a GPU with whom. */
enum ds_isolation { DS_ISOLATION_USER, DS_ISOLATION_NONE };

/* What becomes of groups that nobody owns, or whose owner is idle. */
enum ds_site_policy { DS_POLICY_STATIC, DS_POLICY_LEND };

enum { DS_RECLAIM_US_MAX = 10000000 };

/* Milliseconds in a second that a job may keep others off its GPU to have it as a whole. */
enum {
	DS_WHOLE_USUAL = 0, /* 500; 100 for kind besteffort */
	DS_WHOLE_MS_MAX = 1000,
	DS_WHOLE_NEVER = 1001,
};

struct ds_class {
	char name[DS_CLASS_NAME_SIZE];
	enum ds_class_kind kind;
	uint32_t min_share_milli; /* smallest share a job of this class may ask, 2..1000 */
	uint32_t max_share_milli; /* largest */
	uint32_t max_memory_mib;  /* most GPU memory for a job of this class; 0: no cap */
	uint32_t whole_ms;        /* 1..DS_WHOLE_MS_MAX, DS_WHOLE_USUAL or DS_WHOLE_NEVER */
	/* With DS_POLICY_LEND: */
	bool lends;          /* while it is idle, others may use its groups */
	bool borrows;        /* it may use others' groups, and those that nobody owns */
	uint32_t reclaim_us; /* within what time it wants back what it lent, 1..DS_RECLAIM_US_MAX */
	/* Of kind latency: how much more than its share it may have of neighbours who owe it, 0..1000. */
	uint32_t advance_milli;
};

enum { DS_CLASSES_MAX = 16 };

struct ds_site_config {
	char default_class[DS_CLASS_NAME_SIZE];
	struct ds_class classes[DS_CLASSES_MAX];
	uint32_t n_classes;
	bool allow_raw_shard; /* jobs may ask gres/shard without detshare */
	enum ds_isolation isolation;
	enum ds_site_policy policy;
	uint32_t gpu_memory_mib; /* the most that any node can give a job; 0: not known */
	uint32_t
	    share_memory_mib; /* the most that a job may ask for a whole GPU's share; 0: no cap */
	char digest[17];      /* 16 hex digits: names this configuration in the grant */
};

/* The configuration of a site that has no detshare.conf. */
void ds_site_config_defaults(struct ds_site_config *config);

/*
 * Read `path`. Returns 0, or -1 with one line that names file and line; `*config` is untouched then,
 * so that a broken file keeps the old rules. A file that does not exist is an error (errno ENOENT).
 */
int ds_site_config_read(const char *path, struct ds_site_config *config, struct ds_error *err);

/* The same from text in memory, for tests and the fuzzer. `name` stands for the path in messages. */
int ds_site_config_parse(const char *text, const char *name, struct ds_site_config *config,
			 struct ds_error *err);

/* The class of that name, or NULL. The pointer lives as long as `config`. */
const struct ds_class *ds_site_config_class(const struct ds_site_config *config, const char *name);

/*
 * The path of detshare.conf: the folder of $SLURM_CONF if set, else that of Slurm's built-in
 * slurm.conf path. Writes at most `size` bytes, always terminated.
 */
void ds_site_config_path(char *path, unsigned long size);

#endif
