/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/say.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void ds_say_once(atomic_flag *said, const char *format, ...)
{
	static const char name[] = "detshare: ";
	const int kept = errno;
	char line[1024];
	size_t length = sizeof(name) - 1;
	va_list args;
	int n;

	if (atomic_flag_test_and_set(said))
		return;
	memcpy(line, name, length);
	va_start(args, format);
	n = vsnprintf(line + length, sizeof(line) - length - 1, format, args);
	va_end(args);
	if (n > 0)
		length +=
		    (size_t)n < sizeof(line) - length - 1 ? (size_t)n : sizeof(line) - length - 2;
	line[length++] = '\n';
	/* Nobody to tell if this fails. */
	if (write(STDERR_FILENO, line, length) < 0)
		errno = kept;
	errno = kept;
}
