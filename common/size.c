/* SPDX-License-Identifier: Apache-2.0 */
#include "common/size.h"

#include <stdio.h>
#include <string.h>

/* The unit behind the digits, as a shift from MiB. -1: none of ours. */
static int unit_shift(const char *unit)
{
	if (!*unit)
		return 0;
	if (unit[1])
		return -1;
	switch (*unit) {
	case 'M':
	case 'm':
		return 0;
	case 'G':
	case 'g':
		return 10;
	case 'T':
	case 't':
		return 20;
	default:
		return -1;
	}
}

/* What came from a user must not break a message of one line. */
static const char *show(const char *text, char shown[32])
{
	size_t n = 0;

	for (; text[n] && n < 27; n++)
		shown[n] = (unsigned char)text[n] < ' ' || text[n] == 0x7f ? '?' : text[n];
	strcpy(shown + n, text[n] ? "..." : "");
	return shown;
}

int ds_size_parse(const char *text, uint32_t *mib, struct ds_error *err)
{
	size_t n_digits = strspn(text, "0123456789");
	int shift = unit_shift(text + n_digits);
	char shown[32];
	uint64_t value = 0;

	show(text, shown);
	if (n_digits == 0 || shift < 0)
		return ds_fail(
		    err,
		    "\"%s\" is not a size of memory; write a whole number with M, G or T "
		    "behind it, such as 20G or 512M (MiB without one)",
		    shown);
	for (size_t i = 0; i < n_digits && value <= DS_SIZE_MIB_MAX; i++)
		value = value * 10 + (uint64_t)(text[i] - '0');
	if (value > (uint64_t)DS_SIZE_MIB_MAX >> shift)
		return ds_fail(err, "\"%s\" is more memory than any GPU has", shown);
	if (value == 0)
		return ds_fail(err, "\"%s\" is no memory at all; write at least 1M", shown);
	*mib = (uint32_t)(value << shift);
	return 0;
}

const char *ds_size_format(uint32_t mib, char text[DS_SIZE_TEXT_SIZE])
{
	static const struct {
		uint32_t mib;
		char unit;
	} units[] = {{1U << 20, 'T'}, {1U << 10, 'G'}, {1, 'M'}};
	size_t i = 0;

	while (i < 2 && (mib == 0 || mib % units[i].mib != 0))
		i++;
	snprintf(text, DS_SIZE_TEXT_SIZE, "%u%c", mib / units[i].mib, units[i].unit);
	return text;
}
