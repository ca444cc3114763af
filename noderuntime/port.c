/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { BACKLOG = 128, PORT_FDS_MAX = 3 };

#define PAGE_NAME "detshare-page"

_Static_assert(sizeof(struct ds_page) <= DS_PAGE_SIZE, "the page holds its structure");
_Static_assert(sizeof(struct ds_port) <= DS_PORT_SIZE, "the port holds its structure");

static int make_memfd(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && ftruncate(fd, (off_t)size) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int ds_page_create(struct ds_published *published, const struct ds_gpu_shape *shape,
		   const char *gpu_uuid, const char *class_name, uint32_t share_milli,
		   struct ds_error *err)
{
	struct ds_page *page = MAP_FAILED;
	char self[64];

	*published = (struct ds_published){.readonly_fd = -1};
	int fd = make_memfd(PAGE_NAME, DS_PAGE_SIZE);
	if (fd < 0)
		goto fail;
	page = mmap(NULL, DS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		goto fail;
	/*
	 * A read-only descriptor alone would not do: its holder can open /proc/self/fd/N again for
	 * writing. The seal leaves our mapping writable and allows no other.
	 */
	if (fcntl(fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		goto fail;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	published->readonly_fd = open(self, O_RDONLY | O_CLOEXEC);
	if (published->readonly_fd < 0)
		goto fail;
	close(fd);
	page->magic = DS_PORT_MAGIC;
	page->version = DS_PORT_VERSION;
	page->shape = *shape;
	page->share_milli = share_milli;
	snprintf(page->gpu_uuid, sizeof(page->gpu_uuid), "%s", gpu_uuid);
	snprintf(page->class_name, sizeof(page->class_name), "%s", class_name);
	published->page = page;
	return 0;
fail:
	ds_fail(err, "cannot make the allocation's page: %s", strerror(errno));
	if (page != MAP_FAILED)
		munmap(page, DS_PAGE_SIZE);
	if (fd >= 0)
		close(fd);
	return -1;
}

void ds_page_destroy(struct ds_published *published)
{
	if (published->page)
		munmap(published->page, DS_PAGE_SIZE);
	if (published->readonly_fd >= 0)
		close(published->readonly_fd);
	*published = (struct ds_published){.readonly_fd = -1};
}

void ds_page_publish(struct ds_published *published, const struct ds_page_terms *terms)
{
	struct ds_page *page = published->page;
	uint64_t epoch = atomic_load_explicit(&page->epoch, memory_order_relaxed);

	/* That it is not waited for any more, who has acknowledged it need not know; nor that nobody is to spin. */
	if (epoch && ds_groups_equal(&page->granted, &terms->granted) &&
	    page->flags == terms->flags && page->window_us == terms->window_us &&
	    page->unawaited <= terms->unawaited)
		return;
	/* Odd while it changes: a reader that saw half of it sees another epoch after its copy. */
	atomic_store_explicit(&page->epoch, epoch + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	page->granted = terms->granted;
	page->flags = terms->flags;
	page->window_us = terms->window_us;
	page->unawaited = terms->unawaited;
	page->spin_us = terms->spin_us;
	atomic_store_explicit(&page->epoch, epoch + 2, memory_order_release);
}

void ds_page_step(struct ds_published *published, bool in_step)
{
	_Atomic uint32_t *word = &published->page->neighbours_step;
	const uint32_t step = atomic_load_explicit(word, memory_order_relaxed);

	if ((step & 1) != in_step)
		atomic_store_explicit(word, step + 1, memory_order_relaxed);
}

uint64_t ds_page_epoch(const struct ds_published *published)
{
	return atomic_load_explicit(&published->page->epoch, memory_order_relaxed);
}

bool ds_page_may_be_in(pid_t pid)
{
	char path[64], *line = NULL;
	size_t size = 0;
	bool is_in = false, whole;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	FILE *maps = fopen(path, "re");
	if (!maps)
		return true;
	while (!is_in && getline(&line, &size, maps) >= 0)
		is_in = strstr(line, "/memfd:" PAGE_NAME) != NULL;
	whole = feof(maps) && !ferror(maps);
	free(line);
	fclose(maps);
	return is_in || !whole;
}

int ds_port_create(struct ds_error *err)
{
	int fd = make_memfd("detshare-port", DS_PORT_SIZE);

	/* Sealed, because a port that shrank under its reader's mapping would kill the reader. */
	if (fd < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		ds_fail(err, "cannot make a port: %s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

enum ds_port_word ds_port_understand(const struct ds_port *port, uint64_t epoch,
				     const struct ds_groups *had, struct ds_groups *in_use)
{
	const uint64_t acknowledged = atomic_load(&port->acknowledged_epoch);

	if (!port->magic && !port->version && !acknowledged)
		return DS_PORT_SILENT; /* has not come to it yet */
	if (port->magic != DS_PORT_MAGIC || port->version != DS_PORT_VERSION ||
	    acknowledged > epoch)
		return DS_PORT_UNFIT;
	struct ds_groups beyond = ds_groups_difference(port->in_use, *had);
	if (!ds_groups_empty(&beyond))
		return DS_PORT_UNFIT;
	if (acknowledged < epoch)
		return DS_PORT_SILENT;
	*in_use = port->in_use;
	return DS_PORT_SAID;
}

int ds_port_renew(int port_fd, struct ds_error *err)
{
	static const uint64_t none;
	const off_t place = offsetof(struct ds_port, acknowledged_epoch);

	if (pwrite(port_fd, &none, sizeof(none), place) != (ssize_t)sizeof(none))
		return ds_fail(err, "cannot write to the port: %s", strerror(errno));
	return 0;
}

int ds_port_copy(int port_fd, struct ds_port *port)
{
	return pread(port_fd, port, sizeof(*port), 0) == (ssize_t)sizeof(*port) ? 0 : -1;
}

int ds_port_notify(int connection, uint64_t epoch)
{
	const struct ds_port_notice notice = {.magic = DS_PORT_MAGIC,
					      .version = DS_PORT_VERSION,
					      .kind = DS_PORT_EPOCH,
					      .epoch = epoch};

	if (send(connection, &notice, sizeof(notice), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return 0;
	return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

uint16_t ds_port_notice_kind(const void *bytes, size_t size)
{
	struct ds_port_notice notice;

	if (size != sizeof(notice))
		return 0;
	memcpy(&notice, bytes, sizeof(notice));
	return notice.magic == DS_PORT_MAGIC && notice.version == DS_PORT_VERSION ? notice.kind : 0;
}

_Static_assert(sizeof(struct ds_port) <= DS_PORT_SIZE && sizeof(struct ds_page) <= DS_PAGE_SIZE,
	       "they have room");
_Static_assert(sizeof(((struct ds_port_reported *)0)->overlong_kernel) ==
		   sizeof(((struct ds_port *)0)->overlong_kernel),
	       "a name fits");

/* A program may have written anything, and no end to it. */
static void copy_printable(char *to, const char *from, size_t size)
{
	size_t i = 0;

	for (; i + 1 < size && from[i]; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
	to[i] = '\0';
}

void ds_port_describe(const struct ds_port *port, struct ds_port_reported *reported)
{
	reported->acknowledged_epoch = atomic_load(&port->acknowledged_epoch);
	reported->in_use = port->in_use;
	reported->pinned = port->pinned;
	reported->launches = atomic_load(&port->launches);
	reported->own_contexts = atomic_load(&port->own_contexts);
	reported->cooperative_too_large = atomic_load(&port->cooperative_too_large);
	reported->remaps = atomic_load(&port->remaps);
	reported->pinned_graphs = atomic_load(&port->pinned_graphs);
	reported->export_tables = atomic_load(&port->export_tables);
	reported->launching_modules = atomic_load(&port->launching_modules);
	reported->unread_modules = atomic_load(&port->unread_modules);
	reported->window_waits = atomic_load(&port->window_waits);
	reported->window_expired = atomic_load(&port->window_expired);
	reported->held_back = atomic_load(&port->held_back);
	reported->held_back_ns = atomic_load(&port->held_back_ns);
	reported->overlong_since_ns = atomic_load(&port->overlong_since_ns);
	copy_printable(reported->overlong_kernel, port->overlong_kernel,
		       sizeof(reported->overlong_kernel));
	for (unsigned i = 0; i < DS_PORT_KERNELS; i++) {
		reported->kernels[i] = port->kernels[i];
		copy_printable(reported->kernels[i].name, port->kernels[i].name,
			       sizeof(reported->kernels[i].name));
	}
}

int ds_port_check_hello(const void *bytes, size_t size, struct ds_port_hello *hello,
			struct ds_error *err)
{
	if (size < sizeof(*hello))
		return ds_fail(err, "a hello has %zu bytes, not %zu", sizeof(*hello), size);
	memcpy(hello, bytes, sizeof(*hello));
	if (size != sizeof(*hello) && hello->kind != DS_PORT_END && hello->kind != DS_PORT_NOTES)
		return ds_fail(err, "a hello has %zu bytes, not %zu", sizeof(*hello), size);
	if (hello->magic != DS_PORT_MAGIC)
		return ds_fail(err, "that is not a hello of detshare");
	if (hello->version != DS_PORT_VERSION)
		return ds_fail(err,
			       "library speaks version %u, node runtime version %d: the same "
			       "detshare must be installed on the node and in the job's containers",
			       hello->version, DS_PORT_VERSION);
	if (hello->kind != DS_PORT_PROGRAM && hello->kind != DS_PORT_STEP &&
	    hello->kind != DS_PORT_REPORT && hello->kind != DS_PORT_MEMORY &&
	    hello->kind != DS_PORT_END && hello->kind != DS_PORT_NOTES)
		return ds_fail(err, "unknown kind of hello: %u", hello->kind);
	if (hello->kind == DS_PORT_STEP && (hello->share_milli < 1 || hello->share_milli > 1000))
		return ds_fail(err, "a step's share of %u thousandths is not within 1 to 1000",
			       hello->share_milli);
	return 0;
}

int ds_port_check_end(const void *bytes, size_t size, struct ds_port_end *end, struct ds_error *err)
{
	const size_t head = offsetof(struct ds_port_end, pids);

	if (size < head || size > sizeof(*end))
		return ds_fail(err, "a list of processes does not have %zu bytes", size);
	memset(end, 0, sizeof(*end));
	memcpy(end, bytes, size);
	if (end->n_pids > DS_PORT_END_MAX || size != head + end->n_pids * sizeof(end->pids[0]))
		return ds_fail(err, "a list of %u processes does not have %zu bytes", end->n_pids,
			       size);
	for (uint32_t i = 0; i < end->n_pids; i++) {
		if (end->pids[i] <= 1)
			return ds_fail(err, "%d is no process that can be ended", end->pids[i]);
	}
	return (int)end->n_pids;
}

int ds_port_listen(const char *path, struct ds_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path))
		return ds_fail(err,
			       "the path of the port, %s, is longer than a socket's may be (%zu): "
			       "shorten runtime_dir in detshare-node.conf",
			       path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ds_fail(err, "cannot make a socket: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0666) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		ds_fail(err, "cannot listen on %s: %s", path, strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

int ds_port_peer(int connection, struct ds_peer *peer, struct ds_error *err)
{
	struct ucred who;
	socklen_t size = sizeof(who);

	*peer = (struct ds_peer){.pidfd = -1};
	if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
		return ds_fail(err, "cannot learn who is connected: %s", strerror(errno));
	if (who.pid <= 0)
		return ds_fail(err, "your process is in a pid namespace that the node runtime "
				    "cannot see");
	size = sizeof(peer->pidfd);
	if (getsockopt(connection, SOL_SOCKET, SO_PEERPIDFD, &peer->pidfd, &size) < 0)
		peer->pidfd = pidfd_open(who.pid, 0);
	if (peer->pidfd < 0)
		return ds_fail(err, "cannot watch process %d: %s", who.pid, strerror(errno));
	peer->uid = who.uid;
	if (ds_process_identify(who.pid, &peer->process, err) < 0) {
		close(peer->pidfd);
		peer->pidfd = -1;
		return -1;
	}
	return 0;
}

static int send_reply(int connection, const struct ds_port_welcome *welcome, const int *fds,
		      size_t n_fds)
{
	union {
		struct cmsghdr header; /* for its alignment */
		char bytes[CMSG_SPACE(sizeof(int) * PORT_FDS_MAX)];
	} control;
	struct iovec content = {(void *)(uintptr_t)welcome, sizeof(*welcome)};
	struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};

	if (n_fds) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(rights), fds, sizeof(int) * n_fds);
	}
	return sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

int ds_port_welcome(int connection, const int *fds, size_t n_fds, uint32_t book_slot)
{
	struct ds_port_welcome welcome = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .book_slot = book_slot};

	return send_reply(connection, &welcome, fds, n_fds);
}

int ds_port_refuse(int connection, const char *reason)
{
	struct ds_port_welcome welcome = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .refused = 1};

	snprintf(welcome.reason, sizeof(welcome.reason), "%s", reason);
	return send_reply(connection, &welcome, NULL, 0);
}

int ds_port_check_ask(const void *bytes, size_t size, struct ds_port_ask *ask, struct ds_error *err)
{
	if (size != sizeof(*ask))
		return ds_fail(err, "a question has %zu bytes, not %zu", sizeof(*ask), size);
	memcpy(ask, bytes, sizeof(*ask));
	return 0;
}

int ds_port_answer_notes(int connection, const struct ds_port_notes *notes)
{
	size_t size = offsetof(struct ds_port_notes, text) + notes->n * sizeof(notes->text[0]);

	return send(connection, notes, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

int ds_port_answer_report(int connection, const struct ds_port_report *report)
{
	size_t size = offsetof(struct ds_port_report, programs) +
		      report->n_programs * sizeof(report->programs[0]);

	return send(connection, report, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}
