/* SPDX-License-Identifier: Apache-2.0 */
#include "common/conf_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"

enum { FILE_MAX = 65536 };

static int check_file(int fd, const char *path, bool trusted, struct ds_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return ds_fail(err, "cannot stat %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return ds_fail(err, "%s is not a regular file", path);
	if (trusted && geteuid() == 0 &&
	    (st.st_uid != 0 || (st.st_mode & S_IWOTH) ||
	     ((st.st_mode & S_IWGRP) && st.st_gid != 0)))
		return ds_fail(err,
			       "%s can be written by others than root, who executes what it names: "
			       "chown root:root and chmod go-w it",
			       path);
	return 0;
}

char *ds_conf_read(const char *path, bool trusted, struct ds_error *err)
{
	ssize_t used;
	char *text = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		ds_fail(err, "cannot open %s: %s", path, strerror(errno));
		return NULL;
	}
	if (check_file(fd, path, trusted, err) < 0)
		goto fail;
	text = malloc(FILE_MAX);
	if (!text) {
		ds_fail(err, "cannot read %s: out of memory", path);
		goto fail;
	}
	used = ds_read_whole(fd, text, FILE_MAX);
	if (used < 0) {
		ds_fail(err, "cannot read %s: %s", path, strerror(errno));
		goto fail;
	}
	if (used == FILE_MAX) {
		ds_fail(err, "%s is larger than %d bytes", path, FILE_MAX - 1);
		goto fail;
	}
	if (memchr(text, '\0', (size_t)used)) {
		ds_fail(err, "%s holds a NUL byte", path);
		goto fail;
	}
	text[used] = '\0';
	close(fd);
	return text;
fail:
	close(fd);
	free(text);
	errno = EINVAL; /* whatever close() did: not ENOENT, the file is there */
	return NULL;
}

/* The end of the string that starts with the quote at `at`, or of the text. */
static char *skip_string(char *at)
{
	char quote = *at++;

	for (; *at && *at != quote; at++)
		if (*at == '\\' && at[1])
			at++;
	return *at ? at + 1 : at;
}

/* The end of the comment that starts at `at`; NULL if none does, or if it has none. */
static char *comment_end(char *at)
{
	if (at[0] == '#' || (at[0] == '/' && at[1] == '/'))
		return at + strcspn(at, "\n");
	if (at[0] == '/' && at[1] == '*') {
		char *end = strstr(at + 2, "*/");
		return end ? end + 2 : NULL;
	}
	return NULL;
}

void ds_conf_blank_comments(char *text)
{
	/* "a//b" without quotes is a value: a comment starts where a word could. */
	bool word_starts = true;

	for (char *at = text; *at;) {
		char *end = word_starts ? comment_end(at) : NULL;
		if (end) {
			for (; at < end; at++)
				if (*at != '\n')
					*at = ' ';
		} else if (*at == '"' || *at == '\'') {
			at = skip_string(at);
			word_starts = true;
		} else {
			word_starts = strchr(" \t\r\n={}(),+", *at) != NULL;
			at++;
		}
	}
}
