/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "noderuntime/converse.h"
#include "noderuntime/environment.h"
#include "noderuntime/gpu.h"
#include "noderuntime/mps_talk.h"

enum {
	ANSWER_MS = 700, /* the control program answers within 20 ms when it is well */
	AGAIN_MS = 20,   /* between two tries */
};

int ds_mps_locate(const struct ds_node_config *config, const char *gpu_uuid, struct ds_mps *mps,
		  struct ds_error *err)
{
	char gpu_dir[PATH_MAX];

	mps->config = config;
	mps->uuid = gpu_uuid;
	if (ds_gpu_dir(config->runtime_dir, gpu_uuid, gpu_dir, sizeof(gpu_dir) - 16) < 0)
		return ds_fail(err, "runtime_dir %s is too long", config->runtime_dir);
	snprintf(mps->lock, PATH_MAX, "%.4080s/mps.lock", gpu_dir);
	snprintf(mps->dir, PATH_MAX, "%.4080s/mps", gpu_dir);
	mps->site = *config->mps_pipe_dir;
	if (mps->site)
		snprintf(mps->pipe, PATH_MAX, "%s", config->mps_pipe_dir);
	else
		snprintf(mps->pipe, PATH_MAX, "%.4080s/mps/pipe", gpu_dir);
	snprintf(mps->log, PATH_MAX, "%.4080s/mps/log", gpu_dir);
	return 0;
}

size_t ds_mps_parse_pids(const char *text, pid_t *pids, size_t max)
{
	size_t n = 0;

	while (*text && n < max) {
		char *end;
		text += strspn(text, " \t\r\n");
		long pid = strtol(text, &end, 10);
		size_t rest = strcspn(end, "\n");
		/* A line that is not just a number is a message, not a list. */
		if (end != text && pid > 0 && pid <= 0x7fffffff && strspn(end, " \t\r") >= rest)
			pids[n++] = (pid_t)pid;
		text = end + rest;
	}
	return n;
}

int ds_mps_control(const struct ds_mps *mps, const char *const options[2], const char *input,
		   char *answer, size_t size, ds_deadline deadline, struct ds_error *err)
{
	/* Whatever the caller's environment says about CUDA, thread percentages above all, must
	 * not reach MPS. */
	static const char *const without[] = {"CUDA_", "LD_PRELOAD=", NULL};
	char devices[64], pipe[PATH_MAX + 32], log[PATH_MAX + 32];
	const char *const with[] = {devices, pipe, log, NULL};
	char *argv[] = {(char *)(uintptr_t)mps->config->mps_control, (char *)(uintptr_t)options[0],
			(char *)(uintptr_t)options[1], NULL};

	snprintf(devices, sizeof(devices), "CUDA_VISIBLE_DEVICES=%s", mps->uuid);
	snprintf(pipe, sizeof(pipe), "CUDA_MPS_PIPE_DIRECTORY=%s", mps->pipe);
	snprintf(log, sizeof(log), "CUDA_MPS_LOG_DIRECTORY=%s", mps->log);
	char **env = ds_environment(without, with);
	if (!env)
		return ds_fail(err, "out of memory");
	struct ds_conversation talk = {.argv = argv,
				       .env = env,
				       .input = input,
				       .cgroup_root = mps->config->cgroup_root,
				       .cgroup = input ? NULL : "mps",
				       .deadline = deadline};
	int rc = ds_converse(&talk, answer, size, err);
	int saved_errno = errno;
	free(env);
	errno = saved_errno;
	return rc;
}

int ds_mps_ask_until(const struct ds_mps *mps, const char *command, char *answer, size_t size,
		     ds_deadline deadline, struct ds_error *err)
{
	static const char *const no_options[2];

	/* A daemon that talks to another, or takes in a client, refuses at once and is fine a moment later. */
	for (;;) {
		struct ds_process daemon;
		int rc = ds_mps_control(mps, no_options, command, answer, size, deadline, err);

		if (rc == 0 || ds_deadline_left_ms(deadline) <= AGAIN_MS ||
		    ds_mps_pid_file(mps->pipe, &daemon) < 0)
			return rc;
		poll(NULL, 0, AGAIN_MS);
	}
}

int ds_mps_ask(const struct ds_mps *mps, const char *command, char *answer, size_t size,
	       ds_deadline deadline, struct ds_error *err)
{
	/* At most half of what is left: no answer is an answer, too, and must be acted upon. */
	int patience_ms = ds_deadline_left_ms(deadline) / 2;
	if (patience_ms > ANSWER_MS)
		patience_ms = ANSWER_MS;
	return ds_mps_ask_until(mps, command, answer, size, ds_deadline_in(patience_ms), err);
}

bool ds_mps_has_pipes(const struct ds_mps *mps)
{
	char path[PATH_MAX + 16];

	snprintf(path, sizeof(path), "%s/control", mps->pipe);
	return access(path, F_OK) == 0;
}
