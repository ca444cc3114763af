/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	ANSWER_TIMEOUT_S = 10,
	POLL_MS = 1,       /* turns are some milliseconds; */
	POLLS = 200,       /* who has looked so often waits for something longer, */
	POLL_LONG_MS = 10, /* and is to cost nothing */
	HIGH_FD = 900,     /* below the usual limit of 1024, above what programs count on */
};

enum { PORT, PAGE, BOOK, N_DESCRIPTORS };

static void close_fd(int fd)
{
	int kept = errno;

	if (fd >= 0)
		close(fd);
	errno = kept;
}

/* Programs count on the lowest free numbers (shells, daemons that close 3..n and reopen). */
int ds_session_move_high(int fd)
{
	struct rlimit limit;
	int high, floor = HIGH_FD;

	if (fd < 0)
		return -1;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < HIGH_FD + 16)
		floor = limit.rlim_cur > 32 ? (int)limit.rlim_cur - 16 : 16;
	high = fcntl(fd, F_DUPFD_CLOEXEC, floor);
	if (high < 0)
		return fd;
	close(fd);
	return high;
}

void ds_session_make_room(void)
{
	int fd = ds_session_move_high(eventfd(0, EFD_CLOEXEC));

	if (fd >= 0)
		close(fd);
}

static int connect_to(const char *path, struct ds_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = ANSWER_TIMEOUT_S};
	int fd = -1;

	if (strlen(path) >= sizeof(address.sun_path))
		return ds_fail(err, "the path of the port is longer than a socket's may be: %s",
			       path);
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return ds_fail(err, "cannot make a socket: %s", strerror(errno));
	fd = ds_session_move_high(fd);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0) {
		ds_fail(err, "cannot set a time limit on the port: %s", strerror(errno));
		goto fail;
	}
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno == EINTR)
			continue;
		ds_fail(err, "cannot reach the node runtime at %s: %s", path, strerror(errno));
		goto fail;
	}
	return fd;
fail:
	close_fd(fd);
	return -1;
}

static int say_hello(int fd, enum ds_port_kind kind, struct ds_error *err)
{
	const struct ds_port_hello hello = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = (uint16_t)kind};
	ssize_t sent;

	do
		sent = send(fd, &hello, sizeof(hello), MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent != (ssize_t)sizeof(hello))
		return ds_fail(err, "cannot write to the node runtime: %s", strerror(errno));
	return 0;
}

static int hear_welcome(int fd, int descriptors[N_DESCRIPTORS], unsigned *book_slot,
			struct ds_error *err)
{
	struct ds_port_welcome welcome = {0};
	union {
		char bytes[CMSG_SPACE(N_DESCRIPTORS * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec data = {.iov_base = &welcome, .iov_len = sizeof(welcome)};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	size_t n = 0;
	ssize_t got;

	do
		got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return ds_fail(err, "the node runtime does not answer: %s",
			       errno == EAGAIN ? "time limit" : strerror(errno));
	for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part;
	     part = CMSG_NXTHDR(&message, part)) {
		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		n = n < N_DESCRIPTORS ? n : N_DESCRIPTORS;
		memcpy(descriptors, CMSG_DATA(part), n * sizeof(int));
	}
	if (got != (ssize_t)sizeof(welcome) || welcome.magic != DS_PORT_MAGIC)
		return ds_fail(err,
			       "the node runtime answered %zd bytes that are no welcome: is "
			       "another program listening there?",
			       got);
	if (welcome.version != DS_PORT_VERSION)
		return ds_fail(err,
			       "the node runtime speaks version %u of the port, this library "
			       "version %u: install both from one build",
			       welcome.version, DS_PORT_VERSION);
	if (welcome.refused) {
		welcome.reason[sizeof(welcome.reason) - 1] = '\0';
		return ds_fail(err, "the node runtime refused: %s", welcome.reason);
	}
	if (n != N_DESCRIPTORS)
		return ds_fail(err, "the node runtime sent %zu descriptors instead of %d", n,
			       N_DESCRIPTORS);
	if (welcome.book_slot >= DS_BOOK_SLOTS)
		return ds_fail(err, "the node runtime gave slot %u of %d", welcome.book_slot,
			       DS_BOOK_SLOTS);
	*book_slot = welcome.book_slot;
	return 0;
}

/* Not inherited by a forked child: it must not count or acknowledge in its parent's name. */
static void *map(int fd, size_t size, int protection, const char *what, struct ds_error *err)
{
	struct stat file;
	void *memory;

	if (fstat(fd, &file) < 0 || file.st_size < (off_t)size) {
		ds_fail(err, "the %s that the node runtime sent is smaller than %zu bytes", what,
			size);
		return NULL;
	}
	memory = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		ds_fail(err, "cannot map the %s: %s", what, strerror(errno));
		return NULL;
	}
	madvise(memory, size, MADV_DONTFORK);
	return memory;
}

int ds_session_open(struct ds_session *session, const char *path, struct ds_error *err)
{
	int descriptors[N_DESCRIPTORS] = {-1, -1, -1};
	int rc = -1;

	*session = DS_SESSION_NONE;
	session->fd = connect_to(path, err);
	if (session->fd < 0)
		return -1;
	if (say_hello(session->fd, DS_PORT_PROGRAM, err) < 0 ||
	    hear_welcome(session->fd, descriptors, &session->book_slot, err) < 0)
		goto done;
	session->port = map(descriptors[PORT], DS_PORT_SIZE, PROT_READ | PROT_WRITE, "port", err);
	if (!session->port)
		goto done;
	session->page = map(descriptors[PAGE], DS_PAGE_SIZE, PROT_READ, "page", err);
	if (!session->page)
		goto done;
	session->book = map(descriptors[BOOK], DS_BOOK_SIZE, PROT_READ | PROT_WRITE, "book", err);
	if (!session->book)
		goto done;
	if (session->page->magic != DS_PORT_MAGIC || session->page->version != DS_PORT_VERSION) {
		ds_fail(err, "the node runtime's page has version %u, this library knows %u",
			session->page->version, DS_PORT_VERSION);
		goto done;
	}
	session->port->version = DS_PORT_VERSION;
	session->port->magic = DS_PORT_MAGIC;
	rc = 0;
done:
	close_fd(descriptors[PORT]);
	close_fd(descriptors[PAGE]);
	close_fd(descriptors[BOOK]);
	if (rc < 0)
		ds_session_close(session);
	return rc;
}

int ds_session_ask_memory(const char *path, struct ds_port_memory *memory, struct ds_error *err)
{
	int fd = connect_to(path, err), rc = -1;
	ssize_t got;

	if (fd < 0)
		return -1;
	if (say_hello(fd, DS_PORT_MEMORY, err) < 0)
		goto done;
	do
		got = recv(fd, memory, sizeof(*memory), 0);
	while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(*memory) || memory->magic != DS_PORT_MAGIC ||
	    memory->version != DS_PORT_VERSION || memory->refused) {
		ds_fail(err, "the node runtime does not say what the job has of the GPU's memory");
		goto done;
	}
	memory->gpu_uuid[sizeof(memory->gpu_uuid) - 1] = '\0';
	rc = 0;
done:
	close_fd(fd);
	return rc;
}

void ds_session_close(struct ds_session *session)
{
	if (session->port)
		munmap(session->port, DS_PORT_SIZE);
	if (session->page)
		munmap((void *)session->page, DS_PAGE_SIZE);
	if (session->book)
		munmap(session->book, DS_BOOK_SIZE);
	close_fd(session->fd);
	*session = DS_SESSION_NONE;
}

/*
 * One attempt at a whole copy. Word by word, each load an acquire, so that the epoch is read again
 * after everything else.
 */
static bool copy_page(const struct ds_page *page, struct ds_granted *granted)
{
	union {
		struct ds_page page;
		uint64_t words[sizeof(struct ds_page) / sizeof(uint64_t)];
	} copy;
	const uint64_t *words = (const uint64_t *)page;
	const uint64_t epoch = atomic_load_explicit(&page->epoch, memory_order_acquire);

	for (size_t i = 0; i < sizeof(copy.words) / sizeof(copy.words[0]); i++)
		copy.words[i] = __atomic_load_n(&words[i], __ATOMIC_ACQUIRE);
	granted->epoch = epoch;
	granted->shape = copy.page.shape;
	granted->groups = copy.page.granted;
	granted->flags = copy.page.flags;
	granted->window_us = copy.page.window_us;
	granted->sample_launches = copy.page.sample_launches;
	granted->overlong_ms = copy.page.overlong_ms;
	granted->unawaited = copy.page.unawaited;
	granted->spin_us = copy.page.spin_us;
	memcpy(granted->gpu_uuid, copy.page.gpu_uuid, sizeof(granted->gpu_uuid));
	granted->gpu_uuid[sizeof(granted->gpu_uuid) - 1] = '\0';
	return !(epoch & 1) && epoch == atomic_load_explicit(&page->epoch, memory_order_relaxed);
}

bool ds_session_look(const struct ds_session *session, struct ds_granted *granted)
{
	for (unsigned tries = 0; tries < 1000; tries++)
		if (copy_page(session->page, granted))
			return true;
	return false;
}

uint64_t ds_session_epoch(const struct ds_session *session)
{
	return atomic_load_explicit(&session->page->epoch, memory_order_acquire);
}

bool ds_session_has_full_group(const struct ds_granted *granted)
{
	for (unsigned i = 0; i < granted->shape.n_groups; i++)
		if (ds_groups_has(&granted->groups, i))
			return true;
	return false;
}

bool ds_session_may_begin(const struct ds_granted *granted)
{
	return !(granted->flags & (DS_PAGE_SUSPENDED | DS_PAGE_WHOLE)) &&
	       ds_session_has_full_group(granted);
}

int ds_session_granted(const struct ds_session *session, unsigned timeout_ms,
		       struct ds_granted *granted, struct ds_error *err)
{
	unsigned waited_ms = 0;

	for (unsigned looks = 0;; looks++) {
		const unsigned nap_ms = looks < POLLS ? POLL_MS : POLL_LONG_MS;
		const struct timespec nap = {.tv_nsec = nap_ms * 1000000L};
		const bool whole = copy_page(session->page, granted);

		if (whole && ds_session_may_begin(granted))
			return 0;
		/* It is as patient then as programs that have begun already. */
		if (whole && granted->flags & (DS_PAGE_SUSPENDED | DS_PAGE_WHOLE) &&
		    !ds_session_is_over(session))
			waited_ms = 0;
		if (waited_ms >= timeout_ms)
			return ds_fail(err,
				       "the node runtime granted no full SM group within %u ms",
				       timeout_ms);
		nanosleep(&nap, NULL);
		waited_ms += nap_ms;
	}
}

bool ds_session_is_over(const struct ds_session *session)
{
	struct pollfd event = {.fd = session->fd};

	return poll(&event, 1, 0) > 0 && event.revents & (POLLHUP | POLLERR | POLLNVAL);
}

static void write_groups(struct ds_groups *to, const struct ds_groups *groups)
{
	for (size_t i = 0; i < sizeof(groups->bits) / sizeof(groups->bits[0]); i++)
		__atomic_store_n(&to->bits[i], groups->bits[i], __ATOMIC_RELEASE);
}

void ds_session_use(struct ds_session *session, const struct ds_groups *groups)
{
	session->in_use = *groups;
	write_groups(&session->port->in_use, groups);
}

void ds_session_pinned(struct ds_session *session, const struct ds_groups *groups)
{
	write_groups(&session->port->pinned, groups);
}

void ds_session_immovable(struct ds_session *session, bool immovable)
{
	atomic_store_explicit(&session->port->immovable, immovable, memory_order_relaxed);
}

/* If it does not fit, those that wait say the same: look at the port. */
static void notify(const struct ds_session *session, uint16_t kind, uint64_t epoch)
{
	const struct ds_port_notice notice = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = kind, .epoch = epoch};

	while (send(session->fd, &notice, sizeof(notice), MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
	       errno == EINTR)
		;
}

void ds_session_acknowledge(struct ds_session *session, const struct ds_granted *granted)
{
	atomic_store_explicit(&session->port->acknowledged_epoch, granted->epoch,
			      memory_order_release);
	if (!granted->unawaited)
		notify(session, DS_PORT_ACKNOWLEDGED, granted->epoch);
}

void ds_session_notify_demand(const struct ds_session *session)
{
	notify(session, DS_PORT_DEMAND, ds_session_epoch(session));
}

int ds_session_hear(struct ds_session *session)
{
	struct ds_port_notice notice;
	ssize_t got;

	for (;;) {
		got = recv(session->fd, &notice, sizeof(notice), MSG_DONTWAIT);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return -1;
		if (got < 0 && errno == EAGAIN)
			return 0;
	}
}
