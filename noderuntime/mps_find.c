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

/* True if the process was started with that assignment in its environment. */
static bool has_variable(const char *proc_dir, const char *assignment)
{
	char path[64], *variable = NULL;
	size_t size = 0;
	bool found = false;

	snprintf(path, sizeof(path), "%.40s/environ", proc_dir);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && getdelim(&variable, &size, '\0', file) > 0)
		found = !strcmp(variable, assignment);
	free(variable);
	fclose(file);
	return found;
}

size_t ds_mps_find(const struct ds_mps *mps, pid_t *pids, size_t max)
{
	char assignment[PATH_MAX + 32], proc_dir[32];
	const struct dirent *entry;
	size_t n = 0;

	snprintf(assignment, sizeof(assignment), "CUDA_MPS_PIPE_DIRECTORY=%s", mps->pipe);
	DIR *dir = opendir("/proc");
	if (!dir)
		return 0;
	while (n < max && (entry = readdir(dir))) {
		long pid = strtol(entry->d_name, NULL, 10);
		if (pid <= 0)
			continue;
		snprintf(proc_dir, sizeof(proc_dir), "/proc/%ld", pid);
		if (is_mps_program(proc_dir) && has_variable(proc_dir, assignment))
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
