/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <argp.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/allocation.h"
#include "noderuntime/commands.h"
#include "noderuntime/probe.h"

enum { EXIT_USAGE = 2, DEADLINE_MS = 3000, DEADLINE_MIN_MS = 100, DEADLINE_MAX_MS = 600000 };

enum {
	KEY_ALLOCATION = 'a',
	KEY_CONFIG = 'c',
	KEY_GPU = 'g',
	KEY_NODE_NAME = 'n',
	KEY_UID = 'u',
	KEY_DEADLINE = 0x100,
	KEY_GRANT,
	KEY_JOB_ID,
	KEY_OWNER,
	KEY_RESTART,
	KEY_RUNTIME_DIR,
};

struct arguments {
	const char *command;
	const char *config_path;
	const char *node_name;
	const char *runtime_dir;
	const char *grant;
	bool has_uid;
	unsigned long deadline_ms;
	struct ds_begin begin;
};

static const struct argp_option options[] = {
    {"allocation", KEY_ALLOCATION, "NAME", 0, "the allocation: job-123, run-4567", 0},
    {"config", KEY_CONFIG, "FILE", 0, "read FILE instead of detshare-node.conf", 0},
    {"deadline-ms", KEY_DEADLINE, "MS", 0, "be over within MS milliseconds (3000)", 0},
    {"gpu", KEY_GPU, "MINOR|UUID", 0, "begin: the GPU, by its device file's number or by UUID", 0},
    {"grant", KEY_GRANT, "TEXT", 0, "begin: what the controller granted", 0},
    {"job-id", KEY_JOB_ID, "N", 0, "begin: Slurm's number of the job", 0},
    {"node-name", KEY_NODE_NAME, "NAME", 0, "the node's name, for %n in paths", 0},
    {"owner-pid", KEY_OWNER, "PID", 0, "begin: end the allocation when process PID ends", 0},
    {"restart", KEY_RESTART, "N", 0, "begin: how often the job was restarted", 0},
    {"runtime-dir", KEY_RUNTIME_DIR, "DIR", 0, "instead of runtime_dir in the configuration", 0},
    {"uid", KEY_UID, "UID", 0, "begin: the user whose programs may use the allocation", 0},
    {0}};

static unsigned long parse_number(struct argp_state *state, const char *option, const char *text,
				  unsigned long min, unsigned long max)
{
	char *end;

	errno = 0;
	unsigned long number = strtoul(text, &end, 10);
	if (errno || end == text || *end || strchr(text, '-') || number < min || number > max)
		argp_failure(state, EXIT_USAGE, 0, "--%s %s: must be a number from %lu to %lu",
			     option, text, min, max);
	return number;
}

static void check_complete(struct argp_state *state, const struct arguments *arguments)
{
	const char *missing = NULL;

	if (!arguments->command) {
		argp_failure(state, EXIT_USAGE, 0, "what to do? begin, end or probe");
		return;
	}
	bool is_begin = !strcmp(arguments->command, "begin");
	if (!is_begin && strcmp(arguments->command, "end") != 0 &&
	    strcmp(arguments->command, "probe") != 0)
		argp_failure(state, EXIT_USAGE, 0,
			     "%s: no such command; there are begin, end and probe",
			     arguments->command);
	if (!strcmp(arguments->command, "probe"))
		return;
	if (!arguments->begin.allocation)
		missing = "allocation";
	else if (is_begin && !arguments->has_uid)
		missing = "uid";
	else if (is_begin && !arguments->begin.gpu)
		missing = "gpu";
	else if (is_begin && !arguments->grant)
		missing = "grant";
	if (missing)
		argp_failure(state, EXIT_USAGE, 0, "%s needs --%s", arguments->command, missing);
	if (!ds_allocation_name_valid(arguments->begin.allocation))
		argp_failure(
		    state, EXIT_USAGE, 0,
		    "--allocation %s: must be at most %d letters, digits, '.', '_' or '-', "
		    "and not begin with '.', '-' or \"gpu-\"",
		    arguments->begin.allocation, DS_NAME_SIZE - 1);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	struct ds_begin *begin = &arguments->begin;

	switch (key) {
	case KEY_ALLOCATION:
		begin->allocation = arg;
		return 0;
	case KEY_CONFIG:
		arguments->config_path = arg;
		return 0;
	case KEY_DEADLINE:
		arguments->deadline_ms =
		    parse_number(state, "deadline-ms", arg, DEADLINE_MIN_MS, DEADLINE_MAX_MS);
		return 0;
	case KEY_GPU:
		begin->gpu = arg;
		return 0;
	case KEY_GRANT:
		arguments->grant = arg;
		return 0;
	case KEY_JOB_ID:
		begin->job_id = (uint32_t)parse_number(state, "job-id", arg, 1, UINT32_MAX);
		return 0;
	case KEY_NODE_NAME:
		arguments->node_name = arg;
		return 0;
	case KEY_OWNER:
		begin->owner = (pid_t)parse_number(state, "owner-pid", arg, 1, INT32_MAX);
		return 0;
	case KEY_RESTART:
		begin->restart = (uint32_t)parse_number(state, "restart", arg, 0, UINT32_MAX);
		return 0;
	case KEY_RUNTIME_DIR:
		arguments->runtime_dir = arg;
		return 0;
	case KEY_UID:
		begin->uid = (uint32_t)parse_number(state, "uid", arg, 0, UINT32_MAX - 1);
		arguments->has_uid = true;
		return 0;
	case ARGP_KEY_ARG:
		if (arguments->command)
			argp_failure(state, EXIT_USAGE, 0, "%s: too many arguments", arg);
		arguments->command = arg;
		return 0;
	case ARGP_KEY_END:
		check_complete(state, arguments);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* argp looks for it: it must be seen from libc. */
__attribute__((visibility("default"))) const char *argp_program_version =
    "detshare-noderuntime " PACKAGE_VERSION;

static int configure(struct arguments *arguments, struct ds_node_config *config,
		     struct ds_error *err)
{
	size_t size = sizeof(config->runtime_dir);

	if (ds_node_config_read(arguments->config_path, arguments->node_name, config, err) < 0)
		return -1;
	if (arguments->runtime_dir) {
		if (arguments->runtime_dir[0] != '/' || strlen(arguments->runtime_dir) >= size)
			return ds_fail(err, "--runtime-dir %s is not an absolute path",
				       arguments->runtime_dir);
		snprintf(config->runtime_dir, size, "%s", arguments->runtime_dir);
	}
	return 0;
}

static int run(struct arguments *arguments, const struct ds_node_config *config,
	       struct ds_error *err)
{
	struct ds_begin *begin = &arguments->begin;

	if (!strcmp(arguments->command, "probe"))
		return ds_probe(config, err);
	begin->deadline = ds_deadline_in((int64_t)arguments->deadline_ms);
	if (!strcmp(arguments->command, "end"))
		return ds_end(config, begin->allocation, begin->deadline, err);
	if (ds_grant_parse(arguments->grant, &begin->grant, err) < 0)
		return ds_fail_within(err, "--grant");
	if (geteuid() != 0 && begin->uid != geteuid())
		return ds_fail(err, "only root can begin an allocation for another user");
	begin->config = config;
	return ds_begin(begin, err);
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
	    options,
	    parse_option,
	    "begin|end|probe",
	    "Begin or end an allocation's part of a GPU on this node, or read the GPUs' topology."
	    "\vStarted by the SPANK plugin in job prolog and epilog, and by `detshare run`.",
	    NULL,
	    NULL,
	    NULL};
	struct arguments arguments = {.deadline_ms = DEADLINE_MS};
	struct ds_node_config config;
	struct ds_error err = {""};

	umask(022);
	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	/*
	 * What happens after `begin` has returned goes to syslog: a file in the runtime directory would
	 * go with the allocation, just when somebody wants to read it. Until then, the caller gets one
	 * line on stderr and decides what to do with it.
	 */
	openlog("detshare-noderuntime", LOG_PID, LOG_DAEMON);
	if (configure(&arguments, &config, &err) < 0 || run(&arguments, &config, &err) < 0) {
		fprintf(stderr, "detshare-noderuntime: %s\n", err.text);
		return 1;
	}
	return 0;
}
