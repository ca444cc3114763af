/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/emugpu/engine.h"
#include "tests/emugpu/graph.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct emu_state emu = {
    .mutex = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER, .mps_fd = -1};
_Thread_local bool emu_in_host_function;

static struct {
	struct emu_op *first, **end;
	pthread_cond_t work;
	bool thread_made;
} host = {.work = PTHREAD_COND_INITIALIZER};

static uint64_t serials;

static void op_ready(struct emu_op *op);
static void op_started(struct emu_op *op);

/* ---- handles: an open-addressing set of pointers ---- */

static struct {
	const void **keys;
	unsigned char *kinds; /* EMU_HANDLE_FREE with a key: removed */
	size_t size, used;
} handles;

static size_t handle_slot(const void *key)
{
	size_t i =
	    (size_t)(((uintptr_t)key >> 4) * UINT64_C(0x9e3779b97f4a7c15)) & (handles.size - 1);

	while (handles.keys[i] && handles.keys[i] != key)
		i = (i + 1) & (handles.size - 1);
	return i;
}

static void handles_grow(void)
{
	const void **keys = handles.keys;
	unsigned char *kinds = handles.kinds;
	size_t size = handles.size;

	handles.size = size ? size * 2 : 256;
	handles.keys = calloc(handles.size, sizeof(*handles.keys));
	handles.kinds = calloc(handles.size, sizeof(*handles.kinds));
	if (!handles.keys || !handles.kinds)
		abort();
	handles.used = 0;
	for (size_t i = 0; i < size; i++)
		if (keys[i] && kinds[i] != EMU_HANDLE_FREE)
			emu_handle_add(keys[i], (enum emu_kind)kinds[i]);
	free(keys);
	free(kinds);
}

void emu_handle_add(const void *handle, enum emu_kind kind)
{
	if (handles.used * 2 >= handles.size)
		handles_grow();
	size_t i = handle_slot(handle);
	if (!handles.keys[i])
		handles.used++;
	handles.keys[i] = handle;
	handles.kinds[i] = (unsigned char)kind;
}

void emu_handle_remove(const void *handle)
{
	size_t i = handle_slot(handle);

	if (handles.keys[i])
		handles.kinds[i] = EMU_HANDLE_FREE;
}

bool emu_handle_is(const void *handle, enum emu_kind kind)
{
	if (!handle || !handles.size)
		return false;
	size_t i = handle_slot(handle);
	return handles.keys[i] && handles.kinds[i] == (unsigned char)kind;
}

/* ---- operations ---- */

void emu_enter(void)
{
	pthread_mutex_lock(&emu.mutex);
}

void emu_exit(void)
{
	pthread_mutex_unlock(&emu.mutex);
}

void emu_op_ref(struct emu_op *op)
{
	if (op)
		op->refs++;
}

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

struct emu_op *emu_op_new(enum emu_op_kind kind, const struct CUstream_st *stream)
{
	return emu_op_new_in(kind, stream->ctx, stream->priority);
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

static void op_done(struct emu_op *op, CUresult result, uint64_t done_ns);

/* One of the ops that this one waits for is done, or has begun. */
static void one_less(struct emu_op *op, uint64_t at_ns)
{
	if (at_ns > op->ready_ns)
		op->ready_ns = at_ns;
	if (!--op->n_waits_for) {
		if (op->ended)
			op_done(op, op->result, op->done_ns > at_ns ? op->done_ns : at_ns);
		else
			op_ready(op);
	}
}

static void begins(struct emu_op *op)
{
	op->begun = true;
	for (unsigned i = 0; i < op->n_dependents; i++) {
		one_less(op->dependents[i], op->ready_ns);
		emu_op_unref(op->dependents[i]);
	}
	op->n_dependents = 0;
}

/* An op ended. Takes the caller's reference. */
static void op_done(struct emu_op *op, CUresult result, uint64_t done_ns)
{
	begins(op);
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

static struct emu_client *client_of(struct emu_device *dev)
{
	return &dev->map.gpu->clients[dev->client];
}

/* A zombie is gone, too: not every container has a first process that collects orphans. */
static bool process_gone(int pid)
{
	char path[32], text[256];
	ssize_t n = -1;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (n < 0)
		return kill(pid, 0) && errno == ESRCH;
	text[n] = '\0';
	const char *state = strrchr(text, ')');
	return state && state[1] && (state[2] == 'Z' || state[2] == 'X');
}

/* Looks at most once a millisecond, because it costs system calls. */
static bool server_gone(void)
{
	static _Atomic uint64_t next_look_ns;
	static _Atomic bool gone;
	uint64_t now;

	if (!emu.server_pid || atomic_load(&gone))
		return emu.server_pid != 0;
	now = emu_now_ns();
	if (now < atomic_load(&next_look_ns))
		return false;
	atomic_store(&next_look_ns, now + 1000000);
	if (process_gone(emu.server_pid))
		atomic_store(&gone, true);
	return atomic_load(&gone);
}

CUresult emu_device_fault(struct emu_device *dev)
{
	int fault = atomic_load(&dev->fault);

	if (!fault && server_gone())
		fault = CUDA_ERROR_MPS_RPC_FAILURE;
	if (!fault && dev->client >= 0)
		fault = atomic_load(&client_of(dev)->fault);
	return (CUresult)fault;
}

static uint64_t read_value(const struct emu_op *op)
{
	if (op->work.u.value.size == 8)
		return __atomic_load_n((uint64_t *)op->work.u.value.address, __ATOMIC_SEQ_CST);
	return __atomic_load_n((uint32_t *)op->work.u.value.address, __ATOMIC_SEQ_CST);
}

static bool value_arrived(const struct emu_op *op)
{
	uint64_t have = read_value(op), want = op->work.u.value.value;

	switch (op->work.u.value.flags & 3) {
	case CU_STREAM_WAIT_VALUE_GEQ:
		return op->work.u.value.size == 8 ? (int64_t)(have - want) >= 0
						  : (int32_t)(uint32_t)(have - want) >= 0;
	case CU_STREAM_WAIT_VALUE_EQ:
		return have == want;
	case CU_STREAM_WAIT_VALUE_AND:
		return (have & want) != 0;
	default:
		return (op->work.u.value.size == 8 ? ~(have | want) : (uint32_t) ~(have | want)) !=
		       0;
	}
}

static void write_value(const struct emu_op *op)
{
	if (op->work.u.value.size == 8)
		__atomic_store_n((uint64_t *)op->work.u.value.address, op->work.u.value.value,
				 __ATOMIC_SEQ_CST);
	else
		__atomic_store_n((uint32_t *)op->work.u.value.address,
				 (uint32_t)op->work.u.value.value, __ATOMIC_SEQ_CST);
}

static void move_bytes(const struct emu_copy *c)
{
	for (size_t z = 0; z < c->depth; z++)
		for (size_t y = 0; y < c->height; y++)
			memmove(c->to + z * c->to_slice + y * c->to_pitch,
				c->from + z * c->from_slice + y * c->from_pitch, c->width);
}

static void fill(const struct emu_op *op)
{
	unsigned char *row = op->work.u.set.to;

	for (size_t y = 0; y < op->work.u.set.height; y++, row += op->work.u.set.pitch) {
		if (op->work.u.set.size == 1) {
			memset(row, (int)op->work.u.set.value, op->work.u.set.width);
			continue;
		}
		for (size_t x = 0; x < op->work.u.set.width; x++)
			memcpy(row + x * op->work.u.set.size, &op->work.u.set.value,
			       op->work.u.set.size);
	}
}

/* ---- host functions ---- */

static void *host_thread(void *arg)
{
	(void)arg;
	emu_in_host_function = true;
	emu_enter();
	for (;;) {
		struct emu_op *op = host.first;
		if (!op) {
			pthread_cond_wait(&host.work, &emu.mutex);
			continue;
		}
		host.first = op->queue_next;
		if (!host.first)
			host.end = &host.first;
		CUresult fault = emu_device_fault(op->dev);
		emu_exit();
		if (op->work.u.host.callback)
			op->work.u.host.callback(op->work.u.host.stream, fault,
						 op->work.u.host.data);
		else if (!fault)
			op->work.u.host.fn(op->work.u.host.data);
		emu_enter();
		op_done(op, fault, emu_now_ns());
	}
	return NULL;
}

/* Threads of the library take no signals: those belong to the program. */
static int make_thread(pthread_t *thread, void *(*run)(void *), void *arg, size_t stack)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int rc;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(thread, &attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return rc;
}

static CUresult need_host_thread(void)
{
	pthread_t thread;

	if (host.thread_made)
		return CUDA_SUCCESS;
	host.end = &host.first;
	/* The program's code runs on it: a stack as programs expect. */
	if (make_thread(&thread, host_thread, NULL, 1 << 20))
		return CUDA_ERROR_OUT_OF_MEMORY;
	host.thread_made = true;
	return CUDA_SUCCESS;
}

/* ---- the device's thread ---- */

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

static void op_ready(struct emu_op *op)
{
	struct emu_device *dev = op->dev;

	op->queue_next = NULL;
	emu_op_ref(op);
	*dev->ready_end = op;
	dev->ready_end = &op->queue_next;
	emu_wake(client_of(dev));
	if (!blocks_queue(op))
		op_started(op);
}

static struct emu_op *take_ready(struct emu_device *dev)
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

static void append(struct emu_op **list, struct emu_op *op)
{
	/* Higher priority (a smaller number) first, else first come first served. */
	while (*list && (*list)->priority <= op->priority)
		list = &(*list)->queue_next;
	op->queue_next = *list;
	*list = op;
}

/* Start one ready op; the mutex is dropped while bytes move. */
static void start_op(struct emu_device *dev, struct emu_op *op)
{
	CUresult fault = emu_device_fault(dev);

	if (fault && op->work.kind != EMU_OP_HOST && op->work.kind != EMU_OP_FREE) {
		op_done(op, fault, emu_now_ns());
		return;
	}
	switch (op->work.kind) {
	case EMU_OP_KERNEL:
		emu_kernel_begins(&dev->map, dev->client, &op->sms);
		append(&dev->active, op);
		begins(op);
		return;
	case EMU_OP_WAIT_VALUE:
		op->priority = 0;
		append(&dev->waiting, op);
		return;
	case EMU_OP_HOST:
		op->queue_next = NULL;
		*host.end = op;
		host.end = &op->queue_next;
		pthread_cond_signal(&host.work);
		return;
	case EMU_OP_COPY:
		emu_exit();
		move_bytes(&op->work.u.copy);
		emu_enter();
		break;
	case EMU_OP_SET:
		emu_exit();
		fill(op);
		emu_enter();
		break;
	case EMU_OP_FREE:
		emu_memory_free(dev, op->work.u.memory);
		break;
	case EMU_OP_WRITE_VALUE:
		write_value(op);
		break;
	case EMU_OP_NOP:
		break;
	}
	/* A joint takes no time: it is done when what it waited for was. */
	op_done(op, CUDA_SUCCESS, op->work.kind == EMU_OP_NOP ? op->ready_ns : emu_now_ns());
}

static void check_values(struct emu_device *dev)
{
	CUresult fault = emu_device_fault(dev);

	for (struct emu_op **p = &dev->waiting; *p;) {
		struct emu_op *op = *p;
		if (!fault && !value_arrived(op)) {
			p = &op->queue_next;
			continue;
		}
		*p = op->queue_next;
		op_done(op, fault, emu_now_ns());
	}
}

/* Neighbours first: once this process knows of the fault, it may exit before it told them. */
static void raise_fault(struct emu_device *dev, CUresult fault)
{
	emu_lock(dev->map.gpu);
	emu_fault_neighbours(dev->map.gpu, dev->client, (int)fault);
	emu_unlock(dev->map.gpu);
	if (emu.mps_fd >= 0)
		send(emu.mps_fd, "f", 1, MSG_NOSIGNAL | MSG_DONTWAIT); /* for the server's log */
	atomic_store(&dev->fault, (int)fault);
}

static unsigned visible_smid(const struct emu_op *op, unsigned sm)
{
	unsigned id = 0;

	if (!op->renumber_smid)
		return sm;
	for (unsigned i = 0; i < sm; i++)
		id += emu_sms_has(&op->sms, i);
	return id;
}

static void want(struct emu_client *client, const struct emu_sms *sms)
{
	for (unsigned w = 0; w < EMU_SMS_MAX / 64; w++)
		client->wanted.bits[w] |= sms->bits[w];
}

/* Its blocks wait on their SMs for those that are still to come. */
static bool gathers(const struct emu_op *op)
{
	return op->work.u.launch.kernel->meet && op->issued &&
	       op->issued < op->work.u.launch.n_blocks;
}

/* Two grids that gathered at once on the same SMs would wait for each other for ever. */
static bool may_issue(const struct emu_device *dev, const struct emu_op *op)
{
	return !op->work.u.launch.kernel->meet || gathers(op) ||
	       emu_may_gather(dev->map.gpu, dev->client);
}

static void note_gathering(struct emu_device *dev, const struct emu_op *op)
{
	if (op->work.u.launch.kernel->meet && op->issued)
		client_of(dev)->gathers = gathers(op);
}

/* Take SMs for as many waiting blocks as possible. Returns how many were taken. */
static unsigned issue(struct emu_device *dev, bool *starved)
{
	struct emu_turn turn = emu_turn(dev->map.gpu, dev->client);
	unsigned n = 0;

	*starved = false;
	client_of(dev)->wanted = (struct emu_sms){{0}};
	for (struct emu_op *op = dev->active; op; op = op->queue_next) {
		struct emu_run *run = &op->work.u.launch.run;
		if (op->issued < op->work.u.launch.n_blocks && !may_issue(dev, op)) {
			*starved = true;
			continue;
		}
		while (op->issued < op->work.u.launch.n_blocks && dev->n_running < EMU_SMS_MAX) {
			struct emu_running *r = &dev->running[dev->n_running];
			uint64_t i = op->issued;
			uint32_t index[3] = {(uint32_t)(i % run->grid[0]),
					     (uint32_t)(i / run->grid[0] % run->grid[1]),
					     (uint32_t)(i / run->grid[0] / run->grid[1])};
			int sm = emu_claim(dev->map.gpu, dev->client, &turn, &op->sms,
					   op->work.u.launch.kernel->name, index, op->ready_ns,
					   &r->claim, &r->end_ns);
			if (sm < 0) {
				*starved = true;
				want(client_of(dev), &op->sms);
				break;
			}
			r->op = op;
			memcpy(r->index, index, sizeof(r->index));
			r->sm = (unsigned)sm;
			r->ended = false;
			op->issued++;
			op->running++;
			dev->n_running++;
			n++;
		}
		note_gathering(dev, op);
	}
	return n;
}

/* For as long as the block waits for others; far off, and no overflow when something is added. */
#define NO_END (UINT64_MAX / 4)

/* Blocks that wait for each other go on when the last one of their kernel has come. */
static void let_meet(struct emu_device *dev)
{
	const uint64_t now = emu_now_ns();

	for (unsigned i = 0; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];

		if (r->end_ns < NO_END || r->op->issued < r->op->work.u.launch.n_blocks)
			continue;
		r->end_ns = now + (r->end_ns - NO_END);
		atomic_store(&dev->map.gpu->slots[r->sm].deadline_ns, r->end_ns);
	}
}

/* Run the code of the newly taken blocks; r->end_ns holds the begin until then. */
static int run_blocks(struct emu_device *dev, unsigned n)
{
	int fault = 0;

	for (unsigned i = dev->n_running - n; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];
		struct emu_slot *slot = &dev->map.gpu->slots[r->sm];
		struct emu_run run = r->op->work.u.launch.run;
		memcpy(run.index, slot->block.index, sizeof(run.index));
		run.smid = visible_smid(r->op, r->sm);
		run.n_sms = emu_sms_count(&r->op->sms);
		run.now_ns = r->end_ns;
		int64_t ns = r->op->work.u.launch.kernel->block(&run);
		if (ns == EMU_ILLEGAL_ADDRESS)
			fault = 1;
		r->end_ns = ns > 0 ? r->end_ns + (uint64_t)ns : emu_now_ns();
		if (r->op->work.u.launch.kernel->meet && ns > 0)
			r->end_ns = NO_END + (uint64_t)ns;
		atomic_store(&slot->deadline_ns, r->end_ns);
	}
	if (n)
		let_meet(dev);
	return fault;
}

static void end_blocks(struct emu_device *dev, uint64_t now, bool all)
{
	for (unsigned i = 0; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];
		if (r->end_ns > now && !all)
			continue;
		emu_release(dev->map.gpu, dev->client, r->sm, r->claim,
			    r->end_ns < now ? r->end_ns : now);
		r->ended = true;
	}
}

/* What a block does when it ends; false: it faulted. */
static bool end_of_block(const struct emu_running *r)
{
	const struct emu_kernel *kernel = r->op->work.u.launch.kernel;
	struct emu_run run = r->op->work.u.launch.run;

	memcpy(run.index, r->index, sizeof(run.index));
	run.now_ns = r->end_ns;
	return !kernel->at_end || kernel->at_end(&run) != EMU_ILLEGAL_ADDRESS;
}

/* After end_blocks, under the mutex: kernels whose last block ended are done. */
/* Its blocks are over. Takes the caller's reference. */
static void kernel_ended(struct emu_op *op, CUresult result, uint64_t at_ns)
{
	struct emu_op *beside = op->beside;

	if (!beside || beside->done) {
		op_done(op, result, at_ns);
		return;
	}
	op->ended = true;
	op->result = result;
	op->done_ns = at_ns;
	emu_op_after(op, beside);
}

static void account_ended(struct emu_device *dev)
{
	unsigned kept = 0;
	CUresult fault = emu_device_fault(dev);

	for (unsigned i = 0; i < dev->n_running && !fault; i++)
		if (dev->running[i].ended && !end_of_block(&dev->running[i])) {
			raise_fault(dev, CUDA_ERROR_ILLEGAL_ADDRESS);
			fault = CUDA_ERROR_ILLEGAL_ADDRESS;
		}

	for (unsigned i = 0; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];
		if (!r->ended) {
			dev->running[kept++] = *r;
			continue;
		}
		r->op->running--;
		if (r->end_ns > r->op->done_ns)
			r->op->done_ns = r->end_ns;
	}
	dev->n_running = kept;
	for (struct emu_op **p = &dev->active; *p;) {
		struct emu_op *op = *p;
		bool all_issued = fault || op->issued == op->work.u.launch.n_blocks;
		if (!all_issued || op->running) {
			p = &op->queue_next;
			continue;
		}
		*p = op->queue_next;
		/* Before anybody can know that it is done. */
		emu_kernel_ends(&dev->map, dev->client, &op->sms);
		kernel_ended(op, fault, op->done_ns ? op->done_ns : emu_now_ns());
	}
}

static uint64_t next_deadline(const struct emu_device *dev, bool starved)
{
	uint64_t next = UINT64_MAX, poll = emu_now_ns();

	for (unsigned i = 0; i < dev->n_running; i++)
		if (dev->running[i].end_ns < next)
			next = dev->running[i].end_ns;
	/* Whoever holds an SM may die; a value in memory may change: look again soon. */
	poll += dev->waiting ? 100000 : 2000000;
	if ((starved || dev->waiting) && poll < next)
		next = poll;
	return next == UINT64_MAX ? 0 : next;
}

static void *device_thread(void *arg)
{
	struct emu_device *dev = arg;
	struct emu_gpu *gpu = dev->map.gpu;
	struct emu_client *client = client_of(dev);
	uint64_t next_reap = 0;

	for (;;) {
		uint32_t seen = atomic_load(&client->wake);
		struct emu_op *op;
		bool starved = false;
		unsigned taken = 0;

		emu_enter();
		while ((op = take_ready(dev)))
			start_op(dev, op);
		check_values(dev);
		bool work = dev->active || dev->n_running || client->wants_ns;
		bool fault = emu_device_fault(dev) != CUDA_SUCCESS;
		emu_exit();
		/* The lists of active kernels and running blocks belong to this thread alone. */
		if (work) {
			uint64_t now = emu_now_ns();
			emu_lock(gpu);
			end_blocks(dev, now, fault);
			if (!fault && now >= next_reap) {
				emu_reap(&dev->map);
				next_reap = now + 2000000;
			}
			emu_unlock(gpu);
			emu_enter();
			account_ended(dev);
			while ((op = take_ready(dev)))
				start_op(dev, op);
			emu_exit();
			emu_lock(gpu);
			if (fault)
				client->gathers = 0;
			else
				taken = issue(dev, &starved);
			client->wants_ns = starved ? emu_now_ns() : 0;
			emu_wake_waiting(gpu, dev->client);
			emu_unlock(gpu);
			if (run_blocks(dev, taken))
				raise_fault(dev, CUDA_ERROR_ILLEGAL_ADDRESS);
		}
		uint64_t deadline = next_deadline(dev, starved);
		if (!deadline || deadline > emu_now_ns())
			emu_sleep(client, seen, deadline);
	}
	return NULL;
}

static CUresult need_device_thread(struct emu_device *dev)
{
	if (dev->thread_made)
		return CUDA_SUCCESS;
	if (make_thread(&dev->thread, device_thread, dev, PTHREAD_STACK_MIN + (128 << 10)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	dev->thread_made = true;
	return CUDA_SUCCESS;
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

CUresult emu_op_prepare(enum emu_op_kind kind, struct emu_device *dev)
{
	CUresult rc = need_device_thread(dev);

	return !rc && kind == EMU_OP_HOST ? need_host_thread() : rc;
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

CUresult emu_device_join(struct emu_device *dev)
{
	struct emu_gpu *gpu = dev->map.gpu;
	unsigned n = 0;
	int client;

	if (dev->client >= 0)
		return emu_device_fault(dev);
	emu_lock(gpu);
	emu_reap(&dev->map);
	for (int i = 0; emu.server_pid && i < EMU_CLIENTS_MAX; i++)
		n += gpu->clients[i].in_use && gpu->clients[i].server_pid == emu.server_pid;
	if (n >= EMU_MPS_CLIENTS_MAX) {
		emu_unlock(gpu);
		return CUDA_ERROR_MPS_MAX_CLIENTS_REACHED;
	}
	client = emu_client_join(&dev->map, emu.server_pid);
	if (client >= 0 && dev->n_visible_sms < gpu->n_sms)
		gpu->clients[client].max_slots = dev->n_visible_sms;
	emu_unlock(gpu);
	if (client < 0)
		return CUDA_ERROR_OUT_OF_MEMORY;
	dev->client = client;
	dev->ready_end = &dev->ready;
	return CUDA_SUCCESS;
}

/* Nobody kills it: MPS sees it leave. What the neighbours of one see that is killed: emu_client_lost. */
__attribute__((destructor)) static void note_exit(void)
{
	for (unsigned i = 0; i < emu.n_devices; i++) {
		struct emu_device *dev = &emu.devices[i];
		if (dev->client >= 0 && dev->map.gpu->clients[dev->client].pid == getpid())
			atomic_store(&dev->map.gpu->clients[dev->client].exits, 1);
	}
}
