/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/io.h"

/* A temporary file is ".NAME.PID.tmp": hidden from ds_directory_names(), found by the sweep. */
static const char TEMPORARY_SUFFIX[] = ".tmp";

static int make_parents(const char *path, struct ds_error *err)
{
	char partial[PATH_MAX];

	if (snprintf(partial, sizeof(partial), "%s", path) >= (int)sizeof(partial))
		return ds_fail(err, "cannot use directory %.64s...: its path is too long", path);
	for (char *slash = strchr(partial + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(partial, 0755) < 0 && errno != EEXIST)
			return ds_fail(err, "cannot make directory %s: %s", partial,
				       strerror(errno));
		*slash = '/';
	}
	return 0;
}

/* Takes over `fd`: on success it is in `directory`, on failure it is closed. */
static int adopt(int fd, const char *path, struct ds_directory *directory, struct ds_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0) {
		ds_fail(err, "cannot examine directory %s: %s", path, strerror(errno));
		goto fail;
	}
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		ds_fail(err, "refusing directory %s: its owner is uid %u; make it belong to uid %u",
			path, (unsigned)st.st_uid, (unsigned)geteuid());
		goto fail;
	}
	if (st.st_mode & 022) {
		ds_fail(err,
			"refusing directory %s: its mode %04o lets others write; chmod go-w it",
			path, (unsigned)st.st_mode & 07777);
		goto fail;
	}
	directory->fd = fd;
	snprintf(directory->path, sizeof(directory->path), "%s", path);
	return 0;
fail:
	close(fd);
	return -1;
}

int ds_directory_open(const char *path, struct ds_directory *directory, struct ds_error *err)
{
	*directory = DS_DIRECTORY_CLOSED;
	if (make_parents(path, err) < 0)
		return -1;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return ds_fail(err, "cannot make directory %s: %s", path, strerror(errno));

	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ds_fail(err, "cannot open directory %s: %s", path, strerror(errno));
	return adopt(fd, path, directory, err);
}

int ds_directory_open_below(const struct ds_directory *parent, const char *name,
			    struct ds_directory *directory, struct ds_error *err)
{
	char path[PATH_MAX];

	*directory = DS_DIRECTORY_CLOSED;
	if (snprintf(path, sizeof(path), "%s/%s", parent->path, name) >= (int)sizeof(path))
		return ds_fail(err, "cannot use directory %s in %.64s...: the path is too long",
			       name, parent->path);
	if (mkdirat(parent->fd, name, 0700) < 0 && errno != EEXIST)
		return ds_fail(err, "cannot make directory %s: %s", path, strerror(errno));

	int fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return ds_fail(err, "cannot open directory %s: %s", path, strerror(errno));
	return adopt(fd, path, directory, err);
}

void ds_directory_close(struct ds_directory *directory)
{
	if (directory->fd >= 0)
		close(directory->fd);
	directory->fd = -1;
}

int ds_directory_write(const struct ds_directory *directory, const char *name, const char *data,
		       size_t length, struct ds_error *err)
{
	char temporary[NAME_MAX + 1];
	int fd = -1;
	bool made = false;

	if (snprintf(temporary, sizeof(temporary), ".%s.%ld%s", name, (long)getpid(),
		     TEMPORARY_SUFFIX) >= (int)sizeof(temporary))
		return ds_fail(err, "cannot write %s/%.64s...: the name is too long",
			       directory->path, name);

	/* One that a killed process with our pid left behind. */
	unlinkat(directory->fd, temporary, 0);
	fd = openat(directory->fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		goto fail;
	made = true;
	if (ds_write_whole(fd, data, length) < 0 || fsync(fd) < 0)
		goto fail;
	int closed = close(fd);
	fd = -1;
	if (closed < 0 || renameat(directory->fd, temporary, directory->fd, name) < 0)
		goto fail;
	made = false;
	if (fsync(directory->fd) < 0)
		goto fail;
	return 0;
fail:
	ds_fail(err, "cannot write %s/%s: %s", directory->path, name, strerror(errno));
	if (fd >= 0)
		close(fd);
	if (made)
		unlinkat(directory->fd, temporary, 0);
	return -1;
}

static char *read_fail(const struct ds_directory *directory, const char *name, int error,
		       const char *reason, struct ds_error *err)
{
	ds_fail(err, "cannot read %s/%s: %s", directory->path, name, reason);
	errno = error;
	return NULL;
}

char *ds_directory_read(const struct ds_directory *directory, const char *name, size_t max,
			size_t *length, struct stat *status, struct ds_error *err)
{
	struct stat st;
	char *data = NULL;
	size_t used = 0;
	/* O_NONBLOCK: opening a pipe that somebody put there must not wait for a writer. */
	int fd = openat(directory->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 && errno == ELOOP)
		return read_fail(directory, name, EINVAL, "it is a symbolic link", err);
	if (fd < 0)
		return read_fail(directory, name, errno, strerror(errno), err);
	if (fstat(fd, &st) < 0) {
		read_fail(directory, name, errno, strerror(errno), err);
		goto fail;
	}
	if (!S_ISREG(st.st_mode)) {
		read_fail(directory, name, EINVAL, "it is not a regular file", err);
		goto fail;
	}
	data = malloc(max + 2);
	if (!data) {
		read_fail(directory, name, ENOMEM, "memory is out", err);
		goto fail;
	}
	for (;;) {
		ssize_t n = read(fd, data + used, max + 1 - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			read_fail(directory, name, errno, strerror(errno), err);
			goto fail;
		}
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > max) {
			read_fail(directory, name, EFBIG, "it is too long", err);
			goto fail;
		}
	}
	close(fd);
	data[used] = '\0';
	if (length)
		*length = used;
	if (status)
		*status = st;
	return data;
fail:;
	int error = errno;
	free(data);
	close(fd);
	errno = error;
	return NULL;
}

static bool is_directory(int dir_fd, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* A stream of its own: its position must not be shared with other users of directory->fd. */
static DIR *open_stream(const struct ds_directory *directory)
{
	int fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);

	if (!stream && fd >= 0)
		close(fd);
	return stream;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char **ds_directory_names(const struct ds_directory *directory, size_t *count, struct ds_error *err)
{
	size_t n = 0, room = 16;
	char **names = calloc(room, sizeof(*names));
	DIR *stream = open_stream(directory);

	if (!stream || !names)
		goto fail;
	for (;;) {
		errno = 0;
		struct dirent *entry = readdir(stream);
		if (!entry && errno)
			goto fail;
		if (!entry)
			break;
		if (entry->d_name[0] == '.' || is_directory(directory->fd, entry))
			continue;
		if (n + 1 == room) {
			char **more = reallocarray(names, room * 2, sizeof(*names));
			if (!more)
				goto fail;
			names = more;
			room *= 2;
		}
		names[n] = strdup(entry->d_name);
		if (!names[n])
			goto fail;
		names[++n] = NULL;
	}
	closedir(stream);
	qsort(names, n, sizeof(*names), compare_names);
	if (count)
		*count = n;
	return names;
fail:
	ds_fail(err, "cannot list directory %s: %s", directory->path, strerror(errno));
	if (stream)
		closedir(stream);
	ds_directory_names_free(names);
	return NULL;
}

void ds_directory_names_free(char **names)
{
	for (size_t i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
}

void ds_directory_sweep(const struct ds_directory *directory, unsigned age_s)
{
	DIR *stream = open_stream(directory);
	struct dirent *entry;
	time_t now = time(NULL);

	while (stream && (entry = readdir(stream))) {
		size_t length = strlen(entry->d_name);
		size_t suffix = sizeof(TEMPORARY_SUFFIX) - 1;
		struct stat st;

		if (entry->d_name[0] != '.' || length <= suffix ||
		    strcmp(entry->d_name + length - suffix, TEMPORARY_SUFFIX) != 0)
			continue;
		if (fstatat(directory->fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    now - st.st_mtime > (time_t)age_s)
			unlinkat(directory->fd, entry->d_name, 0);
	}
	if (stream)
		closedir(stream);
}

int ds_directory_move(const struct ds_directory *directory, const char *name,
		      const struct ds_directory *other, struct ds_error *err)
{
	if (renameat(directory->fd, name, other->fd, name) < 0 || fsync(other->fd) < 0 ||
	    fsync(directory->fd) < 0)
		return ds_fail(err, "cannot move %s/%s to %s: %s", directory->path, name,
			       other->path, strerror(errno));
	return 0;
}
