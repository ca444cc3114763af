/* SPDX-License-Identifier: Apache-2.0 */
/*
 * liar PORT SEED MS: a program that is welcomed at a port and then says what is not true, for so long: noise in
 * its port, acknowledgements of what it was never told, notices of any length. It uses no GPU.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "noderuntime/port_protocol.h"

static uint64_t drawn;

static uint64_t draw(void)
{
	drawn += UINT64_C(0x9e3779b97f4a7c15);
	uint64_t z = (drawn ^ drawn >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static int fail(const char *what)
{
	fprintf(stderr, "liar: %s: %s\n", what, strerror(errno));
	return 1;
}

static int be_welcomed(const char *path, int fds[2])
{
	const struct ds_port_hello hello = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_PROGRAM};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ds_port_welcome welcome = {0};
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec data = {.iov_base = &welcome, .iov_len = sizeof(welcome)};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) < 0 || recvmsg(fd, &message, 0) < 0)
		return -1;
	const struct cmsghdr *part = CMSG_FIRSTHDR(&message);
	if (!part || welcome.refused) {
		errno = EACCES;
		return -1;
	}
	memcpy(fds, CMSG_DATA(part), 2 * sizeof(int));
	return fd;
}

/* One lie. */
static void lie(int fd, int port_fd, struct ds_port *port, const struct ds_page *page)
{
	struct ds_port_notice notice = {.magic = DS_PORT_MAGIC,
					.version = DS_PORT_VERSION,
					.kind = DS_PORT_ACKNOWLEDGED,
					.epoch = draw() % 3 ? page->epoch + draw() % 5 : draw()};
	unsigned char noise[300];

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (unsigned char)draw();
	switch (draw() % 5) {
	case 0:
		if (pwrite(port_fd, noise, sizeof(noise), (off_t)(draw() % (DS_PORT_SIZE - 300))) <
		    0)
			exit(fail("pwrite"));
		break;
	case 1:
		send(fd, noise, draw() % sizeof(noise), MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 2:
		port->in_use.bits[0] = draw() % 2 ? draw() : 0;
		port->acknowledged_epoch = notice.epoch;
		send(fd, &notice, sizeof(notice), MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 3:
		port->demand = (uint32_t)draw();
		port->whole_wanted = draw() % 2 ? 0 : (uint32_t)draw();
		port->pinned.bits[draw() % 2] = draw();
		port->overlong_since_ns = draw();
		memset(port->overlong_kernel, 'x', sizeof(port->overlong_kernel));
		notice.kind = (uint16_t)(draw() % 8);
		send(fd, &notice, sizeof(notice), MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	default:
		while (recv(fd, noise, sizeof(noise), MSG_DONTWAIT) > 0)
			;
	}
}

int main(int argc, char **argv)
{
	int fds[2];

	if (argc != 4) {
		fputs("Usage: liar PORT SEED MS\n", stderr);
		return 2;
	}
	drawn = strtoull(argv[2], NULL, 10);
	int fd = be_welcomed(argv[1], fds);
	if (fd < 0)
		return fail(argv[1]);
	struct ds_port *port =
	    mmap(NULL, DS_PORT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	const struct ds_page *page = mmap(NULL, DS_PAGE_SIZE, PROT_READ, MAP_SHARED, fds[1], 0);
	if (port == MAP_FAILED || page == MAP_FAILED)
		return fail("mmap");
	for (unsigned long ms = strtoul(argv[3], NULL, 10); ms--;) {
		lie(fd, fds[0], port, page);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return 0;
}
