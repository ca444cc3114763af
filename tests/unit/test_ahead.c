/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far a program may be ahead of the GPU, and where events stand between its launches, with a driver
 * whose kernels are done when the test says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/ahead.h"
#include "noderuntime/coroutine/ahead_bounds.h"
#include "noderuntime/coroutine/demand.h"
#include "noderuntime/coroutine/gate.h"
#include "noderuntime/coroutine/launch_times.h"

enum { EVENTS_MAX = 16, LAUNCHES = 900 };

static struct ds_port port;
static struct ds_page page;
static struct ds_session session = {.fd = -1, .port = &port, .page = &page};
static struct ds_vctx vctx = {.lock = PTHREAD_MUTEX_INITIALIZER};
static struct ds_vstream stream;
static unsigned n_events, launched, done, last_recorded, n_records;
static struct {
	unsigned behind;  /* launches when it was recorded */
	double ms_behind; /* the time when it was done, if kernels never stopped */
} events[EVENTS_MAX];
static double kernel_ms, now_ms;
static double ms_at[LAUNCHES + 2]; /* when so many launches are done */
static unsigned last_two[2];       /* launches behind which the last events are */
static bool captured;
static bool follows; /* a launch that has to wait does */

static CUresult CUDAAPI event_create(CUevent *event, unsigned flags)
{
	assert_int_equal(flags, CU_EVENT_DEFAULT);
	assert_true(++n_events < EVENTS_MAX);
	*event = (CUevent)(uintptr_t)n_events;
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI event_record(CUevent event, CUstream target)
{
	events[(uintptr_t)event].behind = launched;
	events[(uintptr_t)event].ms_behind = now_ms;
	last_two[0] = last_two[1];
	last_two[1] = launched;
	last_recorded = launched;
	n_records++;
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI event_query(CUevent event)
{
	return events[(uintptr_t)event].behind <= done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

static CUresult CUDAAPI elapsed(float *ms, CUevent begin, CUevent end)
{
	*ms = (float)(events[(uintptr_t)end].ms_behind - events[(uintptr_t)begin].ms_behind);
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI is_capturing(CUstream target, CUstreamCaptureStatus *status)
{
	*status = captured ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI take_context(CUcontext context)
{
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI give_context(CUcontext *context)
{
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI exchange(CUstreamCaptureMode *mode)
{
	return CUDA_SUCCESS;
}

static int set_up(void **state)
{
	ds_real.cuEventCreate = event_create;
	ds_real.cuEventRecord = event_record;
	ds_real.cuEventQuery = event_query;
	ds_real.cuEventElapsedTime = elapsed;
	ds_real.cuStreamIsCapturing = is_capturing;
	ds_real.cuCtxPushCurrent_v2 = take_context;
	ds_real.cuCtxPopCurrent_v2 = give_context;
	ds_real.cuThreadExchangeStreamCaptureMode = exchange;
	n_events = launched = done = last_recorded = n_records = 0;
	kernel_ms = now_ms = 0;
	captured = follows = false;
	memset(&port, 0, sizeof(port));
	ds_ahead_start(&session, (CUcontext)0x1000);
	ds_ahead_window(&vctx, true, 1000);
	return 0;
}

static int tear_down(void **state)
{
	ds_ahead_window(&vctx, false, 0);
	ds_ahead_leave(&stream);
	ds_ahead_drop();
	atomic_store(&vctx.captures, 0);
	return 0;
}

static CUlaunchAttribute overlapping = {.id =
					    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION};

static struct ds_ahead *ask(uintptr_t what, bool overlaps, unsigned *user, bool *alone)
{
	const CUlaunchConfig config = {.gridDimX = 1,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = 1,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .attrs = &overlapping,
				       .numAttrs = overlaps};
	const struct ds_launch one = {.what = (const void *)(what << 4), .config = &config};

	return ds_ahead_launch(&vctx, &stream, (CUstream)0x2000, &one, user, alone);
}

/* Returns whether it may go; it does all the same. */
static bool launch_of(uintptr_t what, double ms, bool overlaps)
{
	bool alone = false;
	unsigned user;
	struct ds_ahead *ring = ask(what, overlaps, &user, &alone);

	if (ring && follows) {
		done = last_two[0];
		atomic_store(&ds_vctx, &vctx);
		ds_ahead_wait(&vctx, ring, user);
		atomic_store(&ds_vctx, NULL);
	}
	launched++;
	now_ms += ms;
	if (follows)
		ms_at[launched] = now_ms;
	if (alone)
		ds_ahead_launched(&vctx, &stream, (CUstream)0x2000);
	return !ring;
}

static bool launch(bool overlaps)
{
	return launch_of(1, kernel_ms, overlaps);
}

static void what_joins_what(void **state)
{
	static const struct {
		uint32_t window_us;
		uint64_t sum_us;
		unsigned launches;
		uint64_t us;
		bool overlaps, joins;
	} rows[] = {
	    /* One is always possible. */
	    {100, 0, 0, 0, false, true},
	    {100, 0, 0, 1000000, false, true},
	    /* Of which nothing is known, one alone. */
	    {100, 10, 1, 0, false, false},
	    {100, 10, 1, 0, true, true},
	    /* The nearest to half of the window. */
	    {200, 50, 5, 10, false, true},
	    {200, 94, 9, 10, false, true},
	    {200, 96, 9, 10, false, false},
	    {200, 60, 1, 80, false, true},
	    {200, 61, 1, 80, false, false},
	    {200, 1, 1, 100, false, true},
	    {200, 1, 1, 101, false, false},
	    /* Half as much again. */
	    {200, 145, 9, 10, true, true},
	    {200, 146, 9, 10, true, false},
	    {200, 64, 32, 1, false, false},
	    {200, 64, 31, 1, false, true},
	    {200, 64, 63, 1, true, true},
	    {200, 64, 64, 1, true, false},
	    /* Not less than what the GPU needs to go on with. */
	    {1, 20, 5, 4, false, true},
	    {1, 24, 5, 4, false, false},
	    {UINT32_MAX, 1000000, 5, 1000000, false, true},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(ds_ahead_joins(rows[i].window_us, rows[i].sum_us * 1000,
						rows[i].launches, rows[i].us * 1000,
						rows[i].overlaps),
				 rows[i].joins);
	assert_int_equal(ds_ahead_half_ns(200), 100000);
	assert_int_equal(ds_ahead_half_ns(0), DS_AHEAD_LEAST_NS);
	assert_int_equal(ds_ahead_half_ns(UINT32_MAX), UINT32_MAX * UINT64_C(500));
}

static void the_longest_of_late(void **state)
{
	const uint64_t s = DS_LONGEST_NS;
	struct ds_longest longest = {0};

	assert_int_equal(ds_longest_note(&longest, 5000, 7 * s), 5000);
	assert_int_equal(ds_longest_note(&longest, 10, 7 * s), 5000);
	/* However long ago, if there were few since. */
	for (unsigned i = 2; i < DS_LONGEST_N; i++)
		assert_int_equal(ds_longest_note(&longest, 20, 70 * s), 5000);
	for (unsigned i = 0; i < DS_LONGEST_N; i++)
		assert_int_equal(ds_longest_note(&longest, 30, 70 * s), 5000);
	/* And however many, if that is not long ago. */
	for (unsigned i = 0; i < DS_LONGEST_N; i++)
		assert_int_equal(ds_longest_note(&longest, 30, 71 * s - 1), 5000);
	assert_int_equal(ds_longest_note(&longest, 30, 71 * s), 30);
	assert_int_equal(ds_longest_note(&longest, 40, 71 * s), 40);
}

static void patience_grows_and_is_rewarded(void **state)
{
	const uint64_t ms = 1000000;
	struct ds_patience patience = {0};
	unsigned passed = 0;

	assert_int_equal(ds_patience_ns(&patience, 0), 5 * ms);
	assert_int_equal(ds_patience_ns(&patience, 2 * ms), 8 * ms);
	assert_int_equal(ds_patience_ns(&patience, UINT64_MAX), 1000 * ms);
	for (unsigned i = 0; i < 5; i++) {
		ds_patience_expire(&patience, 5 * ms, 0);
		assert_false(ds_patience_passes(&patience));
	}
	assert_int_equal(ds_patience_ns(&patience, 0), 160 * ms);
	assert_int_equal(ds_patience_ns(&patience, 100 * ms), 400 * ms);
	/* Not while there may be 2048 others of 1 ms before it: 25 ms have gone by so far. */
	ds_patience_expire(&patience, 2000 * ms, ms);
	assert_false(ds_patience_passes(&patience));
	ds_patience_expire(&patience, 23 * ms, ms);
	for (; ds_patience_passes(&patience); passed++)
		;
	assert_int_equal(passed, 8);
	for (unsigned i = 0; i < 20; i++)
		ds_patience_expire(&patience, 160 * ms, 0);
	for (passed = 0; ds_patience_passes(&patience); passed++)
		;
	assert_int_equal(passed, 1024);
}

static void two_may_be_ahead_of_what_is_not_known(void **state)
{
	kernel_ms = 5;
	assert_true(launch(false)); /* an event before it, since much may be queued */
	assert_true(launch(false));
	assert_false(launch(false));
	done = 2;
	assert_true(launch(false));
	assert_false(launch(false));
	assert_int_equal(n_records, 5);
}

/* Each launch waits until two before it are done: never more than two. */
static void a_launch_waits_for_the_one_before_the_last(void **state)
{
	kernel_ms = 5;
	for (unsigned i = 0; i < 50; i++) {
		if (!launch(false)) {
			assert_true(launched - 1 - done >= 2);
			done = launched - 2;
		}
		assert_true(launched - done <= 2 || launched < 4);
	}
	assert_int_equal(n_records, 51); /* one behind the first, too, of which nothing is known */
}

static void short_kernels_need_few_events(void **state)
{
	kernel_ms = 0.05; /* 10 of them in half of the window */
	for (unsigned i = 0; i < 400; i++) {
		const bool goes = launch(false);

		assert_true(launched - done <= 21);
		if (!goes)
			done = launched - 1;
	}
	assert_in_range(n_records, 400 / 10, 400 / 10 + 10);
}

/* How much is ahead at most, in ms, if the GPU does only what launches wait for. */
static double most_ahead(unsigned long_ms, bool overlaps)
{
	double most = 0;

	for (unsigned i = 0; i < LAUNCHES; i++) {
		const bool is_long = i % 9 == 8;

		follows = true;
		launch_of(is_long ? 2 : 1, is_long ? long_ms : 0.01, overlaps);
		if (i >= LAUNCHES / 2 && now_ms - ms_at[done] > most)
			most = now_ms - ms_at[done];
	}
	return most;
}

/* Eight short ones and a long one, again and again: a long one has an event on both sides. */
static void long_kernels_among_short_ones(void **state)
{
	const double most = most_ahead(4, false);

	assert_true(most > 4 && most < 4.1);
	assert_in_range(n_records, 2 * LAUNCHES / 9, 2 * LAUNCHES / 9 + 20);
	ds_ahead_settled(&vctx);
	launch_of(2, 4, false);
	assert_in_range(atomic_load(&port.drain_us), 3900, 4800);
}

static void no_event_between_kernels_that_overlap(void **state)
{
	kernel_ms = 0.001;
	done = UINT32_MAX;
	for (unsigned i = 0; i < 5; i++)
		launch(false);
	const unsigned before = last_recorded;
	for (unsigned i = 0; i < 40; i++)
		launch(true);
	assert_int_equal(last_recorded, before);
	launch(false);
	assert_int_equal(last_recorded, 45);
	/* But not without end. */
	for (unsigned i = 0; i < 100; i++)
		launch(true);
	assert_in_range(last_recorded, 46 + 60, 46 + 66);
}

/* Nor are long ones ahead in any number. */
static void kernels_that_overlap_are_bounded_by_time(void **state)
{
	const double most = most_ahead(4, true);

	assert_true(most > 4 && most < 8.1);
}

static void a_captured_stream_is_left_alone(void **state)
{
	captured = true;
	atomic_store(&vctx.captures, 1);
	for (unsigned i = 0; i < 20; i++)
		assert_true(launch(false));
	assert_int_equal(n_records, 0);
	captured = false;
	launch(false);
	assert_int_equal(n_records, 2);
}

static void who_waits_goes_when_nothing_completes(void **state)
{
	unsigned user, passed = 0;
	bool alone;

	for (unsigned i = 0; i < 12; i++) {
		struct ds_ahead *ring = ask(1, false, &user, &alone);

		if (ring) {
			atomic_store(&ds_vctx, &vctx);
			ds_ahead_wait(&vctx, ring, user);
			atomic_store(&ds_vctx, NULL);
			passed++;
		}
		launched++;
		done = done ? done : launched == 3 ? 1 : 0;
	}
	assert_int_equal(atomic_load(&port.window_waits), passed);
	assert_in_range(atomic_load(&port.window_expired), 5, passed);
}

static void nobody_waits_without_a_window(void **state)
{
	struct ds_ahead *ring;
	unsigned user;
	bool alone;

	launch(false);
	launch(false);
	launch(false);
	ring = ask(1, false, &user, &alone);
	assert_non_null(ring);
	atomic_store(&ds_vctx, &vctx);
	ds_ahead_window(&vctx, false, 0);
	ds_ahead_wait(&vctx, ring, user);
	ds_ahead_window(&vctx, true, 1000);
	atomic_store(&ds_vctx, NULL);
	ds_ahead_wait(&vctx, ring, user); /* after a reset */
	assert_int_equal(atomic_load(&port.window_waits), 2);
	assert_int_equal(atomic_load(&port.window_expired), 0);
}

static void idle_is_who_does_nothing_for_long(void **state)
{
	struct ds_quiet quiet = {0};

	assert_false(ds_quiet_look(&quiet, 5, true, 1000, 100)); /* 5 since the last look */
	assert_false(ds_quiet_look(&quiet, 5, true, 2000, 100));
	assert_false(ds_quiet_look(&quiet, 5, true, 2099, 100));
	assert_true(ds_quiet_look(&quiet, 5, true, 2100, 100));
	assert_false(ds_quiet_look(&quiet, 5, false, 2200, 100)); /* something is under way */
	assert_false(ds_quiet_look(&quiet, 5, true, 2300, 100));
	assert_false(ds_quiet_look(&quiet, 6, true, 2400, 100));
	assert_false(ds_quiet_look(&quiet, 6, true, 2500, 100));
	assert_true(ds_quiet_look(&quiet, 6, true, 9999, 100));
}

static void patience_is_for_all_that_is_queued(void **state)
{
	assert_int_equal(ds_watchdog_patience_ns(5000, 0, 100), 5000);
	assert_int_equal(ds_watchdog_patience_ns(5000, 1, 100), 5000);
	assert_int_equal(ds_watchdog_patience_ns(5000, 10, 100), 7000);
	assert_int_equal(ds_watchdog_patience_ns(5000, UINT64_MAX, 100), 5000 + 2048 * 100);
	assert_int_equal(ds_watchdog_patience_ns(5000, 2, 0), 5000 + 4000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_joins_what),
	    cmocka_unit_test(the_longest_of_late),
	    cmocka_unit_test(patience_grows_and_is_rewarded),
	    cmocka_unit_test(patience_is_for_all_that_is_queued),
	    cmocka_unit_test(idle_is_who_does_nothing_for_long),
	    cmocka_unit_test_setup_teardown(two_may_be_ahead_of_what_is_not_known, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(a_launch_waits_for_the_one_before_the_last, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(short_kernels_need_few_events, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(long_kernels_among_short_ones, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(kernels_that_overlap_are_bounded_by_time, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(no_event_between_kernels_that_overlap, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(a_captured_stream_is_left_alone, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(who_waits_goes_when_nothing_completes, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(nobody_waits_without_a_window, set_up, tear_down),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
