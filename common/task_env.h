/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_TASK_ENV_H
#define DETSHARE_COMMON_TASK_ENV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/*
 * What a task's environment becomes: RUNTIME_DIR/ALLOCATION/task.env, written by the node runtime,
 * applied by SPANK and by `detshare run`. Pure: nothing here reads a file or an environment.
 */
enum {
	DS_TASK_ENV_MAX = 16,          /* lines in a task.env */
	DS_TASK_ENV_TEXT_SIZE = 16384, /* no task.env is longer */
};

#define DS_TASK_PRELOAD_VARIABLE   "LD_PRELOAD"
#define DS_TASK_PREFIX             "DETSHARE_" /* names under it belong to detshare; the user's are removed */
#define DS_TASK_WHOLE_GPU_VARIABLE "DETSHARE_WHOLE_GPU" /* but for this one, which is the user's */

/* A parsed task.env. The strings point into `text`. */
struct ds_task_env {
	uint32_t n;
	struct {
		const char *name;
		const char *value;
	} vars[DS_TASK_ENV_MAX];
	char text[DS_TASK_ENV_TEXT_SIZE];
};

/*
 * Parse `length` bytes of a task.env: lines NAME=value, every one ended by a newline. Names are
 * [A-Z_][A-Z0-9_]*, each at most once; values hold no control characters. Returns 0, or -1 with the
 * number of the line at fault.
 */
int ds_task_env_parse(const char *text, size_t length, struct ds_task_env *env,
		      struct ds_error *err);

/* The value under that name, or NULL. */
const char *ds_task_env_value(const struct ds_task_env *env, const char *name);

/* One change of an environment. */
struct ds_env_edit {
	char *name;
	char *value; /* NULL: remove */
};

struct ds_env_edits {
	uint32_t n;
	uint32_t room;
	struct ds_env_edit *list;
};

/* What a task was granted, for ds_env_edits_plan(). */
struct ds_task_grant {
	const struct ds_task_env *env; /* NULL: granted nothing */
	uint32_t share_milli;          /* the step's share, if `env` */
	bool allocation_here;          /* the job has an allocation on this node */
	const char *coroutine_library; /* what LD_PRELOAD loses, or gets in front */
	const char *runtime_dir;       /* an MPS pipe directory below it is ours, so it is stale */
};

/*
 * Plan the changes that turn `current` (NAME=value, ends with NULL) into the task's. Whatever the
 * user, or an outer job, left under our names is overwritten or removed; an LD_PRELOAD list is
 * kept, with our library in front exactly once, or without it if nothing was granted. A task
 * that was granted nothing in a job that has an allocation here sees no GPU at all. Every name
 * is in the list at most once, so that the order does not matter; applying twice changes nothing.
 * Returns 0, or -1 when memory is out. The caller frees with ds_env_edits_free() either way.
 */
int ds_env_edits_plan(const char *const *current, const struct ds_task_grant *grant,
		      struct ds_env_edits *edits, struct ds_error *err);
void ds_env_edits_free(struct ds_env_edits *edits);

/*
 * An LD_PRELOAD list (separated by spaces or colons; NULL or "": empty) without `library`, by path
 * or by its last component, and with it in front if `add`. malloc'd; NULL when memory is out.
 */
char *ds_preload_list(const char *list, const char *library, bool add);

/* A share for people and programs: 500 -> "0.5", 1000 -> "1", 125 -> "0.125". */
void ds_share_text(uint32_t share_milli, char text[8]);

#endif
