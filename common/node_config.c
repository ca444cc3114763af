/* SPDX-License-Identifier: Apache-2.0 */
#include "common/node_config.h"

#include <confuse.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/conf_number.h"
#include "common/conf_text.h"
#include "common/size.h"

/* What a value must look like: each is checked where it is read, so that a message has its line. */
enum key_kind {
	KEY_DIRECTORY, /* an absolute path */
	KEY_PROGRAM,   /* an absolute path, or a name to look for in PATH (or the loader's path) */
	KEY_OPTIONAL,  /* as KEY_PROGRAM, or "" */
	KEY_HOST,      /* a host's name or address, or "" */
	KEY_USER,      /* a user's name or number */
	KEY_ACTION,    /* "warn" or "end" */
	KEY_REFUSAL,   /* "refuse" or "run" */
	KEY_VICTIMS,   /* "record", "notify" or "requeue" */
};

/* The one list of string keys: from it come the parser, the checks and where the values go. */
static const struct key {
	const char *name;
	const char *value; /* default */
	size_t offset;
	size_t size;
	enum key_kind kind;
} keys[] = {
#define KEY(field, value, kind)                                        \
	{                                                              \
#field, value, offsetof(struct ds_node_config, field), \
		    sizeof(((struct ds_node_config *)0)->field), kind  \
	}
    KEY(runtime_dir, "/run/detshare", KEY_DIRECTORY),
    KEY(spool_dir, "/var/spool/detshare", KEY_DIRECTORY),
    KEY(coroutine_library, PKGLIBDIR "/libdetshare-cuda.so", KEY_DIRECTORY),
    KEY(noderuntime, SBINDIR "/detshare-noderuntime", KEY_DIRECTORY),
    KEY(policy_library, "", KEY_OPTIONAL),
    KEY(without_partition, "refuse", KEY_REFUSAL),
    KEY(usage_sender, SBINDIR "/detshare-usaged", KEY_DIRECTORY),
    KEY(usage_host, "", KEY_HOST),
    KEY(usage_user, "root", KEY_USER),
    KEY(munge_socket, "", KEY_OPTIONAL),
    KEY(gpu_info_dir, "/proc/driver/nvidia/gpus", KEY_DIRECTORY),
    KEY(gpu_device_prefix, "/dev/nvidia", KEY_DIRECTORY),
    KEY(cuda_library, "libcuda.so.1", KEY_PROGRAM),
    KEY(mps_control, "nvidia-cuda-mps-control", KEY_OPTIONAL),
    KEY(mps_pipe_dir, "", KEY_OPTIONAL),
    KEY(program_without_port, "warn", KEY_ACTION),
    KEY(on_no_acknowledgement, "end", KEY_ACTION),
    KEY(on_neighbour_fault, "record", KEY_VICTIMS),
    KEY(whole_gpu_kernels, "", KEY_OPTIONAL),
    KEY(hold_back_kernels, "", KEY_OPTIONAL),
    KEY(cgroup_root, "/sys/fs/cgroup", KEY_DIRECTORY),
#undef KEY
};
enum {
	N_KEYS = sizeof(keys) / sizeof(keys[0]),
	USAGE_PORT = 6829,
	SAMPLE_LAUNCHES = 512,
	OVERLONG_KERNEL_S = 5,
	ACKNOWLEDGE_DEADLINE_S = 300,
	NEIGHBOUR_FAULT_REQUEUES = 3,
	NEIGHBOUR_FAULT_REQUEUES_MAX = 1000,
	WHOLE_GPU_DEADLINE_MS = 2000,
	WHOLE_GPU_PATIENCE_MS = 60000,
	WHOLE_GPU_MS_MAX = 3600000,
	HOLD_BACK_MILLI = 250,
	HOLD_BACK_US = 5000,
	HOLD_BACK_US_MAX = 1000000,
	RECLAIM_SPIN_US = 500,
	RECLAIM_SPIN_US_MAX = 10000,
	RECLAIM_SPIN_CPUS = 3,
	RECLAIM_SPIN_CPUS_MAX = 1024,
};

/* Sizes of memory, written as ds_size_parse() reads them; "0": none. */
static const struct size_key {
	const char *name;
	uint32_t mib; /* default */
	size_t offset;
} size_keys[] = {
    {"memory_reserve", 1024, offsetof(struct ds_node_config, memory_reserve_mib)},
    {"memory_per_program", 640, offsetof(struct ds_node_config, memory_per_program_mib)},
};
enum { N_SIZE_KEYS = sizeof(size_keys) / sizeof(size_keys[0]) };

/* libconfuse's callbacks carry no pointer of ours. Its lexer is global too, so nothing is lost. */
static struct ds_error *parse_error;
static const char *parse_node_name;
static const char *parse_name;

static void __attribute__((format(printf, 2, 0)))
on_error(cfg_t *cfg, const char *format, va_list args)
{
	struct ds_error text;

	if (!parse_error || parse_error->text[0])
		return; /* the first reason is the cause; what follows are its consequences */
	vsnprintf(text.text, sizeof(text.text), format, args);
	ds_fail(parse_error, "%s:%d: %s", parse_name, cfg->line, text.text);
}

/* Put the node's name in for every %n. Returns false when `size` is too small. */
static bool expand(const char *value, const char *node_name, char *out, size_t size)
{
	size_t used = 0;

	for (const char *c = value; *c; c++) {
		bool name = c[0] == '%' && c[1] == 'n';
		const char *piece = name ? node_name : c;
		size_t length = name ? strlen(node_name) : 1;
		if (length >= size - used)
			return false;
		memcpy(out + used, piece, length);
		used += length;
		c += name;
	}
	out[used] = '\0';
	return true;
}

static const struct key *find_key(const char *name)
{
	for (size_t i = 0; i < N_KEYS; i++) {
		if (!strcmp(keys[i].name, name))
			return &keys[i];
	}
	return NULL;
}

static int check_string(cfg_t *cfg, cfg_opt_t *opt)
{
	const struct key *key = find_key(opt->name);
	const char *value = cfg_opt_getnstr(opt, 0);
	char expanded[PATH_MAX];

	if (!key || !value)
		return 0;
	for (const char *c = value; *c; c++) {
		/* Values go into files of lines (task.env) and into messages of one line. */
		if ((unsigned char)*c < 0x20 || *c == 0x7f) {
			cfg_error(cfg, "%s holds a control character", key->name);
			return -1;
		}
	}
	if (!*value && key->kind != KEY_OPTIONAL && key->kind != KEY_HOST) {
		cfg_error(cfg, "%s is empty", key->name);
		return -1;
	}
	if (key->kind == KEY_ACTION && strcmp(value, "warn") != 0 && strcmp(value, "end") != 0) {
		cfg_error(cfg, "%s = \"%s\" is neither \"warn\" nor \"end\"", key->name, value);
		return -1;
	}
	if (*value != '/' && (key->kind == KEY_DIRECTORY || strchr(value, '/')) &&
	    key->kind != KEY_HOST) {
		cfg_error(cfg, "%s = \"%s\" is not an absolute path", key->name, value);
		return -1;
	}
	if (key->kind == KEY_REFUSAL && strcmp(value, "refuse") != 0 && strcmp(value, "run") != 0) {
		cfg_error(cfg, "%s = \"%s\" is neither \"refuse\" nor \"run\"", key->name, value);
		return -1;
	}
	if (key->kind == KEY_VICTIMS && strcmp(value, "record") != 0 &&
	    strcmp(value, "notify") != 0 && strcmp(value, "requeue") != 0) {
		cfg_error(cfg, "%s = \"%s\" is none of \"record\", \"notify\" and \"requeue\"",
			  key->name, value);
		return -1;
	}
	if (!expand(value, parse_node_name, expanded, key->size)) {
		cfg_error(cfg, "%s is longer than %zu characters", key->name, key->size - 1);
		return -1;
	}
	return 0;
}

static int check_port(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_number(cfg, opt, 1, UINT16_MAX, "a TCP port");
}

static int check_sample(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_number(cfg, opt, 0, DS_SAMPLE_LAUNCHES_MAX, "a number of launches");
}

static int check_overlong(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_number(cfg, opt, 0, DS_OVERLONG_KERNEL_S_MAX, "a number of seconds");
}

static int check_acknowledge(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_number(cfg, opt, 0, DS_ACKNOWLEDGE_DEADLINE_S_MAX, "a number of seconds");
}

static int check_requeues(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_number(cfg, opt, 0, NEIGHBOUR_FAULT_REQUEUES_MAX, "a number of times");
}

static int check_whole_gpu(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_within(cfg, opt, WHOLE_GPU_MS_MAX, "milliseconds");
}

static uint32_t milli_of(double part)
{
	return part > 0 && part <= 1 ? (uint32_t)(part * 1000 + 0.5) : 0;
}

static int check_hold_back_most(cfg_t *cfg, cfg_opt_t *opt)
{
	double part = cfg_opt_getnfloat(opt, 0);

	if (!milli_of(part)) {
		cfg_error(cfg, "hold_back_most = %g is not a part of the time (0.001 to 1)", part);
		return -1;
	}
	return 0;
}

static int check_hold_back_us(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_within(cfg, opt, HOLD_BACK_US_MAX, "microseconds");
}

static int check_reclaim_spin_us(cfg_t *cfg, cfg_opt_t *opt)
{
	long us = cfg_opt_getnint(opt, 0);

	return us == 0 ? 0
		       : ds_conf_within(cfg, opt, RECLAIM_SPIN_US_MAX,
					"microseconds (or 0: nobody does)");
}

static int check_reclaim_spin_cpus(cfg_t *cfg, cfg_opt_t *opt)
{
	return ds_conf_within(cfg, opt, RECLAIM_SPIN_CPUS_MAX, "CPUs");
}

static int parse_size(const char *text, uint32_t *mib, struct ds_error *err)
{
	*mib = 0;
	return strcmp(text, "0") == 0 ? 0 : ds_size_parse(text, mib, err);
}

static int check_size(cfg_t *cfg, cfg_opt_t *opt)
{
	struct ds_error reason = {""};
	uint32_t mib;

	if (parse_size(cfg_opt_getnstr(opt, 0), &mib, &reason) == 0)
		return 0;
	cfg_error(cfg, "%s: %s", opt->name, reason.text);
	return -1;
}

static uint32_t *size_of(struct ds_node_config *config, const struct size_key *key)
{
	return (uint32_t *)(void *)((char *)config + key->offset);
}

static int parse(const char *text, const char *name, struct ds_node_config *config,
		 struct ds_error *err)
{
	const cfg_opt_t others[] = {
	    CFG_INT("usage_port", USAGE_PORT, CFGF_NONE),
	    CFG_INT("sample_launches", SAMPLE_LAUNCHES, CFGF_NONE),
	    CFG_INT("overlong_kernel_s", OVERLONG_KERNEL_S, CFGF_NONE),
	    CFG_INT("acknowledge_deadline_s", ACKNOWLEDGE_DEADLINE_S, CFGF_NONE),
	    CFG_INT("neighbour_fault_requeues", NEIGHBOUR_FAULT_REQUEUES, CFGF_NONE),
	    CFG_BOOL("move_programs", cfg_true, CFGF_NONE),
	    CFG_INT("whole_gpu_deadline_ms", WHOLE_GPU_DEADLINE_MS, CFGF_NONE),
	    CFG_INT("whole_gpu_patience_ms", WHOLE_GPU_PATIENCE_MS, CFGF_NONE),
	    CFG_BOOL("realtime", cfg_false, CFGF_NONE),
	    CFG_INT("reclaim_spin_us", RECLAIM_SPIN_US, CFGF_NONE),
	    CFG_INT("reclaim_spin_cpus", RECLAIM_SPIN_CPUS, CFGF_NONE),
	    CFG_BOOL("hold_back", cfg_false, CFGF_NONE),
	    CFG_FLOAT("hold_back_most", HOLD_BACK_MILLI / 1000.0, CFGF_NONE),
	    CFG_INT("hold_back_us", HOLD_BACK_US, CFGF_NONE),
	    CFG_END(),
	};
	cfg_opt_t options[N_KEYS + N_SIZE_KEYS + sizeof(others) / sizeof(others[0])];
	struct ds_error reason = {""};

	for (size_t i = 0; i < N_KEYS; i++)
		options[i] = (cfg_opt_t)CFG_STR(keys[i].name, NULL, CFGF_NODEFAULT);
	for (size_t i = 0; i < N_SIZE_KEYS; i++)
		options[N_KEYS + i] = (cfg_opt_t)CFG_STR(size_keys[i].name, NULL, CFGF_NODEFAULT);
	memcpy(&options[N_KEYS + N_SIZE_KEYS], others, sizeof(others));

	cfg_t *cfg = cfg_init(options, CFGF_NONE);
	if (!cfg)
		return ds_fail(err, "%s: out of memory", name);
	parse_error = &reason;
	parse_node_name = config->node_name;
	parse_name = name;
	cfg_set_error_function(cfg, on_error);
	for (size_t i = 0; i < N_KEYS; i++)
		cfg_set_validate_func(cfg, keys[i].name, check_string);
	for (size_t i = 0; i < N_SIZE_KEYS; i++)
		cfg_set_validate_func(cfg, size_keys[i].name, check_size);
	cfg_set_validate_func(cfg, "usage_port", check_port);
	cfg_set_validate_func(cfg, "sample_launches", check_sample);
	cfg_set_validate_func(cfg, "overlong_kernel_s", check_overlong);
	cfg_set_validate_func(cfg, "acknowledge_deadline_s", check_acknowledge);
	cfg_set_validate_func(cfg, "neighbour_fault_requeues", check_requeues);
	cfg_set_validate_func(cfg, "whole_gpu_deadline_ms", check_whole_gpu);
	cfg_set_validate_func(cfg, "whole_gpu_patience_ms", check_whole_gpu);
	cfg_set_validate_func(cfg, "reclaim_spin_us", check_reclaim_spin_us);
	cfg_set_validate_func(cfg, "reclaim_spin_cpus", check_reclaim_spin_cpus);
	cfg_set_validate_func(cfg, "hold_back_most", check_hold_back_most);
	cfg_set_validate_func(cfg, "hold_back_us", check_hold_back_us);

	int rc = cfg_parse_buf(cfg, text);
	if (rc != CFG_SUCCESS) {
		cfg_free(cfg);
		parse_error = NULL;
		if (!reason.text[0])
			return ds_fail(err, "%s: cannot be parsed", name);
		return ds_fail(err, "%s", reason.text);
	}
	for (size_t i = 0; i < N_KEYS; i++) {
		if (cfg_size(cfg, keys[i].name))
			expand(cfg_getstr(cfg, keys[i].name), config->node_name,
			       (char *)config + keys[i].offset, keys[i].size);
	}
	for (size_t i = 0; i < N_SIZE_KEYS; i++) {
		if (cfg_size(cfg, size_keys[i].name))
			parse_size(cfg_getstr(cfg, size_keys[i].name),
				   size_of(config, &size_keys[i]), NULL);
	}
	config->usage_port = (uint16_t)cfg_getint(cfg, "usage_port");
	config->sample_launches = (uint32_t)cfg_getint(cfg, "sample_launches");
	config->overlong_kernel_s = (uint32_t)cfg_getint(cfg, "overlong_kernel_s");
	config->move_programs = cfg_getbool(cfg, "move_programs") != cfg_false;
	config->acknowledge_deadline_s = (uint32_t)cfg_getint(cfg, "acknowledge_deadline_s");
	config->neighbour_fault_requeues = (uint32_t)cfg_getint(cfg, "neighbour_fault_requeues");
	config->whole_gpu_deadline_ms = (uint32_t)cfg_getint(cfg, "whole_gpu_deadline_ms");
	config->whole_gpu_patience_ms = (uint32_t)cfg_getint(cfg, "whole_gpu_patience_ms");
	config->realtime = cfg_getbool(cfg, "realtime") != cfg_false;
	config->reclaim_spin_us = (uint32_t)cfg_getint(cfg, "reclaim_spin_us");
	config->reclaim_spin_cpus = (uint32_t)cfg_getint(cfg, "reclaim_spin_cpus");
	config->hold_back = cfg_getbool(cfg, "hold_back") != cfg_false;
	config->hold_back_milli = milli_of(cfg_getfloat(cfg, "hold_back_most"));
	config->hold_back_us = (uint32_t)cfg_getint(cfg, "hold_back_us");
	cfg_free(cfg);
	parse_error = NULL;
	return 0;
}

/* The name becomes part of paths: nothing in it may leave the directory it is put in. */
static void set_node_name(struct ds_node_config *config, const char *node_name)
{
	char host[sizeof(config->node_name)] = "localhost";

	if (!node_name || !*node_name)
		node_name = secure_getenv("SLURMD_NODENAME");
	if (!node_name || !*node_name) {
		if (gethostname(host, sizeof(host) - 1) < 0)
			snprintf(host, sizeof(host), "localhost");
		host[strcspn(host, ".")] = '\0';
		node_name = host;
	}
	snprintf(config->node_name, sizeof(config->node_name), "%s", node_name);
	for (char *c = config->node_name; *c; c++) {
		if ((unsigned char)*c < 0x21 || *c == '/' || *c == '%' || *c == 0x7f ||
		    (*c == '.' && c == config->node_name))
			*c = '_';
	}
}

void ds_node_config_defaults(struct ds_node_config *config, const char *node_name)
{
	memset(config, 0, sizeof(*config));
	set_node_name(config, node_name);
	for (size_t i = 0; i < N_KEYS; i++)
		snprintf((char *)config + keys[i].offset, keys[i].size, "%s", keys[i].value);
	for (size_t i = 0; i < N_SIZE_KEYS; i++)
		*size_of(config, &size_keys[i]) = size_keys[i].mib;
	config->usage_port = USAGE_PORT;
	config->sample_launches = SAMPLE_LAUNCHES;
	config->overlong_kernel_s = OVERLONG_KERNEL_S;
	config->move_programs = true;
	config->acknowledge_deadline_s = ACKNOWLEDGE_DEADLINE_S;
	config->neighbour_fault_requeues = NEIGHBOUR_FAULT_REQUEUES;
	config->whole_gpu_deadline_ms = WHOLE_GPU_DEADLINE_MS;
	config->whole_gpu_patience_ms = WHOLE_GPU_PATIENCE_MS;
	config->reclaim_spin_us = RECLAIM_SPIN_US;
	config->reclaim_spin_cpus = RECLAIM_SPIN_CPUS;
	config->hold_back_milli = HOLD_BACK_MILLI;
	config->hold_back_us = HOLD_BACK_US;
}

int ds_node_config_parse(const char *text, const char *name, const char *node_name,
			 struct ds_node_config *config, struct ds_error *err)
{
	ds_node_config_defaults(config, node_name);

	struct ds_node_config parsed = *config;
	if (parse(text, name, &parsed, err) < 0)
		return -1;
	*config = parsed;
	return 0;
}

int ds_node_config_read(const char *path, const char *node_name, struct ds_node_config *config,
			struct ds_error *err)
{
	const char *given = path ? path : secure_getenv("DETSHARE_NODE_CONF");
	const char *file = given ? given : SYSCONFDIR "/detshare/detshare-node.conf";
	struct ds_error reason = {""};

	ds_node_config_defaults(config, node_name);
	int rv = -1;
	char *text = ds_conf_read(file, true, &reason);
	if (text) {
		ds_conf_blank_comments(text);
		rv = ds_node_config_parse(text, file, node_name, config, &reason);
		if (rv == 0 && !realpath(file, config->file))
			rv = ds_fail(&reason, "cannot resolve %s: %s", file, strerror(errno));
	} else if (errno == ENOENT && !given) {
		rv = 0;
	}
	free(text);
	return rv < 0 ? ds_fail(err, "%s", reason.text) : 0;
}
