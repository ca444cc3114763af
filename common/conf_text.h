/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_CONF_TEXT_H
#define DETSHARE_COMMON_CONF_TEXT_H

#include <stdbool.h>

#include "common/error.h"

/*
 * The whole text of a configuration file, malloc'd (the caller frees it), or NULL with a reason; errno is
 * ENOENT only if there is no such file. Refused: what is no plain file, holds a NUL byte or is larger than
 * 64 KiB; if `trusted` and the process is root's, also what others than root may write, since root executes
 * what such a file names. libconfuse is never given a file itself: its lexer ends the process when a read fails,
 * and the process may be slurmctld.
 */
char *ds_conf_read(const char *path, bool trusted, struct ds_error *err);

/*
 * Overwrite the comments (#, //, and C's) of a libconfuse file with blanks, keeping the ends of
 * lines: libconfuse 3.3 counts the end of a line several times behind a comment, so that its messages
 * name wrong lines. What is left means the same. Strings, and a comment that does not end, stay.
 */
void ds_conf_blank_comments(char *text);

#endif
