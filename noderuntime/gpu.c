/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/gpu.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/size.h"

enum { INFO_MAX = 4096 };

/* The value behind "KEY:" at the beginning of a line, without white space around it. */
static bool info_value(const char *text, const char *key, char *value, size_t size)
{
	size_t key_length = strlen(key);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, key_length) || line[key_length] != ':')
			continue;
		const char *from = line + key_length + 1;
		from += strspn(from, " \t");
		size_t length = strcspn(from, "\n");
		while (length && isspace((unsigned char)from[length - 1]))
			length--;
		if (!length || length >= size)
			return false;
		memcpy(value, from, length);
		value[length] = '\0';
		return true;
	}
	return false;
}

static bool parse_number(const char *text, unsigned long max, unsigned long *number)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	*number = strtoul(text, &end, 10);
	return !errno && !*end && *number <= max;
}

static int read_information(const char *info_dir, const char *entry, struct ds_gpu *gpu,
			    struct ds_error *err)
{
	char path[PATH_MAX], text[INFO_MAX], minor[16];
	unsigned long number;

	snprintf(path, sizeof(path), "%.3000s/%.255s/information", info_dir, entry);
	if (ds_read_text(path, 0, text, sizeof(text)) < 0)
		return ds_fail(err, "cannot read %s: %s", path, strerror(errno));
	if (!info_value(text, "Device Minor", minor, sizeof(minor)) ||
	    !parse_number(minor, 0xfffff, &number))
		return ds_fail(err, "%s has no usable line \"Device Minor:\"", path);
	if (!info_value(text, "GPU UUID", gpu->uuid, sizeof(gpu->uuid)) ||
	    strncmp(gpu->uuid, "GPU-", 4) || strchr(gpu->uuid, '/'))
		return ds_fail(err, "%s has no usable line \"GPU UUID:\"", path);
	if (!info_value(text, "Bus Location", gpu->pci, sizeof(gpu->pci)))
		snprintf(gpu->pci, sizeof(gpu->pci), "%.23s", entry);
	gpu->minor = (unsigned)number;
	return 0;
}

static int by_minor(const void *a, const void *b)
{
	unsigned left = ((const struct ds_gpu *)a)->minor;
	unsigned right = ((const struct ds_gpu *)b)->minor;
	return (left > right) - (left < right);
}

int ds_gpu_list(const char *info_dir, struct ds_gpu gpus[DS_GPUS_MAX], struct ds_error *err)
{
	const struct dirent *entry;
	int n = 0;

	DIR *dir = opendir(info_dir);
	if (!dir) {
		ds_fail(err,
			"cannot open %s: %s; is the NVIDIA driver loaded? (gpu_info_dir in "
			"detshare-node.conf)",
			info_dir, strerror(errno));
		return -1;
	}
	while ((entry = readdir(dir)) && n < DS_GPUS_MAX) {
		if (entry->d_name[0] == '.')
			continue;
		if (read_information(info_dir, entry->d_name, &gpus[n], err) < 0) {
			closedir(dir);
			return -1;
		}
		n++;
	}
	closedir(dir);
	qsort(gpus, (size_t)n, sizeof(gpus[0]), by_minor);
	return n;
}

int ds_gpu_find(const char *info_dir, const char *selector, struct ds_gpu *gpu,
		struct ds_error *err)
{
	struct ds_gpu gpus[DS_GPUS_MAX];
	char known[256] = "";
	unsigned long minor = 0;
	size_t used = 0;
	bool is_minor = parse_number(selector, 0xfffff, &minor);

	int n = ds_gpu_list(info_dir, gpus, err);
	if (n < 0)
		return -1;
	for (int i = 0; i < n; i++) {
		if (is_minor ? gpus[i].minor == minor : !strcasecmp(gpus[i].uuid, selector)) {
			*gpu = gpus[i];
			return 0;
		}
		if (used < sizeof(known) - 1)
			used += (size_t)snprintf(known + used, sizeof(known) - used, " %u=%s",
						 gpus[i].minor, gpus[i].uuid);
	}
	return ds_fail(err, "no GPU %.64s: %s lists%s", selector, info_dir, n ? known : " none");
}

bool ds_gpu_uuid_valid(const char *uuid)
{
	size_t length = strlen(uuid);

	if (length < 5 || length >= DS_UUID_SIZE || strncmp(uuid, "GPU-", 4))
		return false;
	return strspn(uuid + 4, "0123456789abcdefABCDEF-") == length - 4;
}

int ds_gpu_dir(const char *runtime_dir, const char *uuid, char *path, size_t size)
{
	int length = snprintf(path, size, "%s/gpu-%s", runtime_dir, uuid);
	return length < 0 || (size_t)length >= size ? -1 : 0;
}

int ds_boot_id(char boot_id[40], struct ds_error *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";

	if (ds_read_text(path, 0, boot_id, 40) < 0)
		return ds_fail(err, "cannot read %s: %s", path, strerror(errno));
	boot_id[strcspn(boot_id, "\n")] = '\0';
	return 0;
}

/* The one list of what is in a topology file; from it come the reader and the writer. */
static const struct field {
	const char *key;
	size_t offset;
	size_t size; /* of a text; 0: a number */
	uint32_t min, max;
} fields[] = {
#define TEXT(key, member)                                           \
	{                                                           \
		key, offsetof(struct ds_topology, member),          \
		    sizeof(((struct ds_topology *)0)->member), 0, 0 \
	}
#define NUMBER(key, member, min, max)                                  \
	{                                                              \
		key, offsetof(struct ds_topology, member), 0, min, max \
	}
    TEXT("boot_id", boot_id),
    TEXT("uuid", uuid),
    TEXT("pci", pci),
    TEXT("name", name),
    NUMBER("sm_count", sm_count, 1, 65535),
    NUMBER("memory_mib", memory_mib, 1, DS_SIZE_MIB_MAX),
    NUMBER("cuda", cuda, 1000, 999999),
    NUMBER("n_groups", shape.n_groups, 1, DS_GROUPS_MAX - 1),
    NUMBER("group_sms", shape.group_sms, 1, 65535),
    NUMBER("rest_sms", shape.rest_sms, 0, 65535),
    TEXT("cpus", cpus),
#undef TEXT
#undef NUMBER
};
enum { N_FIELDS = sizeof(fields) / sizeof(fields[0]) };

static int parse_field(char *line, struct ds_topology *topology, bool seen[N_FIELDS],
		       struct ds_error *err)
{
	char *value = strchr(line, '=');

	if (!value)
		return ds_fail(err, "line \"%.60s\" is not key=value", line);
	*value++ = '\0';
	for (size_t i = 0; i < N_FIELDS; i++) {
		char *member = (char *)topology + fields[i].offset;
		unsigned long number;
		if (strcmp(fields[i].key, line))
			continue;
		if (seen[i])
			return ds_fail(err, "%s comes twice", line);
		seen[i] = true;
		if (fields[i].size) {
			if (strlen(value) >= fields[i].size)
				return ds_fail(err, "%s is too long", line);
			strcpy(member, value);
			return 0;
		}
		if (!parse_number(value, fields[i].max, &number) || number < fields[i].min)
			return ds_fail(err, "%s=%.60s is out of range", line, value);
		*(uint32_t *)(void *)member = (uint32_t)number;
		return 0;
	}
	return ds_fail(err, "unknown key %.60s", line);
}

int ds_topology_parse(const char *text, struct ds_topology *topology, struct ds_error *err)
{
	bool seen[N_FIELDS] = {false};
	char copy[INFO_MAX];
	char *rest = copy;
	char *line;

	memset(topology, 0, sizeof(*topology));
	if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
		return ds_fail(err, "longer than %d bytes", INFO_MAX - 1);
	while ((line = strsep(&rest, "\n"))) {
		if (*line && parse_field(line, topology, seen, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < N_FIELDS; i++) {
		if (!seen[i])
			return ds_fail(err, "%s is missing", fields[i].key);
	}
	const struct ds_gpu_shape *shape = &topology->shape;
	if (shape->n_groups * shape->group_sms + shape->rest_sms != topology->sm_count)
		return ds_fail(err, "%u groups of %u SMs and %u more are not %u SMs",
			       shape->n_groups, shape->group_sms, shape->rest_sms,
			       topology->sm_count);
	return 0;
}

int ds_topology_read(const char *gpu_dir, const char *uuid, struct ds_topology *topology,
		     struct ds_error *err)
{
	char path[PATH_MAX], text[INFO_MAX], boot_id[40];

	if (ds_boot_id(boot_id, err) < 0)
		return -1;
	snprintf(path, sizeof(path), "%.4000s/topology", gpu_dir);
	if (ds_read_text(path, 0, text, sizeof(text)) < 0)
		return ds_fail(err, "cannot read %s: %s", path, strerror(errno));
	if (ds_topology_parse(text, topology, err) < 0)
		return ds_fail_within(err, "%s", path);
	if (strcmp(topology->boot_id, boot_id) || strcasecmp(topology->uuid, uuid))
		return ds_fail(err, "%s is of another boot or GPU", path);
	return 0;
}

static int write_topology(FILE *file, const struct ds_topology *topology)
{
	for (size_t i = 0; i < N_FIELDS; i++) {
		const char *member = (const char *)topology + fields[i].offset;
		if (fields[i].size)
			fprintf(file, "%s=%s\n", fields[i].key, member);
		else
			fprintf(file, "%s=%u\n", fields[i].key,
				*(const uint32_t *)(const void *)member);
	}
	return fflush(file) || ferror(file) ? -1 : fchmod(fileno(file), 0644);
}

int ds_topology_write(const char *gpu_dir, const struct ds_topology *topology, struct ds_error *err)
{
	char path[PATH_MAX], temporary[PATH_MAX];

	snprintf(path, sizeof(path), "%.4000s/topology", gpu_dir);
	/* Two probes may run at once: each writes a file of its own, the last one wins. */
	snprintf(temporary, sizeof(temporary), "%.4000s/topology.%d", gpu_dir, (int)getpid());
	FILE *file = fopen(temporary, "we");
	if (!file)
		return ds_fail(err, "cannot create %s: %s", temporary, strerror(errno));
	int rc = write_topology(file, topology);
	int reason = errno;
	if (fclose(file) && !rc) {
		rc = -1;
		reason = errno;
	}
	if (rc == 0 && rename(temporary, path) < 0) {
		rc = -1;
		reason = errno;
	}
	if (rc < 0) {
		unlink(temporary);
		return ds_fail(err, "cannot write %s: %s", path, strerror(reason));
	}
	return 0;
}

/* Parse "0-3,8" into a set. False when broken. */
static bool parse_cpus(const char *cpus, cpu_set_t *set)
{
	CPU_ZERO(set);
	while (*cpus) {
		char *end;
		unsigned long first = strtoul(cpus, &end, 10), last = first;
		if (end == cpus)
			return false;
		if (*end == '-') {
			cpus = end + 1;
			last = strtoul(cpus, &end, 10);
			if (end == cpus)
				return false;
		}
		for (unsigned long cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
			CPU_SET(cpu, set);
		if (*end && *end != ',')
			return false;
		cpus = end + (*end == ',');
	}
	return true;
}

void ds_bind_near(const char *cpus)
{
	cpu_set_t near, allowed;

	if (!parse_cpus(cpus, &near) || sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return;
	CPU_AND(&near, &near, &allowed);
	if (CPU_COUNT(&near))
		sched_setaffinity(0, sizeof(near), &near);
}
