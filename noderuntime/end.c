/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/commands.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "noderuntime/allocation.h"
#include "noderuntime/cgroup.h"
#include "noderuntime/gpu.h"
#include "noderuntime/leave.h"

enum {
	KILL_MS = 800,      /* for a killed runtime to be gone, on a machine that is busy */
	OWN_PART_MS = 1000, /* kept of the deadline for doing the runtime's work, */
	LAST_PART_MS = 300, /* and of that, for what must be killed at its end */
};

/*
 * Ask the runtime to end; kill it if it does not. Signals go through a pidfd, opened before the process was
 * checked to be the one that was recorded.
 */
static int stop_runtime(const struct ds_allocation *allocation, ds_deadline deadline,
			struct ds_error *err)
{
	int fd = pidfd_open(allocation->runtime.pid, 0);
	struct pollfd over = {.fd = fd, .events = POLLIN};
	int rv = 0;

	if (fd < 0)
		return errno == ESRCH || errno == EINVAL
			   ? 0
			   : ds_fail(err, "cannot watch node runtime %d: %s",
				     allocation->runtime.pid, strerror(errno));
	if (ds_process_alive(&allocation->runtime)) {
		pidfd_send_signal(fd, SIGTERM, NULL, 0);
		pidfd_send_signal(fd, SIGCONT, NULL, 0); /* a stopped one would not hear it */
		if (poll(&over, 1, ds_deadline_left_ms(deadline)) != 1) {
			pidfd_send_signal(fd, SIGKILL, NULL, 0);
			if (poll(&over, 1, KILL_MS) != 1)
				rv = ds_fail(err, "node runtime %d of %s does not end on SIGKILL",
					     allocation->runtime.pid, allocation->name);
		}
	}
	close(fd);
	return rv;
}

/* Call `visit` with the ledger of every GPU, until one returns non-zero, which is returned. */
static int each_ledger(const struct ds_node_config *config,
		       int (*visit)(const struct ds_ledger_state *state, void *arg), void *arg)
{
	static struct ds_ledger_state state; /* 30 KiB */
	char path[PATH_MAX];
	const struct dirent *entry;
	int rv = 0;

	DIR *dir = opendir(config->runtime_dir);
	if (!dir)
		return 0;
	while (!rv && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, "gpu-", 4) != 0)
			continue;
		snprintf(path, sizeof(path), "%.3000s/%.255s", config->runtime_dir, entry->d_name);
		if (ds_ledger_read(path, &state, NULL) == 0)
			rv = visit(&state, arg);
	}
	closedir(dir);
	return rv;
}

/* Fill in what a ledger knows of the allocation of that name. 1: found. */
static int recall(const struct ds_ledger_state *state, void *arg)
{
	struct ds_allocation *allocation = arg;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *resident = &state->residents[i];
		if (strcmp(resident->name, allocation->name) != 0)
			continue;
		allocation->job_id = resident->job_id;
		allocation->uid = resident->uid;
		allocation->grant = resident->grant;
		allocation->runtime = resident->runtime;
		allocation->ended_programs = resident->ended;
		allocation->begun_ns = (int64_t)resident->joined_ns;
		memcpy(allocation->gpu_uuid, state->gpu_uuid, sizeof(allocation->gpu_uuid));
		allocation->shape = state->shape;
		return 1;
	}
	return 0;
}

/* What must not be there any more. */
struct rest {
	const char *name;
	struct ds_error *err;
};

static int find_rest(const struct ds_ledger_state *state, void *arg)
{
	const struct rest *rest = arg;

	for (uint32_t i = 0; i < state->n_residents; i++) {
		if (!strcmp(state->residents[i].name, rest->name))
			return ds_fail(rest->err, "%s is still in the ledger of GPU %s", rest->name,
				       state->gpu_uuid);
	}
	for (uint32_t i = 0; i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, rest->name) &&
		    ds_process_alive(&state->programs[i].process))
			return ds_fail(rest->err, "process %d of %s still uses GPU %s",
				       state->programs[i].process.pid, rest->name, state->gpu_uuid);
	}
	return 0;
}

static int verify(const struct ds_node_config *config, const char *name, struct ds_error *err)
{
	struct rest rest = {name, err};
	char path[PATH_MAX];

	if (ds_allocation_path(config, name, NULL, path, err) < 0)
		return -1;
	if (access(path, F_OK) == 0)
		return ds_fail(err, "%s is still there", path);
	return each_ledger(config, find_rest, &rest);
}

int ds_end(const struct ds_node_config *config, const char *name, ds_deadline deadline,
	   struct ds_error *err)
{
	struct ds_allocation allocation;
	struct ds_error reason = {""};
	int rv = 0;

	if (ds_allocation_read(config, name, &allocation, NULL) == 0 &&
	    stop_runtime(&allocation, deadline - OWN_PART_MS * INT64_C(1000000), &reason) < 0)
		return ds_fail(err, "%s", reason.text);
	/* Again: the runtime may have counted on, or have done all there is to do. */
	if (ds_allocation_read(config, name, &allocation, NULL) < 0) {
		memset(&allocation, 0, sizeof(allocation));
		snprintf(allocation.name, sizeof(allocation.name), "%s", name);
		if (each_ledger(config, recall, &allocation) &&
		    stop_runtime(&allocation, deadline - OWN_PART_MS * INT64_C(1000000), &reason) <
			0)
			return ds_fail(err, "%s", reason.text);
	}
	rv = ds_leave(config, &allocation, deadline - LAST_PART_MS * INT64_C(1000000), err);
	if (rv == 0)
		rv = verify(config, name, err);
	if (geteuid() == 0)
		ds_cgroup_tidy(config->cgroup_root);
	return rv;
}
