/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams that move, with a driver that only notes what it is told: what is ordered behind what follows
 * from its notes. Threads are played one step after the other, in the orders that are rare.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/op.h"

enum { NOTES_MAX = 256, STREAMS_MAX = 64, EVENTS_MAX = 64 };

/* One thing on one stream. It comes after the stream's one before it, and after `behind`. */
struct note {
	int before, behind; /* -1: none */
};

static struct note notes[NOTES_MAX];
static int n_notes, last[STREAMS_MAX], recorded[EVENTS_MAX], n_streams, n_events;
static bool captured[STREAMS_MAX];
static struct ds_vctx vctx;
static _Atomic uint64_t launches, remaps;
static CUcontext primary = (CUcontext)0x1000;

static int put(CUstream stream, int behind)
{
	const int id = (int)(uintptr_t)stream / 16;

	assert_in_range(id, 1, n_streams);
	assert_true(n_notes < NOTES_MAX);
	notes[n_notes] = (struct note){last[id], behind};
	last[id] = n_notes;
	return n_notes++;
}

/* Whether `later` cannot begin before `earlier` has ended. */
static bool is_ordered(int earlier, int later)
{
	if (later < 0)
		return false;
	return later == earlier || is_ordered(earlier, notes[later].before) ||
	       is_ordered(earlier, notes[later].behind);
}

static CUresult CUDAAPI stream_create(CUstream *stream, CUgreenCtx green, unsigned flags,
				      int priority)
{
	assert_true(++n_streams < STREAMS_MAX);
	last[n_streams] = -1;
	*stream = (CUstream)(uintptr_t)(n_streams * 16);
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI event_create(CUevent *event, unsigned flags)
{
	assert_true(++n_events < EVENTS_MAX);
	recorded[n_events] = -1;
	*event = (CUevent)(uintptr_t)n_events;
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI event_record(CUevent event, CUstream stream)
{
	recorded[(uintptr_t)event] = put(stream, -1);
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI wait_event(CUstream stream, CUevent event, unsigned flags)
{
	put(stream, recorded[(uintptr_t)event]);
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI is_capturing(CUstream stream, CUstreamCaptureStatus *status)
{
	*status = captured[(uintptr_t)stream / 16] ? CU_STREAM_CAPTURE_STATUS_ACTIVE
						   : CU_STREAM_CAPTURE_STATUS_NONE;
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI get_current(CUcontext *context)
{
	*context = primary;
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI take_context(CUcontext context)
{
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI exchange(CUstreamCaptureMode *mode)
{
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI take_stream(CUstream stream)
{
	return CUDA_SUCCESS;
}

static CUresult CUDAAPI take_event(CUevent event)
{
	return CUDA_SUCCESS;
}

static int set_up(void **state)
{
	n_notes = n_streams = n_events = 0;
	memset(captured, 0, sizeof(captured));
	memset(&vctx, 0, sizeof(vctx));
	ds_real.cuGreenCtxStreamCreate = stream_create;
	ds_real.cuEventCreate = event_create;
	ds_real.cuEventRecord = event_record;
	ds_real.cuStreamWaitEvent = wait_event;
	ds_real.cuStreamIsCapturing = is_capturing;
	ds_real.cuCtxGetCurrent = get_current;
	ds_real.cuCtxPushCurrent_v2 = take_context;
	ds_real.cuCtxPopCurrent_v2 = get_current;
	ds_real.cuThreadExchangeStreamCaptureMode = exchange;
	ds_real.cuStreamDestroy_v2 = take_stream;
	ds_real.cuEventDestroy_v2 = take_event;
	ds_real.cuEventQuery = take_event;
	vctx.primary = primary;
	vctx.launches = &launches;
	vctx.remaps = &remaps;
	atomic_store(&remaps, 0);
	pthread_mutex_init(&vctx.lock, NULL);
	pthread_mutex_init(&vctx.publishing, NULL);
	pthread_mutex_init(&vctx.moving, NULL);
	for (unsigned slot = 0; slot < 3; slot++) {
		vctx.pctxs[slot].slot = slot;
		vctx.pctxs[slot].context = (CUcontext)(uintptr_t)(0x2000 + slot);
	}
	ds_remap_publish(&vctx, &vctx.pctxs[0]);
	assert_int_equal(ds_streams_init(&vctx), CUDA_SUCCESS);
	atomic_store(&ds_vctx, &vctx);
	return 0;
}

static int tear_down(void **state)
{
	atomic_store(&ds_vctx, NULL);
	ds_streams_drop(&vctx);
	return 0;
}

static CUstream make(unsigned flags)
{
	struct ds_vstream *stream;

	assert_int_equal(ds_streams_create(&vctx, vctx.primary, flags, 0, &stream), CUDA_SUCCESS);
	return stream->handle;
}

static void begin(struct ds_op *op, CUstream handle)
{
	assert_int_equal(ds_op_begin(op, handle, false), CUDA_SUCCESS);
	assert_non_null(op->stream);
}

/* A whole operation; returns its note. */
static int run(CUstream handle)
{
	struct ds_op op;
	int note;

	begin(&op, handle);
	note = put(op.target, -1);
	ds_op_end(&op);
	return note;
}

static void go_to(unsigned slot)
{
	ds_remap_publish(&vctx, &vctx.pctxs[slot]);
}

static void a_stream_follows_and_keeps_its_order(void **state)
{
	CUstream stream = make(CU_STREAM_NON_BLOCKING);
	int before = -1;

	for (unsigned i = 0; i < 9; i++) {
		int now;

		go_to(i % 3);
		now = run(stream);
		assert_true(before < 0 || is_ordered(before, now));
		assert_ptr_equal(ds_remap_of_stream(ds_streams_find(&vctx, stream)),
				 &vctx.pctxs[i % 3]);
		before = now;
	}
	assert_int_equal(remaps, 8);
}

static void streams_move_alone(void **state)
{
	CUstream a = make(CU_STREAM_NON_BLOCKING), b = make(CU_STREAM_NON_BLOCKING);
	int on_a = run(a), on_b;

	go_to(1);
	on_b = run(b);
	assert_false(is_ordered(on_a, on_b));
	assert_false(is_ordered(on_b, run(a)));
}

/* Another thread moves the stream while an operation is on its way to the old place. */
static void what_comes_late_is_waited_for(void **state)
{
	CUstream stream = make(CU_STREAM_NON_BLOCKING);
	struct ds_op late;
	int note;

	run(stream);
	begin(&late, stream);
	go_to(1);
	run(stream);
	note = put(late.target, -1);
	assert_false(is_ordered(note, run(stream)));
	ds_op_end(&late);
	assert_true(is_ordered(note, run(stream)));
}

static void a_captured_stream_stays(void **state)
{
	CUstream stream = make(CU_STREAM_NON_BLOCKING);
	int before = run(stream), now;

	captured[(uintptr_t)stream / 16] = true;
	go_to(1);
	now = run(stream);
	assert_int_equal(remaps, 0);
	assert_int_equal(notes[now].before, before);
	captured[(uintptr_t)stream / 16] = false;
	assert_true(is_ordered(now, run(stream)));
	assert_int_equal(remaps, 1);
}

/* Its work of before is waited for there, and the next operation is where new work goes. */
static void a_stream_goes_home_to_be_captured(void **state)
{
	CUstream handle = make(CU_STREAM_NON_BLOCKING);
	struct ds_vstream *stream = ds_streams_find(&vctx, handle);
	int before, event, after;

	go_to(1);
	before = run(handle);
	pthread_mutex_lock(&stream->lock);
	assert_int_equal(ds_remap_home(&vctx, stream), CUDA_SUCCESS);
	assert_ptr_equal(stream->shadow, handle);
	captured[(uintptr_t)handle / 16] = true;
	assert_int_equal(ds_remap_home(&vctx, stream), CUDA_SUCCESS);
	pthread_mutex_unlock(&stream->lock);
	event = run(handle);
	assert_ptr_equal(stream->shadow, handle);
	assert_true(is_ordered(before, event));
	captured[(uintptr_t)handle / 16] = false;
	after = run(handle);
	assert_ptr_not_equal(stream->shadow, handle);
	assert_ptr_equal(stream->pctx, ds_remap_target(&vctx));
	assert_true(is_ordered(before, after));
}

static void legacy_order_holds_across_partitions(void **state)
{
	CUstream blocking = make(0), other = make(0), free = make(CU_STREAM_NON_BLOCKING);
	int before = run(blocking), on_free = run(free), null, after;

	go_to(1);
	null = run(NULL);
	assert_true(is_ordered(before, null));
	assert_false(is_ordered(on_free, null));
	go_to(2);
	after = run(other);
	assert_true(is_ordered(null, after));
	assert_false(is_ordered(null, run(free)));
	go_to(0);
	assert_true(is_ordered(after, run(NULL)));
}

static void a_destroyed_stream_is_waited_for(void **state)
{
	CUstream blocking = make(0);
	int before = run(blocking);

	go_to(1);
	assert_int_equal(ds_streams_destroy(&vctx, ds_streams_find(&vctx, blocking)), CUDA_SUCCESS);
	assert_true(is_ordered(before, run(NULL)));
	ds_streams_reap(&vctx, true);
	assert_null(vctx.destroyed);
}

static void marks_tell_who_began_before(void **state)
{
	CUstream stream = make(CU_STREAM_NON_BLOCKING);
	struct ds_op outer, inner;

	ds_marks_note();
	assert_true(ds_marks_passed());
	begin(&outer, stream);
	begin(&inner, stream);
	ds_marks_note();
	assert_false(ds_marks_passed());
	ds_op_end(&inner);
	assert_false(ds_marks_passed());
	ds_op_end(&outer);
	assert_true(ds_marks_passed());
	begin(&outer, stream);
	ds_marks_note();
	ds_op_end(&outer);
	/* Busy again, with what it began after. */
	begin(&outer, stream);
	assert_true(ds_marks_passed());
	ds_op_end(&outer);
}

static void who_waits_is_known(void **state)
{
	CUstream stream = make(CU_STREAM_NON_BLOCKING);
	struct ds_op op;

	assert_int_equal(ds_op_map(&op, stream, false), CUDA_SUCCESS);
	assert_int_equal(ds_op_await(&op), CUDA_SUCCESS);
	ds_marks_note();
	assert_true(ds_marks_passed());
	assert_true(ds_marks_awaited(op.target));
	ds_op_awaited(&op);
	assert_false(ds_marks_awaited(op.target));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_stream_follows_and_keeps_its_order, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(streams_move_alone, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(what_comes_late_is_waited_for, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_captured_stream_stays, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_stream_goes_home_to_be_captured, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(legacy_order_holds_across_partitions, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(a_destroyed_stream_is_waited_for, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(marks_tell_who_began_before, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(who_waits_is_known, set_up, tear_down),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
