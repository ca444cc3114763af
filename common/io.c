/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

ssize_t ds_read_whole(int fd, void *bytes, size_t size)
{
	char *next = bytes;
	size_t used = 0;

	while (used < size) {
		ssize_t n = read(fd, next + used, size - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return (ssize_t)used;
}

ssize_t ds_read_text(const char *path, int flags, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);

	if (fd < 0)
		return -1;
	ssize_t n = ds_read_whole(fd, text, size - 1);
	int reason = errno;

	close(fd);
	errno = reason;
	if (n >= 0)
		text[n] = '\0';
	return n;
}

int ds_write_whole(int fd, const void *bytes, size_t size)
{
	const char *next = bytes;

	while (size) {
		ssize_t n = write(fd, next, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		next += n;
		size -= (size_t)n;
	}
	return 0;
}

int ds_write_whole_at(int fd, const void *bytes, size_t size, off_t offset)
{
	const char *next = bytes;

	while (size) {
		ssize_t n = pwrite(fd, next, size, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		next += n;
		size -= (size_t)n;
		offset += n;
	}
	return 0;
}
