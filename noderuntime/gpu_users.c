/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/gpu_users.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "noderuntime/gpu.h"
#include "noderuntime/mps.h"

enum { TEXT_SIZE = 16384, CLIENTS_MAX = 256, MEMORY_DEVICES = 1 };

bool ds_cgroup_in_job(const char *text, uint32_t job_id)
{
	char name[32];

	snprintf(name, sizeof(name), "/job_%u", job_id);
	for (const char *at = strstr(text, name); at; at = strstr(at + 1, name)) {
		const char end = at[strlen(name)];
		if (end == '/' || end == '\n' || end == '\0')
			return true;
	}
	return false;
}

int ds_gpu_files_find(const struct ds_node_config *config, const char *gpu_uuid,
		      struct ds_gpu_files *files)
{
	char path[PATH_MAX];
	struct ds_gpu gpu;
	struct stat st;

	if (ds_gpu_find(config->gpu_info_dir, gpu_uuid, &gpu, NULL) < 0)
		return -1;
	snprintf(path, sizeof(path), "%.4000s%u", config->gpu_device_prefix, gpu.minor);
	if (!realpath(path, files->device) || stat(files->device, &st) < 0)
		return -1;
	/* A stand-in for a device, such as /dev/null, is everybody's. */
	if (S_ISCHR(st.st_mode) && major(st.st_rdev) == MEMORY_DEVICES)
		return -1;
	files->dev = st.st_dev;
	files->ino = st.st_ino;
	files->rdev = S_ISCHR(st.st_mode) ? st.st_rdev : 0;
	size_t length = strlen(files->device);
	while (length && files->device[length - 1] >= '0' && files->device[length - 1] <= '9')
		length--;
	snprintf(files->uvm, sizeof(files->uvm), "%.*s-uvm", (int)(length < 4000 ? length : 4000),
		 files->device);
	if (access(files->uvm, F_OK) < 0)
		files->uvm[0] = '\0';
	return 0;
}

/* The beginning of a file of a process. Its length, 0 if it cannot be read. */
static size_t read_of(pid_t pid, const char *name, char *text, size_t size)
{
	char path[64];
	size_t length = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		while (length + 1 < size && (n = read(fd, text + length, size - 1 - length)) > 0)
			length += (size_t)n;
		close(fd);
	}
	text[length] = '\0';
	return length;
}

static bool has_variable(const char *environment, size_t length, const char *assignment)
{
	for (const char *at = environment; at < environment + length; at += strlen(at) + 1) {
		if (!strcmp(at, assignment))
			return true;
	}
	return false;
}

/* By where it is, or by what it was started with. */
static bool is_of(const struct ds_gpu_user_search *search, pid_t pid)
{
	const struct ds_allocation *allocation = search->allocation;
	static char text[TEXT_SIZE * 8];
	char assignment[PATH_MAX + 32], port[PATH_MAX];

	read_of(pid, "cgroup", text, sizeof(text));
	if (allocation->job_id && ds_cgroup_in_job(text, allocation->job_id))
		return true;
	size_t length = read_of(pid, "environ", text, sizeof(text));
	if (allocation->job_id) {
		snprintf(assignment, sizeof(assignment), "SLURM_JOB_ID=%u", allocation->job_id);
		if (has_variable(text, length, assignment))
			return true;
	}
	if (ds_allocation_path(search->config, allocation->name, "port", port, NULL) < 0)
		return false;
	snprintf(assignment, sizeof(assignment), "DETSHARE_PORT=%s", port);
	return has_variable(text, length, assignment);
}

static bool is_same(const struct ds_gpu_files *files, const struct stat *st)
{
	/* In a container, another file may be the same device. */
	if (files->rdev)
		return S_ISCHR(st->st_mode) && st->st_rdev == files->rdev;
	return st->st_dev == files->dev && st->st_ino == files->ino;
}

/* True if it has the GPU open, and CUDA's memory device if there is one. */
static bool has_open(const struct ds_gpu_files *files, pid_t pid)
{
	char path[300];
	const struct dirent *entry;
	struct stat st, uvm;
	bool gpu = false, cuda = !*files->uvm || stat(files->uvm, &uvm) < 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return false;
	while (!(gpu && cuda) && (entry = readdir(dir))) {
		if (fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
			continue;
		gpu |= is_same(files, &st);
		if (*files->uvm)
			cuda |= S_ISCHR(uvm.st_mode)
				    ? S_ISCHR(st.st_mode) && st.st_rdev == uvm.st_rdev
				    : st.st_dev == uvm.st_dev && st.st_ino == uvm.st_ino;
	}
	closedir(dir);
	return gpu && cuda;
}

/* True if the library is in its memory, by the name of its file. */
static bool has_library(const struct ds_node_config *config, pid_t pid)
{
	const char *slash = strrchr(config->coroutine_library, '/');
	const char *name = slash ? slash : config->coroutine_library;
	char path[64], *line = NULL;
	size_t size = 0;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return true; /* it ended, or cannot be looked at */
	while (!found && getline(&line, &size, file) > 0)
		found = strstr(line, name) != NULL;
	free(line);
	fclose(file);
	return found;
}

static bool is_mps(pid_t pid)
{
	char command[32];

	read_of(pid, "comm", command, sizeof(command));
	return !strncmp(command, "nvidia-cuda-mps", 15);
}

static bool is_program(const struct ds_ledger_state *seen, pid_t pid)
{
	for (uint32_t i = 0; i < seen->n_programs; i++) {
		if (seen->programs[i].process.pid == pid)
			return true;
	}
	return false;
}

static bool is_listed(const pid_t *clients, int n, pid_t pid)
{
	for (int i = 0; i < n; i++) {
		if (clients[i] == pid)
			return true;
	}
	return false;
}

size_t ds_gpu_users_find(const struct ds_gpu_user_search *search, struct ds_gpu_user *users,
			 size_t max)
{
	const uint32_t uid = search->allocation->uid;
	struct ds_gpu_files files;
	const struct dirent *entry;
	pid_t clients[CLIENTS_MAX];
	struct stat st;
	size_t n = 0;

	if (ds_gpu_files_find(search->config, search->allocation->gpu_uuid, &files) < 0)
		return 0;
	int n_clients = ds_mps_clients(search->config, search->allocation->gpu_uuid, clients,
				       CLIENTS_MAX, search->deadline);
	DIR *dir = opendir("/proc");
	while (dir && n < max && (entry = readdir(dir))) {
		const pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid <= 1 || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0 ||
		    st.st_uid != uid || is_program(search->seen, pid) || is_mps(pid))
			continue;
		struct ds_gpu_user user = {.client = is_listed(clients, n_clients, pid)};
		if (!user.client && (!has_open(&files, pid) || has_library(search->config, pid)))
			continue;
		if (!is_of(search, pid) || ds_process_identify(pid, &user.process, NULL) < 0)
			continue;
		read_of(pid, "comm", user.command, sizeof(user.command));
		user.command[strcspn(user.command, "\n")] = '\0';
		users[n++] = user;
	}
	if (dir)
		closedir(dir);
	return n;
}
