/* SPDX-License-Identifier: Apache-2.0 */
/* detshare-usaged: options and dispatch only; the work is in send.c, collect.c and list.c. */
#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "accounting/collect.h"
#include "accounting/collector_config.h"
#include "accounting/list.h"
#include "accounting/log.h"
#include "accounting/send.h"
#include "common/node_config.h"
#include "config.h"

enum {
	OPTION_COLLECTOR_CONFIG = 256,
	OPTION_FOR,
	OPTION_ONCE,
	OPTION_JSON,
	OPTION_LISTEN,
	OPTION_MUNGE_SOCKET,
	OPTION_SLURM_CONF,
	OPTION_GRACE,
	SECONDS_MAX = 30 * 86400,
};

struct arguments {
	const char *config, *node_name, *collector_config;
	bool once, as_json;
	unsigned for_s;
	/* Overrides of the collector's configuration; NULL: none. */
	const char *listen, *port, *state_dir, *munge_socket, *slurm_conf, *cluster, *grace;
};

static unsigned parse_number(struct argp_state *state, const char *option, const char *text,
			     unsigned long max)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || number > max)
		argp_error(state, "--%s %s: a number from 0 to %lu is expected", option, text, max);
	return (unsigned)number;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'c':
		arguments->config = arg;
		break;
	case 'N':
		arguments->node_name = arg;
		break;
	case 'p':
		parse_number(state, "port", arg, 65535);
		arguments->port = arg;
		break;
	case 's':
		arguments->state_dir = arg;
		break;
	case OPTION_COLLECTOR_CONFIG:
		arguments->collector_config = arg;
		break;
	case OPTION_FOR:
		arguments->for_s = parse_number(state, "for", arg, SECONDS_MAX);
		break;
	case OPTION_ONCE:
		arguments->once = true;
		break;
	case OPTION_JSON:
		arguments->as_json = true;
		break;
	case OPTION_LISTEN:
		arguments->listen = arg;
		break;
	case OPTION_MUNGE_SOCKET:
		arguments->munge_socket = arg;
		break;
	case OPTION_SLURM_CONF:
		arguments->slurm_conf = arg;
		break;
	case 'C':
		arguments->cluster = arg;
		break;
	case OPTION_GRACE:
		parse_number(state, "grace", arg, SECONDS_MAX);
		arguments->grace = arg;
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "%s: no further arguments are expected", arg);
		break;
	case ARGP_KEY_END:
		if (arguments->once && arguments->for_s)
			argp_error(state, "--once and --for exclude each other");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int fail(const struct ds_error *err)
{
	ds_log("%s", err->text);
	return EXIT_FAILURE;
}

static int command_send(const struct arguments *arguments)
{
	static struct ds_node_config config;
	struct ds_error err = {""};

	if (ds_node_config_read(arguments->config, arguments->node_name, &config, &err) < 0 ||
	    ds_send(&config, arguments->for_s, &err) < 0)
		return fail(&err);
	return EXIT_SUCCESS;
}

static int override(char *field, size_t size, const char *name, const char *value,
		    struct ds_error *err)
{
	if (value && snprintf(field, size, "%s", value) >= (int)size)
		return ds_fail(err, "--%s: longer than %zu characters", name, size - 1);
	return 0;
}

static int read_collector_config(const char *path, const struct arguments *arguments,
				 struct ds_collector_config *config, struct ds_error *err)
{
	if (ds_collector_config_read(path, config, err) < 0 ||
	    override(config->listen, sizeof(config->listen), "listen", arguments->listen, err) <
		0 ||
	    override(config->state_dir, sizeof(config->state_dir), "state-dir",
		     arguments->state_dir, err) < 0 ||
	    override(config->munge_socket, sizeof(config->munge_socket), "munge-socket",
		     arguments->munge_socket, err) < 0 ||
	    override(config->slurm_conf, sizeof(config->slurm_conf), "slurm-conf",
		     arguments->slurm_conf, err) < 0 ||
	    override(config->cluster, sizeof(config->cluster), "cluster", arguments->cluster, err) <
		0)
		return -1;
	if (arguments->port)
		config->port = (uint16_t)strtoul(arguments->port, NULL, 10);
	if (arguments->grace)
		config->grace_s = (uint32_t)strtoul(arguments->grace, NULL, 10);
	return 0;
}

static int command_collect(const struct arguments *arguments)
{
	static struct ds_collector_config config;
	struct ds_error err = {""};

	if (read_collector_config(arguments->config, arguments, &config, &err) < 0)
		return fail(&err);
	if (arguments->once) {
		int rc = ds_settle_once(&config, &err);
		if (rc < 0)
			return fail(&err);
		return rc == 0 ? EXIT_SUCCESS : EX_TEMPFAIL;
	}
	if (ds_collect(&config, arguments->for_s, &err) < 0)
		return fail(&err);
	return EXIT_SUCCESS;
}

static int command_list(const struct arguments *arguments)
{
	static struct ds_collector_config collector;
	static struct ds_node_config node;
	struct ds_error err = {""};

	if (ds_node_config_read(arguments->config, arguments->node_name, &node, &err) < 0 ||
	    read_collector_config(arguments->collector_config, arguments, &collector, &err) < 0 ||
	    ds_list(node.spool_dir, collector.state_dir, arguments->as_json, &err) < 0)
		return fail(&err);
	return EXIT_SUCCESS;
}

static const struct argp_option SEND_OPTIONS[] = {
    {"config", 'c', "FILE", 0, "detshare-node.conf", 0},
    {"node-name", 'N', "NAME", 0, "Name of this node, put in for %n in paths", 0},
    {"once", OPTION_ONCE, NULL, 0, "Try each record once (default)", 0},
    {"for", OPTION_FOR, "SECONDS", 0, "Try again for so long", 0},
    {0},
};

static const struct argp_option COLLECT_OPTIONS[] = {
    {"config", 'c', "FILE", 0, "detshare-usaged.conf", 0},
    {"once", OPTION_ONCE, NULL, 0, "Settle what is stored, once; do not listen", 0},
    {"for", OPTION_FOR, "SECONDS", 0, "End after so long (default: at SIGTERM)", 0},
    {"listen", OPTION_LISTEN, "ADDRESS", 0, "Address to listen on", 0},
    {"port", 'p', "PORT", 0, "TCP port to listen on", 0},
    {"state-dir", 's', "DIR", 0, "Where to keep records", 0},
    {"munge-socket", OPTION_MUNGE_SOCKET, "PATH", 0, "munged's socket", 0},
    {"slurm-conf", OPTION_SLURM_CONF, "FILE", 0, "slurm.conf, to find slurmdbd", 0},
    {"cluster", 'C', "NAME", 0, "Cluster of records that do not name one", 0},
    {"grace", OPTION_GRACE, "SECONDS", 0, "How long to wait for silent nodes of an ended job", 0},
    {0},
};

static const struct argp_option LIST_OPTIONS[] = {
    {"config", 'c', "FILE", 0, "detshare-node.conf", 0},
    {"node-name", 'N', "NAME", 0, "Name of this node, put in for %n in paths", 0},
    {"collector-config", OPTION_COLLECTOR_CONFIG, "FILE", 0, "detshare-usaged.conf", 0},
    {"json", OPTION_JSON, NULL, 0, "One JSON object instead of a table", 0},
    {0},
};

static const struct command {
	const char *name;
	int (*run)(const struct arguments *);
	struct argp argp;
} COMMANDS[] = {
    {"send",
     command_send,
     {.options = SEND_OPTIONS,
      .parser = parse_option,
      .doc = "Deliver this node's usage records to the collector."}},
    {"collect",
     command_collect,
     {.options = COLLECT_OPTIONS,
      .parser = parse_option,
      .doc = "Receive usage records and write them into Slurm's accounting."}},
    {"list",
     command_list,
     {.options = LIST_OPTIONS,
      .parser = parse_option,
      .doc = "Show the usage records that wait on this host."}},
};

/* argp looks for it: it must be seen from libc. */
__attribute__((visibility("default"))) const char *argp_program_version =
    "detshare-usaged " PACKAGE_VERSION;

static void print_usage(void)
{
	fputs("Usage: detshare-usaged send|collect|list [OPTION...]\n\n"
	      "  send      deliver this node's usage records to the collector\n"
	      "  collect   receive usage records and write them into Slurm's accounting\n"
	      "  list      show the usage records that wait on this host\n\n"
	      "`detshare-usaged COMMAND --help` lists a command's options; "
	      "see detshare-usaged(8).\n",
	      stdout);
}

int main(int argc, char **argv)
{
	struct arguments arguments = {0};
	char name[64];

	argp_err_exit_status = 2;
	if (argc > 1 && strcmp(argv[1], "--version") == 0) {
		puts(argp_program_version);
		return EXIT_SUCCESS;
	}
	if (argc > 1 && strcmp(argv[1], "--help") == 0) {
		print_usage();
		return EXIT_SUCCESS;
	}
	for (size_t i = 0; argc > 1 && i < sizeof(COMMANDS) / sizeof(COMMANDS[0]); i++) {
		if (strcmp(argv[1], COMMANDS[i].name) != 0)
			continue;
		/* argp names the program in its messages by argv[0]. */
		snprintf(name, sizeof(name), "detshare-usaged %s", COMMANDS[i].name);
		argv[1] = name;
		argp_parse(&COMMANDS[i].argp, argc - 1, argv + 1, 0, NULL, &arguments);
		return COMMANDS[i].run(&arguments);
	}
	if (argc > 1)
		fprintf(stderr, "detshare-usaged: no command \"%s\"; ", argv[1]);
	else
		fprintf(stderr, "detshare-usaged: no command given; ");
	fprintf(stderr, "there are send, collect, list (see detshare-usaged --help)\n");
	return 2;
}
