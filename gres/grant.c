/* SPDX-License-Identifier: Apache-2.0 */
#include "gres/grant.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"

static const char *const kind_names[] = {
    [DS_KIND_LATENCY] = "latency",
    [DS_KIND_THROUGHPUT] = "throughput",
    [DS_KIND_BESTEFFORT] = "besteffort",
};

static const char *const isolation_names[] = {
    [DS_ISOLATION_USER] = "user",
    [DS_ISOLATION_NONE] = "none",
};

static const char *const policy_names[] = {
    [DS_POLICY_STATIC] = "static",
    [DS_POLICY_LEND] = "lend",
};

enum {
	N_KINDS = sizeof(kind_names) / sizeof(kind_names[0]),
	N_ISOLATIONS = sizeof(isolation_names) / sizeof(isolation_names[0]),
	N_POLICIES = sizeof(policy_names) / sizeof(policy_names[0]),
};

const char *ds_class_kind_name(enum ds_class_kind kind)
{
	return (unsigned)kind < N_KINDS ? kind_names[kind] : NULL;
}

int ds_class_kind_parse(const char *name, enum ds_class_kind *kind)
{
	for (unsigned i = 0; i < N_KINDS; i++)
		if (strcmp(name, kind_names[i]) == 0) {
			*kind = (enum ds_class_kind)i;
			return 0;
		}
	return -1;
}

const char *ds_isolation_name(enum ds_isolation isolation)
{
	return (unsigned)isolation < N_ISOLATIONS ? isolation_names[isolation] : NULL;
}

int ds_isolation_parse(const char *name, enum ds_isolation *isolation)
{
	for (unsigned i = 0; i < N_ISOLATIONS; i++)
		if (strcmp(name, isolation_names[i]) == 0) {
			*isolation = (enum ds_isolation)i;
			return 0;
		}
	return -1;
}

const char *ds_site_policy_name(enum ds_site_policy policy)
{
	return (unsigned)policy < N_POLICIES ? policy_names[policy] : NULL;
}

int ds_site_policy_parse(const char *name, enum ds_site_policy *policy)
{
	for (unsigned i = 0; i < N_POLICIES; i++)
		if (strcmp(name, policy_names[i]) == 0) {
			*policy = (enum ds_site_policy)i;
			return 0;
		}
	return -1;
}

void ds_grant_set_lending(struct ds_grant *grant, const struct ds_site_config *config,
			  const struct ds_class *class)
{
	bool lend = config->policy == DS_POLICY_LEND;

	grant->policy = config->policy;
	grant->lends = lend && class->lends;
	grant->borrows = lend && class->borrows;
	grant->reclaim_us = lend ? class->reclaim_us : 0;
	grant->advance_milli = lend ? (uint16_t) class->advance_milli : 0;
	grant->whole_ms = class->whole_ms;
}

static bool is_digest(const char *text)
{
	return strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16;
}

static bool memory_in_range(const struct ds_grant *grant)
{
	return grant->memory_mib <= DS_SIZE_MIB_MAX && grant->memory_max_mib <= DS_SIZE_MIB_MAX &&
	       (!grant->memory_max_mib || grant->memory_mib <= grant->memory_max_mib);
}

static bool share_in_range(uint32_t share_milli)
{
	return share_milli >= DS_SHARE_MILLI_MIN && share_milli <= DS_SHARE_MILLI_MAX;
}

static bool lending_in_range(const struct ds_grant *grant)
{
	if (grant->policy == DS_POLICY_STATIC)
		return !grant->lends && !grant->borrows && !grant->reclaim_us &&
		       !grant->advance_milli;
	return grant->policy == DS_POLICY_LEND && grant->lends <= 1 && grant->borrows <= 1 &&
	       grant->reclaim_us >= 1 && grant->reclaim_us <= DS_RECLAIM_US_MAX &&
	       grant->advance_milli <= DS_SHARE_MILLI_MAX &&
	       (!grant->advance_milli || grant->kind == DS_KIND_LATENCY);
}

int ds_grant_format(const struct ds_grant *grant, char *text, size_t size, struct ds_error *err)
{
	const char *kind = ds_class_kind_name(grant->kind);
	const char *isolation = ds_isolation_name(grant->isolation);
	char memory[32] = "", memory_max[32] = "";
	char lending[64] = "", advance[24] = "", whole[24] = "";
	int length;

	if (size)
		text[0] = '\0';
	if (!memchr(grant->class_name, '\0', sizeof(grant->class_name)) ||
	    !ds_class_name_valid(grant->class_name))
		return ds_fail(err, "cannot write a grant: its class name is not valid");
	if (!kind || !isolation || !share_in_range(grant->share_milli) || !memory_in_range(grant) ||
	    !lending_in_range(grant) || grant->whole_ms > DS_WHOLE_NEVER ||
	    !memchr(grant->config_digest, '\0', sizeof(grant->config_digest)) ||
	    !is_digest(grant->config_digest))
		return ds_fail(err, "cannot write a grant of class %s: a field is out of range",
			       grant->class_name);

	if (grant->memory_mib)
		snprintf(memory, sizeof(memory), ",memory=%" PRIu32, grant->memory_mib);
	if (grant->memory_max_mib)
		snprintf(memory_max, sizeof(memory_max), ",memory_max=%" PRIu32,
			 grant->memory_max_mib);
	if (grant->policy == DS_POLICY_LEND)
		snprintf(lending, sizeof(lending), ",policy=lend,lend=%s,borrow=%s,reclaim=%u",
			 grant->lends ? "yes" : "no", grant->borrows ? "yes" : "no",
			 grant->reclaim_us);
	if (grant->advance_milli)
		snprintf(advance, sizeof(advance), ",advance=%u", grant->advance_milli);
	if (grant->whole_ms)
		snprintf(whole, sizeof(whole), ",whole=%" PRIu32, grant->whole_ms);
	length =
	    snprintf(text, size, "v=1,class=%s,kind=%s,share=%u,isolation=%s%s%s%s%s%s,config=%s",
		     grant->class_name, kind, grant->share_milli, isolation, memory, memory_max,
		     lending, advance, whole, grant->config_digest);
	if (length < 0 || (size_t)length >= size)
		return ds_fail(err, "cannot write a grant of class %s into %zu bytes",
			       grant->class_name, size);
	return 0;
}

/*
 * Take "key=value" off the front of `*at`, which has to be followed by a comma, or by the end if it
 * is the last key. Returns 0 and the terminated value, or -1.
 */
static int take_value(const char **at, const char *key, bool last, char *value, size_t size)
{
	size_t key_length = strlen(key);

	if (strncmp(*at, key, key_length) != 0 || (*at)[key_length] != '=')
		return -1;
	const char *start = *at + key_length + 1;
	size_t length = strcspn(start, ",");
	if (length == 0 || length >= size || (start[length] == '\0') != last)
		return -1;
	memcpy(value, start, length);
	value[length] = '\0';
	*at = start + length + (last ? 0 : 1);
	return 0;
}

/* Take "key=MIB" if it is there. Returns 0, or -1: it is there and not such a number. */
static int take_memory(const char **at, const char *key, uint32_t *mib)
{
	size_t length = strlen(key);
	char value[9]; /* as many digits as DS_SIZE_MIB_MAX has */

	if (strncmp(*at, key, length) != 0 || (*at)[length] != '=')
		return 0;
	if (take_value(at, key, false, value, sizeof(value)) < 0 ||
	    strspn(value, "0123456789") != strlen(value) || value[0] == '0')
		return -1;
	for (const char *digit = value; *digit; digit++)
		*mib = *mib * 10 + (uint32_t)(*digit - '0');
	return 0;
}

/* A number without a leading zero that is at most `max`. 0 or -1. */
static int parse_number(const char *text, uint32_t max, uint32_t *number)
{
	uint64_t value = 0;

	if (strspn(text, "0123456789") != strlen(text) || !*text || (text[0] == '0' && text[1]))
		return -1;
	for (const char *digit = text; *digit; digit++) {
		value = value * 10 + (uint64_t)(*digit - '0');
		if (value > max)
			return -1;
	}
	*number = (uint32_t)value;
	return 0;
}

static int parse_yes_no(const char *text, uint8_t *yes)
{
	*yes = strcmp(text, "yes") == 0;
	return *yes || strcmp(text, "no") == 0 ? 0 : -1;
}

/* Take what a policy other than static brings with it, if it is there. 0, or -1 with the key. */
static int take_lending(const char **at, struct ds_grant *grant, const char **key)
{
	char policy[8], lends[4], borrows[4], reclaim[9];

	if (strncmp(*at, "policy=", strlen("policy=")) != 0)
		return 0;
	if (take_value(at, *key = "policy", false, policy, sizeof(policy)) < 0 ||
	    ds_site_policy_parse(policy, &grant->policy) < 0 || grant->policy == DS_POLICY_STATIC ||
	    take_value(at, *key = "lend", false, lends, sizeof(lends)) < 0 ||
	    parse_yes_no(lends, &grant->lends) < 0 ||
	    take_value(at, *key = "borrow", false, borrows, sizeof(borrows)) < 0 ||
	    parse_yes_no(borrows, &grant->borrows) < 0 ||
	    take_value(at, *key = "reclaim", false, reclaim, sizeof(reclaim)) < 0 ||
	    parse_number(reclaim, DS_RECLAIM_US_MAX, &grant->reclaim_us) < 0 || !grant->reclaim_us)
		return -1;
	return 0;
}

/* Take "advance=MILLI" if it is there. 0 or -1. */
static int take_advance(const char **at, const char *key, struct ds_grant *grant)
{
	uint32_t milli;
	char value[5];

	if (strncmp(*at, "advance=", strlen("advance=")) != 0)
		return 0;
	if (grant->policy != DS_POLICY_LEND ||
	    take_value(at, key, false, value, sizeof(value)) < 0 ||
	    parse_number(value, DS_SHARE_MILLI_MAX, &milli) < 0 || !milli)
		return -1;
	grant->advance_milli = (uint16_t)milli;
	return 0;
}

/* Take "whole=MS" if it is there. 0 or -1. */
static int take_whole(const char **at, const char *key, struct ds_grant *grant)
{
	char value[6];

	if (strncmp(*at, "whole=", strlen("whole=")) != 0)
		return 0;
	if (take_value(at, key, false, value, sizeof(value)) < 0 ||
	    parse_number(value, DS_WHOLE_NEVER, &grant->whole_ms) < 0 || !grant->whole_ms)
		return -1;
	return 0;
}

int ds_grant_parse(const char *text, struct ds_grant *grant, struct ds_error *err)
{
	struct ds_grant parsed;
	const char *at = text;
	char version[2], kind[16], share[5], isolation[8];
	const char *key;

	memset(&parsed, 0, sizeof(parsed));
	if (take_value(&at, key = "v", false, version, sizeof(version)) < 0 ||
	    take_value(&at, key = "class", false, parsed.class_name, sizeof(parsed.class_name)) <
		0 ||
	    take_value(&at, key = "kind", false, kind, sizeof(kind)) < 0 ||
	    take_value(&at, key = "share", false, share, sizeof(share)) < 0 ||
	    take_value(&at, key = "isolation", false, isolation, sizeof(isolation)) < 0 ||
	    take_memory(&at, key = "memory", &parsed.memory_mib) < 0 ||
	    take_memory(&at, key = "memory_max", &parsed.memory_max_mib) < 0 ||
	    take_lending(&at, &parsed, &key) < 0 ||
	    take_advance(&at, key = "advance", &parsed) < 0 ||
	    take_whole(&at, key = "whole", &parsed) < 0 ||
	    take_value(&at, key = "config", true, parsed.config_digest,
		       sizeof(parsed.config_digest)) < 0)
		return ds_fail(err, "grant \"%.80s\": '%s=' is missing, misplaced or malformed",
			       text, key);
	if (strcmp(version, "1") != 0)
		return ds_fail(
		    err,
		    "grant \"%.80s\": version %s is not 1; node and controller run different "
		    "releases of detshare",
		    text, version);
	if (!ds_class_name_valid(parsed.class_name))
		return ds_fail(err, "grant \"%.80s\": no valid class name", text);
	if (ds_class_kind_parse(kind, &parsed.kind) < 0)
		return ds_fail(err, "grant \"%.80s\": unknown kind", text);
	if (parsed.advance_milli && parsed.kind != DS_KIND_LATENCY)
		return ds_fail(err, "grant \"%.80s\": an advance is for kind latency", text);
	if (strspn(share, "0123456789") != strlen(share) || (share[0] == '0' && share[1]))
		return ds_fail(err, "grant \"%.80s\": the share is not a number", text);
	for (const char *digit = share; *digit; digit++)
		parsed.share_milli = parsed.share_milli * 10 + (uint32_t)(*digit - '0');
	if (!share_in_range(parsed.share_milli))
		return ds_fail(err,
			       "grant \"%.80s\": the share is not between %d and %d thousandths",
			       text, DS_SHARE_MILLI_MIN, DS_SHARE_MILLI_MAX);
	if (ds_isolation_parse(isolation, &parsed.isolation) < 0)
		return ds_fail(err, "grant \"%.80s\": unknown isolation", text);
	if (!memory_in_range(&parsed))
		return ds_fail(err, "grant \"%.80s\": the memory is out of range", text);
	if (!is_digest(parsed.config_digest))
		return ds_fail(
		    err, "grant \"%.80s\": the configuration's digest is not 16 hex digits", text);
	*grant = parsed;
	return 0;
}
