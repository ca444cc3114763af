/* SPDX-License-Identifier: Apache-2.0 */
/* Host functions and callbacks have a thread of their own, because they may block. */
#include "tests/emugpu/op.h"

_Thread_local bool emu_in_host_function;

static struct {
	struct emu_op *first, **end;
	pthread_cond_t work;
	bool thread_made;
} host = {.work = PTHREAD_COND_INITIALIZER};

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
		emu_op_done(op, fault, emu_now_ns());
	}
	return NULL;
}

CUresult emu_need_host_thread(void)
{
	pthread_t thread;

	if (host.thread_made)
		return CUDA_SUCCESS;
	host.end = &host.first;
	/* The program's code runs on it: a stack as programs expect. */
	if (emu_make_thread(&thread, host_thread, NULL, 1 << 20))
		return CUDA_ERROR_OUT_OF_MEMORY;
	host.thread_made = true;
	return CUDA_SUCCESS;
}

void emu_host_function_add(struct emu_op *op)
{
	op->queue_next = NULL;
	*host.end = op;
	host.end = &op->queue_next;
	pthread_cond_signal(&host.work);
}
