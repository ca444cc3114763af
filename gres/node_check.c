/* SPDX-License-Identifier: Apache-2.0 */
#include "gres/node_check.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "gres/request.h"
#include "gres/slurm_compat.h"

enum { VALUE_SIZE = 1024, LINE_SIZE = 4096, MINORS_MAX = 64 };

/* The keys of one line of gres.conf that matter here; "" if absent. */
struct line {
	char node_name[VALUE_SIZE];
	char name[VALUE_SIZE];
	char type[VALUE_SIZE];
	char file[VALUE_SIZE];
	char count[VALUE_SIZE];
	char cores[VALUE_SIZE];
	char auto_detect[VALUE_SIZE];
	bool includes; /* "Include": the rest of the truth is elsewhere */
};

struct check {
	const char *node_name;
	const struct ds_node_gpus *gpus;
	void (*warn)(void *arg, const char *line);
	void *arg;
	unsigned n_warnings;
	unsigned n_gpus;       /* device files */
	unsigned n_vague_gpus; /* of them, without Type= and Cores= */
	uint64_t n_shards;
	bool has_shards;
	bool unknown_gpus; /* AutoDetect finds them, or another file names them */
};

static void __attribute__((format(printf, 2, 3)))
report(struct check *check, const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	check->n_warnings++;
	check->warn(check->arg, line);
}

/* Cut one logical line (comments gone, continuation lines joined) off `*text`. */
static bool next_line(const char **text, char *line, size_t size)
{
	size_t used = 0;

	if (!**text)
		return false;
	for (bool more = true; more && **text;) {
		size_t length = strcspn(*text, "\n");
		size_t kept = strcspn(*text, "#\n");
		more = kept == length && kept > 0 && (*text)[kept - 1] == '\\';
		if (more)
			kept--;
		if (kept > size - used - 1)
			kept = size - used - 1;
		memcpy(line + used, *text, kept);
		used += kept;
		*text += length;
		*text += **text == '\n';
	}
	line[used] = '\0';
	return true;
}

static void parse_line(char *text, struct line *line)
{
	const struct {
		const char *key;
		char *value;
	} keys[] = {
	    {"NodeName", line->node_name}, {"Name", line->name},
	    {"Type", line->type},          {"File", line->file},
	    {"Count", line->count},        {"Cores", line->cores},
	    {"CPUs", line->cores},         {"AutoDetect", line->auto_detect},
	};
	char *rest = NULL;

	memset(line, 0, sizeof(*line));
	for (char *word = strtok_r(text, " \t\r", &rest); word;
	     word = strtok_r(NULL, " \t\r", &rest)) {
		char *value = strchr(word, '=');
		if (!value) {
			line->includes = line->includes || strcasecmp(word, "Include") == 0;
			continue;
		}
		*value++ = '\0';
		size_t length = strlen(value);
		if (length >= 2 && value[0] == '"' && value[length - 1] == '"') {
			value[length - 1] = '\0';
			value++;
		}
		for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
			if (strcasecmp(word, keys[i].key) == 0)
				snprintf(keys[i].value, VALUE_SIZE, "%s", value);
	}
}

static bool is_for_node(const struct line *line, const char *node_name)
{
	if (!line->node_name[0])
		return true;
	ds_slurm_hostlist_t nodes = slurm_hostlist_create(line->node_name);
	if (!nodes)
		return false;
	bool found = slurm_hostlist_find(nodes, node_name) >= 0;
	slurm_hostlist_destroy(nodes);
	return found;
}

/* A count with Slurm's binary suffixes; 0 if it is none. */
static uint64_t parse_count(const char *text)
{
	static const char suffixes[] = "kmgtp";
	char *end;
	uint64_t count = strtoull(text, &end, 10);
	const char *suffix = *end ? strchr(suffixes, *end | 0x20) : NULL;

	if (end == text || (*end && (!suffix || end[1])))
		return 0;
	return suffix ? count << (10 * (suffix - suffixes + 1)) : count;
}

static void check_gpu_file(struct check *check, const char *file)
{
	const char *prefix = check->gpus->device_prefix;
	size_t length = strlen(prefix);
	char *end = NULL;
	unsigned long minor = 0;

	check->n_gpus++;
	if (strncmp(file, prefix, length) == 0 && file[length])
		minor = strtoul(file + length, &end, 10);
	if (!end || *end) {
		report(check,
		       "gres.conf: File=%s of node %s is not %s and a number, which is what "
		       "gpu_device_prefix in detshare-node.conf says; correct one of them",
		       file, check->node_name, prefix);
		return;
	}
	if (minor >= MINORS_MAX || !(check->gpus->minors >> minor & 1))
		report(check,
		       "gres.conf: File=%s of node %s, but the driver lists no GPU with minor "
		       "number %lu "
		       "in %s; correct File=, or look for the missing GPU",
		       file, check->node_name, minor, check->gpus->info_dir);
}

static void check_gpu_line(struct check *check, const struct line *line)
{
	ds_slurm_hostlist_t files;
	char *file;
	unsigned before = check->n_gpus;

	if (!line->file[0]) {
		check->unknown_gpus = true;
		return;
	}
	/* Slurm writes device files as it writes hosts: /dev/nvidia[0-3]. */
	files = slurm_hostlist_create(line->file);
	if (!files)
		return;
	while ((file = slurm_hostlist_shift(files))) {
		check_gpu_file(check, file);
		free(file);
	}
	slurm_hostlist_destroy(files);
	if (!line->type[0] && !line->cores[0])
		check->n_vague_gpus += check->n_gpus - before;
}

static void check_totals(struct check *check)
{
	uint64_t whole = (uint64_t)check->n_gpus * DS_SHARE_MILLI_MAX;

	if (check->has_shards && !check->unknown_gpus && check->n_gpus &&
	    (check->n_shards < whole || check->n_shards % check->n_gpus))
		report(check,
		       "gres.conf: %" PRIu64
		       " shards on the %u GPUs of node %s, but a share counts "
		       "thousandths: write Name=shard Count=%" PRIu64,
		       check->n_shards, check->n_gpus, check->node_name, whole);
	/* Fixed in Slurm 23.11. */
	if (!DS_SLURM_SINCE(23, 11) && check->n_vague_gpus)
		report(check,
		       "gres.conf: the GPUs of node %s have neither Type= nor Cores=, and so this "
		       "Slurm "
		       "puts gpu jobs onto GPUs that shares fill; add Type=",
		       check->node_name);
}

unsigned ds_node_check(const char *text, const char *node_name, const struct ds_node_gpus *gpus,
		       void (*warn)(void *arg, const char *line), void *arg)
{
	struct check check = {.node_name = node_name, .gpus = gpus, .warn = warn, .arg = arg};
	char raw[LINE_SIZE];
	struct line line;

	while (next_line(&text, raw, sizeof(raw))) {
		parse_line(raw, &line);
		if (line.includes ||
		    (line.auto_detect[0] && strcasecmp(line.auto_detect, "off") != 0))
			check.unknown_gpus = true;
		if (!line.name[0] || !is_for_node(&line, node_name))
			continue;
		if (strcasecmp(line.name, "gpu") == 0) {
			check_gpu_line(&check, &line);
		} else if (strcasecmp(line.name, "shard") == 0) {
			check.has_shards = true;
			check.n_shards += parse_count(line.count);
		} else if (strcasecmp(line.name, "detshare") == 0 && !line.type[0]) {
			report(&check,
			       "gres.conf: a detshare line of node %s has no Type=, but each class "
			       "is a "
			       "type: write one line per class, such as Type=throughput",
			       node_name);
		}
	}
	check_totals(&check);
	return check.n_warnings;
}

uint64_t ds_node_gpu_minors(const char *info_dir)
{
	uint64_t minors = 0;
	struct dirent *entry;
	DIR *dir = opendir(info_dir);

	while (dir && (entry = readdir(dir))) {
		char path[4096], text[256];
		unsigned minor;
		if (entry->d_name[0] == '.')
			continue;
		if (snprintf(path, sizeof(path), "%s/%s/information", info_dir, entry->d_name) >=
		    (int)sizeof(path))
			continue;
		FILE *file = fopen(path, "re");
		while (file && fgets(text, sizeof(text), file))
			if (sscanf(text, "Device Minor: %u", &minor) == 1 && minor < MINORS_MAX)
				minors |= UINT64_C(1) << minor;
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return minors;
}
