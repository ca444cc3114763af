/* SPDX-License-Identifier: Apache-2.0 */
/* `detshare status`: options, and where to look. */
#include "noderuntime/command/status.h"

#include <argp.h>
#include <stdio.h>

#include "common/node_config.h"
#include "noderuntime/command/command.h"

enum { OPTION_JSON = 256, OPTION_CONFIG, OPTION_NODE_NAME };

struct arguments {
	bool json;
	const char *config;
	const char *node_name;
};

static const struct argp_option options[] = {
    {"json", OPTION_JSON, NULL, 0, "write one JSON object, for programs", 0},
    {"config", OPTION_CONFIG, "FILE", 0, "the node's configuration [detshare-node.conf]", 0},
    {"node-name", OPTION_NODE_NAME, "NAME", 0,
     "the node's name, where one machine runs several slurmds", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case OPTION_JSON:
		arguments->json = true;
		return 0;
	case OPTION_CONFIG:
		arguments->config = arg;
		return 0;
	case OPTION_NODE_NAME:
		arguments->node_name = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int ds_command_status(int argc, char **argv)
{
	static const struct argp argp = {
	    .options = options,
	    .parser = parse,
	    .doc =
		"Show the GPUs of this node that are shared: who has which SM groups of them, and "
		"who waits for whom."};
	struct arguments arguments = {0};
	struct ds_node_config config;
	struct ds_gpu_list list = {0};
	struct ds_error err = {""};
	int rv = DS_EXIT_FAILURE;

	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	if (ds_node_config_read(arguments.config, arguments.node_name, &config, &err) ||
	    ds_gpu_list_read(config.runtime_dir, &list, &err) ||
	    ds_gpu_list_ask(config.runtime_dir, &list, &err))
		goto fail;
	if (arguments.json ? ds_status_json(&list, config.runtime_dir, &err)
			   : ds_status_text(&list, config.runtime_dir, &err))
		goto fail;
	rv = 0;
	for (uint32_t i = 0; i < list.n; i++) {
		if (!list.gpus[i].reason.text[0])
			continue;
		fprintf(stderr, "%s: GPU %s: %s\n", argv[0], list.gpus[i].uuid,
			list.gpus[i].reason.text);
		rv = DS_EXIT_FAILURE;
	}
	ds_gpu_list_free(&list);
	return rv;
fail:
	fprintf(stderr, "%s: %s\n", argv[0], err.text);
	ds_gpu_list_free(&list);
	return rv;
}
