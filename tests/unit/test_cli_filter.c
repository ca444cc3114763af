/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin as srun loads it: the options of a command line go in, the rewritten --gres or one line
 * and the end of the client come out. What libslurmfull would export to it is here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gres/slurm_compat.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

enum { MAX_OPTIONS = 8 };

/* A command line. */
struct ds_slurm_options {
	const char *client;
	const char *class_option;
	struct {
		const char *name, *value;
	} given[MAX_OPTIONS];
};

static const char *memory_option; /* --detshare-mem; NULL: not given */
static char *gres_set;            /* what the plugin made of --gres */

static struct ds_slurm_options *current;
/* What slurmctld says of the jobs there are; NULL: it does not answer. */
static slurm_job_info_t *jobs;
static uint32_t n_jobs, asked_for_job;

static const char *find_option(const struct ds_slurm_options *options, const char *name)
{
	for (size_t i = 0; i < MAX_OPTIONS && options->given[i].name; i++)
		if (strcmp(options->given[i].name, name) == 0)
			return options->given[i].value;
	return NULL;
}

DS_EXPORT char *slurm_option_get(struct ds_slurm_options *options, const char *name)
{
	const char *value = find_option(options, name);

	return value ? strdup(value) : NULL;
}

DS_EXPORT bool slurm_option_isset(struct ds_slurm_options *options, const char *name)
{
	return find_option(options, name) != NULL;
}

DS_EXPORT int slurm_option_set(struct ds_slurm_options *options, const char *name,
			       const char *value, bool early)
{
	assert_string_equal(name, "gres");
	assert_false(early);
	gres_set = strdup(value);
	return SLURM_SUCCESS;
}

extern char *spank_option_get(char *name);
DS_EXPORT char *spank_option_get(char *name)
{
	if (strcmp(name, "detshare-mem") == 0)
		return memory_option ? strdup(memory_option) : NULL;
	assert_string_equal(name, "detshare-class");
	return current->class_option ? strdup(current->class_option) : NULL;
}

DS_EXPORT void slurm_xfree(void **item)
{
	free(*item);
	*item = NULL;
}

DS_EXPORT void slurm_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

static int answer(job_info_msg_t **message, uint32_t job_id)
{
	asked_for_job = job_id;
	if (!jobs)
		return SLURM_ERROR;
	*message = calloc(1, sizeof(**message));
	(*message)->record_count = n_jobs;
	(*message)->job_array = jobs;
	return SLURM_SUCCESS;
}

#undef slurm_load_job
#if DS_SLURM_SINCE(26, 5)
DS_EXPORT int slurm_load_job(job_info_msg_t **message, slurm_step_id_t step, uint16_t flags)
{
	return answer(message, step.job_id);
}
#else
DS_EXPORT int slurm_load_job(job_info_msg_t **message, uint32_t job_id, uint16_t flags)
{
	return answer(message, job_id);
}
#endif

DS_EXPORT void slurm_free_job_info_msg(job_info_msg_t *message)
{
	free(message);
}

static int (*pre_submit)(struct ds_slurm_options *, int);

static int load(void **state)
{
	void *plugin = dlopen(CLI_FILTER_PLUGIN, RTLD_NOW);

	/* No detshare.conf: what the rules make of one is the business of their own test. */
	setenv("SLURM_CONF", "/nonexistent/slurm.conf", 1);
	unsetenv("SLURM_EXIT_ERROR");
	if (!plugin || !(*(void **)&pre_submit = dlsym(plugin, "cli_filter_p_pre_submit"))) {
		print_error("%s\n", dlerror());
		return -1;
	}
	return 0;
}

/*
 * Run the filter in a process of its own, as the client that `options` says. Returns the exit status
 * (200 + the filter's result if the client went on), and in `text` what --gres became and all that was
 * written to the terminal.
 */
static int run_client(struct ds_slurm_options *options, int offset, char *text, size_t size)
{
	int pipe_ends[2], status = 0;
	size_t used = 0;
	ssize_t n;

	assert_int_equal(pipe(pipe_ends), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(pipe_ends[1], STDERR_FILENO);
		close(pipe_ends[0]);
		close(pipe_ends[1]);
		program_invocation_short_name = (char *)options->client;
		current = options;
		int rc = pre_submit(options, offset);
		if (gres_set)
			dprintf(STDERR_FILENO, "%s", gres_set);
		_exit(rc == SLURM_SUCCESS ? 200 : 201);
	}
	close(pipe_ends[1]);
	while ((n = read(pipe_ends[0], text + used, size - 1 - used)) > 0)
		used += (size_t)n;
	text[used] = '\0';
	close(pipe_ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void jobs_are_rewritten(void **state)
{
	static const struct {
		struct ds_slurm_options options;
		const char *gres; /* "": left alone */
	} rows[] = {
	    {{"srun", NULL, {{"gres", "gres:detshare:0.5"}, {"jobid", "unset"}}},
	     "gres:detshare:500,gres:shard:500"},
	    {{"sbatch", NULL, {{"gres", "gres/detshare:latency:0.25"}}},
	     "gres/detshare:latency:250,gres/shard:250"},
	    {{"salloc", "latency", {{"gres", "detshare:0.25"}}}, "detshare:latency:250,shard:250"},
	    {{"scrontab", NULL, {{"gres", "detshare"}}}, "detshare:1000,shard:1000"},
	    {{"sbatch", NULL, {{"gres", "gpu:1"}, {"exclusive", "exclusive"}}}, ""},
	    {{"sbatch", NULL, {{"gres", "detshare:1"}, {"exclusive", "user"}}},
	     "detshare:1000,shard:1000"},
	    {{"srun", NULL, {{"gres", "none"}}}, ""},
	    {{"srun", NULL, {{"nodes", "1"}}}, ""},
	};
	char text[1024];

	jobs = NULL;
	for (size_t i = 0; i < N(rows); i++) {
		struct ds_slurm_options options = rows[i].options;
		assert_int_equal(run_client(&options, 0, text, sizeof(text)), 200);
		assert_string_equal(text, rows[i].gres);
	}
}

/* srun, sbatch and salloc end with one line on the terminal; scrontab decides itself. */
static void refusals_are_one_line(void **state)
{
	static const char line[] =
	    "--gpus=2 beside --gres=detshare: a share brings its GPU with it; leave --gpus out\n";
	static const struct {
		const char *client, *exit_error;
		int status;
	} rows[] = {
	    {"srun", NULL, 1},        {"sbatch", NULL, 1}, {"salloc", NULL, 1},
	    {"scrontab", NULL, 201},  {"srun", "77", 77},  {"srun", "bogus", 1},
	    {"something", "77", 201},
	};
	char text[1024];

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_slurm_options options = {
		    rows[i].client, NULL, {{"gres", "detshare:0.5"}, {"gpus", "2"}}};
		if (rows[i].exit_error)
			setenv("SLURM_EXIT_ERROR", rows[i].exit_error, 1);
		assert_int_equal(run_client(&options, 0, text, sizeof(text)), rows[i].status);
		assert_string_equal(text, line);
		unsetenv("SLURM_EXIT_ERROR");
	}
}

static void each_option_is_asked_by_its_name(void **state)
{
	static const char *const names[] = {
	    "gpus",     "gpus-per-node", "gpus-per-socket", "gpus-per-task",  "gpu-bind",
	    "gpu-freq", "mem-per-gpu",   "cpus-per-gpu",    "ntasks-per-gpu",
	};
	char text[1024], start[64];

	for (size_t i = 0; i < N(names); i++) {
		struct ds_slurm_options options = {
		    "srun", NULL, {{"gres", "detshare:0.5"}, {names[i], "7"}}};
		assert_int_equal(run_client(&options, 0, text, sizeof(text)), 1);
		snprintf(start, sizeof(start), "--%s=7 beside", names[i]);
		assert_int_equal(strncmp(text, start, strlen(start)), 0);
	}
	struct ds_slurm_options fine = {"srun", NULL, {{"gres", "detshare:0.5"}}};
	memory_option = "20G";
	assert_int_equal(run_client(&fine, 0, text, sizeof(text)), 200);
	memory_option = "20GB";
	assert_int_equal(run_client(&fine, 0, text, sizeof(text)), 1);
	assert_non_null(strstr(text, "--detshare-mem=\"20GB\" is not a size"));
	memory_option = NULL;
	struct ds_slurm_options tres = {
	    "srun", NULL, {{"gres", "detshare:0.5"}, {"tres-per-task", "gres/gpu:1"}}};
	assert_int_equal(run_client(&tres, 0, text, sizeof(text)), 1);
	assert_non_null(strstr(text, "--tres-per-task=gres/gpu:1"));
	struct ds_slurm_options exclusive = {
	    "srun", NULL, {{"gres", "detshare:0.5"}, {"exclusive", "exclusive"}}};
	assert_int_equal(run_client(&exclusive, 0, text, sizeof(text)), 1);
	assert_non_null(strstr(text, "--exclusive beside"));
}

static void set_id(slurm_job_info_t *job, uint32_t id)
{
	DS_JOB_INFO_ID(job) = id;
}

static void steps_have_their_jobs_class(void **state)
{
	char text[1024];
	slurm_job_info_t known[3];
	struct ds_slurm_options options = {
	    "srun", NULL, {{"gres", "detshare:0.2"}, {"jobid", "42"}, {"exclusive", "exclusive"}}};

	/* slurmctld does not answer: the class is left to it. */
	jobs = NULL;
	assert_int_equal(run_client(&options, 0, text, sizeof(text)), 200);
	assert_string_equal(text, "detshare:200,shard:200");

	/* An array comes with all its tasks. */
	memset(known, 0, sizeof(known));
	jobs = known;
	n_jobs = 3;
	for (uint32_t i = 0; i < 3; i++) {
		set_id(&known[i], 41 + i);
		known[i].tres_per_node =
		    (char *)(i == 1 ? "gres:detshare:latency:500,gres:shard:500"
				    : "gres:detshare:other:100");
	}
	assert_int_equal(run_client(&options, 0, text, sizeof(text)), 200);
	assert_string_equal(text, "detshare:latency:200,shard:200");

	/* A heterogeneous job comes with all its components: the offset tells which. */
	for (uint32_t i = 0; i < 3; i++) {
		known[i].het_job_id = 42;
		known[i].het_job_offset = i;
		set_id(&known[i], 42 + i);
	}
	known[2].tres_per_node = (char *)"gres/detshare:batch:300";
	assert_int_equal(run_client(&options, 2, text, sizeof(text)), 200);
	assert_string_equal(text, "detshare:batch:200,shard:200");

	known[2].tres_per_node = (char *)"gres/detshare:batch:100";
	assert_int_equal(run_client(&options, 2, text, sizeof(text)), 1);
	assert_string_equal(text, "--gres=detshare:0.2: this step's job has a share of 0.1 only\n");

	known[2].tres_per_node = NULL;
	assert_int_equal(run_client(&options, 2, text, sizeof(text)), 1);
	assert_non_null(strstr(text, "this step's job has no share of a GPU"));
}

/* Steps and jobs that do not concern us cost slurmctld no question. */
/* Slurm gives a job's options to its steps; only what a step asks itself is refused. */
static void steps_have_their_jobs_memory(void **state)
{
	struct ds_slurm_options step = {"srun", NULL, {{"jobid", "7"}}};
	char text[1024];

	jobs = NULL;
	memory_option = "2G";
	setenv("SLURM_SPANK__SLURM_SPANK_OPTION_detshare_detshare_mem", "2G", 1);
	assert_int_equal(run_client(&step, 0, text, sizeof(text)), 200);
	memory_option = "1G";
	assert_int_equal(run_client(&step, 0, text, sizeof(text)), 1);
	assert_non_null(strstr(text, "--detshare-mem=1G: memory is given to a job"));
	unsetenv("SLURM_SPANK__SLURM_SPANK_OPTION_detshare_detshare_mem");
	memory_option = "2G";
	assert_int_equal(run_client(&step, 0, text, sizeof(text)), 1);
	memory_option = NULL;
}

static void only_our_steps_ask_slurmctld(void **state)
{
	struct ds_slurm_options options = {"srun", NULL, {{"gres", "gpu:1"}, {"jobid", "42"}}};

	jobs = NULL;
	asked_for_job = 0;
	current = &options;
	assert_int_equal(pre_submit(&options, 0), SLURM_SUCCESS);
	assert_int_equal(asked_for_job, 0);

	struct ds_slurm_options ours = {"srun", NULL, {{"gres", "detshare"}, {"jobid", "42"}}};
	current = &ours;
	assert_int_equal(pre_submit(&ours, 0), SLURM_SUCCESS);
	assert_int_equal(asked_for_job, 42);
	free(gres_set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(jobs_are_rewritten),
	    cmocka_unit_test(refusals_are_one_line),
	    cmocka_unit_test(each_option_is_asked_by_its_name),
	    cmocka_unit_test(steps_have_their_jobs_class),
	    cmocka_unit_test(steps_have_their_jobs_memory),
	    cmocka_unit_test(only_our_steps_ask_slurmctld),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, load, NULL);
}
