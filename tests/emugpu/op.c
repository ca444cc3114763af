/* SPDX-License-Identifier: Apache-2.0 */
/* Operations: what they wait for, and who goes on when one is done. */
#include "tests/emugpu/op.h"
#include "tests/emugpu/graph.h"

#include <stdlib.h>
#include <string.h>

static uint64_t serials;

/* ---- what an operation does ---- */

void emu_work_free(struct emu_work *work)
{
	if (work->kind == EMU_OP_KERNEL)
		free(work->u.launch.buffer);
	if (work->kind == EMU_OP_COPY)
		free(work->u.copy.staged);
	*work = (struct emu_work){.kind = EMU_OP_NOP};
}

bool emu_work_copy(struct emu_work *to, const struct emu_work *from)
{
	*to = *from;
	if (from->kind != EMU_OP_KERNEL || !from->u.launch.buffer)
		return true;
	to->u.launch.buffer = malloc(from->u.launch.buffer_size);
	if (!to->u.launch.buffer)
		return false;
	memcpy(to->u.launch.buffer, from->u.launch.buffer, from->u.launch.buffer_size);
	for (unsigned i = 0; i < from->u.launch.kernel->n_params; i++)
		to->u.launch.run.params[i] =
		    (char *)to->u.launch.buffer + ((const char *)from->u.launch.run.params[i] -
						   (const char *)from->u.launch.buffer);
	return true;
}

/* ---- their lives ---- */

void emu_op_ref(struct emu_op *op)
{
	if (op)
		op->refs++;
}

void emu_op_unref(struct emu_op *op)
{
	if (!op || --op->refs)
		return;
	emu_work_free(&op->work);
	free(op->followers);
	free(op->dependents);
	emu_op_unref(op->beside);
	free(op);
}

struct emu_op *emu_op_new_in(enum emu_op_kind kind, struct CUctx_st *ctx, int priority)
{
	struct emu_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->work.kind = kind;
	op->refs = 1;
	op->ctx = ctx;
	op->root = ctx->root;
	op->dev = ctx->dev;
	op->sms = ctx->sms;
	op->renumber_smid = ctx->green && emu.server_pid;
	op->apart = emu.launches_apart;
	op->priority = priority;
	op->n_waits_for = 1; /* its own submission */
	op->ready_ns = emu_now_ns();
	return op;
}

struct emu_op *emu_op_new(enum emu_op_kind kind, const struct CUstream_st *stream)
{
	return emu_op_new_in(kind, stream->ctx, stream->priority);
}

/* ---- what they wait for ---- */

static void add_to(struct emu_op ***list, unsigned *n, struct emu_op *op)
{
	struct emu_op **more = reallocarray(*list, *n + 1, sizeof(struct emu_op *));

	if (!more)
		abort();
	*list = more;
	more[(*n)++] = op;
	emu_op_ref(op);
	op->n_waits_for++;
}

void emu_op_after(struct emu_op *op, struct emu_op *before)
{
	if (!before || before == op)
		return;
	if (before->done) {
		if (before->done_ns > op->ready_ns)
			op->ready_ns = before->done_ns;
		return;
	}
	add_to(&before->followers, &before->n_followers, op);
}

void emu_op_beside(struct emu_op *op, struct emu_op *before)
{
	if (before->done || op->beside) {
		emu_op_after(op, before);
		return;
	}
	emu_op_ref(before);
	op->beside = before;
	if (!before->begun)
		add_to(&before->dependents, &before->n_dependents, op);
}

bool emu_forget(const char *kind)
{
	static const char *text;
	static unsigned long every, n;
	static size_t length;

	if (!text) {
		const char *colon;
		text = getenv("EMUGPU_DROP");
		text = text ? text : "";
		colon = strchr(text, ':');
		length = colon ? (size_t)(colon - text) : 0;
		every = colon ? strtoul(colon + 1, NULL, 10) : 0;
	}
	return every && strlen(kind) == length && !strncmp(text, kind, length) && ++n % every == 0;
}

/*
 * The legacy NULL stream waits for all blocking streams of its context and they wait for it; but, as
 * measured on the real driver, not inside a green context.
 */
static void add_legacy_order(struct emu_op *op, struct CUstream_st *stream)
{
	struct CUctx_st *ctx = stream->ctx;

	if (ctx->green)
		return;
	emu_streams_prune(ctx);
	if (stream->null_stream) {
		for (struct CUstream_st *s = ctx->streams; s; s = s->next)
			if (s->blocking && s != stream && !emu_forget("legacy"))
				emu_op_after(op, s->tail);
	} else if (stream->blocking) {
		for (struct CUstream_st *s = ctx->streams; s; s = s->next)
			if (s->null_stream && !emu_forget("legacy"))
				emu_op_after(op, s->tail);
	}
}

/* The queue itself waits for these. */
static bool blocks_queue(const struct emu_op *op)
{
	return op->work.kind == EMU_OP_WAIT_VALUE || op->work.kind == EMU_OP_HOST;
}

/* Streams that share a hardware queue are worked off in the order in which they were given work. */
static void join_queue(struct emu_op *op, const struct CUstream_st *stream)
{
	struct emu_op **last = &op->dev->queue_last[stream->queue];

	if (!emu.n_queues)
		return;
	if (*last && !(*last)->started) {
		(*last)->next_in_queue = op;
		emu_op_ref(op);
		op->n_waits_for++;
	}
	emu_op_unref(*last);
	emu_op_ref(op);
	*last = op;
}

/* ---- from waiting to done ---- */

static void pending_add(struct emu_op *op)
{
	struct emu_device *dev = op->dev;

	op->serial = ++serials;
	op->pending_prev = dev->pending_last;
	if (dev->pending_last)
		dev->pending_last->pending_next = op;
	else
		dev->pending = op;
	dev->pending_last = op;
	emu_op_ref(op);
}

static void pending_remove(struct emu_op *op)
{
	struct emu_device *dev = op->dev;

	if (op->pending_prev)
		op->pending_prev->pending_next = op->pending_next;
	else
		dev->pending = op->pending_next;
	if (op->pending_next)
		op->pending_next->pending_prev = op->pending_prev;
	else
		dev->pending_last = op->pending_prev;
}

static void op_ready(struct emu_op *op);

/* What comes behind it in its hardware queue is looked at from now on. */
static void op_started(struct emu_op *op)
{
	struct emu_op *next = op->next_in_queue;
	const uint64_t now = emu_now_ns();

	op->started = true;
	op->next_in_queue = NULL;
	if (!next)
		return;
	if (now > next->ready_ns)
		next->ready_ns = now;
	if (!--next->n_waits_for)
		op_ready(next);
	emu_op_unref(next);
}

static void op_ready(struct emu_op *op)
{
	struct emu_device *dev = op->dev;

	op->queue_next = NULL;
	emu_op_ref(op);
	*dev->ready_end = op;
	dev->ready_end = &op->queue_next;
	emu_wake(emu_client_of(dev));
	if (!blocks_queue(op))
		op_started(op);
}

struct emu_op *emu_take_ready(struct emu_device *dev)
{
	struct emu_op *op = dev->ready;

	if (!op)
		return NULL;
	dev->ready = op->queue_next;
	if (!dev->ready)
		dev->ready_end = &dev->ready;
	op->queue_next = NULL;
	return op;
}

/* One of the ops that this one waits for is done, or has begun. */
static void one_less(struct emu_op *op, uint64_t at_ns)
{
	if (at_ns > op->ready_ns)
		op->ready_ns = at_ns;
	if (!--op->n_waits_for) {
		if (op->ended)
			emu_op_done(op, op->result, op->done_ns > at_ns ? op->done_ns : at_ns);
		else
			op_ready(op);
	}
}

void emu_op_begins(struct emu_op *op)
{
	op->begun = true;
	for (unsigned i = 0; i < op->n_dependents; i++) {
		one_less(op->dependents[i], op->ready_ns);
		emu_op_unref(op->dependents[i]);
	}
	op->n_dependents = 0;
}

void emu_op_done(struct emu_op *op, CUresult result, uint64_t done_ns)
{
	emu_op_begins(op);
	emu_op_unref(op->beside);
	op->beside = NULL;
	op->done = true;
	op->result = result;
	op->done_ns = done_ns;
	pending_remove(op);
	for (unsigned i = 0; i < op->n_followers; i++) {
		one_less(op->followers[i], done_ns);
		emu_op_unref(op->followers[i]);
	}
	op->n_followers = 0;
	op_started(op);
	pthread_cond_broadcast(&emu.done);
	op->refs--; /* the pending list's: never the last one, the caller had its own */
	emu_op_unref(op);
}

/* ---- into a stream, or in none ---- */

CUresult emu_op_prepare(enum emu_op_kind kind, struct emu_device *dev)
{
	CUresult rc = emu_need_device_thread(dev);

	return !rc && kind == EMU_OP_HOST ? emu_need_host_thread() : rc;
}

static void begin_waiting(struct emu_op *op)
{
	pending_add(op);
	if (!--op->n_waits_for)
		op_ready(op);
}

CUresult emu_op_start(struct emu_op *op)
{
	CUresult rc = emu_op_prepare(op->work.kind, op->dev);

	if (!rc)
		begin_waiting(op);
	return rc;
}

static bool is_running_kernel(const struct emu_op *op)
{
	return op && op->work.kind == EMU_OP_KERNEL && !op->done;
}

static CUresult submit(struct emu_op *op, struct CUstream_st *stream, bool beside)
{
	CUresult rc;

	if (stream->capture) {
		rc = emu_capture_work(stream, &op->work);
		emu_op_unref(op);
		return rc;
	}
	rc = emu_op_prepare(op->work.kind, op->dev);
	if (rc) {
		emu_op_unref(op);
		return rc;
	}
	/* What only says that such a graph has ended is as little waited for. */
	if (op->work.kind == EMU_OP_NOP && stream->tail)
		op->apart |= stream->tail->apart;
	if (beside && is_running_kernel(stream->tail))
		emu_op_beside(op, stream->tail);
	else if (!emu_forget("stream"))
		emu_op_after(op, stream->tail);
	add_legacy_order(op, stream);
	emu_op_unref(stream->tail);
	emu_op_ref(op);
	stream->tail = op;
	join_queue(op, stream);
	begin_waiting(op);
	emu_op_unref(op);
	return CUDA_SUCCESS;
}

CUresult emu_op_submit(struct emu_op *op, struct CUstream_st *stream)
{
	return submit(op, stream, false);
}

CUresult emu_op_submit_beside(struct emu_op *op, struct CUstream_st *stream)
{
	return submit(op, stream, true);
}

/* ---- the host waits ---- */

CUresult emu_wait_op(struct emu_op *op)
{
	CUresult rc;

	if (!op)
		return CUDA_SUCCESS;
	emu_op_ref(op);
	while (!op->done)
		pthread_cond_wait(&emu.done, &emu.mutex);
	rc = op->result;
	emu_op_unref(op);
	return rc;
}

static bool concerns(const struct emu_op *op, const struct CUctx_st *ctx)
{
	return ctx->green ? op->ctx == ctx : op->root == ctx;
}

static CUresult wait_context(struct CUctx_st *ctx, bool apart)
{
	uint64_t last = serials;
	struct emu_device *dev = ctx->dev;

	for (;;) {
		const struct emu_op *op;
		for (op = dev->pending; op && op->serial <= last; op = op->pending_next)
			if (concerns(op, ctx) && (apart || !op->apart))
				break;
		if (!op || op->serial > last)
			return emu_device_fault(dev);
		pthread_cond_wait(&emu.done, &emu.mutex);
	}
}

CUresult emu_wait_context(struct CUctx_st *ctx)
{
	return wait_context(ctx, true);
}

CUresult emu_synchronise_context(struct CUctx_st *ctx)
{
	return wait_context(ctx, false);
}
