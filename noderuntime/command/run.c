/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/run.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"
#include "common/size.h"
#include "common/spawn.h"
#include "gres/config.h"
#include "gres/grant.h"
#include "gres/request.h"
#include "noderuntime/allocation.h"
#include "noderuntime/command/command.h"
#include "noderuntime/command/reported.h"
#include "noderuntime/environment.h"

extern char **environ;

enum {
	BEGIN_MS = 15000, /* a GPU that nobody used yet takes seconds to answer the probe */
	END_MS = 5000,
	SPAWN_EXTRA_MS = 500,
	WAIT_MS = 500, /* between two looks for room; the ledger costs microseconds to read */
	STATUS_SIGNAL = 128,
	NOTES_MS = 500,      /* for one answer */
	NOTES_TRIES = 21,    /* while it is not known whose fault something was, */
	NOTES_PAUSE_MS = 50, /* which is for a second */
	LAST_NOTES_SIZE = 16384,
};

enum {
	KEY_SHARE = 's',
	KEY_CLASS = 'C',
	KEY_GPU = 'g',
	KEY_CONFIG = 'c',
	KEY_MEMORY = 'm',
	KEY_WAIT = 'w'
};

/* One run of a command on a share of a GPU. */
struct run {
	const char *class_name;
	const char *gpu;
	const char *config_path;
	bool wait;
	char **argv;
	uint32_t share_milli;
	uint32_t memory_mib; /* 0: what the share brings */
	struct ds_node_config config;
	struct ds_gpu chosen;
	struct ds_grant granted;
	char grant[DS_GRANT_TEXT_SIZE]; /* the same as text */
	char name[DS_NAME_SIZE];
	sigset_t signals;
	sigset_t mask; /* the caller's, for the command */
};

/* What the site calls classes; without a detshare.conf, the built-in ones. */
static int make_grant(struct run *run, struct ds_error *err)
{
	struct ds_site_config site;
	struct ds_grant grant = {.share_milli = run->share_milli, .memory_mib = run->memory_mib};
	char most[DS_SIZE_TEXT_SIZE];
	char path[PATH_MAX];

	ds_site_config_defaults(&site);
	ds_site_config_path(path, sizeof(path));
	if (access(path, F_OK) == 0 && ds_site_config_read(path, &site, err) < 0)
		return -1;
	const char *name = run->class_name ? run->class_name : site.default_class;
	const struct ds_class *class = ds_site_config_class(&site, name);
	if (!class) {
		char known[256] = "";
		size_t used = 0;
		for (uint32_t i = 0; i < site.n_classes && used < sizeof(known); i++)
			used += (size_t)snprintf(known + used, sizeof(known) - used, " %s",
						 site.classes[i].name);
		return ds_fail(err, "--class %s: no such class; there are%s", name, known);
	}
	snprintf(grant.class_name, sizeof(grant.class_name), "%s", class->name);
	snprintf(grant.config_digest, sizeof(grant.config_digest), "%s", site.digest);
	grant.kind = class->kind;
	grant.isolation = site.isolation;
	grant.memory_max_mib = class->max_memory_mib;
	if (class->max_memory_mib && run->memory_mib > class->max_memory_mib)
		return ds_fail(err, "--memory %uM: class %s may have %s", run->memory_mib, name,
			       ds_size_format(class->max_memory_mib, most));
	ds_grant_set_lending(&grant, &site, class);
	run->granted = grant;
	return ds_grant_format(&grant, run->grant, sizeof(run->grant), err);
}

/*
 * A user cannot write to root's runtime directory, so he gets one of his own, where nobody else can
 * have put anything.
 */
static int use_own_directory(struct ds_node_config *config, struct ds_error *err)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	const char *temporary = getenv("TMPDIR");
	size_t size = sizeof(config->runtime_dir);
	struct stat st;
	int length;

	if (base && *base == '/')
		length = snprintf(config->runtime_dir, size, "%s/detshare", base);
	else
		length = snprintf(config->runtime_dir, size, "%s/detshare-%u",
				  temporary && *temporary == '/' ? temporary : "/tmp",
				  (unsigned)geteuid());
	if (length < 0 || (size_t)length >= size)
		return ds_fail(err, "XDG_RUNTIME_DIR or TMPDIR is too long");
	if (mkdir(config->runtime_dir, 0700) < 0 && errno != EEXIST)
		return ds_fail(err, "cannot create %s: %s", config->runtime_dir, strerror(errno));
	if (lstat(config->runtime_dir, &st) < 0)
		return ds_fail(err, "cannot stat %s: %s", config->runtime_dir, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return ds_fail(err, "%s is not a directory that only you can use (mode 0700)",
			       config->runtime_dir);
	return 0;
}

/* Run `detshare-noderuntime COMMAND`; its own last words are the reason when it fails. */
static int noderuntime(const struct run *run, const char *command, const char *const *more,
		       unsigned deadline_ms, struct ds_error *err)
{
	const char *argv[32], *line;
	char deadline[16], said[400];
	int n = 0;

	snprintf(deadline, sizeof(deadline), "%u", deadline_ms);
	argv[n++] = run->config.noderuntime;
	argv[n++] = command;
	argv[n++] = "--allocation";
	argv[n++] = run->name;
	argv[n++] = "--runtime-dir";
	argv[n++] = run->config.runtime_dir;
	argv[n++] = "--deadline-ms";
	argv[n++] = deadline;
	if (*run->config.file) {
		argv[n++] = "--config";
		argv[n++] = run->config.file;
	}
	while (*more)
		argv[n++] = *more++;
	argv[n] = NULL;
	char **env = ds_environment_own();
	if (!env)
		return ds_fail(err, "out of memory");
	struct ds_spawn spawn = {.argv = argv,
				 .envp = (const char *const *)env,
				 .deadline_ms = deadline_ms + SPAWN_EXTRA_MS,
				 .late = DS_SPAWN_KILL};
	int status = ds_spawn(&spawn, said, sizeof(said), err);
	free(env);
	if (status <= 0)
		return status;
	line = strncmp(said, "detshare-noderuntime: ", 22) ? said : said + 22;
	return *line ? ds_fail(err, "%s", line)
		     : ds_fail(err, "%s %s ended with status %d", argv[0], command, status);
}

static int begin(const struct run *run, struct ds_error *err)
{
	char uid[16], owner[16];
	const char *more[] = {"--uid",          uid,       "--gpu",
			      run->chosen.uuid, "--grant", run->grant,
			      "--owner-pid",    owner,     NULL};

	snprintf(uid, sizeof(uid), "%u", (unsigned)getuid());
	snprintf(owner, sizeof(owner), "%d", (int)getpid());
	/* Before the driver has seen it, a GPU has no UUID yet. */
	char minor[16];
	snprintf(minor, sizeof(minor), "%u", run->chosen.minor);
	if (!ds_gpu_uuid_valid(run->chosen.uuid))
		more[3] = minor;
	return noderuntime(run, "begin", more, BEGIN_MS, err);
}

static int end(const struct run *run, struct ds_error *err)
{
	const char *const none[] = {NULL};
	return noderuntime(run, "end", none, END_MS, err);
}

/* A signal that came before there was a command to pass it on to; 0: none. Waits up to `wait_ms`. */
static int interrupted(const struct run *run, int wait_ms)
{
	struct timespec wait = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000L};
	sigset_t signals = run->signals;

	sigdelset(&signals, SIGCHLD);
	int signal_number = sigtimedwait(&signals, NULL, &wait);
	return signal_number > 0 ? signal_number : 0;
}

/* Begin as soon as there is room. 0, -1 with a reason, or the signal that ended the waiting. */
static int acquire(struct run *run, struct ds_error *err)
{
	for (;;) {
		int room = ds_run_choose(&run->config, run->gpu, &run->granted, &run->chosen, err);
		if (room == 0) {
			if (begin(run, err) == 0)
				return 0;
			/* Somebody else may have been faster: then there is no room any more. */
			struct ds_error reason;
			if (ds_run_choose(&run->config, run->gpu, &run->granted, &run->chosen,
					  &reason) != 1)
				return -1;
			*err = reason;
		} else if (room < 0) {
			return -1;
		}
		if (!run->wait)
			return -1;
		int signal_number = interrupted(run, WAIT_MS);
		if (signal_number)
			return signal_number;
	}
}

static int read_task_env(const struct run *run, struct ds_task_env *env, struct ds_error *err)
{
	char path[PATH_MAX];
	static char text[DS_TASK_ENV_TEXT_SIZE];
	size_t used = 0;
	ssize_t n;

	if (ds_allocation_path(&run->config, run->name, "task.env", path, err) < 0)
		return -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ds_fail(err, "cannot open %s: %s", path, strerror(errno));
	while ((n = read(fd, text + used, sizeof(text) - used)) > 0)
		used += (size_t)n;
	close(fd);
	if (n < 0)
		return ds_fail(err, "cannot read %s: %s", path, strerror(errno));
	if (ds_task_env_parse(text, used, env, err) < 0)
		return ds_fail_within(err, "%s", path);
	return 0;
}

/* Run the command in the allocation that has begun. Its exit status, or -1. */
static int run_in_allocation(const struct run *run, struct ds_error *err)
{
	static struct ds_task_env env;
	struct ds_task_grant grant = {.env = &env,
				      .share_milli = run->share_milli,
				      .allocation_here = true,
				      .coroutine_library = run->config.coroutine_library,
				      .runtime_dir = run->config.runtime_dir};
	struct ds_env_edits edits = {0};
	int status = -1;

	if (read_task_env(run, &env, err) == 0 &&
	    ds_env_edits_plan((const char *const *)environ, &grant, &edits, err) == 0)
		status = ds_run_command(run->argv, &edits, &run->signals, &run->mask, err);
	ds_env_edits_free(&edits);
	return status;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;
	struct ds_error err;

	switch (key) {
	case KEY_SHARE:
		if (ds_share_parse(arg, &run->share_milli, &err) < 0)
			argp_failure(state, DS_EXIT_USAGE, 0, "--share %s: %s", arg, err.text);
		return 0;
	case KEY_MEMORY:
		if (ds_size_parse(arg, &run->memory_mib, &err) < 0)
			argp_failure(state, DS_EXIT_USAGE, 0, "--memory: %s", err.text);
		return 0;
	case KEY_CLASS:
		run->class_name = arg;
		return 0;
	case KEY_GPU:
		run->gpu = arg;
		return 0;
	case KEY_CONFIG:
		run->config_path = arg;
		return 0;
	case KEY_WAIT:
		run->wait = true;
		return 0;
	case ARGP_KEY_ARGS:
		run->argv = state->argv + state->next;
		return 0;
	case ARGP_KEY_END:
		if (!run->share_milli)
			argp_failure(state, DS_EXIT_USAGE, 0,
				     "which share? Give --share 0.5, for example");
		if (!run->argv)
			argp_failure(state, DS_EXIT_USAGE, 0, "which command? Give it behind --");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Its node runtime was killed. What a neighbour's had to say instead, it left beside the port. */
static void tell_last_notes(const struct run *run)
{
	char path[PATH_MAX], text[LAST_NOTES_SIZE];
	char *rest = text;
	const char *line;

	if (ds_allocation_path(&run->config, run->name, DS_PORT_LAST_NOTES, path, NULL) < 0 ||
	    ds_read_text(path, O_NOFOLLOW, text, sizeof(text)) < 0)
		return;
	while ((line = strsep(&rest, "\n"))) {
		if (*line)
			fprintf(stderr, "detshare run: %s\n", line);
	}
}

/* As slurmstepd does it in a job: what became of its programs, by its node runtime's word. */
static void tell_notes(const struct run *run)
{
	const struct timespec pause = {.tv_nsec = NOTES_PAUSE_MS * 1000000L};
	struct ds_port_notes notes = {.pending = 1};

	for (int i = 1; notes.pending && i <= NOTES_TRIES; i++) {
		if (i > 1)
			nanosleep(&pause, NULL);
		if (!ds_reported_notes(run->config.runtime_dir, run->name, NOTES_MS,
				       i == NOTES_TRIES, &notes)) {
			tell_last_notes(run);
			return;
		}
		for (uint32_t n = 0; n < notes.n; n++)
			fprintf(stderr, "detshare run: %s\n", notes.text[n]);
	}
}

static int fail(const struct ds_error *err)
{
	fprintf(stderr, "detshare run: %s\n", err->text);
	return DS_EXIT_FAILURE;
}

int ds_command_run(int argc, char **argv)
{
	static const struct argp_option options[] = {
	    {"share", KEY_SHARE, "SHARE", 0, "part of one GPU: 0.5, or thousandths: 500", 0},
	    {"class", KEY_CLASS, "CLASS", 0, "workload class (the site's default)", 0},
	    {"memory", KEY_MEMORY, "SIZE", 0,
	     "GPU memory for the command, such as 20G (its share of the GPU's)", 0},
	    {"gpu", KEY_GPU, "MINOR|UUID", 0, "this GPU (the first one with room)", 0},
	    {"wait", KEY_WAIT, NULL, 0, "wait for room instead of refusing", 0},
	    {"config", KEY_CONFIG, "FILE", 0, "read FILE instead of detshare-node.conf", 0},
	    {0}};
	static const struct argp argp = {options,
					 parse_option,
					 "-- COMMAND [ARGUMENT...]",
					 "Run a command on a share of a GPU, without Slurm.",
					 NULL,
					 NULL,
					 NULL};
	struct run run = {0};
	struct ds_error err = {""};

	argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &run);
	if (make_grant(&run, &err) < 0 ||
	    ds_node_config_read(run.config_path, NULL, &run.config, &err) < 0 ||
	    (geteuid() != 0 && use_own_directory(&run.config, &err) < 0))
		return fail(&err);
	snprintf(run.name, sizeof(run.name), "run-%d", (int)getpid());
	signal(SIGCHLD, SIG_DFL); /* ignored, as some callers leave it, it would not wake us */
	ds_run_signals(&run.signals);
	sigprocmask(SIG_BLOCK, &run.signals, &run.mask);

	int rc = acquire(&run, &err);
	if (rc < 0)
		return fail(&err);
	if (rc > 0)
		return STATUS_SIGNAL + rc;
	int signal_number = interrupted(&run, 0);
	int status = signal_number ? STATUS_SIGNAL + signal_number : run_in_allocation(&run, &err);
	if (status < 0)
		status = fail(&err);
	tell_notes(&run);
	if (end(&run, &err) < 0) {
		fail(&err);
		if (status == 0)
			status = DS_EXIT_FAILURE;
	}
	return status;
}
