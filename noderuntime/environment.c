/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/environment.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static bool has_prefix(const char *variable, const char *const *prefixes)
{
	for (; *prefixes; prefixes++) {
		if (!strncmp(variable, *prefixes, strlen(*prefixes)))
			return true;
	}
	return false;
}

char **ds_environment(const char *const *without, const char *const *with)
{
	size_t n = 0, room = 1;

	for (char **variable = environ; *variable; variable++)
		room++;
	for (const char *const *variable = with; *variable; variable++)
		room++;
	char **env = calloc(room, sizeof(*env));
	if (!env)
		return NULL;
	for (char **variable = environ; *variable; variable++) {
		if (!has_prefix(*variable, without))
			env[n++] = *variable;
	}
	for (; *with; with++)
		env[n++] = (char *)(uintptr_t)*with;
	return env;
}

char **ds_environment_own(void)
{
	static const char *const without[] = {"LD_PRELOAD=", "CUDA_", "DETSHARE_", NULL};
	static const char *const with[] = {NULL};

	return ds_environment(without, with);
}
