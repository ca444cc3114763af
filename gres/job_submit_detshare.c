/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slurmctld: the site's decision on every job. Clients can lie, so nothing that cli_filter decided
 * counts here. Runs under slurmctld's locks, so no RPC, no name service, nothing that can wait.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "gres/config.h"
#include "gres/grant.h"
#include "gres/request.h"
#include "gres/rules.h"
#include "gres/slurm_compat.h"

DS_SLURM_PLUGIN("job_submit/detshare", "detshare: shares of GPUs, decided");

/* How our options arrive: SPANK's name for option "detshare-class" of plugin "detshare", and so on. */
static const char CLASS_OPTION[] = "_SLURM_SPANK_OPTION_detshare_detshare_class";
static const char MEMORY_OPTION[] = "_SLURM_SPANK_OPTION_detshare_detshare_mem";
/* Slurm puts it before each name that reaches a prolog, unless it is there already. */
static const char SPANK_PREFIX[] = "SPANK_";
static const char OUR_PREFIX[] = "DETSHARE_";

DS_EXPORT int job_submit(job_desc_msg_t *job_desc, uint32_t submit_uid, char **err_msg);
DS_EXPORT int job_modify(job_desc_msg_t *job_desc, struct ds_slurm_job *job,
			 uint32_t submit_uid DS_JOB_MODIFY_ERR_MSG);

/* Which file the rules came from, to notice another one. */
struct file_identity {
	bool exists;
	dev_t device;
	ino_t inode;
	off_t size;
	struct timespec modified;
};

/* The rules in force. Newer Slurm calls job_submit from several threads at once. */
static struct {
	pthread_mutex_t lock;
	char path[4096];
	struct file_identity file;
	time_t looked_at_s; /* CLOCK_MONOTONIC_COARSE */
	bool valid;
	struct ds_site_config config;
} rules = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct file_identity identify(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return (struct file_identity){.exists = errno != ENOENT && errno != ENOTDIR};
	return (struct file_identity){true, st.st_dev, st.st_ino, st.st_size, st.st_mtim};
}

static bool same_file(const struct file_identity *a, const struct file_identity *b)
{
	return a->exists == b->exists && a->device == b->device && a->inode == b->inode &&
	       a->size == b->size && a->modified.tv_sec == b->modified.tv_sec &&
	       a->modified.tv_nsec == b->modified.tv_nsec;
}

/* Read the file that `rules.file` identifies. A broken or vanished one keeps the rules there are. */
static void read_rules_locked(void)
{
	struct ds_site_config config;
	struct ds_error err = {""};

	if (!rules.file.exists && !rules.valid) {
		ds_site_config_defaults(&rules.config);
		rules.valid = true;
		slurm_info("detshare: no %s: built-in rules", rules.path);
	} else if (!rules.file.exists) {
		slurm_error(
		    "detshare: %s is gone; its rules stay in force until slurmctld restarts",
		    rules.path);
	} else if (ds_site_config_read(rules.path, &config, &err) < 0) {
		slurm_error("detshare: %s; %s until it is repaired", err.text,
			    rules.valid ? "the rules of before stay in force"
					: "every request for a share is refused");
	} else {
		rules.config = config;
		rules.valid = true;
		slurm_info("detshare: rules read from %s, digest %s", rules.path, config.digest);
	}
}

/* A copy of the rules in force; false while there are none, because the first file was broken. */
static bool get_rules(struct ds_site_config *config)
{
	struct timespec now = {0, 0};

	pthread_mutex_lock(&rules.lock);
	/* The file may lie on a network file system: look at most once a second. */
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec != rules.looked_at_s) {
		struct file_identity file = identify(rules.path);
		rules.looked_at_s = now.tv_sec;
		if (!same_file(&file, &rules.file)) {
			rules.file = file;
			read_rules_locked();
		}
	}
	bool valid = rules.valid;
	if (valid)
		*config = rules.config;
	pthread_mutex_unlock(&rules.lock);
	return valid;
}

int init(void)
{
	pthread_mutex_lock(&rules.lock);
	ds_site_config_path(rules.path, sizeof(rules.path));
	rules.valid = false;
	rules.file = identify(rules.path);
	read_rules_locked();
	pthread_mutex_unlock(&rules.lock);
	return SLURM_SUCCESS;
}

int fini(void)
{
	return SLURM_SUCCESS;
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The entry's name without the prefix that Slurm would add. */
static const char *bare_name(const char *entry)
{
	return starts_with(entry, SPANK_PREFIX) ? entry + strlen(SPANK_PREFIX) : entry;
}

/* The grant's name space is slurmctld's alone; jobs that ask no share are stripped, too. */
static void strip_client_grants(job_desc_msg_t *job_desc)
{
	char **env = job_desc->spank_job_env;
	uint32_t kept = 0;

	if (!env)
		return;
	for (uint32_t i = 0; i < job_desc->spank_job_env_size; i++) {
		char *entry = env[i];
		env[i] = NULL;
		if (entry && starts_with(bare_name(entry), OUR_PREFIX))
			slurm_xfree((void **)&entry);
		else
			env[kept++] = entry;
	}
	job_desc->spank_job_env_size = kept;
}

/* The value of NAME=value in the job's environment for prologs, or NULL. */
static const char *find_entry(const job_desc_msg_t *job_desc, const char *name)
{
	size_t length = strlen(name);

	for (uint32_t i = 0; job_desc->spank_job_env && i < job_desc->spank_job_env_size; i++) {
		const char *entry = job_desc->spank_job_env[i];
		if (!entry)
			continue;
		entry = bare_name(entry);
		if (strncmp(entry, name, length) == 0 && entry[length] == '=')
			return entry + length + 1;
	}
	return NULL;
}

static void append_entry(job_desc_msg_t *job_desc, const char *entry)
{
	uint32_t size = job_desc->spank_job_env_size;

	/* One more for the NULL that Slurm expects behind the last. */
	slurm_xrecalloc((void **)&job_desc->spank_job_env, (size_t)size + 2, sizeof(char *), true,
			false, __FILE__, __LINE__, __func__);
	job_desc->spank_job_env[size] = slurm_xstrdup(entry);
	job_desc->spank_job_env[size + 1] = NULL;
	job_desc->spank_job_env_size = size + 1;
}

/* "gres:gpu:2", "gres/gpu:2", "gpu:single:1" -> what the user wrote behind the option. NULL stays. */
static const char *without_gpu(const char *tres)
{
	static const char *const prefixes[] = {"gres:gpu:", "gres/gpu:", "gres/gpu=", "gpu:"};

	for (size_t i = 0; tres && i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (starts_with(tres, prefixes[i]) && !strchr(tres, ','))
			return tres + strlen(prefixes[i]);
	return tres;
}

/* These lists may also speak of other things (licenses, network cards), which are none of ours. */
static const char *about_gpus(const char *tres)
{
	static const char *const names[] = {"gpu", "mps", "shard", "detshare"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (ds_tres_mentions(tres, names[i]))
			return without_gpu(tres);
	return NULL;
}

/*
 * The job in the words of the options it came from. Slurm's clients put --gpus-per-node into
 * tres_per_node, beside --gres. `number` is the room for a count that has no text.
 */
static struct ds_submission submission_of(const job_desc_msg_t *job_desc, char number[16])
{
	struct ds_submission submission = {
	    .gres = job_desc->tres_per_node,
	    .class_option = find_entry(job_desc, CLASS_OPTION),
	    .memory = find_entry(job_desc, MEMORY_OPTION),
	    .gpus = about_gpus(job_desc->tres_per_job),
	    .gpus_per_socket = about_gpus(job_desc->tres_per_socket),
	    .gpu_bind = about_gpus(job_desc->tres_bind),
	    .gpu_freq = about_gpus(job_desc->tres_freq),
	    .mem_per_gpu = about_gpus(job_desc->mem_per_tres),
	    .cpus_per_gpu = about_gpus(job_desc->cpus_per_tres),
	    .exclusive = job_desc->shared == JOB_SHARED_NONE,
	};

	if (job_desc->ntasks_per_tres != NO_VAL16 && job_desc->ntasks_per_tres != 0) {
		snprintf(number, 16, "%u", job_desc->ntasks_per_tres);
		submission.ntasks_per_gpu = number;
	}
	/* --gpus-per-task is --tres-per-task=gres/gpu in another spelling. */
	if (job_desc->tres_per_task) {
		const char *gpus = without_gpu(job_desc->tres_per_task);
		if (gpus != job_desc->tres_per_task)
			submission.gpus_per_task = gpus;
		else
			submission.tres_per_task = job_desc->tres_per_task;
	}
	return submission;
}

static enum ds_verdict decide(const struct ds_submission *submission,
			      const struct ds_site_config *config, bool have_rules,
			      struct ds_decision *decision, struct ds_error *err)
{
	enum ds_verdict verdict =
	    ds_rules_decide(have_rules ? config : NULL, submission, decision, err);

	if (verdict != DS_ACCEPTED || have_rules)
		return verdict;
	free(decision->gres);
	decision->gres = NULL;
	ds_fail(err, "--gres=detshare: detshare.conf is broken, so no share can be given; tell the "
		     "administrator (slurmctld's log has the line)");
	return DS_REFUSED;
}

/* The line that the user gets. An earlier plugin may have left one of its own. */
static void tell_user(char **err_msg, const char *line)
{
	char *both;
	size_t size;

	if (!err_msg)
		return;
	if (!*err_msg) {
		*err_msg = slurm_xstrdup(line);
		return;
	}
	size = strlen(*err_msg) + strlen(line) + 2;
	both = slurm_xcalloc(1, size, true, false, __FILE__, __LINE__, __func__);
	snprintf(both, size, "%s\n%s", *err_msg, line);
	slurm_xfree((void **)err_msg);
	*err_msg = both;
}

static void set_gres(job_desc_msg_t *job_desc, const char *gres)
{
	slurm_xfree((void **)&job_desc->tres_per_node);
	job_desc->tres_per_node = slurm_xstrdup(gres);
}

static int stamp(job_desc_msg_t *job_desc, const struct ds_site_config *config,
		 const struct ds_decision *decision, struct ds_error *err)
{
	const struct ds_class *class = ds_site_config_class(config, decision->class_name);
	static const char variable[] = DS_GRANT_VARIABLE "=";
	char entry[sizeof(variable) + DS_GRANT_TEXT_SIZE];
	struct ds_grant grant = {
	    .kind = class->kind,
	    .share_milli = decision->share_milli,
	    .isolation = config->isolation,
	    .memory_mib = decision->memory_mib,
	    .memory_max_mib = decision->memory_max_mib,
	};

	ds_grant_set_lending(&grant, config, class);
	memcpy(grant.class_name, decision->class_name, sizeof(grant.class_name));
	memcpy(grant.config_digest, config->digest, sizeof(grant.config_digest));
	memcpy(entry, variable, sizeof(variable));
	if (ds_grant_format(&grant, entry + strlen(variable), DS_GRANT_TEXT_SIZE, err) < 0)
		return -1;
	append_entry(job_desc, entry);
	return 0;
}

/*
 * Slurm packs shards without looking at users, so the node as a whole is kept to one user while he has a
 * share there. A job that asks for more than that (--exclusive=mcs) keeps what it asks.
 */
static void isolate(job_desc_msg_t *job_desc, enum ds_isolation isolation)
{
	if (isolation == DS_ISOLATION_USER && job_desc->shared != JOB_SHARED_MCS)
		job_desc->shared = JOB_SHARED_USER;
}

int job_submit(job_desc_msg_t *job_desc, uint32_t submit_uid, char **err_msg)
{
	struct ds_site_config config;
	struct ds_decision decision;
	struct ds_error err = {""};
	char number[16];
	int rv = SLURM_SUCCESS;

	strip_client_grants(job_desc);
	bool have_rules = get_rules(&config);
	struct ds_submission submission = submission_of(job_desc, number);
	enum ds_verdict verdict = decide(&submission, &config, have_rules, &decision, &err);

	if (verdict == DS_ACCEPTED && stamp(job_desc, &config, &decision, &err) < 0)
		verdict = DS_REFUSED;
	if (verdict == DS_ACCEPTED) {
		set_gres(job_desc, decision.gres);
		isolate(job_desc, config.isolation);
	}
	if (verdict == DS_REFUSED) {
		slurm_info("detshare: job of uid %u refused: %s", submit_uid, err.text);
		tell_user(err_msg, err.text);
		rv = ESLURM_INVALID_GRES;
	}
	free(decision.gres);
	return rv;
}

static bool touches_gpus(const job_desc_msg_t *update)
{
	return update->tres_per_node || update->tres_per_job || update->tres_per_socket ||
	       update->tres_per_task || update->tres_bind || update->tres_freq ||
	       update->cpus_per_tres || update->mem_per_tres ||
	       (update->ntasks_per_tres != NO_VAL16 && update->ntasks_per_tres != 0) ||
	       update->shared == JOB_SHARED_NONE;
}

static char *changed(char *before, char *update)
{
	return update ? update : before;
}

/* What the job will be once Slurm has applied the update. All strings stay borrowed. */
static job_desc_msg_t merge(const job_desc_msg_t *job, const job_desc_msg_t *update)
{
	job_desc_msg_t merged = *job;

	merged.tres_per_node = changed(job->tres_per_node, update->tres_per_node);
	merged.tres_per_job = changed(job->tres_per_job, update->tres_per_job);
	merged.tres_per_socket = changed(job->tres_per_socket, update->tres_per_socket);
	merged.tres_per_task = changed(job->tres_per_task, update->tres_per_task);
	merged.tres_bind = changed(job->tres_bind, update->tres_bind);
	merged.tres_freq = changed(job->tres_freq, update->tres_freq);
	merged.cpus_per_tres = changed(job->cpus_per_tres, update->cpus_per_tres);
	merged.mem_per_tres = changed(job->mem_per_tres, update->mem_per_tres);
	merged.ntasks_per_tres = update->ntasks_per_tres;
	if (update->shared != NO_VAL16)
		merged.shared = update->shared;
	return merged;
}

/*
 * An update of a job with a grant. Slurm lets a plugin change the request of a submitted job, but
 * not its spank_job_env, so the grant stays as it is: the share and class have to stay, too.
 */
static int check_update(job_desc_msg_t *update, const job_desc_msg_t *job,
			const struct ds_grant *grant, struct ds_error *err)
{
	struct ds_site_config config;
	struct ds_decision decision;
	struct ds_request request;
	char number[16], shown[64], share[DS_SHARE_TEXT_SIZE];
	int rv = -1;

	bool have_rules = get_rules(&config);
	job_desc_msg_t merged = merge(job, update);
	struct ds_submission submission = submission_of(&merged, number);
	submission.class_option = submission.memory = NULL;
	if (ds_request_parse(submission.gres, &request, NULL) == 0 && request.asks_share &&
	    !request.class_name[0])
		submission.class_option = grant->class_name;

	enum ds_verdict verdict = decide(&submission, &config, have_rules, &decision, err);
	if (verdict == DS_REFUSED)
		goto fail;
	if (verdict == DS_NOT_OURS || decision.share_milli != grant->share_milli ||
	    strcmp(decision.class_name, grant->class_name) != 0) {
		ds_fail(
		    err,
		    "gres=%.60s: the share of a submitted job (detshare:%s:%s) cannot be changed; "
		    "cancel the job and submit it again",
		    ds_gres_show(submission.gres, shown, sizeof(shown)), grant->class_name,
		    ds_share_format(grant->share_milli, share));
		goto fail;
	}
	if (update->tres_per_node)
		set_gres(update, decision.gres);
	rv = 0;
fail:
	free(decision.gres);
	return rv;
}

/* An update of a job without a grant must not bring a share, nor anything the site forbids. */
static int check_foreign_update(const job_desc_msg_t *update, struct ds_error *err)
{
	struct ds_site_config config;
	struct ds_decision decision;
	char number[16], shown[64];

	bool have_rules = get_rules(&config);
	struct ds_submission submission = submission_of(update, number);
	submission.class_option = submission.memory = NULL;
	enum ds_verdict verdict = decide(&submission, &config, have_rules, &decision, err);
	free(decision.gres);
	if (verdict == DS_ACCEPTED)
		return ds_fail(
		    err,
		    "gres=%.60s: a share cannot be given to a job after its submission; cancel "
		    "the job and submit it again",
		    ds_gres_show(submission.gres, shown, sizeof(shown)));
	return verdict == DS_REFUSED ? -1 : 0;
}

/*
 * The job before an update, or NULL where this slurmctld cannot say. Reads the job's script from
 * disk, too: fair for an update of gres, not for every job.
 */
static job_desc_msg_t *copy_job(struct ds_slurm_job *job)
{
	if (!job || !copy_job_record_to_job_desc || !slurm_free_job_desc_msg)
		return NULL;
	return copy_job_record_to_job_desc(job);
}

static void free_job_copy(job_desc_msg_t *copy)
{
	if (!copy)
		return;
	/* In a copy, unlike in a message, the strings of the environment are one piece of memory. */
	if (copy->environment) {
		slurm_xfree((void **)&copy->environment[0]);
		slurm_xfree((void **)&copy->environment);
		copy->env_size = 0;
	}
	slurm_free_job_desc_msg(copy);
}

int job_modify(job_desc_msg_t *job_desc, struct ds_slurm_job *job,
	       uint32_t submit_uid DS_JOB_MODIFY_ERR_MSG)
{
	job_desc_msg_t *before = NULL;
	struct ds_grant grant;
	struct ds_error err = {""};
	int rv = SLURM_SUCCESS;

	strip_client_grants(job_desc);
	if (!touches_gpus(job_desc))
		return SLURM_SUCCESS;
	before = copy_job(job);
	const char *stamped = before ? find_entry(before, DS_GRANT_VARIABLE) : NULL;
	int checked = stamped && ds_grant_parse(stamped, &grant, NULL) == 0
			  ? check_update(job_desc, before, &grant, &err)
			  : check_foreign_update(job_desc, &err);
	if (checked < 0) {
		slurm_info("detshare: update by uid %u refused: %s", submit_uid, err.text);
		tell_user(DS_JOB_MODIFY_ERR_MSG_OR_NULL, err.text);
		rv = ESLURM_INVALID_GRES;
	}
	free_job_copy(before);
	return rv;
}
