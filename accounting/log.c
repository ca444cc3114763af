/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <syslog.h>
#include <unistd.h>

static bool stderr_is_read_by_nobody(void)
{
	struct stat st;

	if (fstat(STDERR_FILENO, &st) < 0)
		return true;
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

void ds_log(const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): clang-tidy 14 does not see va_start */
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	for (char *c = line; *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	}
	if (stderr_is_read_by_nobody())
		syslog(LOG_DAEMON | LOG_NOTICE, "%s", line);
	else
		dprintf(STDERR_FILENO, "%s: %s\n", program_invocation_short_name, line);
}
