/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_OP_H
#define DETSHARE_TESTS_EMUGPU_OP_H

#include "tests/emugpu/engine.h"

/* What the parts of the engine have between them. All under the mutex, unless it says otherwise. */

/* op.c: a kernel's blocks begin, and those that may begin beside it. */
void emu_op_begins(struct emu_op *op);
/* An op ended. Takes the caller's reference. */
void emu_op_done(struct emu_op *op, CUresult result, uint64_t done_ns);
/* The next ready one, or NULL; its reference is the caller's. */
struct emu_op *emu_take_ready(struct emu_device *dev);

/* effects.c: pure but for the memory that they are about; bytes are moved without the mutex. */
bool emu_value_arrived(const struct emu_op *op);
void emu_write_value(const struct emu_op *op);
void emu_move_bytes(const struct emu_copy *copy);
void emu_fill(const struct emu_op *op);

/* host_functions.c: its thread is made, and an op is for it. */
CUresult emu_need_host_thread(void);
void emu_host_function_add(struct emu_op *op);

/* client.c: this process, as the GPU's shared memory has it. */
struct emu_client *emu_client_of(struct emu_device *dev);
/* A kernel of this process faulted. Without the mutex as well. */
void emu_raise_fault(struct emu_device *dev, CUresult fault);

/* engine.c: the device's thread is made; and how threads of the library are. Returns 0 or an errno. */
CUresult emu_need_device_thread(struct emu_device *dev);
int emu_make_thread(pthread_t *thread, void *(*run)(void *), void *arg, size_t stack);

/*
 * blocks.c, in this order. emu_issue and emu_end_blocks want the GPU's lock, emu_account_ended the mutex,
 * emu_run_blocks neither.
 */
/* Take SMs for as many waiting blocks as possible. Returns how many were taken. */
unsigned emu_issue(struct emu_device *dev, bool *starved);
/* Run the code of the last `n` blocks that were taken. Returns 1 if one of them faulted. */
int emu_run_blocks(struct emu_device *dev, unsigned n);
/* Give back the SMs of blocks whose time is over. */
void emu_end_blocks(struct emu_device *dev, uint64_t now, bool all);
/* Kernels whose last block ended are done. */
void emu_account_ended(struct emu_device *dev);

#endif
