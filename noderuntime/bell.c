/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/bell.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A FIFO of our own that nobody else may open. */
static bool is_bell(int fd)
{
	struct stat file;

	return fstat(fd, &file) == 0 && S_ISFIFO(file.st_mode) && file.st_uid == geteuid() &&
	       !(file.st_mode & (S_IRWXG | S_IRWXO));
}

static int open_bell(const char *path, int mode)
{
	int fd = open(path, mode | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && !is_bell(fd)) {
		close(fd);
		errno = EPERM;
		return -1;
	}
	return fd;
}

int ds_bell_make(const char *path, struct ds_error *err)
{
	if (mkfifo(path, 0600) < 0 && errno != EEXIST)
		return ds_fail(err, "cannot make the FIFO %s: %s", path, strerror(errno));
	/* For writing, too: without anybody who has it open so, it would be readable for ever. */
	int fd = open_bell(path, O_RDWR);
	if (fd < 0)
		return ds_fail(err, "cannot open the FIFO %s: %s", path, strerror(errno));
	return fd;
}

void ds_bell_hear(int fd)
{
	char rings[4096];

	while (read(fd, rings, sizeof(rings)) == (ssize_t)sizeof(rings))
		;
}

int ds_bell_open(const char *path)
{
	return open_bell(path, O_WRONLY);
}

bool ds_bell_ring(int fd)
{
	/* When it is full, it was rung already and not heard yet. */
	return write(fd, "", 1) == 1 || errno == EAGAIN || errno == EWOULDBLOCK;
}
