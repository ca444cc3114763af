/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_GRAPH_PROGRAM_H
#define DETSHARE_TESTS_GPU_GRAPH_PROGRAM_H

#include "numbers.h"

/* What the experiments of graph_program have in common. */

/* After start, which run_experiment() calls. */
extern CUcontext primary;
extern struct kernels kernels;

/* Both end with the round. */
CUdeviceptr new_numbers(float value);
CUstream new_stream(unsigned flags);

/* It was freed. */
void forget(CUdeviceptr words);

/* A kernel of `us` microseconds; of two blocks. */
void spin_blocks(CUstream stream, unsigned us, unsigned blocks);
void spin(CUstream stream, unsigned us);

/* add() as a node. */
struct add_params {
	CUdeviceptr a, b, to, smids;
	unsigned n;
	void *args[5];
	CUDA_KERNEL_NODE_PARAMS params;
};
CUDA_KERNEL_NODE_PARAMS *add_node(struct add_params *p, CUdeviceptr to, CUdeviceptr a,
				  CUdeviceptr b);

CUgraphExec executable(CUgraph graph);

/* Order shows: x and y take turns, y is taken over by a copy, and a part is set anew each time. */
CUgraph capture_turns(CUstream stream, CUstream side, CUdeviceptr x, CUdeviceptr y, CUdeviceptr z);

/* Launch it a few times, with plain launches between, and say what came of it. */
void launch_some(const char *what, CUgraphExec exec, CUdeviceptr x, CUdeviceptr y);

/* The experiments. */

/* graph_changes.c */
void by_hand(void);
void updates(void);
void errors(void);
void child_update(void);

/* graph_memory.c */
void memory(void);
void frees(void);
void gone(void);
void endless_movable(void);
void endless_pinned(void);
void endless_gone(void);

/* graph_order.c */
void replay(void);
void replay_and_fork(void);
void large(void);
void consecutive(void);
void waits(void);
void threads(void);

#endif
