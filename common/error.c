/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int ds_fail(struct ds_error *err, const char *format, ...)
{
	int saved_errno = errno;

	if (err) {
		va_list args;
		va_start(args, format);
		vsnprintf(err->text, sizeof(err->text), format, args);
		va_end(args);
	}
	errno = saved_errno;
	return -1;
}

int ds_fail_within(struct ds_error *err, const char *format, ...)
{
	int saved_errno = errno;

	if (err) {
		struct ds_error inner = *err;
		va_list args;
		va_start(args, format);
		vsnprintf(err->text, sizeof(err->text), format, args);
		va_end(args);

		size_t used = strlen(err->text);
		snprintf(err->text + used, sizeof(err->text) - used, ": %s", inner.text);
	}
	errno = saved_errno;
	return -1;
}
