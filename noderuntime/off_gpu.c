/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/off_gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/errand.h"
#include "noderuntime/mps.h"

/* In the child. */
static size_t take_off(const struct ds_runtime *rt, const void *arg,
		       char brought[DS_ERRAND_BROUGHT_MAX])
{
	const struct ds_port_end *end = arg;
	pid_t pids[DS_PORT_END_MAX];

	for (uint32_t i = 0; i < end->n_pids; i++)
		pids[i] = end->pids[i];
	size_t left = ds_mps_terminate(rt->config, rt->allocation->gpu_uuid, pids, end->n_pids,
				       ds_deadline_in(DS_PORT_END_MS));
	memcpy(brought, &left, sizeof(left));
	return sizeof(left);
}

static void taken_off(struct ds_runtime *rt, struct ds_watch *errand, const void *brought,
		      size_t size)
{
	size_t left = 0;

	if (size == sizeof(left))
		memcpy(&left, brought, sizeof(left));
	if (!size || left) {
		syslog(LOG_WARNING,
		       "%s: MPS could not end %zu of its clients before they were killed: "
		       "neighbours on the GPU may fail",
		       rt->allocation->name, left);
		ds_port_refuse(errand->answer_fd, "MPS could not end all of them in time");
		return;
	}
	ds_port_welcome(errand->answer_fd, NULL, 0, 0);
}

void ds_off_gpu_serve(struct ds_runtime *rt, const struct ds_watch *connection, const void *bytes,
		      size_t size)
{
	static struct ds_port_end end;
	struct ds_error reason = {""};
	struct ucred who;
	socklen_t length = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0 ||
	    (who.uid != 0 && who.uid != geteuid())) {
		ds_port_refuse(connection->fd, "only slurmstepd (root) ends programs");
		return;
	}
	int n = ds_port_check_end(bytes, size, &end, &reason);
	if (n < 0) {
		ds_port_refuse(connection->fd, reason.text);
		return;
	}
	if (!n || !*rt->config->mps_control) {
		ds_port_welcome(connection->fd, NULL, 0, 0);
		return;
	}
	int answer = fcntl(connection->fd, F_DUPFD_CLOEXEC, 0);
	if (answer < 0)
		ds_fail(&reason, "no descriptor: %s", strerror(errno));
	if (answer < 0 || !ds_errand_start(rt, take_off, &end, taken_off, answer, &reason)) {
		ds_port_refuse(connection->fd, reason.text);
		ds_complain(rt, &reason);
		if (answer >= 0)
			close(answer);
	}
}
