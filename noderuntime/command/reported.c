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
	       report->n_programs <= DS_PORT_REPORTED_MAX && report->n_owing <= DS_PORT_OWING_MAX &&
	       (size_t)size == head + report->n_programs * sizeof(report->programs[0]);
}

/* Send a message to the port of allocation `name`, and take the answer. Its size, or -1. */
static ssize_t ask(const char *runtime_dir, const char *name, unsigned timeout_ms,
		   const void *message, size_t message_size, void *answer, size_t size)
{
	const struct timeval timeout = {.tv_sec = timeout_ms / 1000,
					.tv_usec = timeout_ms % 1000 * 1000};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	ssize_t got = -1;

	int length =
	    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s/port", runtime_dir, name);
	if (length < 0 || (size_t)length >= sizeof(address.sun_path))
		return -1;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* The time limit of sending holds for connecting, too. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) == 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) == 0 &&
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	    send(fd, message, message_size, MSG_NOSIGNAL) == (ssize_t)message_size)
		got = recv(fd, answer, size, 0);
	close(fd);
	return got;
}

bool ds_reported_read(const char *runtime_dir, const char *name, unsigned timeout_ms,
		      struct ds_port_report *report)
{
	const struct ds_port_hello hello = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_REPORT};
	const bool whole = is_whole(report, ask(runtime_dir, name, timeout_ms, &hello,
						sizeof(hello), report, sizeof(*report)));

	if (!whole)
		report->n_programs = report->n_owing = 0;
	return whole;
}

bool ds_reported_notes(const char *runtime_dir, const char *name, unsigned timeout_ms, bool last,
		       struct ds_port_notes *notes)
{
	const struct ds_port_ask question = {
	    .hello = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_NOTES},
	    .only_new = 1,
	    .last = last};
	const size_t head = offsetof(struct ds_port_notes, text);

	ssize_t size =
	    ask(runtime_dir, name, timeout_ms, &question, sizeof(question), notes, sizeof(*notes));
	if (size < (ssize_t)head || notes->magic != DS_PORT_MAGIC ||
	    notes->version != DS_PORT_VERSION || notes->refused || notes->n > DS_PORT_NOTES_MAX ||
	    (size_t)size != head + notes->n * sizeof(notes->text[0])) {
		*notes = (struct ds_port_notes){.n = 0};
		return false;
	}
	for (uint32_t i = 0; i < notes->n; i++)
		notes->text[i][sizeof(notes->text[i]) - 1] = '\0';
	return true;
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
