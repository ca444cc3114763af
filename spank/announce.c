/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/announce.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "noderuntime/port_protocol.h"

static bool peer_is_trusted(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

/* connect() waits for room in the listener's queue at most as long as SO_SNDTIMEO says. */
static int open_port(const char *path, unsigned timeout_ms, struct ds_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return ds_fail(
		    err, "%s is too long a path for a socket: choose a shorter runtime_dir", path);
	}
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ds_fail(err, "no socket: %s", strerror(errno));
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		ds_fail(err, "cannot connect to %s: %s", path, strerror(errno));
		goto fail;
	}
	if (!peer_is_trusted(fd)) {
		errno = EPERM;
		ds_fail(err, "%s is served by another user's process", path);
		goto fail;
	}
	return fd;
fail:;
	int saved_errno = errno;
	close(fd);
	errno = saved_errno;
	return -1;
}

/* The head that all answers have; who refuses sends a welcome. */
union answer {
	struct ds_port_welcome welcome;
	struct ds_port_notes notes;
};

/*
 * One message, one answer, of which `size` bytes are expected at least. A new connection each time: this is
 * rare, and the runtime may have changed. Returns the answer's size, or -1.
 */
static ssize_t talk(const char *path, const void *message, size_t message_size,
		    union answer *answer, size_t size, unsigned timeout_ms, struct ds_error *err)
{
	struct ds_port_welcome *welcome = &answer->welcome;
	int fd = open_port(path, timeout_ms, err);
	ssize_t rv = -1;

	if (fd < 0)
		return -1;
	memset(answer, 0, sizeof(*answer));
	if (send(fd, message, message_size, MSG_NOSIGNAL) != (ssize_t)message_size) {
		ds_fail(err, "cannot write to %s: %s", path, strerror(errno));
		goto fail;
	}
	/* No control buffer: descriptors, which we are not sent, would be dropped by the kernel. */
	ssize_t n = recv(fd, answer, sizeof(*answer), 0);
	if (n < 0) {
		ds_fail(err, "no answer on %s within %u ms: %s", path, timeout_ms, strerror(errno));
		goto fail;
	}
	const bool is_refusal = n == (ssize_t)sizeof(*welcome) && welcome->refused;
	if ((n < (ssize_t)size && !is_refusal) || welcome->magic != DS_PORT_MAGIC ||
	    welcome->version != DS_PORT_VERSION) {
		errno = EPROTO;
		ds_fail(err, "%s answered in another protocol: restart the job after an upgrade",
			path);
		goto fail;
	}
	if (welcome->refused) {
		welcome->reason[sizeof(welcome->reason) - 1] = '\0';
		errno = EACCES;
		ds_fail(err, "refused: %s", welcome->reason);
		goto fail;
	}
	rv = n;
fail:;
	int saved_errno = errno;
	close(fd);
	errno = saved_errno;
	return rv;
}

static int tell(const char *path, const void *message, size_t size, unsigned timeout_ms,
		struct ds_error *err)
{
	union answer answer;

	return talk(path, message, size, &answer, sizeof(answer.welcome), timeout_ms, err) < 0 ? -1
											       : 0;
}

int ds_announce_step(const char *path, uint32_t step_id, uint32_t share_milli, unsigned timeout_ms,
		     struct ds_error *err)
{
	const struct ds_port_hello hello = {.magic = DS_PORT_MAGIC,
					    .version = DS_PORT_VERSION,
					    .kind = DS_PORT_STEP,
					    .step_id = step_id,
					    .share_milli = share_milli};

	return tell(path, &hello, sizeof(hello), timeout_ms, err);
}

int ds_announce_end(const char *path, const pid_t *pids, int n, unsigned timeout_ms,
		    struct ds_error *err)
{
	struct ds_port_end end = {
	    .hello = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_END}};

	/* More than that in one step are hardly GPU programs: MPS serves 60. */
	while (end.n_pids < DS_PORT_END_MAX && (int)end.n_pids < n) {
		end.pids[end.n_pids] = pids[end.n_pids];
		end.n_pids++;
	}
	return tell(path, &end, offsetof(struct ds_port_end, pids) + end.n_pids * sizeof(int32_t),
		    timeout_ms, err);
}

static bool is_whole(const struct ds_port_notes *notes, size_t size)
{
	return notes->n <= DS_PORT_NOTES_MAX &&
	       size == offsetof(struct ds_port_notes, text) + notes->n * sizeof(notes->text[0]);
}

int ds_ask_notes(const char *path, uint64_t since_ns, bool only_new, bool last,
		 struct ds_port_notes *notes, unsigned timeout_ms, struct ds_error *err)
{
	const struct ds_port_ask ask = {
	    .hello = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_NOTES},
	    .since_ns = since_ns,
	    .only_new = only_new,
	    .last = last};
	union answer answer;
	ssize_t n = talk(path, &ask, sizeof(ask), &answer, offsetof(struct ds_port_notes, text),
			 timeout_ms, err);

	memset(notes, 0, sizeof(*notes));
	if (n < 0)
		return -1;
	if (!is_whole(&answer.notes, (size_t)n)) {
		errno = EPROTO;
		return ds_fail(err, "%s answered what is no list of notes", path);
	}
	memcpy(notes, &answer.notes, (size_t)n);
	for (uint32_t i = 0; i < notes->n; i++) {
		char *text = notes->text[i];

		text[sizeof(notes->text[i]) - 1] = '\0';
		for (char *c = text; *c; c++)
			*c = (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c;
	}
	return 0;
}
