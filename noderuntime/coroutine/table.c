/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/hooks.h"

#include <string.h>

#define ROW(name, base_name, first_version, thread)        \
	{                                                  \
	    .symbol = #name,                               \
	    .base = #base_name,                            \
	    .since = first_version,                        \
	    .per_thread = thread,                          \
	    .stand_in = (void (*)(void))ds_##name,         \
	    .real_offset = offsetof(struct ds_real, name), \
	},

const struct ds_hook ds_hooks[] = {
#define DS_STREAM_(use, symbol, base, since, per_thread, params, stream, args) \
	ROW(symbol, base, since, per_thread)
#define DS_SYNC_(symbol, base, since, per_thread, params, args, async, wait) \
	ROW(symbol, base, since, per_thread)
#define DS_SETTLE_(symbol, base, since, per_thread, params, args) \
	ROW(symbol, base, since, per_thread)
#define DS_FREE_(symbol, base, since, params, args, holding) ROW(symbol, base, since, false)
#define DS_SPECIAL_(symbol, base, since, per_thread, params) ROW(symbol, base, since, per_thread)
#include "noderuntime/coroutine/hooks.def"
};

const size_t ds_n_hooks = sizeof(ds_hooks) / sizeof(ds_hooks[0]);

#if CUDA_VERSION == DS_TABLE_VERSION
/* The parameters written in the table are those of the header, down to the last const. */
#define CHECK(symbol, params)                                                                 \
	_Static_assert(__builtin_types_compatible_p(__typeof__(&symbol), CUresult(*) params), \
		       #symbol ": the table and cuda.h disagree");
#define DS_STREAM_(use, symbol, base, since, per_thread, params, stream, args) CHECK(symbol, params)
#define DS_SYNC_(symbol, base, since, per_thread, params, args, async, wait)   CHECK(symbol, params)
#define DS_SETTLE_(symbol, base, since, per_thread, params, args)              CHECK(symbol, params)
#define DS_FREE_(symbol, base, since, params, args, holding)                   CHECK(symbol, params)
#define DS_SPECIAL_(symbol, base, since, per_thread, params)                   CHECK(symbol, params)
#define DS_CALL(symbol, params)                                                CHECK(symbol, params)
#include "noderuntime/coroutine/hooks.def"
#endif

const struct ds_hook *ds_hook_by_symbol(const char *symbol)
{
	for (size_t i = 0; i < ds_n_hooks; i++)
		if (!strcmp(ds_hooks[i].symbol, symbol))
			return &ds_hooks[i];
	return NULL;
}

/* CUDA 12 gave the name of one call to another, which keeps its own name, too. */
static const char *renamed(const char *base, int version)
{
	return version >= 12000 && !strcmp(base, "cuGraphInstantiate")
		   ? "cuGraphInstantiateWithFlags"
		   : base;
}

const struct ds_hook *ds_hook_by_version(const char *base, int version, bool per_thread)
{
	const struct ds_hook *best = NULL;

	if (version > DS_TABLE_VERSION)
		return NULL;
	base = renamed(base, version);
	for (size_t i = 0; i < ds_n_hooks; i++) {
		const struct ds_hook *hook = &ds_hooks[i];

		if (hook->since > version || hook->per_thread > per_thread ||
		    strcmp(hook->base, base))
			continue;
		/* A call without a default stream has no twin: the plain form serves both. */
		if (!best || hook->per_thread > best->per_thread ||
		    (hook->per_thread == best->per_thread && hook->since > best->since))
			best = hook;
	}
	return best;
}
