/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program as bench_lending needs it, one process each, since a node runtime knows programs by process:
 *   lending_peer PORT borrow               acknowledges whatever the page says, at once, until stdin ends
 *   lending_peer PORT lend GROUPS TIMES PAUSE_US
 *       owns so many groups; says idle, and when they are lent, active, and takes the time until the page
 *       grants all of them again; a line of JSON
 * It sleeps while it waits, as the library's thread does: its own wake-up is in the time.
 *   lending_peer echo TIMES PAUSE_US
 *       what a wake-up costs whoever does nothing else but sleep in epoll, hear a message and answer it, as
 *       often as that: no node runtime can cost less; a line of JSON
 */
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "noderuntime/port_protocol.h"

struct program {
	int connection;
	const struct ds_page *page;
	struct ds_port *port;
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void enter(struct program *program, const char *path)
{
	const struct ds_port_hello hello = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_PROGRAM};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ds_port_welcome welcome;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control;
	struct iovec content = {&welcome, sizeof(welcome)};
	struct msghdr message = {.msg_iov = &content,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	int fds[2];

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	program->connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (program->connection < 0 ||
	    connect(program->connection, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    send(program->connection, &hello, sizeof(hello), 0) < 0 ||
	    recvmsg(program->connection, &message, 0) != (ssize_t)sizeof(welcome))
		fail(path);
	const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	if (welcome.refused || !rights || rights->cmsg_len < CMSG_LEN(sizeof(fds))) {
		fprintf(stderr, "%s: %s\n", path, welcome.reason);
		exit(1);
	}
	memcpy(fds, CMSG_DATA(rights), sizeof(fds));
	program->port = mmap(NULL, DS_PORT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	program->page = mmap(NULL, DS_PAGE_SIZE, PROT_READ, MAP_SHARED, fds[1], 0);
	if (program->port == MAP_FAILED || program->page == MAP_FAILED)
		fail("mmap");
	program->port->magic = DS_PORT_MAGIC;
	program->port->version = DS_PORT_VERSION;
	atomic_store(&program->port->drain_us, 100);
}

static void tell(const struct program *program, enum ds_port_kind kind, uint64_t epoch)
{
	const struct ds_port_notice notice = {.magic = DS_PORT_MAGIC,
					      .version = DS_PORT_VERSION,
					      .kind = (uint16_t)kind,
					      .epoch = epoch};

	if (send(program->connection, &notice, sizeof(notice), MSG_NOSIGNAL) < 0)
		fail("send");
}

static void say(const struct program *program, enum ds_port_demand demand)
{
	atomic_store(&program->port->demand, demand);
	tell(program, DS_PORT_DEMAND, 0);
}

/* Acknowledge the page as it is. Returns how many groups it grants. */
static unsigned acknowledge(const struct program *program)
{
	uint64_t epoch;
	struct ds_groups granted;
	uint32_t unawaited;

	do {
		epoch = atomic_load(&program->page->epoch);
		granted = program->page->granted;
		unawaited = program->page->unawaited;
		atomic_thread_fence(memory_order_acquire);
	} while (epoch & 1 || epoch != atomic_load(&program->page->epoch));
	program->port->in_use = granted;
	if (atomic_exchange(&program->port->acknowledged_epoch, epoch) != epoch && !unawaited)
		tell(program, DS_PORT_ACKNOWLEDGED, epoch);
	return ds_groups_count(&granted);
}

/* Sleep until a notice comes. */
static void hear(const struct program *program)
{
	struct ds_port_notice notice;

	if (recv(program->connection, &notice, sizeof(notice), 0) <= 0)
		fail("the node runtime is gone");
}

static int borrow(const struct program *program)
{
	acknowledge(program);
	say(program, DS_DEMAND_ACTIVE);
	for (;;) {
		struct pollfd fds[] = {{.fd = program->connection, .events = POLLIN},
				       {.fd = STDIN_FILENO, .events = POLLIN}};
		if (poll(fds, 2, -1) < 0)
			fail("poll");
		if (fds[1].revents)
			return 0;
		hear(program);
		acknowledge(program);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int lend(const struct program *program, unsigned own, unsigned times, unsigned pause_us)
{
	const struct timespec pause = {.tv_sec = pause_us / 1000000,
				       .tv_nsec = pause_us % 1000000 * 1000L};
	uint64_t *taken_ns = calloc(times, sizeof(*taken_ns));

	if (!taken_ns)
		fail("calloc");
	say(program, DS_DEMAND_ACTIVE);
	while (acknowledge(program) < own)
		hear(program);
	uint64_t begun_ns = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
	for (unsigned i = 0; i < times; i++) {
		say(program, DS_DEMAND_IDLE);
		while (acknowledge(program) == own)
			hear(program);
		nanosleep(&pause, NULL); /* until the borrower has them */
		uint64_t asked_ns = (uint64_t)ds_now_ns(CLOCK_MONOTONIC);
		say(program, DS_DEMAND_ACTIVE);
		while (acknowledge(program) < own)
			hear(program);
		taken_ns[i] = (uint64_t)ds_now_ns(CLOCK_MONOTONIC) - asked_ns;
		nanosleep(&pause, NULL);
	}
	double seconds = (double)((uint64_t)ds_now_ns(CLOCK_MONOTONIC) - begun_ns) / 1e9;
	qsort(taken_ns, times, sizeof(*taken_ns), compare);
	printf("{\"times\": %u, \"remaps_per_s\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
	       "\"max_us\": %.1f, \"seconds\": %.3f}\n",
	       times, 2 * times / seconds, (double)taken_ns[times / 2] / 1e3,
	       (double)taken_ns[times - 1 - times / 100] / 1e3, (double)taken_ns[times - 1] / 1e3,
	       seconds);
	free(taken_ns);
	return 0;
}

/* In a process of its own. */
static void answer(int fd)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct ds_port_notice notice;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		_exit(1);
	while (epoll_wait(epoll, &event, 1, -1) == 1 &&
	       recv(fd, &notice, sizeof(notice), MSG_DONTWAIT) == (ssize_t)sizeof(notice) &&
	       send(fd, &notice, sizeof(notice), MSG_NOSIGNAL) == (ssize_t)sizeof(notice))
		;
	_exit(0);
}

static int echo(unsigned times, unsigned pause_us)
{
	const struct timespec pause = {.tv_sec = pause_us / 1000000,
				       .tv_nsec = pause_us % 1000000 * 1000L};
	struct ds_port_notice notice = {.magic = DS_PORT_MAGIC};
	struct timespec used;
	clockid_t clock;
	int ends[2];

	if (!times || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		fail("socketpair");
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		close(ends[0]);
		answer(ends[1]);
	}
	for (unsigned i = 0; i < times; i++) {
		if (send(ends[0], &notice, sizeof(notice), MSG_NOSIGNAL) < 0 ||
		    recv(ends[0], &notice, sizeof(notice), 0) <= 0)
			fail("the other process is gone");
		nanosleep(&pause, NULL);
	}
	if (clock_getcpuclockid(child, &clock) || clock_gettime(clock, &used) < 0)
		fail("its CPU time");
	shutdown(ends[0], SHUT_RDWR);
	waitpid(child, NULL, 0);
	printf("{\"us_per_wake_up\": %.1f}\n",
	       ((double)used.tv_sec * 1e6 + (double)used.tv_nsec / 1e3) / times);
	return 0;
}

int main(int argc, char **argv)
{
	struct program program;

	if (argc == 4 && !strcmp(argv[1], "echo"))
		return echo((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
	if (argc < 3)
		return 2;
	enter(&program, argv[1]);
	if (argc == 6 && !strcmp(argv[2], "lend"))
		return lend(&program, (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]),
			    (unsigned)atoi(argv[5]));
	return !strcmp(argv[2], "borrow") ? borrow(&program) : 2;
}
