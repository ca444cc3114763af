/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/faults.h"

#define S UINT64_C(1000000000)

static void who_is_suspected(void **state)
{
	/* Of job N the program has the pid 10 N. Times in thousandths of a second. */
	static const struct {
		const char *what;
		struct {
			uint32_t at_ms, job, code;
		} faults[5];
		const char *log;
		bool fault;
		enum ds_fault_reason reason;
		uint32_t suspect;
	} cases[] = {
	    {"nothing happened", {{0}}, NULL, false, 0, 0},
	    {"only its end", {{1000, 1, 0}}, NULL, false, 0, 0},
	    {"ended by MPS", {{1000, 1, 810}}, NULL, false, 0, 0},
	    {"alone", {{1000, 1, 700}}, "", true, DS_FAULT_ALONE, 1},
	    {"another one long before",
	     {{1000, 2, 700}, {9000, 1, 719}},
	     NULL,
	     true,
	     DS_FAULT_ALONE,
	     1},
	    {"together", {{1000, 1, 700}, {1001, 2, 700}}, NULL, true, DS_FAULT_UNKNOWN, 0},
	    {"the first proves nothing",
	     {{900, 2, 700}, {1000, 1, 700}},
	     NULL,
	     true,
	     DS_FAULT_UNKNOWN,
	     0},
	    {"killed before",
	     {{990, 2, 0}, {1000, 1, 700}, {1001, 3, 700}},
	     NULL,
	     true,
	     DS_FAULT_ENDED,
	     2},
	    {"killed, and heard of late",
	     {{1000, 1, 700}, {1003, 2, 0}},
	     NULL,
	     true,
	     DS_FAULT_ENDED,
	     2},
	    {"ended long before", {{100, 2, 0}, {1000, 1, 700}}, NULL, true, DS_FAULT_ALONE, 1},
	    {"ended by MPS before", {{999, 2, 810}, {1000, 1, 700}}, NULL, true, DS_FAULT_ALONE, 1},
	    {"named",
	     {{1000, 1, 700}, {1001, 2, 700}},
	     "[1 Server 5] Client {PID: 10, Context ID: 1} connected\n"
	     "[1 Server 5] Client {PID: 20, Context ID: 1} connected\n"
	     "[1 Server 10] Client {PID: 20, Context: 1} encountered a fatal GPU error.\n",
	     true,
	     DS_FAULT_NAMED,
	     2},
	    {"named, and first to connect",
	     {{1000, 1, 700}, {1001, 2, 700}},
	     "[1 Server 5] Client {PID: 20, Context ID: 1} connected\n"
	     "[1 Server 5] Client {PID: 10, Context ID: 1} connected\n"
	     "[1 Server 10] Client {PID: 20, Context: 1} encountered a fatal GPU error.\n",
	     true,
	     DS_FAULT_UNKNOWN,
	     0},
	    {"named, and nobody knows since when",
	     {{1000, 1, 700}, {1001, 2, 700}},
	     "[1 Server 10] Client {PID: 20, Context: 1} encountered a fatal GPU error.\n",
	     true,
	     DS_FAULT_UNKNOWN,
	     0},
	    {"named itself",
	     {{1000, 1, 700}, {1001, 2, 700}},
	     "[1 Server 7] {20} connected\n[1 Server 7] {10} connected\n[1 Server 7] fault of {10, "
	     "1}",
	     true,
	     DS_FAULT_NAMED,
	     1},
	    {"the log names a stranger",
	     {{1000, 1, 700}, {1001, 2, 700}},
	     "[1 Server 20] Client 30: fatal\n",
	     true,
	     DS_FAULT_UNKNOWN,
	     0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ds_fault faults[5];
		struct ds_fault_verdict verdict;
		size_t n = 0;

		memset(faults, 0, sizeof(faults));
		for (; n < 5 && cases[i].faults[n].at_ms; n++) {
			faults[n].at_ns = cases[i].faults[n].at_ms * (S / 1000);
			faults[n].job_id = cases[i].faults[n].job;
			faults[n].code = cases[i].faults[n].code;
			faults[n].pid = (int32_t)(10 * faults[n].job_id);
			snprintf(faults[n].allocation, sizeof(faults[n].allocation), "job-%u",
				 faults[n].job_id);
		}
		const struct ds_fault_evidence evidence = {
		    .faults = faults, .n_faults = n, .mps_log = cases[i].log};
		if (ds_faults_judge(&evidence, "job-1", &verdict) != cases[i].fault)
			fail_msg("%s: fault", cases[i].what);
		if (!cases[i].fault)
			continue;
		if (verdict.reason != cases[i].reason || verdict.suspect.job_id != cases[i].suspect)
			fail_msg("%s: %s, job %u", cases[i].what,
				 ds_fault_reason_text(verdict.reason), verdict.suspect.job_id);
	}
}

/* Who is on the GPU and has not noticed yet: here job 2's process 20, since `present_ms`. */
static void who_has_not_noticed_yet(void **state)
{
	static const struct {
		const char *log;
		uint32_t present_ms, since_ms;
		bool fault;
		enum ds_fault_reason reason;
		bool by_neighbour;
	} cases[] = {
	    {"", 500, 0, true, DS_FAULT_UNKNOWN, false},
	    {"", 1500, 0, true, DS_FAULT_ALONE, false}, /* came later */
	    {"[1] 10 connected\n[1] 20 connected\n[1] Client 20: fatal\n", 500, 0, true,
	     DS_FAULT_NAMED, true},
	    {"[1] 20 connected\n[1] 10 connected\n[1] Client 10: fatal\n", 500, 0, true,
	     DS_FAULT_NAMED, false},
	    {"[1 Server 7] Client 20: fatal\n", 1500, 0, true, DS_FAULT_ALONE, false},
	    {"", 500, 1000, true, DS_FAULT_UNKNOWN, false},
	    {"", 500, 1001, false, 0, false}, /* of an earlier run of the same job */
	};
	struct ds_fault own = {.at_ns = S, .code = 700, .job_id = 1, .pid = 10};
	struct ds_fault other = {.job_id = 2, .pid = 20};
	struct ds_fault_verdict verdict;

	strcpy(own.allocation, "job-1");
	strcpy(other.allocation, "job-2");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct ds_fault_evidence evidence = {.faults = &own,
							   .n_faults = 1,
							   .present = &other,
							   .n_present = 1,
							   .mps_log = cases[i].log,
							   .since_ns =
							       cases[i].since_ms * (S / 1000)};

		other.at_ns = cases[i].present_ms * (S / 1000);
		if (ds_faults_judge(&evidence, "job-1", &verdict) != cases[i].fault)
			fail_msg("case %zu: fault", i);
		if (!cases[i].fault)
			continue;
		if (verdict.reason != cases[i].reason)
			fail_msg("case %zu: %s", i, ds_fault_reason_text(verdict.reason));
		assert_int_equal(ds_fault_by_neighbour(&verdict, "job-1"), cases[i].by_neighbour);
	}
}

/* Two faults in a row: who ended at the time of the first was never beside the second one's victim. */
static void what_was_before_is_not_its_affair(void **state)
{
	struct ds_fault faults[] = {
	    {.at_ns = 1 * S, .job_id = 2, .pid = 20},              /* ended */
	    {.at_ns = 1 * S, .job_id = 3, .pid = 30, .code = 700}, /* by that */
	    {.at_ns = 3 * S, .job_id = 1, .pid = 10, .code = 700},
	};
	struct ds_fault_evidence evidence = {.faults = faults, .n_faults = 3, .mps_log = ""};
	struct ds_fault_verdict verdict;

	for (size_t i = 0; i < 3; i++)
		snprintf(faults[i].allocation, sizeof(faults[i].allocation), "job-%u",
			 faults[i].job_id);
	assert_true(ds_faults_judge(&evidence, "job-1", &verdict));
	assert_int_equal(verdict.reason, DS_FAULT_ENDED);
	assert_true(ds_fault_may_be_named(&verdict));
	evidence.since_ns = 2 * S;
	assert_true(ds_faults_judge(&evidence, "job-1", &verdict));
	assert_int_equal(verdict.reason, DS_FAULT_ALONE);
	assert_false(ds_fault_may_be_named(&verdict));
}

static void lines_of_a_log(void **state)
{
	static const int32_t pids[] = {20, 30};
	static const struct {
		const char *text;
		int32_t named;
	} cases[] = {
	    {"", 0},
	    {"New client 20 connected\n", 0},
	    {"[2026 Server 20] something FATAL happened\n", 0},
	    {"[2026 Server 5] Fatal exception, client 20\n", 20},
	    {"fault 20", 20},
	    {"fault 200\nfault 120\n", 0},
	    {"fault 20\nfault 20\n", 20},
	    {"fault 20\nfault 30\n", 0},
	    {"fault 30 20\n", 0},
	    {"fault 99999999999999999999920\n", 0},
	    {"20 faul\nt 20\n", 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char log[256];

		/* Who connected first may be named by a server that cannot tell: so 30 did. */
		snprintf(log, sizeof(log), "[1] 30 connected\n[1] 20 connected\n%s", cases[i].text);
		if (ds_fault_named(log, pids, 2) != cases[i].named)
			fail_msg("case %zu", i);
		snprintf(log, sizeof(log), "[1] 20 connected\n[1] 30 connected\n%s", cases[i].text);
		if (ds_fault_named(log, pids, 2) != 0)
			fail_msg("case %zu, connected first", i);
	}
}

static void the_file_is_kept_small(void **state)
{
	static struct ds_fault faults[DS_FAULTS_MAX];
	char dir[] = "/tmp/ds-faults-XXXXXX", path[64];
	struct ds_fault fault = {.code = 700};
	struct ds_error err;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(ds_faults_read(dir, faults), 0);
	for (int i = 0; i < DS_FAULTS_MAX; i++) {
		fault.pid = i;
		assert_int_equal(ds_faults_add(dir, &fault, &err), 0);
	}
	assert_int_equal(ds_faults_read(dir, faults), DS_FAULTS_MAX);
	assert_int_equal(faults[DS_FAULTS_MAX - 1].pid, DS_FAULTS_MAX - 1);
	assert_int_equal(ds_faults_add(dir, &fault, &err), 0);
	assert_int_equal(ds_faults_read(dir, faults), 1);
	snprintf(path, sizeof(path), "%s/faults", dir);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_is_suspected),
	    cmocka_unit_test(who_has_not_noticed_yet),
	    cmocka_unit_test(what_was_before_is_not_its_affair),
	    cmocka_unit_test(lines_of_a_log),
	    cmocka_unit_test(the_file_is_kept_small),
	};

	alarm(60);
	return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
