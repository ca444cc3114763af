/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_ERROR_H
#define DETSHARE_COMMON_ERROR_H

/* Room for one line that says what was tried, on which value, why it failed and what to do. */
struct ds_error {
	char text[512];
};

/*
 * Write one line into `err` (which may be NULL) and return -1, so that an error path is one line:
 * `return ds_fail(err, "cannot open %s: %s", path, strerror(errno));`
 * The line is cut at the buffer's end. errno is kept. Thread-safe for distinct `err`.
 */
int ds_fail(struct ds_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Put "`context`: " before the text already in `err` and return -1. errno is kept.
 */
int ds_fail_within(struct ds_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
