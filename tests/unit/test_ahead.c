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
#include "noderuntime/coroutine/demand.h"
#include "noderuntime/coroutine/gate.h"

enum { EVENTS_MAX = 16 };

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
static bool captured;

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
	captured = false;
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

/* Returns whether it may go; it does all the same. */
static bool launch(bool overlaps)
{
	unsigned user;
	const bool goes = !ds_ahead_launch(&vctx, &stream, (CUstream)0x2000, overlaps, &user);

	launched++;
	now_ms += kernel_ms;
	return goes;
}

static void depth_follows_from_times(void **state)
{
	static const struct {
		uint32_t window_us;
		uint64_t kernel_ns;
		unsigned depth;
	} rows[] = {
	    {100, 0, 2},       {100, 1, 64},      {100, 3000, 33},     {100, 10000, 10},
	    {100, 50000, 2},   {100, 49999, 2},   {100, 33000, 3},     {100, 1000000000, 2},
	    {0, 10, 2},        {0, 0, 2},         {UINT32_MAX, 1, 64}, {UINT32_MAX, UINT64_MAX, 2},
	    {1000, 15625, 64}, {1000, 15873, 63},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(ds_ahead_depth(rows[i].window_us, rows[i].kernel_ns),
				 rows[i].depth);
}

static void estimates_grow_quicker_than_they_shrink(void **state)
{
	assert_int_equal(ds_ahead_estimate(0, 1000, 10, true), 100);
	assert_int_equal(ds_ahead_estimate(0, 1000, 10, false), 100);
	assert_int_equal(ds_ahead_estimate(0, 0, 10, true), 1);
	assert_int_equal(ds_ahead_estimate(0, 1000, 0, true), 1000);
	assert_int_equal(ds_ahead_estimate(100, 1000, 1, true), 550);
	assert_int_equal(ds_ahead_estimate(1000, 100, 1, true), 775);
	assert_int_equal(ds_ahead_estimate(100, 1000, 1, false), 100);
	assert_int_equal(ds_ahead_estimate(1000, 100, 1, false), 100);
	assert_int_equal(ds_ahead_estimate(7, 7, 1, true), 7);
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
	assert_int_equal(n_records, 50);
}

static void short_kernels_need_few_events(void **state)
{
	kernel_ms = 0.05; /* 20 of them in the window */
	for (unsigned i = 0; i < 400; i++) {
		const bool goes = launch(false);

		assert_true(launched - done <= 21);
		if (!goes)
			done = launched - 1;
	}
	assert_in_range(n_records, 400 / 10, 400 / 10 + 10);
}

static void no_event_between_kernels_that_overlap(void **state)
{
	kernel_ms = 5;
	done = UINT32_MAX;
	for (unsigned i = 0; i < 5; i++)
		launch(false);
	for (unsigned i = 0; i < 40; i++)
		launch(true);
	assert_int_equal(last_recorded, 4);
	launch(false);
	assert_int_equal(last_recorded, 45);
	/* But not without end. */
	for (unsigned i = 0; i < 100; i++)
		launch(true);
	assert_in_range(last_recorded, 46 + 60, 46 + 66);
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
	assert_int_equal(n_records, 1);
}

static void who_waits_goes_when_nothing_completes(void **state)
{
	unsigned user, passed = 0;

	for (unsigned i = 0; i < 12; i++) {
		struct ds_ahead *ring =
		    ds_ahead_launch(&vctx, &stream, (CUstream)0x2000, false, &user);

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

	launch(false);
	launch(false);
	launch(false);
	ring = ds_ahead_launch(&vctx, &stream, (CUstream)0x2000, false, &user);
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
	    cmocka_unit_test(depth_follows_from_times),
	    cmocka_unit_test(estimates_grow_quicker_than_they_shrink),
	    cmocka_unit_test(patience_is_for_all_that_is_queued),
	    cmocka_unit_test(idle_is_who_does_nothing_for_long),
	    cmocka_unit_test_setup_teardown(two_may_be_ahead_of_what_is_not_known, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(a_launch_waits_for_the_one_before_the_last, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(short_kernels_need_few_events, set_up, tear_down),
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
