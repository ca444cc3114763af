/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps_talk.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

/* True if one of the first words of the process's command line is a program of MPS. */
static bool is_mps_program(const char *proc_dir)
{
	static const char prefix[] = "nvidia-cuda-mps";
	char path[64], words[1024];

	snprintf(path, sizeof(path), "%.40s/cmdline", proc_dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, words, sizeof(words) - 1);
	close(fd);
	if (n <= 0)
		return false;
	words[n] = '\0';
	/* The second word, too: a stand-in may be a script, run by its interpreter. */
	const char *word = words;
	for (int i = 0; i < 2 && word < words + n; i++) {
		const char *slash = strrchr(word, '/');
		if (!strncmp(slash ? slash + 1 : word, prefix, sizeof(prefix) - 1))
			return true;
		word += strlen(word) + 1;
	}
	return false;
}

char *ds_mps_variable(pid_t pid, const char *name)
{
	char path[64], *variable = NULL, *value = NULL;
	const size_t length = strlen(name);
	size_t size = 0;

	snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return NULL;
	while (!value && getdelim(&variable, &size, '\0', file) > 0) {
		if (!strncmp(variable, name, length) && variable[length] == '=')
			value = strdup(variable + length + 1);
	}
	free(variable);
	fclose(file);
	return value;
}

/* True if the process's pipe directory is that one. */
static bool has_pipe_dir(pid_t pid, const char *pipe_dir)
{
	char *value = ds_mps_variable(pid, "CUDA_MPS_PIPE_DIRECTORY");
	bool has = value && !strcmp(value, pipe_dir);

	free(value);
	return has;
}

int ds_mps_pid_file(const char *pipe_dir, struct ds_process *daemon)
{
	char path[PATH_MAX], proc_dir[32];
	long pid = 0;

	snprintf(path, sizeof(path), "%.4000s/nvidia-cuda-mps-control.pid", pipe_dir);
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	if (fscanf(file, "%10ld", &pid) != 1)
		pid = 0;
	fclose(file);
	if (pid <= 1 || pid > INT32_MAX || ds_process_identify((pid_t)pid, daemon, NULL) < 0)
		return -1;
	snprintf(proc_dir, sizeof(proc_dir), "/proc/%ld", pid);
	return is_mps_program(proc_dir) ? 0 : -1;
}

size_t ds_mps_find(const struct ds_mps *mps, pid_t *pids, size_t max)
{
	char proc_dir[32];
	const struct dirent *entry;
	size_t n = 0;

	DIR *dir = opendir("/proc");
	if (!dir)
		return 0;
	while (n < max && (entry = readdir(dir))) {
		long pid = strtol(entry->d_name, NULL, 10);
		if (pid <= 0)
			continue;
		snprintf(proc_dir, sizeof(proc_dir), "/proc/%ld", pid);
		if (is_mps_program(proc_dir) && has_pipe_dir((pid_t)pid, mps->pipe))
			pids[n++] = (pid_t)pid;
	}
	closedir(dir);
	return n;
}

bool ds_mps_wait_gone(const struct ds_mps *mps, ds_deadline deadline)
{
	pid_t pids[DS_MPS_DAEMONS_MAX];

	while (ds_mps_find(mps, pids, DS_MPS_DAEMONS_MAX) > 0) {
		int fd = pidfd_open(pids[0], 0);
		struct pollfd over = {.fd = fd, .events = POLLIN};
		int left_ms = ds_deadline_left_ms(deadline);
		if (!left_ms) {
			if (fd >= 0)
				close(fd);
			return false;
		}
		if (fd >= 0) {
			poll(&over, 1, left_ms);
			close(fd);
		}
	}
	return true;
}

bool ds_mps_kill(const struct ds_mps *mps, ds_deadline deadline)
{
	pid_t pids[DS_MPS_DAEMONS_MAX];
	size_t n = ds_mps_find(mps, pids, DS_MPS_DAEMONS_MAX);

	for (size_t i = 0; i < n; i++) {
		int fd = pidfd_open(pids[i], 0);
		char proc_dir[32];
		snprintf(proc_dir, sizeof(proc_dir), "/proc/%d", (int)pids[i]);
		/* Once more, now that the pid cannot become another process's behind the fd. */
		if (fd >= 0 && is_mps_program(proc_dir))
			pidfd_send_signal(fd, SIGKILL, NULL, 0);
		if (fd >= 0)
			close(fd);
	}
	return ds_mps_wait_gone(mps, deadline);
}
