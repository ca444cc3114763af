/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/hooks.h"

static const char *symbol_of(const struct ds_hook *hook)
{
	return hook ? hook->symbol : "none";
}

static void version_decides(void **state)
{
	static const struct {
		const char *base;
		int version;
		bool per_thread;
		const char *symbol;
	} cases[] = {
	    {"cuLaunchKernel", 13000, false, "cuLaunchKernel"},
	    {"cuLaunchKernel", 13000, true, "cuLaunchKernel_ptsz"},
	    {"cuLaunchKernel", 3020, false, "none"},
	    {"cuMemcpyHtoDAsync", 2000, false, "cuMemcpyHtoDAsync"},
	    {"cuMemcpyHtoDAsync", 3010, false, "cuMemcpyHtoDAsync"},
	    {"cuMemcpyHtoDAsync", 3020, false, "cuMemcpyHtoDAsync_v2"},
	    {"cuMemcpyHtoDAsync", 12040, false, "cuMemcpyHtoDAsync_v2"},
	    {"cuMemcpyHtoDAsync", 7000, true, "cuMemcpyHtoDAsync_v2_ptsz"},
	    {"cuMemcpyHtoD", 12040, true, "cuMemcpyHtoD_v2_ptds"},
	    {"cuStreamCreate", 12040, false, "cuStreamCreate"},
	    {"cuStreamCreate", 12040, true, "cuStreamCreate"},
	    {"cuStreamGetCtx", 12040, false, "cuStreamGetCtx"},
	    {"cuStreamGetCtx", 12050, false, "cuStreamGetCtx_v2"},
	    {"cuStreamGetCtx", 12050, true, "cuStreamGetCtx_v2_ptsz"},
	    {"cuStreamBeginCapture", 10000, false, "cuStreamBeginCapture"},
	    {"cuStreamBeginCapture", 10010, false, "cuStreamBeginCapture_v2"},
	    {"cuGetProcAddress", 11030, false, "cuGetProcAddress"},
	    {"cuGetProcAddress", 12000, false, "cuGetProcAddress_v2"},
	    {"cuMemcpyBatchAsync", 12080, false, "cuMemcpyBatchAsync"},
	    {"cuMemcpyBatchAsync", 13000, false, "cuMemcpyBatchAsync_v2"},
	    /* The first form took 32-bit addresses and has no work on a 64-bit host. */
	    {"cuMemFree", 2000, false, "none"},
	    {"cuMemFree", 3020, false, "cuMemFree_v2"},
	    {"cuMemGetAddressRange", 12040, false, "none"},
	    /* A form newer than the table may take other parameters. */
	    {"cuLaunchKernel", DS_TABLE_VERSION + 10, false, "none"},
	    {"cuLaunchKernelEx_ptsz", 12040, true, "none"},
	    {"", 12040, false, "none"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(symbol_of(ds_hook_by_version(cases[i].base, cases[i].version,
								 cases[i].per_thread)),
				    cases[i].symbol);
}

static void every_row_is_one_entry_point(void **state)
{
	for (size_t i = 0; i < ds_n_hooks; i++) {
		const struct ds_hook *hook = &ds_hooks[i];

		assert_ptr_equal(ds_hook_by_symbol(hook->symbol), hook);
		assert_ptr_equal(ds_hook_by_version(hook->base, hook->since, hook->per_thread),
				 hook);
		assert_memory_equal(hook->symbol, hook->base, strlen(hook->base));
		assert_non_null(hook->stand_in);
		for (size_t j = 0; j < i; j++) {
			assert_true(ds_hooks[j].stand_in != hook->stand_in);
			assert_int_not_equal(ds_hooks[j].real_offset, hook->real_offset);
		}
	}
}

static void other_symbols_are_not_ours(void **state)
{
	static const char *const others[] = {"cuInit", "cuMemGetAddressRange_v2",
					     "cuLaunchKernel_v2", "cuStreamGetId", ""};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_null(ds_hook_by_symbol(others[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(version_decides),
	    cmocka_unit_test(every_row_is_one_entry_point),
	    cmocka_unit_test(other_symbols_are_not_ours),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
