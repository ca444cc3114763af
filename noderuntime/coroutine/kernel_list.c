/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/kernel_list.h"

#include <dlfcn.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/coroutine/driver.h"

bool ds_kernel_list_add(struct ds_kernel_list *list, const char *patterns)
{
	while (patterns && *patterns) {
		const size_t blanks = strspn(patterns, ", \t");
		const size_t length = strcspn(patterns + blanks, ", \t");

		patterns += blanks;
		if (length && list->n_patterns < DS_KERNEL_PATTERNS_MAX) {
			list->patterns[list->n_patterns] = strndup(patterns, length);
			list->n_patterns += list->patterns[list->n_patterns] != NULL;
		}
		patterns += length;
	}
	return list->n_patterns;
}

static bool matches(const struct ds_kernel_list *list, const char *name)
{
	for (unsigned i = 0; i < list->n_patterns; i++)
		if (fnmatch(list->patterns[i], name, 0) == 0)
			return true;
	return false;
}

/* As in the source, if the program brought the C++ library along; the caller frees it. */
static char *demangle(const char *name)
{
	char *(*cxa_demangle)(const char *, char *, size_t *, int *) = NULL;
	int status = -1;

	if (strncmp(name, "_Z", 2) != 0)
		return NULL;
	*(void **)&cxa_demangle = ds_next_dlsym(RTLD_DEFAULT, "__cxa_demangle");
	return cxa_demangle ? cxa_demangle(name, NULL, NULL, &status) : NULL;
}

bool ds_kernel_list_matches(const struct ds_kernel_list *list, const char *name)
{
	char *readable;
	bool found;

	if (matches(list, name))
		return true;
	readable = demangle(name);
	found = readable && matches(list, readable);
	free(readable);
	return found;
}

/* FNV-1a. The lowest bit is the verdict's. */
static uint64_t hash(const char *name)
{
	uint64_t sum = UINT64_C(0xcbf29ce484222325);

	for (; *name; name++)
		sum = (sum ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
	return sum | 1;
}

bool ds_kernel_list_has(struct ds_kernel_list *list, const char *name)
{
	const uint64_t sum = hash(name);
	_Atomic uint64_t *entry = &list->known[(sum >> 32) % DS_KERNEL_VERDICTS];
	const uint64_t found = atomic_load_explicit(entry, memory_order_relaxed);
	bool verdict;

	if ((found | 1) == sum)
		return found & 1;
	verdict = ds_kernel_list_matches(list, name);
	atomic_store_explicit(entry, verdict ? sum : sum & ~UINT64_C(1), memory_order_relaxed);
	return verdict;
}
