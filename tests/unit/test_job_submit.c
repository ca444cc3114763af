/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin as slurmctld loads it, called with real job_desc_msg_t. What slurmctld would export to
 * it is here, on malloc, so that a sanitizer sees every byte it leaks or touches wrongly.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/grant.h"
#include "gres/slurm_compat.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

DS_EXPORT extern void *slurm_xcalloc(size_t, size_t, bool, bool, const char *, int, const char *);
DS_EXPORT extern void *slurm_xrecalloc(void **, size_t, size_t, bool, bool, const char *, int,
				       const char *);
DS_EXPORT extern void slurm_xfree(void **);
DS_EXPORT extern char *slurm_xstrdup(const char *);

static char last_log[1024];
static unsigned n_errors;

void *slurm_xcalloc(size_t count, size_t size, bool clear, bool try, const char *file, int line,
		    const char *function)
{
	return calloc(count, size);
}

/* As Slurm's: what is added is cleared. Slurm keeps the size before the memory; so does this. */
void *slurm_xrecalloc(void **item, size_t count, size_t size, bool clear, bool try,
		      const char *file, int line, const char *function)
{
	char **old = *item;
	char **grown = calloc(count, size);

	for (size_t i = 0; old && old[i]; i++) {
		assert_true(i + 1 < count);
		grown[i] = old[i];
	}
	free(old);
	*item = grown;
	return grown;
}

void slurm_xfree(void **item)
{
	free(*item);
	*item = NULL;
}

char *slurm_xstrdup(const char *text)
{
	return text ? strdup(text) : NULL;
}

DS_EXPORT void slurm_info(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(last_log, sizeof(last_log), format, args);
	va_end(args);
}

DS_EXPORT void slurm_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(last_log, sizeof(last_log), format, args);
	va_end(args);
	n_errors++;
}

static void add_entry(job_desc_msg_t *job, const char *entry)
{
	uint32_t size = job->spank_job_env_size++;

	job->spank_job_env = realloc(job->spank_job_env, (size + 2) * sizeof(char *));
	job->spank_job_env[size] = strdup(entry);
	job->spank_job_env[size + 1] = NULL;
}

static void begin_job(job_desc_msg_t *job, const char *gres)
{
	memset(job, 0, sizeof(*job));
	job->tres_per_node = gres ? strdup(gres) : NULL;
	job->shared = NO_VAL16;
	job->ntasks_per_tres = NO_VAL16;
}

static void end_job(job_desc_msg_t *job)
{
	for (uint32_t i = 0; i < job->spank_job_env_size; i++)
		free(job->spank_job_env[i]);
	free(job->spank_job_env);
	free(job->tres_per_node);
}

/* What slurmctld knows of a submitted job, and the copies it makes of it. */
struct ds_slurm_job {
	const char *gres;
	const char *grant;
	uint16_t shared;
};

DS_EXPORT job_desc_msg_t *copy_job_record_to_job_desc(struct ds_slurm_job *job)
{
	job_desc_msg_t *copy = calloc(1, sizeof(*copy));

	begin_job(copy, job->gres);
	copy->shared = job->shared;
	copy->ntasks_per_tres = 0;
	copy->env_size = 2;
	copy->environment = calloc(2, sizeof(char *));
	copy->environment[0] = malloc(8);
	memcpy(copy->environment[0], "A=1\0B=2", 8);
	copy->environment[1] = copy->environment[0] + 4;
	add_entry(copy, "SPANK_OTHER=1");
	if (job->grant)
		add_entry(copy, job->grant);
	return copy;
}

extern void slurm_free_job_desc_msg(job_desc_msg_t *message);
DS_EXPORT void slurm_free_job_desc_msg(job_desc_msg_t *message)
{
	/* Slurm's would walk an environment to its NULL, which a copy's has not. */
	assert_null(message->environment);
	end_job(message);
	free(message);
}

static struct {
	void *handle;
	int (*init)(void);
	int (*submit)(job_desc_msg_t *, uint32_t, char **);
	int (*modify)(job_desc_msg_t *, struct ds_slurm_job *, uint32_t DS_JOB_MODIFY_ERR_MSG);
	char directory[64];
	char rules[128];
} plugin;

static void write_rules(const char *text)
{
	char temporary[160];

	snprintf(temporary, sizeof(temporary), "%s.new", plugin.rules);
	FILE *file = fopen(temporary, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(rename(temporary, plugin.rules), 0);
}

static void start_with_rules(const char *text)
{
	if (text)
		write_rules(text);
	else
		unlink(plugin.rules);
	assert_int_equal(plugin.init(), SLURM_SUCCESS);
}

static void *symbol(const char *name)
{
	void *found = dlsym(plugin.handle, name);

	if (!found)
		fail_msg("%s", dlerror());
	return found;
}

static int load(void **state)
{
	char conf[128];

	snprintf(plugin.directory, sizeof(plugin.directory), "/tmp/test_job_submit.XXXXXX");
	if (!mkdtemp(plugin.directory))
		return -1;
	snprintf(plugin.rules, sizeof(plugin.rules), "%s/detshare.conf", plugin.directory);
	snprintf(conf, sizeof(conf), "%s/slurm.conf", plugin.directory);
	setenv("SLURM_CONF", conf, 1);
	plugin.handle = dlopen(JOB_SUBMIT_PLUGIN, RTLD_NOW);
	if (!plugin.handle) {
		print_error("%s\n", dlerror());
		return -1;
	}
	*(void **)&plugin.init = symbol("init");
	*(void **)&plugin.submit = symbol("job_submit");
	*(void **)&plugin.modify = symbol("job_modify");
	return 0;
}

static int unload(void **state)
{
	unlink(plugin.rules);
	rmdir(plugin.directory);
	return dlclose(plugin.handle);
}

static const char *grant_of(const job_desc_msg_t *job)
{
	const char *grant = NULL;

	for (uint32_t i = 0; i < job->spank_job_env_size; i++) {
		const char *entry = job->spank_job_env[i];
		assert_non_null(entry);
		if (strncmp(entry, "SPANK_", 6) == 0)
			entry += 6;
		if (strncmp(entry, "DETSHARE_", 9) == 0) {
			assert_null(grant); /* one */
			assert_int_equal(
			    strncmp(entry, DS_GRANT_VARIABLE "=", strlen(DS_GRANT_VARIABLE "=")),
			    0);
			grant = entry + strlen(DS_GRANT_VARIABLE "=");
		}
	}
	if (job->spank_job_env_size)
		assert_null(job->spank_job_env[job->spank_job_env_size]);
	return grant;
}

static void symbols(void **state)
{
	assert_string_equal((const char *)symbol("plugin_type"), "job_submit/detshare");
	assert_int_equal(*(const uint32_t *)symbol("plugin_version"), SLURM_VERSION_NUMBER);
	/* Nothing else gets out, where it could meet another plugin's. */
	assert_null(dlsym(plugin.handle, "ds_rules_decide"));
	assert_null(dlsym(plugin.handle, "ds_fail"));
}

static void stamps(void **state)
{
	job_desc_msg_t job;
	struct ds_grant grant;
	struct ds_site_config config;
	struct ds_error err;
	char *message = NULL;

	start_with_rules("isolation = none\nclass latency { max_share = 0.5 }\n");
	begin_job(&job, "gres:nic:1,gres:detshare:latency:0.25,gres:shard:999");
	assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
	assert_null(message);
	assert_string_equal(job.tres_per_node,
			    "gres:nic:1,gres:detshare:latency:250,gres:shard:250");
	assert_int_equal(ds_grant_parse(grant_of(&job), &grant, &err), 0);
	assert_string_equal(grant.class_name, "latency");
	assert_int_equal(grant.kind, DS_KIND_LATENCY);
	assert_int_equal(grant.share_milli, 250);
	assert_int_equal(grant.isolation, DS_ISOLATION_NONE);
	assert_int_equal(ds_site_config_read(plugin.rules, &config, &err), 0);
	assert_string_equal(grant.config_digest, config.digest);

	/* A job that went through once already: the same again. */
	assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
	assert_string_equal(job.tres_per_node,
			    "gres:nic:1,gres:detshare:latency:250,gres:shard:250");
	assert_non_null(grant_of(&job));
	end_job(&job);
}

static void leaves_other_jobs_alone(void **state)
{
	static const char *const lists[] = {NULL, "gres:gpu:2", "gres:nic:1,gres:gpu:a100:1"};
	char *message = NULL;

	start_with_rules(NULL);
	for (size_t i = 0; i < N(lists); i++) {
		job_desc_msg_t job;
		begin_job(&job, lists[i]);
		job.shared = JOB_SHARED_NONE;
		job.tres_bind = (char *)"gpu:single:1";
		assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
		assert_null(message);
		assert_int_equal(job.spank_job_env_size, 0);
		if (lists[i])
			assert_string_equal(job.tres_per_node, lists[i]);
		end_job(&job);
	}
}

static void strips_forged_grants(void **state)
{
	static const char *const forged[] = {
	    "DETSHARE_GRANT=v=1,class=latency,kind=latency,share=1000,isolation=none,"
	    "config=0123456789abcdef",
	    "PATH_LIKE=/bin",
	    "SPANK_DETSHARE_GRANT=v=1,class=latency,kind=latency,share=1000,isolation=none,"
	    "config=0123456789abcdef",
	    "DETSHARE_PORT=/tmp/mine",
	    "SPANK_OTHER=1",
	    "DETSHARE_=",
	};
	static const char *const lists[] = {NULL, "gpu:1", "detshare:0.5", "detshare:2.5"};

	start_with_rules(NULL);
	for (size_t i = 0; i < N(lists); i++) {
		job_desc_msg_t job;
		char *message = NULL;

		begin_job(&job, lists[i]);
		for (size_t j = 0; j < N(forged); j++)
			add_entry(&job, forged[j]);
		bool ours = lists[i] && strcmp(lists[i], "detshare:0.5") == 0;
		plugin.submit(&job, 1000, &message);
		assert_int_equal(job.spank_job_env_size, ours ? 3 : 2);
		assert_string_equal(job.spank_job_env[0], "PATH_LIKE=/bin");
		assert_string_equal(job.spank_job_env[1], "SPANK_OTHER=1");
		const char *grant = grant_of(&job);
		if (ours)
			assert_non_null(
			    strstr(grant, "class=throughput,kind=throughput,share=500,"));
		else
			assert_null(grant);
		free(message);
		end_job(&job);
	}
}

static void memory_option(void **state)
{
	char *message = NULL;
	job_desc_msg_t job;

	start_with_rules("class latency { max_memory = 40G }\n");
	begin_job(&job, "detshare:latency:0.5");
	add_entry(&job, "_SLURM_SPANK_OPTION_detshare_detshare_mem=20G");
	assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
	assert_non_null(grant_of(&job));
	assert_non_null(strstr(grant_of(&job), ",memory=20480,memory_max=40960,config="));
	end_job(&job);
	begin_job(&job, "detshare:latency:0.5");
	assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
	assert_non_null(strstr(grant_of(&job), ",isolation=user,memory_max=40960,config="));
	end_job(&job);
	begin_job(&job, "detshare:latency:0.5");
	add_entry(&job, "_SLURM_SPANK_OPTION_detshare_detshare_mem=41G");
	assert_int_equal(plugin.submit(&job, 1000, &message), ESLURM_INVALID_GRES);
	assert_string_equal(message, "--detshare-mem=41G: jobs of class latency may have 40G here");
	free(message);
	end_job(&job);
}

static void class_option(void **state)
{
	static const char *const spellings[] = {
	    "_SLURM_SPANK_OPTION_detshare_detshare_class=latency",
	    "SPANK__SLURM_SPANK_OPTION_detshare_detshare_class=latency",
	};
	char *message = NULL;
	job_desc_msg_t job;

	start_with_rules(NULL);
	for (size_t i = 0; i < N(spellings); i++) {
		begin_job(&job, "detshare:0.5");
		add_entry(&job, spellings[i]);
		assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
		assert_string_equal(job.tres_per_node, "detshare:latency:500,shard:500");
		/* The option itself stays: it is how SPANK carries it to the node. */
		assert_string_equal(job.spank_job_env[0], spellings[i]);
		end_job(&job);
	}
	begin_job(&job, "detshare:throughput:0.5");
	add_entry(&job, spellings[0]);
	assert_int_equal(plugin.submit(&job, 1000, &message), ESLURM_INVALID_GRES);
	assert_string_equal(message, "--gres=detshare:throughput and --detshare-class=latency name "
				     "different classes; give the class once");
	free(message);
	end_job(&job);
}

static void refused(void **state)
{
	static const struct {
		const char *per_node, *per_job, *per_socket, *per_task, *bind, *freq, *mem, *cpus;
		uint16_t ntasks;
		bool exclusive;
		const char *line; /* how the message starts */
	} rows[] = {
	    {.per_node = "gres:detshare:1.5", .line = "--gres=detshare:1.5: share \"1.5\" is more"},
	    {.per_node = "detshare:0.5", .per_job = "gres:gpu:2", .line = "--gpus=2 beside"},
	    {.per_node = "gres/detshare:0.5",
	     .per_job = "gres/gpu:a100:2",
	     .line = "--gpus=a100:2 "},
	    {.per_node = "detshare:0.5",
	     .per_socket = "gres:gpu:1",
	     .line = "--gpus-per-socket=1 "},
	    {.per_node = "detshare:0.5",
	     .per_task = "gres:gpu:1",
	     .line = "--gpus-per-task=1 beside"},
	    {.per_node = "detshare:0.5",
	     .per_task = "gres/gpu=1",
	     .line = "--gpus-per-task=1 beside"},
	    {.per_node = "detshare:0.5",
	     .per_task = "cpu=1,gres/gpu=1",
	     .line = "--tres-per-task=cpu=1,gres/gpu=1 beside"},
	    {.per_node = "detshare:0.5",
	     .bind = "gpu:single:1",
	     .line = "--gpu-bind=single:1 beside"},
	    {.per_node = "detshare:0.5", .bind = "gres/gpu:closest", .line = "--gpu-bind=closest "},
	    {.per_node = "detshare:0.5", .freq = "gpu:high", .line = "--gpu-freq=high beside"},
	    {.per_node = "detshare:0.5",
	     .mem = "gres:gpu:1024",
	     .line = "--mem-per-gpu=1024 beside"},
	    {.per_node = "detshare:0.5", .cpus = "gres:gpu:4", .line = "--cpus-per-gpu=4 beside"},
	    {.per_node = "detshare:0.5", .ntasks = 2, .line = "--ntasks-per-gpu=2 beside"},
	    {.per_node = "detshare:0.5", .exclusive = true, .line = "--exclusive beside"},
	    {.per_node = "gres:gpu:1,gres:detshare:0.5",
	     .line = "--gres=gpu:1,detshare:0.5: a whole GPU"},
	    {.per_node = "gres:shard:100", .line = "--gres=shard:100: shard without detshare"},
	    {.per_job = "gres:shard:100", .line = "--gpus=gres:shard:100: part of a GPU"},
	    {.per_job = "gres:detshare:100", .line = "--gpus=gres:detshare:100: part of a GPU"},
	    {.per_task = "gres/detshare:0.5", .line = "--tres-per-task=gres/detshare:0.5: part"},
	};

	start_with_rules(NULL);
	for (size_t i = 0; i < N(rows); i++) {
		job_desc_msg_t job;
		char *message = NULL;

		begin_job(&job, rows[i].per_node);
		job.tres_per_job = (char *)rows[i].per_job;
		job.tres_per_socket = (char *)rows[i].per_socket;
		job.tres_per_task = (char *)rows[i].per_task;
		job.tres_bind = (char *)rows[i].bind;
		job.tres_freq = (char *)rows[i].freq;
		job.mem_per_tres = (char *)rows[i].mem;
		job.cpus_per_tres = (char *)rows[i].cpus;
		if (rows[i].ntasks)
			job.ntasks_per_tres = rows[i].ntasks;
		if (rows[i].exclusive)
			job.shared = JOB_SHARED_NONE;
		assert_int_equal(plugin.submit(&job, 1000, &message), ESLURM_INVALID_GRES);
		assert_non_null(message);
		if (strncmp(message, rows[i].line, strlen(rows[i].line)) != 0)
			fail_msg("expected \"%s...\": %s", rows[i].line, message);
		assert_null(strchr(message, '\n'));
		/* The administrator finds the same line in the log, with the user. */
		assert_non_null(strstr(last_log, message));
		assert_non_null(strstr(last_log, "uid 1000"));
		assert_null(grant_of(&job));
		if (rows[i].per_node)
			assert_string_equal(job.tres_per_node, rows[i].per_node);
		free(message);
		end_job(&job);
	}
}

/* What is not about GPUs in these fields is none of ours. */
static void harmless_fields(void **state)
{
	job_desc_msg_t job;
	char *message = NULL;

	start_with_rules(NULL);
	begin_job(&job, "detshare:0.5");
	job.tres_per_task = (char *)"cpu=2,license/x=1";
	job.tres_per_job = (char *)"license/x=1";
	job.tres_bind = (char *)"nic:closest";
	job.shared = JOB_SHARED_USER;
	assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
	assert_null(message);
	end_job(&job);
}

/* Slurm packs shares without looking at users: the node is kept to one of them where the site says so. */
static void keeps_users_apart(void **state)
{
	static const struct {
		const char *config, *gres;
		uint16_t before, after;
	} rows[] = {
	    {NULL, "detshare:0.5", NO_VAL16, JOB_SHARED_USER},
	    {NULL, "detshare:0.5", JOB_SHARED_OK, JOB_SHARED_USER},
	    {NULL, "detshare:0.5", JOB_SHARED_MCS, JOB_SHARED_MCS},
	    {NULL, "gpu:1", NO_VAL16, NO_VAL16},
	    {"isolation = none\n", "detshare:0.5", NO_VAL16, NO_VAL16},
	    {"isolation = none\n", "detshare:0.5", JOB_SHARED_USER, JOB_SHARED_USER},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		job_desc_msg_t job;
		char *message = NULL;

		start_with_rules(rows[i].config);
		begin_job(&job, rows[i].gres);
		job.shared = rows[i].before;
		assert_int_equal(plugin.submit(&job, 1000, &message), SLURM_SUCCESS);
		assert_null(message);
		assert_int_equal(job.shared, rows[i].after);
		end_job(&job);
	}
}

static void keeps_an_earlier_plugins_message(void **state)
{
	job_desc_msg_t job;
	char *message = strdup("earlier");

	start_with_rules(NULL);
	begin_job(&job, "shard:1");
	assert_int_equal(plugin.submit(&job, 1000, &message), ESLURM_INVALID_GRES);
	assert_int_equal(strncmp(message, "earlier\n--gres=shard:1: ", 24), 0);
	free(message);
	end_job(&job);
}

static int submit_plain(const char *gres, char **message)
{
	job_desc_msg_t job;

	begin_job(&job, gres);
	int rc = plugin.submit(&job, 1000, message);
	end_job(&job);
	return rc;
}

/* The file is looked at once a second. */
static void wait_for_the_next_look(void)
{
	nanosleep(&(struct timespec){1, 100000000}, NULL);
}

static void rules_change_while_running(void **state)
{
	char *message = NULL;

	start_with_rules("class latency { max_share = 0.5 }\n");
	assert_int_equal(submit_plain("detshare:latency:0.6", &message), ESLURM_INVALID_GRES);
	free(message);
	message = NULL;

	write_rules("class latency { max_share = 0.7 }\n");
	wait_for_the_next_look();
	assert_int_equal(submit_plain("detshare:latency:0.6", &message), SLURM_SUCCESS);

	/* A broken file keeps the old rules and is logged once. */
	n_errors = 0;
	write_rules("class latency { max_share = 7.5 }\n");
	wait_for_the_next_look();
	assert_int_equal(submit_plain("detshare:latency:0.6", &message), SLURM_SUCCESS);
	assert_int_equal(n_errors, 1);
	assert_non_null(strstr(last_log, "detshare.conf:1: max_share: share \"7.5\" is more"));
	assert_non_null(strstr(last_log, "the rules of before stay in force"));
	wait_for_the_next_look();
	assert_int_equal(submit_plain("detshare:latency:0.6", &message), SLURM_SUCCESS);
	assert_int_equal(n_errors, 1);

	/* So does one that vanishes. */
	unlink(plugin.rules);
	wait_for_the_next_look();
	assert_int_equal(submit_plain("detshare:latency:0.8", &message), ESLURM_INVALID_GRES);
	assert_int_equal(n_errors, 2);
	free(message);
}

static void first_rules_are_broken(void **state)
{
	char *message = NULL;

	n_errors = 0;
	start_with_rules("nonsense\n");
	assert_int_equal(n_errors, 1);
	assert_int_equal(submit_plain("gpu:1", &message), SLURM_SUCCESS);
	assert_int_equal(submit_plain("detshare:0.5", &message), ESLURM_INVALID_GRES);
	assert_non_null(strstr(message, "detshare.conf is broken"));
	free(message);
	message = NULL;
	write_rules("");
	wait_for_the_next_look();
	assert_int_equal(submit_plain("detshare:0.5", &message), SLURM_SUCCESS);
}

static int update(job_desc_msg_t *change, struct ds_slurm_job *job, char **message)
{
#if DS_SLURM_SINCE(23, 2)
	return plugin.modify(change, job, 1000, message);
#else
	int rc = plugin.modify(change, job, 1000);
	*message = rc ? strdup(last_log) : NULL;
	return rc;
#endif
}

static void updates(void **state)
{
	static char grant[] =
	    "DETSHARE_GRANT=v=1,class=latency,kind=latency,share=500,isolation=user,"
	    "config=0123456789abcdef";
	static struct ds_slurm_job ours = {"gres:detshare:latency:500,gres:shard:500", grant,
					   NO_VAL16};
	static struct ds_slurm_job theirs = {"gres:gpu:1", NULL, NO_VAL16};
	static const struct {
		struct ds_slurm_job *job;
		const char *gres;
		uint16_t shared;
		const char *result; /* gres after it, or the message if it starts with '!' */
	} rows[] = {
	    {&ours, NULL, NO_VAL16, NULL},
	    {&ours, "detshare:0.5", NO_VAL16, "detshare:latency:500,shard:500"},
	    {&ours, "detshare:latency:0.5,shard:9", NO_VAL16, "detshare:latency:500,shard:500"},
	    {&ours, "nic:1,detshare:500", NO_VAL16, "nic:1,detshare:latency:500,shard:500"},
	    {&ours, "detshare:0.6", NO_VAL16, "!cannot be changed"},
	    {&ours, "detshare:throughput:0.5", NO_VAL16, "!cannot be changed"},
	    {&ours, "gres:gpu:1", NO_VAL16,
	     "!gres=gpu:1: the share of a submitted job (detshare:latency:0.5) cannot be changed; "
	     "cancel "
	     "the job and submit it again"},
	    {&ours, "", NO_VAL16, "!cannot be changed"},
	    {&ours, "detshare:7", NO_VAL16, "!cannot be changed"},
	    {&ours, "detshare:7.5", NO_VAL16, "!--gres=detshare:7.5: "},
	    {&ours, NULL, JOB_SHARED_NONE, "!--exclusive beside"},
	    {&theirs, "gres:gpu:2", NO_VAL16, "gres:gpu:2"},
	    {&theirs, "detshare:0.5", NO_VAL16, "!cannot be given to a job after its submission"},
	    {&theirs, "shard:5", NO_VAL16, "!--gres=shard:5: shard without detshare"},
	    {&theirs, NULL, JOB_SHARED_NONE, NULL},
	    {NULL, "gres:gpu:2", NO_VAL16, "gres:gpu:2"},
	    {NULL, "detshare:0.5", NO_VAL16, "!cannot be given to a job after its submission"},
	};

	start_with_rules(NULL);
	for (size_t i = 0; i < N(rows); i++) {
		job_desc_msg_t change;
		char *message = NULL;
		bool refusal = rows[i].result && rows[i].result[0] == '!';

		begin_job(&change, rows[i].gres);
		change.shared = rows[i].shared;
		add_entry(&change, "DETSHARE_GRANT=forged");
		int rc = update(&change, rows[i].job, &message);
		assert_int_equal(rc, refusal ? ESLURM_INVALID_GRES : SLURM_SUCCESS);
		if (refusal && !strstr(message, rows[i].result + 1))
			fail_msg("%zu: %s", i, message);
		if (!refusal && rows[i].result)
			assert_string_equal(change.tres_per_node, rows[i].result);
		assert_int_equal(change.spank_job_env_size, 0);
		free(message);
		end_job(&change);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(symbols),
	    cmocka_unit_test(stamps),
	    cmocka_unit_test(leaves_other_jobs_alone),
	    cmocka_unit_test(strips_forged_grants),
	    cmocka_unit_test(class_option),
	    cmocka_unit_test(memory_option),
	    cmocka_unit_test(refused),
	    cmocka_unit_test(harmless_fields),
	    cmocka_unit_test(keeps_users_apart),
	    cmocka_unit_test(keeps_an_earlier_plugins_message),
	    cmocka_unit_test(rules_change_while_running),
	    cmocka_unit_test(first_rules_are_broken),
	    cmocka_unit_test(updates),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, load, unload);
}
