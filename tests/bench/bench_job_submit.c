/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What job_submit adds to each submission: the plugin as slurmctld loads it, called with jobs that ask
 * a share, ask none, and are refused. Prints median and p99 of each; ends 1 if a median is above the
 * 20 us that the project allows itself.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gres/slurm_compat.h"

enum { ROUNDS = 20000, ENV_ENTRIES = 4, LIMIT_NS = 20000 };

DS_EXPORT extern void *slurm_xcalloc(size_t, size_t, bool, bool, const char *, int, const char *);
DS_EXPORT extern void *slurm_xrecalloc(void **, size_t, size_t, bool, bool, const char *, int,
				       const char *);
DS_EXPORT extern void slurm_xfree(void **);
DS_EXPORT extern char *slurm_xstrdup(const char *);

/* slurmctld's part, as cheap as it is there. */
void *slurm_xcalloc(size_t count, size_t size, bool clear, bool try, const char *file, int line,
		    const char *function)
{
	return calloc(count, size);
}

void *slurm_xrecalloc(void **item, size_t count, size_t size, bool clear, bool try,
		      const char *file, int line, const char *function)
{
	*item = realloc(*item, count * size);
	return *item;
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

/* A log line per refused job is formatted, and goes nowhere. */
DS_EXPORT void slurm_info(const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
}

DS_EXPORT void slurm_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static job_desc_msg_t make_job(const char *gres)
{
	job_desc_msg_t job;

	memset(&job, 0, sizeof(job));
	job.tres_per_node = gres ? strdup(gres) : NULL;
	job.shared = NO_VAL16;
	job.ntasks_per_tres = NO_VAL16;
	job.spank_job_env = calloc(ENV_ENTRIES + 1, sizeof(char *));
	for (; job.spank_job_env_size < ENV_ENTRIES; job.spank_job_env_size++)
		job.spank_job_env[job.spank_job_env_size] =
		    strdup("SPANK_SOME_VARIABLE=some value");
	return job;
}

static void free_job(job_desc_msg_t *job)
{
	for (uint32_t i = 0; i < job->spank_job_env_size; i++)
		free(job->spank_job_env[i]);
	free(job->spank_job_env);
	free(job->tres_per_node);
}

static uint64_t measure(const char *what, const char *gres, int expected,
			int (*submit)(job_desc_msg_t *, uint32_t, char **))
{
	static uint64_t took_ns[ROUNDS];

	for (int i = 0; i < ROUNDS; i++) {
		job_desc_msg_t job = make_job(gres);
		char *message = NULL;
		uint64_t start = now_ns();
		int rc = submit(&job, 1000, &message);
		took_ns[i] = now_ns() - start;
		if (rc != expected) {
			fprintf(stderr, "%s: unexpected result %d: %s\n", what, rc,
				message ? message : "");
			exit(2);
		}
		free(message);
		free_job(&job);
	}
	qsort(took_ns, ROUNDS, sizeof(took_ns[0]), compare);
	uint64_t median_ns = took_ns[ROUNDS / 2];
	uint64_t p99_ns = took_ns[ROUNDS / 100 * 99];
	printf("job_submit, %-18s median %6.2f us   p99 %6.2f us\n", what, (double)median_ns / 1000,
	       (double)p99_ns / 1000);
	return median_ns;
}

int main(void)
{
	int (*init)(void);
	int (*submit)(job_desc_msg_t *, uint32_t, char **);
	uint64_t worst = 0;

	setenv("SLURM_CONF", "/nonexistent/slurm.conf", 1);
	void *plugin = dlopen(JOB_SUBMIT_PLUGIN, RTLD_NOW);
	if (!plugin || !(*(void **)&init = dlsym(plugin, "init")) ||
	    !(*(void **)&submit = dlsym(plugin, "job_submit")) || init() != 0) {
		fprintf(stderr, "cannot load " JOB_SUBMIT_PLUGIN ": %s\n", dlerror());
		return 2;
	}
	const struct {
		const char *what, *gres;
		int expected;
	} rows[] = {
	    {"asks a share", "gres:detshare:latency:0.5", SLURM_SUCCESS},
	    {"asks a whole GPU", "gres:gpu:1", SLURM_SUCCESS},
	    {"asks nothing", NULL, SLURM_SUCCESS},
	    {"is refused", "gres:detshare:1.5", ESLURM_INVALID_GRES},
	};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t median = measure(rows[i].what, rows[i].gres, rows[i].expected, submit);
		worst = median > worst ? median : worst;
	}
	dlclose(plugin);
	if (worst > LIMIT_NS) {
		fprintf(stderr, "a median is above %d us\n", LIMIT_NS / 1000);
		return 1;
	}
	return 0;
}
