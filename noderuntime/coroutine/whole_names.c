/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/whole_names.h"

#include <dlfcn.h>
#include <fnmatch.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/kernel_name.h"
#include "noderuntime/coroutine/whole.h"

enum {
	PATTERNS_MAX = 64,
	KNOWN = 1024, /* verdicts kept */
};

static char *patterns[PATTERNS_MAX];
static unsigned n_patterns;

/* Hashes of names that were looked at, the verdict in the lowest bit; 0: none. */
static _Atomic uint64_t known[KNOWN];

void ds_whole_name(const char *list)
{
	while (list && *list) {
		const size_t blanks = strspn(list, ", \t");
		const size_t length = strcspn(list + blanks, ", \t");

		list += blanks;
		if (length && n_patterns < PATTERNS_MAX) {
			patterns[n_patterns] = strndup(list, length);
			n_patterns += patterns[n_patterns] != NULL;
		}
		list += length;
	}
	if (n_patterns)
		atomic_fetch_or(&ds_whole_watch, DS_WHOLE_NAMED);
}

static bool matches(const char *name)
{
	for (unsigned i = 0; i < n_patterns; i++)
		if (fnmatch(patterns[i], name, 0) == 0)
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

bool ds_whole_name_matches(const char *name)
{
	char *readable;
	bool found;

	if (matches(name))
		return true;
	readable = demangle(name);
	found = readable && matches(readable);
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

bool ds_whole_is_named(CUfunction function)
{
	const char *name = ds_kernel_name(function);
	_Atomic uint64_t *entry;
	uint64_t sum, found;
	bool verdict;

	if (!name)
		return false;
	sum = hash(name);
	entry = &known[(sum >> 32) % KNOWN];
	found = atomic_load_explicit(entry, memory_order_relaxed);
	if ((found | 1) == sum)
		return found & 1;
	verdict = ds_whole_name_matches(name);
	atomic_store_explicit(entry, verdict ? sum : sum & ~UINT64_C(1), memory_order_relaxed);
	return verdict;
}
