/* SPDX-License-Identifier: Apache-2.0 */
/* `detshare plan`: the node runtime's own plan, for a list of requests and a GPU that need not be
 * here. */
#include <argp.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gres/request.h"
#include "noderuntime/command/command.h"
#include "noderuntime/command/table.h"
#include "noderuntime/plan.h"

enum { OPTION_JSON = 256, OPTION_GPU_SMS, OPTION_GROUP_SMS, OPTION_SHAPE };
enum { GROUPS_TEXT_SIZE = 512, SMS_MAX = 4096 };

struct arguments {
	bool json;
	uint32_t gpu_sms;
	uint32_t group_sms;
	struct ds_gpu_shape shape; /* n_groups 0: from the two above */
	char **requests;
	int n_requests;
};

struct planned {
	struct ds_gpu_shape shape;
	uint32_t n;
	const char *texts[DS_RESIDENTS_MAX];
	struct ds_request requests[DS_RESIDENTS_MAX];
	struct ds_plan_resident residents[DS_RESIDENTS_MAX];
	struct ds_plan_partition partitions[DS_RESIDENTS_MAX];
};

static const struct argp_option options[] = {
    {"json", OPTION_JSON, NULL, 0, "write one JSON object, for programs", 0},
    {"gpu-sms", OPTION_GPU_SMS, "N", 0, "SMs of the GPU [132, an H200 or H100 SXM]", 0},
    {"group-sms", OPTION_GROUP_SMS, "N", 0, "SMs of a group [8, as on compute capability 9.0]", 0},
    {"shape", OPTION_SHAPE, "GROUPS,GROUP_SMS,REST", 0,
     "how the driver divides the GPU, as detshare status shows it", 0},
    {0},
};

/* A number of 0 to `max` up to `end`, which is passed over. */
static int parse_number(const char **text, char end, uint32_t max, uint32_t *number)
{
	char *stop;
	unsigned long value = strtoul(*text, &stop, 10);

	if (**text < '0' || **text > '9' || *stop != end || value > max)
		return -1;
	*number = (uint32_t)value;
	*text = stop + (end ? 1 : 0);
	return 0;
}

static int parse_shape(const char *text, struct ds_gpu_shape *shape)
{
	if (parse_number(&text, ',', DS_GROUPS_MAX - 1, &shape->n_groups) ||
	    parse_number(&text, ',', SMS_MAX, &shape->group_sms) ||
	    parse_number(&text, '\0', SMS_MAX, &shape->rest_sms))
		return -1;
	return shape->n_groups && shape->group_sms ? 0 : -1;
}

static void need_number(const struct argp_state *state, const char *option, const char *arg,
			uint32_t *number)
{
	const char *text = arg;

	if (parse_number(&text, '\0', SMS_MAX, number) || !*number)
		argp_failure(state, DS_EXIT_USAGE, 0,
			     "%s needs a number of SMs, 1 to %d, not \"%s\"", option, SMS_MAX, arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case OPTION_JSON:
		arguments->json = true;
		return 0;
	case OPTION_GPU_SMS:
		need_number(state, "--gpu-sms", arg, &arguments->gpu_sms);
		return 0;
	case OPTION_GROUP_SMS:
		need_number(state, "--group-sms", arg, &arguments->group_sms);
		return 0;
	case OPTION_SHAPE:
		if (parse_shape(arg, &arguments->shape))
			argp_failure(
			    state, DS_EXIT_USAGE, 0,
			    "--shape needs groups (1 to %d), SMs of a group and SMs of the "
			    "rest, like 15,8,12, not \"%s\"",
			    DS_GROUPS_MAX - 1, arg);
		return 0;
	case ARGP_KEY_ARGS:
		arguments->requests = state->argv + state->next;
		arguments->n_requests = state->argc - state->next;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_failure(
		    state, DS_EXIT_USAGE, 0,
		    "no request given, such as 0.5 or latency:0.25 (see detshare help plan)");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/*
 * The driver does not always make as many groups as would fit, since groups do not cross the borders
 * inside the GPU: an H200 gives 15 of 8 and leaves 12. Known ones are here; the others are divided
 * as far as it goes.
 */
static int find_shape(const struct arguments *arguments, struct ds_gpu_shape *shape,
		      struct ds_error *err)
{
	static const struct ds_gpu_shape known[] = {{15, 8, 12}};
	uint32_t gpu_sms = arguments->gpu_sms;
	uint32_t group_sms = arguments->group_sms;

	*shape = arguments->shape;
	if (shape->n_groups)
		return 0;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		*shape = known[i];
		if (shape->group_sms == group_sms &&
		    shape->n_groups * group_sms + shape->rest_sms == gpu_sms)
			return 0;
	}
	*shape = (struct ds_gpu_shape){gpu_sms / group_sms, group_sms, gpu_sms % group_sms};
	if (shape->n_groups < 1 || shape->n_groups >= DS_GROUPS_MAX)
		return ds_fail(err,
			       "%" PRIu32 " SMs in groups of %" PRIu32 " are %" PRIu32
			       " groups: 1 to %d are possible",
			       gpu_sms, group_sms, shape->n_groups, DS_GROUPS_MAX - 1);
	return 0;
}

/* "0.5", "CLASS:0.5", or anything that --gres takes. Only the latter may leave the share out. */
static int parse_request(const char *text, struct ds_request *request, struct ds_error *err)
{
	const char *colon = strrchr(text, ':');
	char element[256];
	uint32_t share_milli;

	if (ds_tres_mentions(text, "detshare")) {
		if (ds_request_parse(text, request, err))
			return -1;
		return request->asks_share ? 0 : ds_fail(err, "%s: asks no share of a GPU", text);
	}
	if (ds_share_parse(colon ? colon + 1 : text, &share_milli, err))
		return -1;
	if ((size_t)snprintf(element, sizeof(element), "detshare:%s", text) >= sizeof(element))
		return ds_fail(err, "longer than %zu bytes", sizeof(element));
	return ds_request_parse(element, request, err);
}

/* Returns 0 or the exit status. */
static int read_requests(const struct arguments *arguments, struct planned *planned,
			 struct ds_error *err)
{
	uint32_t left_milli = DS_SHARE_MILLI_MAX;

	if (arguments->n_requests > DS_RESIDENTS_MAX) {
		ds_fail(err, "%d requests: one GPU takes at most %d", arguments->n_requests,
			DS_RESIDENTS_MAX);
		return DS_EXIT_FAILURE;
	}
	for (int i = 0; i < arguments->n_requests; i++) {
		const char *text = arguments->requests[i];
		struct ds_request *request = &planned->requests[i];
		char share[DS_SHARE_TEXT_SIZE];
		char left[DS_SHARE_TEXT_SIZE];

		if (parse_request(text, request, err)) {
			ds_fail_within(err, "request %d (%.40s)", i + 1, text);
			return DS_EXIT_USAGE;
		}
		if (request->share_milli > left_milli) {
			ds_fail(
			    err,
			    "request %d (%s) does not fit: it asks %s of the GPU and %s is left",
			    i + 1, text, ds_share_format(request->share_milli, share),
			    ds_share_format(left_milli, left));
			return DS_EXIT_FAILURE;
		}
		left_milli -= request->share_milli;
		planned->texts[i] = text;
		planned->residents[i].share_milli = request->share_milli;
		planned->residents[i].wish_milli = request->share_milli;
	}
	planned->n = (uint32_t)arguments->n_requests;
	return 0;
}

static uint32_t gpu_sms(const struct ds_gpu_shape *shape)
{
	return shape->n_groups * shape->group_sms + shape->rest_sms;
}

/* The part of the GPU's SMs, those shared in time counted by their weight; in ten-thousandths. */
static uint32_t part(const struct planned *planned, uint32_t i)
{
	const struct ds_plan_partition *partition = &planned->partitions[i];
	uint64_t sm_milli =
	    (uint64_t)ds_groups_sms(&partition->groups, &planned->shape) * partition->weight_milli;
	uint64_t gpu_milli = (uint64_t)gpu_sms(&planned->shape) * 1000;

	return gpu_milli ? (uint32_t)((sm_milli * 10000 + gpu_milli / 2) / gpu_milli) : 0;
}

static int print_text(const struct planned *planned, struct ds_error *err)
{
	static const struct ds_table_column columns[] = {
	    {"REQUEST", false}, {"CLASS", false}, {"SHARE", true},  {"GROUPS", false},
	    {"SMS", true},      {"WEIGHT", true}, {"OF-GPU", true},
	};
	struct libscols_table *table = ds_table_new(columns, sizeof(columns) / sizeof(columns[0]));
	int rc = table ? 0 : -1;

	printf("%" PRIu32 " SMs: %" PRIu32 " groups of %" PRIu32, gpu_sms(&planned->shape),
	       planned->shape.n_groups, planned->shape.group_sms);
	if (planned->shape.rest_sms)
		printf(" and a rest of %" PRIu32, planned->shape.rest_sms);
	putchar('\n');
	for (uint32_t i = 0; !rc && i < planned->n; i++) {
		const struct ds_request *request = &planned->requests[i];
		const struct ds_plan_partition *partition = &planned->partitions[i];
		char share[DS_SHARE_TEXT_SIZE];
		char groups[GROUPS_TEXT_SIZE];
		char sms[16];
		char weight[DS_SHARE_TEXT_SIZE];
		char percent[16];

		snprintf(sms, sizeof(sms), "%u",
			 ds_groups_sms(&partition->groups, &planned->shape));
		snprintf(percent, sizeof(percent), "%.1f%%", part(planned, i) / 100.0);
		const char *cells[] = {
		    planned->texts[i],
		    request->class_name[0] ? request->class_name : "-",
		    ds_share_format(request->share_milli, share),
		    ds_groups_format(&partition->groups, &planned->shape, groups, sizeof(groups)),
		    sms,
		    ds_share_format(partition->weight_milli, weight),
		    percent,
		};
		rc = ds_table_add(table, cells, sizeof(cells) / sizeof(cells[0]));
	}
	if (!rc)
		rc = scols_print_table(table);
	scols_unref_table(table);
	return rc ? ds_fail(err, "cannot make the table: out of memory") : 0;
}

static int print_json(const struct planned *planned, struct ds_error *err)
{
	const struct ds_gpu_shape *shape = &planned->shape;
	json_t *list = json_array();

	for (uint32_t i = 0; i < planned->n; i++) {
		const struct ds_plan_partition *partition = &planned->partitions[i];
		char groups[GROUPS_TEXT_SIZE];

		json_array_append_new(
		    list,
		    json_pack("{s:s, s:s, s:f, s:I, s:s, s:I, s:f, s:f}", "request",
			      planned->texts[i], "class", planned->requests[i].class_name, "share",
			      planned->requests[i].share_milli / 1000.0, "share_milli",
			      (json_int_t)planned->requests[i].share_milli, "groups",
			      ds_groups_format(&partition->groups, shape, groups, sizeof(groups)),
			      "sms", (json_int_t)ds_groups_sms(&partition->groups, shape), "weight",
			      partition->weight_milli / 1000.0, "percent_of_gpu",
			      part(planned, i) / 100.0));
	}
	json_t *all = json_pack("{s:{s:I, s:I, s:I, s:I}, s:o}", "shape", "sms",
				(json_int_t)gpu_sms(shape), "groups", (json_int_t)shape->n_groups,
				"group_sms", (json_int_t)shape->group_sms, "rest_sms",
				(json_int_t)shape->rest_sms, "partitions", list);
	if (!all || json_array_size(list) != planned->n ||
	    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6))) {
		json_decref(all);
		return ds_fail(err, "cannot write the plan as JSON");
	}
	json_decref(all);
	putchar('\n');
	return 0;
}

int ds_command_plan(int argc, char **argv)
{
	static const struct argp argp = {
	    .options = options,
	    .parser = parse,
	    .args_doc = "REQUEST...",
	    .doc =
		"Show which SM groups each of the requests would get if their jobs came to one GPU "
		"in this order.\v"
		"A REQUEST is a share (0.5), a class and a share (latency:0.25), or what --gres "
		"takes (detshare:throughput:500). Nothing is started and no GPU is needed."};
	static struct planned planned;
	struct arguments arguments = {.gpu_sms = 132, .group_sms = 8};
	struct ds_error err = {""};
	int rv = DS_EXIT_USAGE;

	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	if (find_shape(&arguments, &planned.shape, &err))
		goto fail;
	rv = read_requests(&arguments, &planned, &err);
	if (rv)
		goto fail;
	rv = DS_EXIT_FAILURE;
	if (ds_plan(&planned.shape, planned.residents, planned.n, planned.partitions, &err))
		goto fail;
	if (arguments.json ? print_json(&planned, &err) : print_text(&planned, &err))
		goto fail;
	return 0;
fail:
	fprintf(stderr, "%s: %s\n", argv[0], err.text);
	return rv;
}
