/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/command.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

/* argp looks for it: it must be seen from libc. */
__attribute__((visibility("default"))) const char *argp_program_version = PACKAGE_STRING;

static const struct command {
	const char *name;
	const char *title; /* argv[0] */
	int (*run)(int argc, char **argv);
} commands[] = {
    {"status", "detshare status", ds_command_status},
    {"plan", "detshare plan", ds_command_plan},
    {"run", "detshare run", ds_command_run},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static const char doc[] =
    "Share one GPU among several jobs.\v"
    "Commands:\n"
    "  status   who has which SM groups of this node's GPUs, and who waits for whom\n"
    "  plan     who would get which SM groups, for a list of requests\n"
    "  run      run a command on a share of a GPU, without Slurm\n"
    "\n"
    "`detshare help COMMAND' tells more about one.";

/* What comes before the command's name is ours, the rest is the command's. */
static error_t parse(int key, char *arg, struct argp_state *state)
{
	int *first = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		*first = state->next - 1;
		state->next = state->argc;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int unknown(const char *name)
{
	fprintf(stderr, "detshare: no command \"%s\"; there are", name);
	for (int i = 0; i < N_COMMANDS; i++)
		fprintf(stderr, "%s %s", i ? "," : "", commands[i].name);
	fprintf(stderr, " (see detshare --help)\n");
	return DS_EXIT_USAGE;
}

static int dispatch(int argc, char **argv)
{
	for (int i = 0; i < N_COMMANDS; i++) {
		if (strcmp(commands[i].name, argv[0]) != 0)
			continue;

		int rv = DS_EXIT_FAILURE;
		argv[0] = strdup(commands[i].title);
		if (argv[0])
			rv = commands[i].run(argc, argv);
		else
			fprintf(stderr, "detshare: %s\n", strerror(errno));
		free(argv[0]);
		if (fflush(stdout) || ferror(stdout)) {
			fprintf(stderr, "detshare %s: cannot write the output: %s\n",
				commands[i].name, strerror(errno));
			return DS_EXIT_FAILURE;
		}
		return rv;
	}
	return unknown(argv[0]);
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
	    .parser = parse, .args_doc = "COMMAND [ARGUMENT...]", .doc = doc};
	int first = argc;

	argp_err_exit_status = DS_EXIT_USAGE;
	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &first);
	if (first == argc) {
		fprintf(stderr, "detshare: no command given (see detshare --help)\n");
		return DS_EXIT_USAGE;
	}
	if (strcmp(argv[first], "help") == 0) {
		char help[] = "--help";
		char *name = first + 1 < argc ? argv[first + 1] : NULL;
		char *help_argv[] = {name, help, NULL};
		char *own_argv[] = {argv[0], help, NULL};

		if (name)
			return dispatch(2, help_argv);
		argp_parse(&argp, 2, own_argv, 0, NULL, &first);
	}
	return dispatch(argc - first, argv + first);
}
