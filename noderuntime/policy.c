/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/policy.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OBJECT_MAX = 64 << 20 }; /* bytes: far beyond any policy */

const struct detshare_policy *ds_policy_built_in(const char *name)
{
	static const struct detshare_policy *const built_in[] = {&detshare_policy_static,
								 &detshare_policy_lend};

	for (size_t i = 0; i < sizeof(built_in) / sizeof(built_in[0]); i++) {
		if (!strcmp(built_in[i]->name, name))
			return built_in[i];
	}
	return NULL;
}

/* Nobody but root may change what is at `path`: neither the file nor a folder on the way to it. */
static int check_owner(const char *path, struct ds_error *err)
{
	char part[PATH_MAX];
	struct stat st;

	if (geteuid() != 0)
		return 0;
	snprintf(part, sizeof(part), "%s", path);
	for (;;) {
		if (stat(part, &st) < 0)
			return ds_fail(err, "cannot stat %s: %s", part, strerror(errno));
		/* A sticky folder lets nobody replace another one's file. */
		bool safe_folder = S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX);
		if (st.st_uid != 0 || ((st.st_mode & (S_IWGRP | S_IWOTH)) && !safe_folder))
			return ds_fail(
			    err,
			    "%s belongs to uid %u with mode %03o: it would run as root, so "
			    "it must be root's and writable by nobody else",
			    part, (unsigned)st.st_uid, st.st_mode & 0777);
		if (!strcmp(part, "/") || !strcmp(part, "."))
			return 0;
		char copy[PATH_MAX];
		snprintf(copy, sizeof(copy), "%s", part);
		snprintf(part, sizeof(part), "%s", dirname(copy));
	}
}

/* FNV-1a: tells apart what a site installs one after the other; it protects against nobody. */
static uint64_t digest_of(const unsigned char *bytes, size_t size)
{
	uint64_t sum = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < size; i++)
		sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
	return sum ? sum : 1;
}

static int digest_file(int fd, const char *path, uint64_t *digest, struct ds_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return ds_fail(err, "cannot stat %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > OBJECT_MAX)
		return ds_fail(err, "%s is no file of 1 byte to 64 MiB", path);
	void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		return ds_fail(err, "cannot read %s: %s", path, strerror(errno));
	*digest = digest_of(bytes, (size_t)st.st_size);
	munmap(bytes, (size_t)st.st_size);
	return 0;
}

static bool name_is_valid(const char *name)
{
	static const char allowed[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
	size_t length = name ? strnlen(name, DS_POLICY_NAME_SIZE) : 0;

	return length > 0 && length < DS_POLICY_NAME_SIZE && strspn(name, allowed) == length &&
	       !ds_policy_built_in(name);
}

static int check_table(const struct detshare_policy *table, const char *path, struct ds_error *err)
{
	if (!table)
		return ds_fail(err, "%s exports no detshare_policy", path);
	if (table->version != DETSHARE_POLICY_VERSION)
		return ds_fail(err,
			       "the policy in %s is of version %" PRIu32
			       ", not %d: build it with this detshare's detshare_policy.h",
			       path, table->version, DETSHARE_POLICY_VERSION);
	if (!name_is_valid(table->name))
		return ds_fail(
		    err,
		    "the policy in %s has no name of 1 to %d letters, digits, '-' and '_', "
		    "or that of one that is built in",
		    path, DS_POLICY_NAME_SIZE - 1);
	if (!table->wishes)
		return ds_fail(err, "the policy in %s has no function wishes", path);
	return 0;
}

int ds_policy_load(const char *path, struct ds_policy *policy, struct ds_error *err)
{
	char real[PATH_MAX];
	void *object = NULL;

	memset(policy, 0, sizeof(*policy));
	if (!realpath(path, real))
		return ds_fail(err, "cannot find %s: %s", path, strerror(errno));
	if (check_owner(real, err) < 0)
		return -1;
	int fd = open(real, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return ds_fail(err, "cannot open %s: %s", real, strerror(errno));
	if (digest_file(fd, real, &policy->id.digest, err) < 0)
		goto fail;
	object = dlopen(real, RTLD_NOW | RTLD_LOCAL);
	if (!object) {
		ds_fail(err, "cannot load %s: %s", real, dlerror());
		goto fail;
	}
	const struct detshare_policy *table = dlsym(object, "detshare_policy");
	if (check_table(table, real, err) < 0)
		goto fail;
	close(fd);
	policy->table = table;
	memcpy(policy->id.name, table->name, strlen(table->name));
	return 0;
fail:
	if (object)
		dlclose(object);
	close(fd);
	memset(policy, 0, sizeof(*policy));
	return -1;
}

int ds_policy_ask(const struct detshare_policy *table, const struct detshare_policy_gpu *gpu,
		  const struct detshare_policy_resident *residents, uint32_t n,
		  uint32_t *wish_milli, struct ds_error *err)
{
	uint32_t i;

	memset(wish_milli, 0xff, n * sizeof(*wish_milli));
	table->wishes(gpu, residents, n, wish_milli);
	for (i = 0; i < n && wish_milli[i] <= 1000; i++) {
	}
	if (i == n)
		return 0;
	if (wish_milli[i] == UINT32_MAX)
		ds_fail(err, "policy %s made no wish for resident %" PRIu32 " of %" PRIu32,
			table->name, i, n);
	else
		ds_fail(err,
			"policy %s wished %" PRIu32 " for resident %" PRIu32 " of %" PRIu32
			": 0 to 1000 thousandths are possible",
			table->name, wish_milli[i], i, n);
	for (i = 0; i < n; i++)
		wish_milli[i] = residents[i].share_milli;
	return -1;
}
