/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_UNIT_LEDGER_TESTS_H
#define DETSHARE_TESTS_UNIT_LEDGER_TESTS_H

#include <stdint.h>

#include "noderuntime/ledger.h"

/* What the tests of the ledger share. A function that does not succeed fails the test. */

#define GPU "GPU-12345678-1234-1234-1234-123456789abc"

extern const struct ds_gpu_shape h200;

/* A directory for each test, and the names that a ledger may have in it. */
extern char dir[40], file[48], broken[55], new_file[55];
int make_dir(void **state);
int remove_dir(void **state);
struct ds_ledger *open_ledger(void);

struct ds_ledger_resident resident(const char *name, uint32_t share_milli);

/* Changes: of a resident that is named by `arg`; one that fails with 42, and one that is none. */
int join(struct ds_ledger_state *state, void *arg, struct ds_error *err);
int leave(struct ds_ledger_state *state, void *arg, struct ds_error *err);
int refuse(struct ds_ledger_state *state, void *arg, struct ds_error *err);
int nothing(struct ds_ledger_state *state, void *arg, struct ds_error *err);

/* Settling: who lives is a table. */
extern int32_t dead_pids[8];
extern unsigned n_dead;

struct ds_ledger_state *new_state(void); /* an empty ledger, and nobody is dead */
void settle(struct ds_ledger_state *state);
/* Join and settle; `pid` is the runtime's. */
void add(struct ds_ledger_state *state, const char *name, uint32_t share_milli, int32_t pid);
/* A program comes, which uses all that its resident holds. */
void welcome(struct ds_ledger_state *state, const char *name, int32_t pid);
void expect(struct ds_ledger_state *state, const char *name, const char *planned, const char *held);

#endif
