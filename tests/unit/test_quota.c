/* SPDX-License-Identifier: Apache-2.0 */
/* Quotas of GPU memory: who gets how much, who fits beside whom, and the book that it is kept in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/quota.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

enum { GPU = 143360, RESERVE = 1024, CONTEXT = 640 };

static const struct ds_node_config config = {.memory_reserve_mib = RESERVE,
					     .memory_per_program_mib = CONTEXT};

static struct ds_ledger_resident resident_of(const char *name, uint32_t share_milli, uint32_t mib)
{
	struct ds_ledger_resident resident = {.grant = {.share_milli = share_milli},
					      .memory_mib = mib};

	snprintf(resident.name, sizeof(resident.name), "%s", name);
	return resident;
}

static void what_a_share_brings(void **state)
{
	assert_int_equal(ds_quota_of_share(&config, GPU, 1000), GPU - RESERVE - CONTEXT);
	assert_int_equal(ds_quota_of_share(&config, GPU, 500), (GPU - RESERVE) / 2 - CONTEXT);
	assert_int_equal(ds_quota_of_share(&config, GPU, 2), (GPU - RESERVE) * 2 / 1000 / 2);
	assert_int_equal(ds_quota_of_share(&config, 1, 2), 1);
	assert_int_equal(ds_quota_of_share(&config, 100, 1000), 25); /* half is the reserve */
}

/* Whatever shares there are, what they bring fits together. */
static void all_shares_fit(void **state)
{
	static const uint32_t shares[] = {2, 3, 4, 7, 9, 10, 20, 100, 125, 333, 500, 1000};

	for (size_t i = 0; i < N(shares); i++) {
		struct ds_ledger_state ledger = {.gpu_uuid = "GPU-0"};
		uint32_t quota = ds_quota_of_share(&config, GPU, shares[i]);
		struct ds_error err = {""};

		for (unsigned n = 0; n < 1000 / shares[i] && n < DS_RESIDENTS_MAX; n++) {
			char name[16];
			snprintf(name, sizeof(name), "job-%u", n);
			if (ds_quota_fits(&config, GPU, &ledger, name, quota, &err) < 0)
				fail_msg("share %u, resident %u: %s", shares[i], n, err.text);
			ledger.residents[ledger.n_residents++] =
			    resident_of(name, shares[i], quota);
		}
	}
}

static void what_a_grant_brings(void **state)
{
	static const struct {
		struct ds_grant grant;
		uint32_t quota;
		const char *reason;
	} rows[] = {
	    {{.share_milli = 500}, (GPU - RESERVE) / 2 - CONTEXT, NULL},
	    {{.share_milli = 500, .memory_mib = 20480}, 20480, NULL},
	    {{.share_milli = 2, .memory_mib = GPU - RESERVE - CONTEXT},
	     GPU - RESERVE - CONTEXT,
	     NULL},
	    {{.share_milli = 500, .memory_max_mib = 1024}, 1024, NULL},
	    {{.share_milli = 500, .memory_mib = 512, .memory_max_mib = 1024}, 512, NULL},
	    {{.share_milli = 1000, .memory_mib = GPU - RESERVE - CONTEXT + 1},
	     0,
	     "141697M of GPU memory are asked, and a job can have 141696M of this GPU at most"},
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct ds_error err = {""};
		uint32_t quota = 0;
		int rc = ds_quota_of_grant(&config, GPU, &rows[i].grant, &quota, &err);

		assert_int_equal(rc, rows[i].reason ? -1 : 0);
		if (rows[i].reason && !strstr(err.text, rows[i].reason))
			fail_msg("%s", err.text);
		assert_int_equal(quota, rows[i].quota);
	}
}

static void who_fits_beside_whom(void **state)
{
	struct ds_ledger_state ledger = {.gpu_uuid = "GPU-0", .n_residents = 2};
	const uint32_t left = GPU - RESERVE - (40960 + CONTEXT) - (100 + 100) - CONTEXT;
	struct ds_error err = {""};
	char line[200];

	ledger.residents[0] = resident_of("job-1", 500, 40960);
	ledger.residents[1] = resident_of("job-2", 10, 100);
	assert_int_equal(ds_quota_fits(&config, GPU, &ledger, "job-3", left, &err), 0);
	assert_int_equal(ds_quota_fits(&config, GPU, &ledger, "job-3", left + 1, &err), -1);
	snprintf(
	    line, sizeof(line),
	    "job-3 needs %uM of GPU GPU-0's memory, and %uM are left: job-1 has 40G, job-2 has "
	    "100M",
	    left + 1, left);
	assert_string_equal(err.text, line);
	/* One that comes back takes no more than it had. */
	assert_int_equal(ds_quota_fits(&config, GPU, &ledger, "job-1", 40960, &err), 0);
	assert_int_equal(ds_quota_hard_limit(&config, GPU, &ledger), 40960 + CONTEXT);
	ledger.residents[0].memory_mib = GPU;
	assert_int_equal(ds_quota_hard_limit(&config, GPU, &ledger), GPU);
	/* A GPU that somebody else's configuration overfilled. */
	assert_int_equal(ds_quota_fits(&config, GPU, &ledger, "job-3", 1, &err), -1);
	assert_non_null(strstr(err.text, "and 0M are left"));
}

static void the_book(void **state)
{
	struct ds_quota quota;
	struct ds_error err = {""};

	assert_int_equal(ds_quota_create(&quota, &config, 10240, &err), 0);
	assert_int_equal(quota.limit, UINT64_C(10) << 30);
	assert_int_equal(ftruncate(quota.fd, 0), -1);
	assert_int_equal(ftruncate(quota.fd, DS_BOOK_SIZE * 2), -1);
	int a = ds_quota_take_slot(&quota), b = ds_quota_take_slot(&quota);
	assert_int_equal(a, 0);
	assert_int_equal(b, 1);
	/* The contexts of one program cost nothing, those of a second one do. */
	assert_int_equal(ds_quota_used(&quota), (uint64_t)CONTEXT << 20);
	atomic_store(&quota.book->slots[a].held, 1000);
	atomic_store(&quota.book->slots[b].held, 2000);
	assert_int_equal(ds_quota_used(&quota), 3000 + ((uint64_t)CONTEXT << 20));
	ds_quota_free_slot(&quota, b); /* it was killed */
	assert_int_equal(ds_quota_used(&quota), 1000);
	ds_quota_reset_slot(&quota, a);
	assert_int_equal(ds_quota_used(&quota), 0);
	assert_int_equal(ds_quota_take_slot(&quota), b);
	/* Lies stay within the quota, and sums do not run over. */
	atomic_store(&quota.book->slots[a].held, UINT64_MAX);
	atomic_store(&quota.book->slots[b].held, UINT64_MAX);
	atomic_store(&quota.book->peak, UINT64_MAX);
	assert_int_equal(ds_quota_used(&quota), quota.limit);
	assert_int_equal(ds_quota_peak(&quota), quota.limit);
	for (int i = 2; i < DS_BOOK_SLOTS; i++)
		assert_int_equal(ds_quota_take_slot(&quota), i);
	assert_int_equal(ds_quota_take_slot(&quota), -1);
	ds_quota_free_slot(&quota, -1);
	ds_quota_destroy(&quota);
	assert_int_equal(ds_quota_used(&quota), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_a_share_brings),
	    cmocka_unit_test(all_shares_fit),
	    cmocka_unit_test(what_a_grant_brings),
	    cmocka_unit_test(who_fits_beside_whom),
	    cmocka_unit_test(the_book),
	};

	alarm(60);
	return cmocka_run_group_tests_name("quota", tests, NULL, NULL);
}
