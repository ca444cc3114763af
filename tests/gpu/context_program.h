/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_CONTEXT_PROGRAM_H
#define DETSHARE_TESTS_GPU_CONTEXT_PROGRAM_H

#include "numbers.h"

/* What the experiments of context_program have in common. */

extern CUdevice device;

/* One of the program's own, current from then on. */
CUcontext create(unsigned flags);

void spin(const struct kernels *code, CUstream stream, unsigned us, unsigned blocks);

/* By number: 0 none, 1 the primary context, 2 and 3 the program's own, which print as A and B. */
extern CUcontext known[8];
const char *name_of(CUcontext context);

/* What a call answered, and which context is current since. */
void show_current(const char *what, CUresult result);

/* Every kind of stream of a context, one after the other, in the order that CUDA has for them. */
void work_in(const char *name, CUcontext context, unsigned rounds);

/* The experiments. */

/* context_asked.c */
void stack(void);
void settings(void);

/* context_work.c */
void work(void);
void threads(void);
void graphs(void);
void many(void);
void reset(void);
void launching_code(void);
void private_tables(void);
void forgets(void);

/* context_parts.c */
void affinity(void);
void green(void);
void green_held(void);

#endif
