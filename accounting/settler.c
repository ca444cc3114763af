/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/settler.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "accounting/log.h"

enum {
	SOON_MS = 500, /* records of a job's nodes come together */
	PAUSE_MIN_MS = 1000,
	PAUSE_MAX_MS = 60000,
	IDLE_MS = 86400 * 1000, /* nothing waits: once a day, to forget old records */
};

extern char **environ;

void ds_settler_init(struct ds_settler *settler, const struct ds_collector_config *config,
		     long long now_ms)
{
	*settler = (struct ds_settler){
	    .config = config, .output = -1, .next_ms = now_ms, .pause_ms = PAUSE_MIN_MS};
}

void ds_settler_ask(struct ds_settler *settler, long long now_ms)
{
	settler->pause_ms = PAUSE_MIN_MS;
	if (settler->pid)
		settler->asked_again = true;
	else if (settler->next_ms > now_ms + SOON_MS)
		settler->next_ms = now_ms + SOON_MS;
}

pid_t ds_settler_spawn(const struct ds_collector_config *config, int output, struct ds_error *err)
{
	char grace[16], keep[16];
	const char *argv[] = {
	    config->settle_program,
	    "--state-dir",
	    config->state_dir,
	    "--slurm-conf",
	    config->slurm_conf,
	    "--cluster",
	    config->cluster,
	    "--grace",
	    grace,
	    "--keep",
	    keep,
	    NULL,
	};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	pid_t pid = -1;

	snprintf(grace, sizeof(grace), "%u", config->grace_s);
	snprintf(keep, sizeof(keep), "%u", config->keep_days * 86400);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	/* The collector blocks the signals it waits for; the child must not inherit that. */
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	if (output >= 0)
		posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
	int error = posix_spawn(&pid, config->settle_program, &actions, &attributes,
				(char *const *)argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	if (error)
		return ds_fail(err, "cannot start %s: %s; name it with settle_program",
			       config->settle_program, strerror(error));
	return pid;
}

static void wait_longer(struct ds_settler *settler, long long now_ms)
{
	settler->next_ms = now_ms + settler->pause_ms;
	settler->pause_ms =
	    settler->pause_ms * 2 < PAUSE_MAX_MS ? settler->pause_ms * 2 : PAUSE_MAX_MS;
}

void ds_settler_tick(struct ds_settler *settler, long long now_ms)
{
	struct ds_error err;
	int pipe_fd[2];

	if (settler->pid || now_ms < settler->next_ms)
		return;
	if (pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK) < 0) {
		ds_log("cannot start %s: %s", settler->config->settle_program, strerror(errno));
		wait_longer(settler, now_ms);
		return;
	}
	/* Only our end must not block. */
	fcntl(pipe_fd[1], F_SETFL, 0);
	pid_t pid = ds_settler_spawn(settler->config, pipe_fd[1], &err);
	close(pipe_fd[1]);
	if (pid < 0) {
		ds_log("%s", err.text);
		close(pipe_fd[0]);
		wait_longer(settler, now_ms);
		return;
	}
	settler->pid = pid;
	settler->output = pipe_fd[0];
	settler->used = 0;
	settler->asked_again = false;
}

void ds_settler_read(struct ds_settler *settler)
{
	char rest[512] = ""; /* what does not fit is read and dropped */

	for (;;) {
		size_t room = sizeof(settler->said[0]) - 1 - settler->used;
		ssize_t n = read(settler->output, room ? settler->said[0] + settler->used : rest,
				 room ? room : sizeof(rest));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		if (n == 0)
			break;
		settler->used += room ? (size_t)n : 0;
	}
	close(settler->output);
	settler->output = -1;
}

/* While slurmdbd is down every pass says the same: once is enough. */
static void log_news(struct ds_settler *settler)
{
	char *said = settler->said[0];

	said[settler->used] = '\0';
	if (strcmp(said, settler->said[1]) == 0)
		return;
	strcpy(settler->said[1], said);
	for (char *line = strtok(said, "\n"); line; line = strtok(NULL, "\n"))
		ds_log("%s", line);
}

void ds_settler_reap(struct ds_settler *settler, long long now_ms)
{
	int status;

	if (!settler->pid || waitpid(settler->pid, &status, WNOHANG) != settler->pid)
		return;
	settler->pid = 0;
	if (settler->output >= 0)
		ds_settler_read(settler);
	if (settler->output >= 0)
		close(settler->output);
	settler->output = -1;
	log_news(settler);
	if (WIFSIGNALED(status))
		ds_log("%s was ended by signal %d; tried again later",
		       settler->config->settle_program, WTERMSIG(status));
	if (settler->asked_again)
		settler->next_ms = now_ms + SOON_MS;
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		settler->next_ms = now_ms + IDLE_MS;
	else
		wait_longer(settler, now_ms);
}

void ds_settler_stop(struct ds_settler *settler)
{
	if (settler->pid) {
		kill(settler->pid, SIGKILL);
		waitpid(settler->pid, NULL, 0);
		settler->pid = 0;
	}
	if (settler->output >= 0)
		close(settler->output);
	settler->output = -1;
}
