/* SPDX-License-Identifier: Apache-2.0 */
#include "common/task_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gres/granted.h"

#define MPS_PIPE_VARIABLE       "CUDA_MPS_PIPE_DIRECTORY"
#define MPS_PERCENTAGE_VARIABLE "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
#define MPS_LOG_VARIABLE        "CUDA_MPS_LOG_DIRECTORY"
#define DEVICES_VARIABLE        "CUDA_VISIBLE_DEVICES"
#define PRELOAD_SEPARATORS      " :"

static bool name_char(char c, bool first)
{
	return (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

static bool name_is_valid(const char *name)
{
	if (!*name)
		return false;
	for (const char *c = name; *c; c++) {
		if (!name_char(*c, c == name))
			return false;
	}
	return true;
}

static bool value_is_valid(const char *value)
{
	for (const char *c = value; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return false;
	}
	return true;
}

const char *ds_task_env_value(const struct ds_task_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n; i++) {
		if (!strcmp(env->vars[i].name, name))
			return env->vars[i].value;
	}
	return NULL;
}

int ds_task_env_parse(const char *text, size_t length, struct ds_task_env *env,
		      struct ds_error *err)
{
	unsigned line = 0;

	env->n = 0;
	if (length >= sizeof(env->text))
		return ds_fail(err, "longer than %d bytes", DS_TASK_ENV_TEXT_SIZE - 1);
	if (memchr(text, '\0', length))
		return ds_fail(err, "holds a NUL byte");
	memcpy(env->text, text, length);
	env->text[length] = '\0';

	for (char *at = env->text, *next; *at; at = next) {
		line++;
		char *end = strchr(at, '\n');
		if (!end)
			return ds_fail(err, "line %u: is cut off", line);
		*end = '\0';
		next = end + 1;
		char *equals = strchr(at, '=');
		if (!equals)
			return ds_fail(err, "line %u: no '='", line);
		*equals = '\0';
		if (!name_is_valid(at))
			return ds_fail(err, "line %u: not a name before '='", line);
		if (!value_is_valid(equals + 1))
			return ds_fail(err, "line %u: %s holds a control character", line, at);
		if (ds_task_env_value(env, at))
			return ds_fail(err, "line %u: %s is there twice", line, at);
		if (env->n == DS_TASK_ENV_MAX)
			return ds_fail(err, "more than %d lines", DS_TASK_ENV_MAX);
		env->vars[env->n].name = at;
		env->vars[env->n].value = equals + 1;
		env->n++;
	}
	return 0;
}

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Is list[0..length) the library, under this path or another one (an older installation)? */
static bool is_library(const char *item, size_t length, const char *library)
{
	const char *base = last_component(library);
	size_t base_length = strlen(base);

	if (length == strlen(library) && !memcmp(item, library, length))
		return true;
	if (base_length == 0 || length < base_length ||
	    memcmp(item + length - base_length, base, base_length) != 0)
		return false;
	return length == base_length || item[length - base_length - 1] == '/';
}

static bool names_library(const char *list, const char *library)
{
	for (const char *at = list ? list : ""; *at;) {
		size_t length = strcspn(at, PRELOAD_SEPARATORS);
		if (is_library(at, length, library))
			return true;
		at += length;
		at += strspn(at, PRELOAD_SEPARATORS);
	}
	return false;
}

char *ds_preload_list(const char *list, const char *library, bool add)
{
	size_t room = (list ? strlen(list) : 0) + strlen(library) + 2;
	char *result = malloc(room);
	size_t used = 0;

	if (!result)
		return NULL;
	if (add) {
		used = strlen(library);
		memcpy(result, library, used);
	}
	for (const char *at = list ? list : ""; *at;) {
		size_t length = strcspn(at, PRELOAD_SEPARATORS);
		if (length > 0 && !is_library(at, length, library)) {
			if (used > 0)
				result[used++] = ':';
			memcpy(result + used, at, length);
			used += length;
		}
		at += length;
		at += strspn(at, PRELOAD_SEPARATORS);
	}
	result[used] = '\0';
	return result;
}

void ds_share_text(uint32_t share_milli, char text[8])
{
	int length = snprintf(text, 8, "%u.%03u", share_milli / 1000 % 100, share_milli % 1000);

	while (length > 0 && text[length - 1] == '0')
		text[--length] = '\0';
	if (length > 0 && text[length - 1] == '.')
		text[--length] = '\0';
}

static struct ds_env_edit *find_edit(struct ds_env_edits *edits, const char *name, size_t length)
{
	for (uint32_t i = 0; i < edits->n; i++) {
		if (strlen(edits->list[i].name) == length &&
		    !memcmp(edits->list[i].name, name, length))
			return &edits->list[i];
	}
	return NULL;
}

/* Later edits of a name replace earlier ones. `value` NULL: remove. */
static int edit(struct ds_env_edits *edits, const char *name, size_t length, const char *value)
{
	struct ds_env_edit *found = find_edit(edits, name, length);
	char *copy = value ? strdup(value) : NULL;

	if (value && !copy)
		return -1;
	if (found) {
		free(found->value);
		found->value = copy;
		return 0;
	}
	if (edits->n == edits->room) {
		uint32_t room = edits->room ? 2 * edits->room : 16;
		struct ds_env_edit *list = realloc(edits->list, room * sizeof(*list));
		if (!list) {
			free(copy);
			return -1;
		}
		edits->list = list;
		edits->room = room;
	}
	char *name_copy = strndup(name, length);
	if (!name_copy) {
		free(copy);
		return -1;
	}
	edits->list[edits->n++] = (struct ds_env_edit){.name = name_copy, .value = copy};
	return 0;
}

static const char *value_in(const char *const *current, const char *name)
{
	size_t length = strlen(name);

	for (; current && *current; current++) {
		if (!strncmp(*current, name, length) && (*current)[length] == '=')
			return *current + length + 1;
	}
	return NULL;
}

static bool is_below(const char *path, const char *directory)
{
	size_t length = strlen(directory);

	return path && length > 0 && !strncmp(path, directory, length) && path[length] == '/';
}

static int remove_variable(struct ds_env_edits *edits, const char *name)
{
	return edit(edits, name, strlen(name), NULL);
}

/* A name of ours that the user sets. */
static bool is_users(const char *entry)
{
	const size_t length = strlen(DS_TASK_WHOLE_GPU_VARIABLE);

	return !strncmp(entry, DS_TASK_WHOLE_GPU_VARIABLE, length) && entry[length] == '=';
}

/* Everything under our names, and what an outer allocation left, goes. */
static int plan_removals(const char *const *current, const struct ds_task_grant *grant,
			 struct ds_env_edits *edits)
{
	const size_t prefix = strlen(DS_TASK_PREFIX);

	for (const char *const *entry = current; entry && *entry; entry++) {
		if (!strncmp(*entry, DS_TASK_PREFIX, prefix) && !is_users(*entry) &&
		    edit(edits, *entry, strcspn(*entry, "="), NULL) < 0)
			return -1;
	}
	/* The percentage, too, is ours then: a task.env with one has the other. */
	if (is_below(value_in(current, MPS_PIPE_VARIABLE), grant->runtime_dir) &&
	    (remove_variable(edits, MPS_PIPE_VARIABLE) < 0 ||
	     remove_variable(edits, MPS_PERCENTAGE_VARIABLE) < 0))
		return -1;
	return 0;
}

static int plan_preload(const char *const *current, const char *library, bool add,
			struct ds_env_edits *edits)
{
	const char *before = value_in(current, DS_TASK_PRELOAD_VARIABLE);

	/* A list of the user's own that does not name the library stays as it is, to the letter. */
	if (!add && !names_library(before, library))
		return 0;
	char *after = ds_preload_list(before, library, add);
	if (!after)
		return -1;
	int rv = edit(edits, DS_TASK_PRELOAD_VARIABLE, strlen(DS_TASK_PRELOAD_VARIABLE),
		      *after ? after : NULL);
	free(after);
	return rv;
}

static int plan_granted(const char *const *current, const struct ds_task_grant *grant,
			struct ds_env_edits *edits)
{
	char share[8];

	for (uint32_t i = 0; i < grant->env->n; i++) {
		const char *name = grant->env->vars[i].name;
		const char *value = grant->env->vars[i].value;

		if (strcmp(name, DS_TASK_PRELOAD_VARIABLE) != 0) {
			if (edit(edits, name, strlen(name), value) < 0)
				return -1;
		} else if (plan_preload(current, value, true, edits) < 0) {
			return -1;
		}
	}
	ds_share_text(grant->share_milli, share);
	return edit(edits, DS_TASK_SHARE_VARIABLE, strlen(DS_TASK_SHARE_VARIABLE), share);
}

int ds_env_edits_plan(const char *const *current, const struct ds_task_grant *grant,
		      struct ds_env_edits *edits, struct ds_error *err)
{
	*edits = (struct ds_env_edits){0};
	if (plan_removals(current, grant, edits) < 0)
		goto fail;
	/* A task.env without LD_PRELOAD (no library in use) must not leave the user's copy in. */
	if (plan_preload(current, grant->coroutine_library, false, edits) < 0)
		goto fail;
	if (grant->env) {
		if (plan_granted(current, grant, edits) < 0)
			goto fail;
	} else if (grant->allocation_here &&
		   edit(edits, DEVICES_VARIABLE, strlen(DEVICES_VARIABLE), "") < 0) {
		goto fail;
	}
	return 0;
fail:
	return ds_fail(err, "no memory for a task's environment");
}

void ds_env_edits_free(struct ds_env_edits *edits)
{
	for (uint32_t i = 0; i < edits->n; i++) {
		free(edits->list[i].name);
		free(edits->list[i].value);
	}
	free(edits->list);
	*edits = (struct ds_env_edits){0};
}
