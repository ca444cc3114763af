/* SPDX-License-Identifier: Apache-2.0 */
#include "gres/rules.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"

enum { SHOWN_SIZE = 61 }; /* how much of an option's value a message repeats: "%.60s" */

/* Options that speak of whole GPUs, and what to do instead beside a share. */
static const struct conflict {
	size_t offset; /* of the value in struct ds_submission */
	const char *option;
	const char *instead;
} conflicts[] = {
#define CONFLICT(field, option, instead)                               \
	{                                                              \
		offsetof(struct ds_submission, field), option, instead \
	}
    CONFLICT(gpus, "--gpus", "a share brings its GPU with it; leave --gpus out"),
    CONFLICT(gpus_per_node, "--gpus-per-node",
	     "a share brings its GPU with it; leave --gpus-per-node out"),
    CONFLICT(gpus_per_socket, "--gpus-per-socket",
	     "a share brings its GPU with it; leave --gpus-per-socket out"),
    CONFLICT(gpus_per_task, "--gpus-per-task",
	     "the tasks of a job on one node use its one share; leave --gpus-per-task out"),
    CONFLICT(ntasks_per_gpu, "--ntasks-per-gpu", "use --ntasks-per-node instead"),
    CONFLICT(cpus_per_gpu, "--cpus-per-gpu", "use --cpus-per-task instead"),
    CONFLICT(mem_per_gpu, "--mem-per-gpu", "use --mem instead"),
    CONFLICT(gpu_bind, "--gpu-bind", "a share lies on one GPU; leave --gpu-bind out"),
    CONFLICT(gpu_freq, "--gpu-freq", "other jobs run on the same GPU; leave --gpu-freq out"),
#undef CONFLICT
};
enum { N_CONFLICTS = sizeof(conflicts) / sizeof(conflicts[0]) };

static const char *option_value(const struct ds_submission *submission,
				const struct conflict *conflict)
{
	const char *value;

	memcpy(&value, (const char *)submission + conflict->offset, sizeof(value));
	return value;
}

static bool mentions_gpu_gres(const char *list)
{
	return ds_tres_mentions(list, "detshare") || ds_tres_mentions(list, "shard") ||
	       ds_tres_mentions(list, "gpu") || ds_tres_mentions(list, "mps");
}

/* A share, or a forbidden raw shard, asked by another option than --gres. */
static int check_elsewhere(const struct ds_site_config *config,
			   const struct ds_submission *submission, struct ds_error *err)
{
	bool raw_shard_allowed = !config || config->allow_raw_shard;

	for (size_t i = 0; i <= N_CONFLICTS; i++) {
		const char *option = i < N_CONFLICTS ? conflicts[i].option : "--tres-per-task";
		const char *value = i < N_CONFLICTS ? option_value(submission, &conflicts[i])
						    : submission->tres_per_task;
		if (ds_tres_mentions(value, "detshare") ||
		    (!raw_shard_allowed && ds_tres_mentions(value, "shard")))
			return ds_fail(
			    err,
			    "%s=%.60s: part of a GPU is asked per node, with --gres only; write "
			    "--gres=detshare:0.5",
			    option, value);
	}
	return 0;
}

static int check_conflicts(const struct ds_submission *submission, const struct ds_request *request,
			   struct ds_error *err)
{
	char shown[SHOWN_SIZE];

	for (size_t i = 0; i < N_CONFLICTS; i++) {
		const char *value = option_value(submission, &conflicts[i]);
		if (value)
			return ds_fail(err, "%s=%.60s beside --gres=detshare: %s",
				       conflicts[i].option, value, conflicts[i].instead);
	}
	if (mentions_gpu_gres(submission->tres_per_task))
		return ds_fail(err,
			       "--tres-per-task=%.60s beside --gres=detshare: a share is per node, "
			       "not per task; leave the GPU out of --tres-per-task",
			       submission->tres_per_task);
	if (request->asks_gpu)
		return ds_fail(err,
			       "--gres=%s: a whole GPU (gpu or mps) beside detshare, but a share "
			       "brings its GPU with it; leave the other out",
			       ds_gres_show(submission->gres, shown, sizeof(shown)));
	if (submission->exclusive && !submission->is_step)
		return ds_fail(
		    err,
		    "--exclusive beside --gres=detshare: the job would wait for a whole node it "
		    "cannot fill; leave --exclusive out, or ask a whole GPU with --gres=gpu:1");
	return 0;
}

static void list_classes(const struct ds_site_config *config, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < config->n_classes && used < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "",
					 config->classes[i].name);
}

/* The class that the request names, in whichever way; "" if in none. */
static int requested_class(const struct ds_submission *submission, const struct ds_request *request,
			   const char **name, struct ds_error *err)
{
	const char *option = submission->class_option;

	*name = request->class_name;
	if (!option)
		return 0;
	if (!ds_class_name_valid(option))
		return ds_fail(err, "--detshare-class=%.60s is not the name of a class", option);
	if (request->class_name[0] && strcmp(request->class_name, option) != 0)
		return ds_fail(
		    err,
		    "--gres=detshare:%s and --detshare-class=%s name different classes; give the "
		    "class once",
		    request->class_name, option);
	*name = option;
	return 0;
}

/* How the user wrote the class, for messages. */
static void show_class_option(const struct ds_submission *submission, const char *name, char *text,
			      size_t size)
{
	snprintf(text, size, "%s%s",
		 submission->class_option ? "--detshare-class=" : "--gres=detshare:", name);
}

static int check_job_class(const struct ds_site_config *config,
			   const struct ds_submission *submission, const char *name,
			   uint32_t share_milli, struct ds_error *err)
{
	const struct ds_class *class = ds_site_config_class(config, name);
	char shown[64], known[384];
	char share[DS_SHARE_TEXT_SIZE], min[DS_SHARE_TEXT_SIZE], max[DS_SHARE_TEXT_SIZE];

	show_class_option(submission, name, shown, sizeof(shown));
	if (!class) {
		list_classes(config, known, sizeof(known));
		return ds_fail(err, "%s: there is no class %s here; choose one of %s", shown, name,
			       known);
	}
	if (submission->is_step ||
	    (share_milli >= class->min_share_milli && share_milli <= class->max_share_milli))
		return 0;
	return ds_fail(err, "--gres=detshare:%s:%s: class %s takes shares from %s to %s here", name,
		       ds_share_format(share_milli, share), name,
		       ds_share_format(class->min_share_milli, min),
		       ds_share_format(class->max_share_milli, max));
}

/* A step gets part of what its job has, of the same class. */
static int check_step(const struct ds_submission *submission, const char *name,
		      const struct ds_request *request, struct ds_error *err)
{
	const struct ds_request *job = submission->job;
	char shown[SHOWN_SIZE], share[DS_SHARE_TEXT_SIZE], has[DS_SHARE_TEXT_SIZE];

	if (!job->asks_share)
		return ds_fail(
		    err, "--gres=detshare: this step's job has no share of a GPU; ask for it when "
			 "the job is submitted");
	if (*name && strcmp(name, job->class_name) != 0) {
		show_class_option(submission, name, shown, sizeof(shown));
		return ds_fail(
		    err,
		    "%s: this step's job has class %s, and so have its steps; leave the class out",
		    shown, job->class_name);
	}
	if (request->share_milli > job->share_milli)
		return ds_fail(err, "--gres=detshare:%s: this step's job has a share of %s only",
			       ds_share_format(request->share_milli, share),
			       ds_share_format(job->share_milli, has));
	return 0;
}

static int decide_class(const struct ds_site_config *config, const struct ds_submission *submission,
			const struct ds_request *request, char class_name[DS_CLASS_NAME_SIZE],
			struct ds_error *err)
{
	const char *name;

	if (requested_class(submission, request, &name, err) < 0)
		return -1;
	if (submission->is_step && submission->job) {
		if (check_step(submission, name, request, err) < 0)
			return -1;
		name = submission->job->class_name;
	} else {
		if (!*name && config && !submission->is_step)
			name = config->default_class;
		if (*name && config &&
		    check_job_class(config, submission, name, request->share_milli, err) < 0)
			return -1;
	}
	snprintf(class_name, DS_CLASS_NAME_SIZE, "%s", name);
	return 0;
}

/*
 * What can be known before a node is asked: that none has so much, and that the site ties memory to
 * shares, so that jobs which fit together by share, which is all that Slurm counts, fit by memory.
 */
static int check_memory(const struct ds_site_config *config, const struct ds_decision *decision,
			uint32_t share_milli, const char *option, struct ds_error *err)
{
	const uint64_t asked_mib = decision->memory_mib;
	const uint64_t brings_mib = (uint64_t)config->share_memory_mib * share_milli / 1000;
	char most[DS_SIZE_TEXT_SIZE], share[DS_SHARE_TEXT_SIZE], needed[DS_SHARE_TEXT_SIZE];

	if (config->gpu_memory_mib && asked_mib > config->gpu_memory_mib)
		return ds_fail(err,
			       "--detshare-mem=%.60s: no GPU here has more than %s for a job; ask "
			       "for less",
			       option, ds_size_format(config->gpu_memory_mib, most));
	if (!config->share_memory_mib || asked_mib <= brings_mib)
		return 0;
	const uint64_t needed_milli =
	    (asked_mib * 1000 + config->share_memory_mib - 1) / config->share_memory_mib;
	ds_share_format(share_milli, share);
	ds_size_format((uint32_t)brings_mib, most);
	if (needed_milli > DS_SHARE_MILLI_MAX)
		return ds_fail(err,
			       "--detshare-mem=%.60s: with a share of %s a job may have %s here, "
			       "and with no share so much; ask for less",
			       option, share, most);
	return ds_fail(err,
		       "--detshare-mem=%.60s: with a share of %s a job may have %s here; ask for "
		       "less, or for a share of %s",
		       option, share, most, ds_share_format((uint32_t)needed_milli, needed));
}

/* The memory of a job. Its steps have what it has: a quota is per node, whoever uses it there. */
static int decide_memory(const struct ds_site_config *config,
			 const struct ds_submission *submission, uint32_t share_milli,
			 struct ds_decision *decision, struct ds_error *err)
{
	const struct ds_class *class =
	    config ? ds_site_config_class(config, decision->class_name) : NULL;
	const char *option = submission->memory;
	struct ds_error reason = {""};
	char max[DS_SIZE_TEXT_SIZE];

	decision->memory_max_mib = class ? class->max_memory_mib : 0;
	if (!option)
		return 0;
	if (submission->is_step)
		return ds_fail(err,
			       "--detshare-mem=%.60s: memory is given to a job, and its steps use "
			       "it together; ask for it when the job is submitted",
			       option);
	if (ds_size_parse(option, &decision->memory_mib, &reason) < 0)
		return ds_fail(err, "--detshare-mem=%s", reason.text);
	if (decision->memory_max_mib && decision->memory_mib > decision->memory_max_mib)
		return ds_fail(err, "--detshare-mem=%.60s: jobs of class %s may have %s here",
			       option, decision->class_name,
			       ds_size_format(decision->memory_max_mib, max));
	return config ? check_memory(config, decision, share_milli, option, err) : 0;
}

/* A submission without a share: ours only if it asks what a site forbids, or half of what we need. */
static enum ds_verdict decide_without_share(const struct ds_site_config *config,
					    const struct ds_submission *submission,
					    const struct ds_request *request, struct ds_error *err)
{
	const char *option = submission->class_option;
	char shown[SHOWN_SIZE];

	if (request->asks_shard && config && !config->allow_raw_shard) {
		ds_fail(err,
			"--gres=%s: shard without detshare is not allowed here; ask for part of a "
			"GPU with --gres=detshare:0.5",
			ds_gres_show(submission->gres, shown, sizeof(shown)));
		return DS_REFUSED;
	}
	if (submission->memory) {
		if (submission->is_step)
			ds_fail(
			    err,
			    "--detshare-mem=%.60s: memory is given to a job, and its steps use it "
			    "together; ask for it when the job is submitted",
			    submission->memory);
		else
			ds_fail(err,
				"--detshare-mem=%.60s without a share; add --gres=detshare:0.5, or "
				"leave --detshare-mem out",
				submission->memory);
		return DS_REFUSED;
	}
	if (!option)
		return DS_NOT_OURS;
	/* A step without --gres has its job's share, so naming the job's class is only saying so. */
	if (submission->is_step && submission->job && submission->job->asks_share) {
		if (strcmp(option, submission->job->class_name) == 0)
			return DS_NOT_OURS;
		ds_fail(err,
			"--detshare-class=%.60s: this step's job has class %s, and so have its "
			"steps; leave the class out",
			option, submission->job->class_name);
		return DS_REFUSED;
	}
	ds_fail(err,
		"--detshare-class=%.60s without a share; add --gres=detshare:0.5, or leave "
		"--detshare-class out",
		option);
	return DS_REFUSED;
}

static enum ds_verdict decide(const struct ds_site_config *config,
			      const struct ds_submission *submission, struct ds_decision *decision,
			      struct ds_error *err)
{
	struct ds_request request;
	struct ds_error reason = {""};

	memset(decision, 0, sizeof(*decision));
	if (ds_request_parse(submission->gres, &request, &reason) < 0) {
		ds_fail(err, "--gres=%s", reason.text);
		return DS_REFUSED;
	}
	if (check_elsewhere(config, submission, err) < 0)
		return DS_REFUSED;
	if (!request.asks_share)
		return decide_without_share(config, submission, &request, err);
	if (check_conflicts(submission, &request, err) < 0 ||
	    decide_class(config, submission, &request, decision->class_name, err) < 0 ||
	    decide_memory(config, submission, request.share_milli, decision, err) < 0)
		return DS_REFUSED;

	/* All kinds take shards alike: besteffort tokens hold theirs while nobody preempts them. */
	decision->share_milli = request.share_milli;
	decision->shard_count = request.share_milli;
	decision->gres = ds_request_rewrite(submission->gres, decision->class_name,
					    decision->share_milli, decision->shard_count);
	if (!decision->gres) {
		ds_fail(err, "--gres=%.60s: out of memory", submission->gres);
		return DS_REFUSED;
	}
	return DS_ACCEPTED;
}

enum ds_verdict ds_rules_decide(const struct ds_site_config *config,
				const struct ds_submission *submission,
				struct ds_decision *decision, struct ds_error *err)
{
	struct ds_error reason = {""};
	enum ds_verdict verdict = decide(config, submission, decision, &reason);

	if (verdict != DS_REFUSED)
		return verdict;
	/* The line repeats what a client sent, and goes into slurmctld's log: it has to stay one. */
	for (char *c = reason.text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	ds_fail(err, "%s", reason.text);
	return DS_REFUSED;
}
