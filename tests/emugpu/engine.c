/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of each device, which runs what is ready. */
#include "tests/emugpu/op.h"

#include <limits.h>
#include <signal.h>

struct emu_state emu = {
    .mutex = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER, .mps_fd = -1};

void emu_enter(void)
{
	pthread_mutex_lock(&emu.mutex);
}

void emu_exit(void)
{
	pthread_mutex_unlock(&emu.mutex);
}

/* Threads of the library take no signals: those belong to the program. */
int emu_make_thread(pthread_t *thread, void *(*run)(void *), void *arg, size_t stack)
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
		emu_op_done(op, fault, emu_now_ns());
		return;
	}
	switch (op->work.kind) {
	case EMU_OP_KERNEL:
		emu_kernel_begins(&dev->map, dev->client, &op->sms);
		append(&dev->active, op);
		emu_op_begins(op);
		return;
	case EMU_OP_WAIT_VALUE:
		op->priority = 0;
		append(&dev->waiting, op);
		return;
	case EMU_OP_HOST:
		emu_host_function_add(op);
		return;
	case EMU_OP_COPY:
		emu_exit();
		emu_move_bytes(&op->work.u.copy);
		emu_enter();
		break;
	case EMU_OP_SET:
		emu_exit();
		emu_fill(op);
		emu_enter();
		break;
	case EMU_OP_FREE:
		emu_memory_free(dev, op->work.u.memory);
		break;
	case EMU_OP_WRITE_VALUE:
		emu_write_value(op);
		break;
	case EMU_OP_NOP:
		break;
	}
	/* A joint takes no time: it is done when what it waited for was. */
	emu_op_done(op, CUDA_SUCCESS, op->work.kind == EMU_OP_NOP ? op->ready_ns : emu_now_ns());
}

static void check_values(struct emu_device *dev)
{
	CUresult fault = emu_device_fault(dev);

	for (struct emu_op **p = &dev->waiting; *p;) {
		struct emu_op *op = *p;
		if (!fault && !emu_value_arrived(op)) {
			p = &op->queue_next;
			continue;
		}
		*p = op->queue_next;
		emu_op_done(op, fault, emu_now_ns());
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
	struct emu_client *client = emu_client_of(dev);
	uint64_t next_reap = 0;

	for (;;) {
		uint32_t seen = atomic_load(&client->wake);
		struct emu_op *op;
		bool starved = false;
		unsigned taken = 0;

		emu_enter();
		while ((op = emu_take_ready(dev)))
			start_op(dev, op);
		check_values(dev);
		bool work = dev->active || dev->n_running || client->wants_ns;
		bool fault = emu_device_fault(dev) != CUDA_SUCCESS;
		emu_exit();
		/* The lists of active kernels and running blocks belong to this thread alone. */
		if (work) {
			uint64_t now = emu_now_ns();
			emu_lock(gpu);
			emu_end_blocks(dev, now, fault);
			if (!fault && now >= next_reap) {
				emu_reap(&dev->map);
				next_reap = now + 2000000;
			}
			emu_unlock(gpu);
			emu_enter();
			emu_account_ended(dev);
			while ((op = emu_take_ready(dev)))
				start_op(dev, op);
			emu_exit();
			emu_lock(gpu);
			if (fault)
				client->gathers = 0;
			else
				taken = emu_issue(dev, &starved);
			client->wants_ns = starved ? emu_now_ns() : 0;
			emu_wake_waiting(gpu, dev->client);
			emu_unlock(gpu);
			if (emu_run_blocks(dev, taken))
				emu_raise_fault(dev, CUDA_ERROR_ILLEGAL_ADDRESS);
		}
		uint64_t deadline = next_deadline(dev, starved);
		if (!deadline || deadline > emu_now_ns())
			emu_sleep(client, seen, deadline);
	}
	return NULL;
}

CUresult emu_need_device_thread(struct emu_device *dev)
{
	if (dev->thread_made)
		return CUDA_SUCCESS;
	if (emu_make_thread(&dev->thread, device_thread, dev, PTHREAD_STACK_MIN + (128 << 10)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	dev->thread_made = true;
	return CUDA_SUCCESS;
}
