/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 3 };

/* One line of /proc/self/cgroup: "ID:CONTROLLERS:PATH". */
struct hierarchy {
	char controllers[64]; /* "" on v2 */
	char path[PATH_MAX];  /* where the process is */
};

static bool parse_line(char *line, struct hierarchy *hierarchy)
{
	char *controllers = strchr(line, ':');
	char *path = controllers ? strchr(controllers + 1, ':') : NULL;

	if (!path)
		return false;
	*path++ = '\0';
	path[strcspn(path, "\n")] = '\0';
	snprintf(hierarchy->controllers, sizeof(hierarchy->controllers), "%s", controllers + 1);
	snprintf(hierarchy->path, sizeof(hierarchy->path), "%s", path);
	return true;
}

/* Where the hierarchy is mounted by custom: v2 at the root or at "unified", v1 by its controllers. */
static bool mount_point(const char *root, const struct hierarchy *hierarchy, char *path,
			size_t size)
{
	const char *name = hierarchy->controllers;
	char probe[PATH_MAX];

	if (!strncmp(name, "name=", 5))
		name += 5;
	if (!*name)
		name = "unified";
	snprintf(path, size, "%s/%s", root, name);
	snprintf(probe, sizeof(probe), "%.4000s/cgroup.procs", path);
	if (access(probe, F_OK) == 0)
		return true;
	if (*hierarchy->controllers)
		return false;
	snprintf(path, size, "%s", root);
	snprintf(probe, sizeof(probe), "%.4000s/cgroup.procs", path);
	return access(probe, F_OK) == 0;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	int saved_errno = errno;
	close(fd);
	errno = saved_errno;
	return n < 0 ? -1 : 0;
}

/* A v1 cpuset takes no process before it has CPUs and memory: those of its parent. */
static void inherit_cpuset(const char *group, const char *file)
{
	char path[PATH_MAX], value[4096];

	snprintf(path, sizeof(path), "%.4000s/../%s", group, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, value, sizeof(value) - 1);
	close(fd);
	if (n <= 0)
		return;
	value[n] = '\0';
	snprintf(path, sizeof(path), "%.4000s/%s", group, file);
	write_file(path, value);
}

static int enter(const char *mounted, const char *sub)
{
	char group[PATH_MAX], procs[PATH_MAX];

	/* Again when the last one to leave removed the group between our mkdir and our move. */
	for (int i = 0; i < TRIES; i++) {
		snprintf(group, sizeof(group), "%.4000s/detshare", mounted);
		if (mkdir(group, 0755) < 0 && errno != EEXIST)
			return -1;
		inherit_cpuset(group, "cpuset.cpus");
		inherit_cpuset(group, "cpuset.mems");
		if (sub) {
			snprintf(group, sizeof(group), "%.4000s/detshare/%s", mounted, sub);
			if (mkdir(group, 0755) < 0 && errno != EEXIST && errno != ENOENT)
				return -1;
			inherit_cpuset(group, "cpuset.cpus");
			inherit_cpuset(group, "cpuset.mems");
		}
		snprintf(procs, sizeof(procs), "%.4000s/cgroup.procs", group);
		if (write_file(procs, "0") == 0)
			return 0;
		if (errno != ENOENT && errno != ENODEV)
			return -1;
	}
	return -1;
}

/* Call `visit` for every hierarchy that the process is in and that is mounted under `root`. */
static int each_hierarchy(const char *root,
			  int (*visit)(const char *mounted, const struct hierarchy *hierarchy,
				       const char *sub, struct ds_error *err),
			  const char *sub, struct ds_error *err)
{
	struct hierarchy hierarchy;
	char mounted[PATH_MAX], *line = NULL;
	size_t size = 0;
	int rv = 0;

	FILE *file = fopen("/proc/self/cgroup", "re");
	if (!file)
		return ds_fail(err, "cannot open /proc/self/cgroup: %s", strerror(errno));
	while (getline(&line, &size, file) > 0) {
		if (parse_line(line, &hierarchy) &&
		    mount_point(root, &hierarchy, mounted, sizeof(mounted)) &&
		    visit(mounted, &hierarchy, sub, rv ? NULL : err) < 0)
			rv = -1;
	}
	free(line);
	fclose(file);
	return rv;
}

static int visit_join(const char *mounted, const struct hierarchy *hierarchy, const char *sub,
		      struct ds_error *err)
{
	if (!strcmp(hierarchy->path, "/"))
		return 0;
	if (enter(mounted, sub) < 0)
		return ds_fail(err, "cannot move from cgroup %s%s to %s/detshare: %s", mounted,
			       hierarchy->path, mounted, strerror(errno));
	return 0;
}

static int visit_tidy(const char *mounted, const struct hierarchy *hierarchy, const char *sub,
		      struct ds_error *err)
{
	char group[PATH_MAX];

	snprintf(group, sizeof(group), "%.4000s/detshare/mps", mounted);
	rmdir(group);
	snprintf(group, sizeof(group), "%.4000s/detshare", mounted);
	rmdir(group);
	return 0;
}

int ds_cgroup_join(const char *cgroup_root, const char *sub, struct ds_error *err)
{
	return each_hierarchy(cgroup_root, visit_join, sub, err);
}

void ds_cgroup_tidy(const char *cgroup_root)
{
	each_hierarchy(cgroup_root, visit_tidy, NULL, NULL);
}
