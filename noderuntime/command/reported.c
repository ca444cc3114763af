/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/command/reported.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* True if `size` bytes came that are a whole report. */
static bool is_whole(const struct ds_port_report *report, ssize_t size)
{
	const size_t head = offsetof(struct ds_port_report, programs);

	return size >= (ssize_t)head && report->magic == DS_PORT_MAGIC &&
	       report->version == DS_PORT_VERSION && !report->refused &&
	       report->n_programs <= DS_PORT_REPORTED_MAX &&
	       (size_t)size == head + report->n_programs * sizeof(report->programs[0]);
}

bool ds_reported_read(const char *runtime_dir, const char *name, unsigned timeout_ms,
		      struct ds_port_report *report)
{
	const struct ds_port_hello hello = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_REPORT};
	const struct timeval timeout = {.tv_sec = timeout_ms / 1000,
					.tv_usec = timeout_ms % 1000 * 1000};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	bool whole = false;

	int length =
	    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s/port", runtime_dir, name);
	if (length < 0 || (size_t)length >= sizeof(address.sun_path))
		goto done;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		goto done;
	/* The time limit of sending holds for connecting, too. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0 &&
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	    send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) == (ssize_t)sizeof(hello))
		whole = is_whole(report, recv(fd, report, sizeof(*report), 0));
	close(fd);
done:
	if (!whole)
		report->n_programs = 0;
	return whole;
}

const struct ds_port_reported *ds_reported_find(const struct ds_port_report *report, int pid)
{
	for (uint32_t i = 0; i < report->n_programs; i++) {
		if (report->programs[i].pid == pid)
			return &report->programs[i];
	}
	return NULL;
}

double ds_reported_overlong_s(const struct ds_port_reported *reported)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	double s = (double)now.tv_sec + (double)now.tv_nsec / 1e9 -
		   (double)reported->overlong_since_ns / 1e9;
	return s > 0 ? s : 0;
}
