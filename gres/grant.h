/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_GRANT_H
#define DETSHARE_GRES_GRANT_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "gres/config.h"

/*
 * The grant: what the controller stamped on a job. job_submit appends
 * `DETSHARE_GRANT=<text>` to job_desc->spank_job_env, after stripping every DETSHARE_* entry that a
 * client put there; the job prolog and epilog find it in their environment as SPANK_DETSHARE_GRANT.
 *
 * Text form, one line, keys in this order, all present but those in brackets: they say 0, or that the
 * policy is static, by not being there:
 *   v=1,class=NAME,kind=latency|throughput|besteffort,share=MILLI,isolation=user|none
 *   [,memory=MIB][,memory_max=MIB][,policy=lend,lend=yes|no,borrow=yes|no,reclaim=US[,advance=MILLI]]
 *   [,whole=MS],config=HEX16
 */
#define DS_GRANT_VARIABLE        "DETSHARE_GRANT"
#define DS_GRANT_PROLOG_VARIABLE "SPANK_DETSHARE_GRANT"

enum { DS_GRANT_TEXT_SIZE = 256 };

struct ds_grant {
	char class_name[DS_CLASS_NAME_SIZE];
	enum ds_class_kind kind;
	uint32_t share_milli; /* 2..1000 */
	enum ds_isolation isolation;
	uint32_t memory_mib;     /* quota that the job asked for; 0: what its share brings */
	uint32_t memory_max_mib; /* what the site caps the latter at; 0: nothing */
	enum ds_site_policy policy;
	uint32_t whole_ms;   /* as in struct ds_class */
	uint32_t reclaim_us; /* with DS_POLICY_LEND: wants back what it lent within this; else 0 */
	char config_digest[17];
	uint8_t lends;   /* with DS_POLICY_LEND; else 0 */
	uint8_t borrows; /* with DS_POLICY_LEND; else 0 */
	char reserved;   /* no padding: see struct ds_ledger_state */
	/* With DS_POLICY_LEND, of kind latency: as in struct ds_class; else 0. */
	uint16_t advance_milli;
	char reserved_too[2];
};

/* Write the text form. Returns 0, or -1 when a field is out of range or `size` too small. */
int ds_grant_format(const struct ds_grant *grant, char *text, size_t size, struct ds_error *err);

/* Parse the text form; anything unknown, missing, doubled or out of range is refused. 0 or -1. */
int ds_grant_parse(const char *text, struct ds_grant *grant, struct ds_error *err);

/* Take over from the site's rules what they say of lending, and of the GPU as a whole. */
void ds_grant_set_lending(struct ds_grant *grant, const struct ds_site_config *config,
			  const struct ds_class *class);

/* Milliseconds in a second that it may keep others off the GPU to have it as a whole; 0: never. Pure. */
static inline uint32_t ds_grant_whole_ms(const struct ds_grant *grant)
{
	if (grant->whole_ms == DS_WHOLE_NEVER)
		return 0;
	if (grant->whole_ms != DS_WHOLE_USUAL)
		return grant->whole_ms;
	return grant->kind == DS_KIND_BESTEFFORT ? 100 : 500;
}

/* The words of the text form and of detshare.conf. NULL, or -1, for what is none. Thread-safe. */
const char *ds_class_kind_name(enum ds_class_kind kind);
int ds_class_kind_parse(const char *name, enum ds_class_kind *kind);
const char *ds_isolation_name(enum ds_isolation isolation);
int ds_isolation_parse(const char *name, enum ds_isolation *isolation);
const char *ds_site_policy_name(enum ds_site_policy policy);
int ds_site_policy_parse(const char *name, enum ds_site_policy *policy);

#endif
