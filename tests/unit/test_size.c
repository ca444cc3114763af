/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/size.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static void sizes(void **state)
{
	static const struct {
		const char *text, *back;
		uint32_t mib;
	} rows[] = {
	    {"1", "1M", 1},
	    {"512M", "512M", 512},
	    {"1024", "1G", 1024},
	    {"20g", "20G", 20480},
	    {"1536m", "1536M", 1536},
	    {"1T", "1T", 1 << 20},
	    {"1025G", "1025G", 1025 << 10},
	    {"0020G", "20G", 20480},
	    {"64T", "64T", DS_SIZE_MIB_MAX},
	    {"67108864", "64T", DS_SIZE_MIB_MAX},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_error err = {""};
		char text[DS_SIZE_TEXT_SIZE];
		uint32_t mib = 0;

		assert_int_equal(ds_size_parse(rows[i].text, &mib, &err), 0);
		assert_int_equal(mib, rows[i].mib);
		assert_string_equal(ds_size_format(mib, text), rows[i].back);
	}
}

static void no_sizes(void **state)
{
	static const struct {
		const char *text, *reason;
	} rows[] = {
	    {"", "\"\" is not a size"},
	    {"G", "\"G\" is not a size"},
	    {"20GB", "\"20GB\" is not a size"},
	    {"20 G", "is not a size"},
	    {"-1G", "is not a size"},
	    {"1.5G", "\"1.5G\" is not a size of memory; write a whole number"},
	    {"1K", "is not a size"},
	    {"0x10", "is not a size"},
	    {"half\na line", "\"half?a line\" is not"},
	    {"0", "\"0\" is no memory at all"},
	    {"0G", "is no memory at all"},
	    {"65T", "is more memory than any GPU has"},
	    {"67108865", "is more memory than any GPU has"},
	    {"99999999999999999999999999G", "\"99999999999999999999999999G\" is more"},
	    {"18446744073709551617", "is more memory than any GPU has"},
	    {"1234567890123456789012345678901234567890", "\"123456789012345678901234567...\""},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_error err = {""};
		uint32_t mib = 7;

		assert_int_equal(ds_size_parse(rows[i].text, &mib, &err), -1);
		assert_int_equal(mib, 7);
		if (!strstr(err.text, rows[i].reason))
			fail_msg("\"%s\": %s", rows[i].text, err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes),
	    cmocka_unit_test(no_sizes),
	};

	alarm(60);
	return cmocka_run_group_tests_name("size", tests, NULL, NULL);
}
