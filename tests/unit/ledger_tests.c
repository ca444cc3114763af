/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/ledger.h"
#include "noderuntime/ledger_image.h"
#include "tests/unit/ledger_tests.h"

const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};
char dir[40], file[48], broken[55], new_file[55];

int make_dir(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/detshare-test-ledger-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(file, sizeof(file), "%s/ledger", dir);
	snprintf(broken, sizeof(broken), "%s/ledger.broken", dir);
	snprintf(new_file, sizeof(new_file), "%s/ledger.new", dir);
	return 0;
}

int remove_dir(void **state)
{
	unlink(file);
	unlink(broken);
	unlink(new_file); /* of a maker that was killed */
	return rmdir(dir);
}

struct ds_ledger *open_ledger(void)
{
	struct ds_ledger *ledger;
	struct ds_error err;

	if (ds_ledger_open(dir, GPU, &h200, &ledger, &err))
		fail_msg("%s", err.text);
	assert_string_equal(err.text, "");
	return ledger;
}

struct ds_ledger_resident resident(const char *name, uint32_t share_milli)
{
	struct ds_ledger_resident r = {.job_id = 12, .uid = 1000, .runtime = {.pid = 1}};

	snprintf(r.name, sizeof(r.name), "%s", name);
	snprintf(r.grant.class_name, sizeof(r.grant.class_name), "throughput");
	r.grant.kind = DS_KIND_THROUGHPUT;
	r.grant.share_milli = share_milli;
	return r;
}

int join(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct ds_ledger_resident r = resident(arg, 500);

	return ds_ledger_join(state, &r, err);
}

int leave(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	return !ds_ledger_leave(state, arg);
}

int refuse(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	memset(state, 0xff, sizeof(*state));
	return 42;
}

int nothing(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	return 0;
}

/* ---- settling ---- */

int32_t dead_pids[8];
unsigned n_dead;

static int lives(const struct ds_ledger_state *state, const struct ds_process *process, void *arg)
{
	for (unsigned i = 0; i < n_dead; i++) {
		if (dead_pids[i] == process->pid)
			return 0;
	}
	return 1;
}

void settle(struct ds_ledger_state *state)
{
	struct ds_error err;

	if (ds_ledger_settle(state, lives, NULL, NULL, &err) || ds_ledger_state_check(state, &err))
		fail_msg("%s", err.text);
}

void add(struct ds_ledger_state *state, const char *name, uint32_t share_milli, int32_t pid)
{
	struct ds_ledger_resident r = resident(name, share_milli);
	struct ds_error err;

	r.runtime.pid = pid;
	if (ds_ledger_join(state, &r, &err))
		fail_msg("%s", err.text);
	settle(state);
}

void welcome(struct ds_ledger_state *state, const char *name, int32_t pid)
{
	struct ds_process process = {.pid = pid, .start_ticks = 5};
	struct ds_error err;

	if (ds_ledger_add_program(state, name, &process, &ds_ledger_find(state, name)->held, &err))
		fail_msg("%s", err.text);
}

void expect(struct ds_ledger_state *state, const char *name, const char *planned, const char *held)
{
	const struct ds_ledger_resident *r = ds_ledger_find(state, name);
	char text[64];

	assert_non_null(r);
	ds_groups_format(&r->planned, &state->shape, text, sizeof(text));
	assert_string_equal(text, planned);
	ds_groups_format(&r->held, &state->shape, text, sizeof(text));
	assert_string_equal(text, held);
}

struct ds_ledger_state *new_state(void)
{
	static struct ds_ledger_state state;

	memset(&state, 0, sizeof(state));
	memcpy(state.gpu_uuid, GPU, sizeof(GPU));
	state.shape = h200;
	n_dead = 0;
	return &state;
}
