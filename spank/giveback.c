/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detshare-giveback: tell slurmctld that this node cannot serve a job. Started by spank_detshare.so in
 * a session of its own. Exit status: 0 done (or nothing to do any more), 75 the controller does not
 * answer and a child goes on trying, 1 refused, 2 usage; one line on stderr unless 0.
 */
#include "spank/giveback.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "config.h"
#include "gres/slurm_compat.h"

enum {
	RETRY_FIRST_S = 2,
	RETRY_MAX_S = 30,
	RETRY_TOTAL_S = 600,
	MESSAGE_LEAD_MS = 300, /* for a message to reach the terminal before the job's end does */
	SCRIPT_START_S = 5,    /* for a batch script on another node to have an output file */
};

struct request {
	uint32_t job_id;
	uint32_t restart;
	uint32_t restarts_max;
	const char *node;
	const char *reason;
	enum ds_giveback_from from;
	bool have_job;
};

enum outcome { DONE, REFUSED, TRY_AGAIN, LATER };

/* argp looks for it: it must be seen from libc. */
__attribute__((visibility("default"))) const char *argp_program_version =
    "detshare-giveback " PACKAGE_VERSION;

static const struct argp_option options[] = {
    {"job", 'j', "N", 0, "the job's id", 0},
    {"restart", 'r', "N", 0, "which run of the job: its restart count [0]", 0},
    {"node", 'n', "NAME", 0, "the node that gives it back", 0},
    {"reason", 'm', "TEXT", 0, "why, in one line", 0},
    {"from", 'f', "prolog|task|neighbour", 0,
     "where it failed [prolog]; neighbour: it has ended with an error, by another job's fault", 0},
    {"restarts-max", 'x', "N", 0,
     "with --from=neighbour: leave a job that was started anew so often [3]", 0},
    {0},
};

static uint32_t parse_number(const char *text, struct argp_state *state, const char *option)
{
	char *end;
	errno = 0;
	unsigned long n = strtoul(text, &end, 10);

	if (errno || end == text || *end || text[0] == '-' || n >= NO_VAL)
		argp_error(state, "%s: \"%s\" is not a number", option, text);
	return (uint32_t)n;
}

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	struct request *request = state->input;

	switch (key) {
	case 'j':
		request->job_id = parse_number(argument, state, "--job");
		request->have_job = true;
		return 0;
	case 'r':
		request->restart = parse_number(argument, state, "--restart");
		return 0;
	case 'n':
		request->node = argument;
		return 0;
	case 'm':
		request->reason = argument;
		return 0;
	case 'f':
		if (!strcmp(argument, "task"))
			request->from = DS_FROM_TASK;
		else if (!strcmp(argument, "neighbour"))
			request->from = DS_FROM_NEIGHBOUR;
		else if (strcmp(argument, "prolog") != 0)
			argp_error(state, "--from: \"%s\" is none of prolog, task, neighbour",
				   argument);
		return 0;
	case 'x':
		request->restarts_max = parse_number(argument, state, "--restarts-max");
		return 0;
	case ARGP_KEY_END:
		if (!request->have_job || !request->reason)
			argp_error(state, "--job and --reason are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* One line to stderr, for whoever waits for us, and to syslog, for later. */
static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "%s\n", line);
	syslog(LOG_NOTICE, "%s", line);
}

static void pause_ms(long ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

/* Another try cannot change these answers. */
static bool is_final(int error)
{
	switch (error) {
	case ESLURM_INVALID_JOB_ID:
	case ESLURM_ALREADY_DONE:
	case ESLURM_ACCESS_DENIED:
	case ESLURM_USER_ID_MISSING:
	case ESLURM_JOB_PENDING:
	case ESLURM_DISABLED:
	case ESLURM_BATCH_ONLY:
	case ESLURM_NOT_HET_JOB_LEADER:
		return true;
	default:
		return false;
	}
}

static bool is_over(int error)
{
	return error == ESLURM_INVALID_JOB_ID || error == ESLURM_ALREADY_DONE ||
	       error == ESLURM_JOB_PENDING;
}

static enum outcome judge(const struct request *request, const char *tried)
{
	int error = errno;

	if (is_over(error))
		return DONE;
	say("job %u: cannot %s: %s", request->job_id, tried, slurm_strerror(error));
	return is_final(error) ? REFUSED : TRY_AGAIN;
}

/*
 * The name by which slurmctld means this record alone. The last task of an array has the array's id
 * as its own, and by that number scancel would end all of them.
 */
static void record_name(const job_info_t *info, char name[32])
{
	if (info->array_task_id != NO_VAL)
		snprintf(name, 32, "%u_%u", info->array_job_id, info->array_task_id);
	else
		snprintf(name, 32, "%u",
			 info->het_job_id ? info->het_job_id : DS_JOB_INFO_ID(info));
}

/* Best effort: losing the comment must not keep the job here. */
static void set_comment(const struct request *request, const job_info_t *info, char *name)
{
	job_desc_msg_t update;
	char *comment = ds_giveback_comment(
	    info->admin_comment, request->node,
	    request->from == DS_FROM_NEIGHBOUR ? "requeued this job" : "could not serve this job",
	    request->reason);

	if (!comment)
		return;
	slurm_init_job_desc_msg(&update);
	update.job_id_str = name;
	update.admin_comment = comment;
	if (slurm_update_job(&update) != SLURM_SUCCESS)
		say("job %u: cannot set its AdminComment: %s", request->job_id,
		    slurm_strerror(errno));
	free(comment);
}

static void tell(const struct request *request)
{
	char message[768];

	snprintf(message, sizeof(message), "detshare: %s could not serve job %u: %s", request->node,
		 request->job_id, request->reason);
	/* It may have nobody to tell; then the cancellation stands alone. */
	if (slurm_notify_job(request->job_id, message) != SLURM_SUCCESS)
		say("job %u: cannot tell its user: %s", request->job_id, slurm_strerror(errno));
	pause_ms(MESSAGE_LEAD_MS);
}

static enum outcome cancel(const struct request *request, const char *name)
{
	if (slurm_kill_job2(name, SIGKILL, 0, NULL) != SLURM_SUCCESS)
		return judge(request, "cancel it");
	return DONE;
}

static enum outcome act(const struct request *request, const job_info_t *info,
			enum ds_giveback_action action, bool late)
{
	char name[32];

	record_name(info, name);
	if (action != DS_GIVEBACK_NOTHING && !late)
		set_comment(request, info, name);
	switch (action) {
	case DS_GIVEBACK_REQUEUE:
		/* JOB_RUNNING: only if it still runs, so that one that has just ended is not run again. */
		if (slurm_requeue(request->job_id, JOB_RUNNING) == SLURM_SUCCESS)
			return DONE;
		if (errno != ESLURM_DISABLED && errno != ESLURM_BATCH_ONLY)
			return judge(request, "requeue it");
		tell(request);
		return cancel(request, name);
	case DS_GIVEBACK_TELL_LATER:
		if (!late)
			return LATER;
		/* fall through */
	case DS_GIVEBACK_TELL_CANCEL:
		tell(request);
		/* fall through */
	case DS_GIVEBACK_CANCEL:
		return cancel(request, name);
	case DS_GIVEBACK_LEAVE_TO_TASK:
	case DS_GIVEBACK_NOTHING:
		break;
	}
	return DONE;
}

static enum outcome requeue_victim(const struct request *request, const job_info_t *info)
{
	char name[32];

	if (slurm_requeue(info->het_job_id ? info->het_job_id : request->job_id, 0) !=
	    SLURM_SUCCESS)
		return judge(request, "requeue it");
	say("job %u: requeued: %s", request->job_id, request->reason);
	/* Not before: that of a job which has ended cannot be changed. */
	record_name(info, name);
	set_comment(request, info, name);
	return DONE;
}

static struct ds_giveback_job look_at(const struct request *request, const job_info_t *info)
{
	uint32_t base = info->job_state & JOB_STATE_BASE;

	return (struct ds_giveback_job){
	    .runs = (base == JOB_RUNNING || base == JOB_SUSPENDED) &&
		    !(info->job_state & JOB_COMPLETING),
	    .failed = base == JOB_FAILED,
	    .batch = info->batch_flag,
	    .may_requeue = info->requeue,
	    .on_batch_host = info->batch_host && !strcmp(info->batch_host, request->node),
	    .restart = info->restart_cnt,
	};
}

/* One try. `late`: not the first, and nobody waits for us. */
static enum outcome try_once(const struct request *request, bool late)
{
	job_info_msg_t *jobs = NULL;
	enum outcome outcome = DONE;

	if (slurm_load_job(&jobs, request->job_id, SHOW_DETAIL) != SLURM_SUCCESS)
		return judge(request, "ask slurmctld about it");
	/* For the head of an array or a heterogeneous job, its other parts come, too. */
	for (uint32_t i = 0; i < jobs->record_count; i++) {
		const job_info_t *info = &jobs->job_array[i];
		if (DS_JOB_INFO_ID(info) != request->job_id)
			continue;
		struct ds_giveback_job job = look_at(request, info);
		if (request->from == DS_FROM_NEIGHBOUR) {
			if (ds_giveback_decide_victim(&job, request->restart,
						      request->restarts_max) == DS_GIVEBACK_REQUEUE)
				outcome = requeue_victim(request, info);
			continue;
		}
		outcome = act(request, info,
			      ds_giveback_decide(&job, request->restart, request->from), late);
	}
	slurm_free_job_info_msg(jobs);
	return outcome;
}

/* Go on without whoever waits. Does not return in the parent. */
static void detach(int status)
{
	fflush(NULL);
	pid_t child = fork();

	if (child != 0)
		_exit(child < 0 ? EXIT_FAILURE : status);
}

static enum outcome keep_trying(const struct request *request)
{
	enum outcome outcome = TRY_AGAIN;
	int wait_s = RETRY_FIRST_S;

	for (int waited_s = 0; outcome == TRY_AGAIN && waited_s < RETRY_TOTAL_S;) {
		pause_ms(wait_s * 1000L);
		waited_s += wait_s;
		wait_s = 2 * wait_s < RETRY_MAX_S ? 2 * wait_s : RETRY_MAX_S;
		outcome = try_once(request, true);
	}
	if (outcome == TRY_AGAIN)
		say("job %u: gave up after %d s", request->job_id, RETRY_TOTAL_S);
	return outcome;
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
	    options,
	    parse_option,
	    NULL,
	    "Give a job back to slurmctld because this node cannot serve it: a batch job is "
	    "requeued, "
	    "any other is cancelled, and its user is told why.\vUsed by spank_detshare.so. A run "
	    "other than --restart's, or one that has ended, is left alone. With --from=neighbour, "
	    "used by detshare-noderuntime, a batch job that has ended with an error is requeued if "
	    "it may be, and nothing else is done.",
	    NULL,
	    NULL,
	    NULL};
	struct request request = {.node = "this node", .restarts_max = 3};

	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, ARGP_NO_ARGS, NULL, &request);
	signal(SIGPIPE, SIG_IGN); /* whoever started us need not listen to the end */
	openlog("detshare-giveback", LOG_PID, LOG_DAEMON);
	slurm_init(NULL);

	enum outcome outcome = try_once(&request, false);
	if (outcome == LATER) {
		detach(EXIT_SUCCESS);
		pause_ms(SCRIPT_START_S * 1000L);
		outcome = try_once(&request, true);
	}
	if (outcome == TRY_AGAIN) {
		detach(EX_TEMPFAIL);
		outcome = keep_trying(&request);
	}
	return outcome == DONE ? EXIT_SUCCESS : EXIT_FAILURE;
}
