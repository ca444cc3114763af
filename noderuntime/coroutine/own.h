/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_OWN_H
#define DETSHARE_COROUTINE_OWN_H

#include "noderuntime/coroutine/vctx.h"

/*
 * Contexts that the program makes by cuCtxCreate on the allocation's device. The driver keeps only the
 * primary context's work inside a partition, so each is an alias of that: the primary context is current
 * wherever the program has made its own current, and what the program makes there is the primary
 * context's. What the program can ask of its context is kept here.
 *
 * The handle is that of a green context over the first partition, on which nothing runs: whatever we do
 * not know of finds a context of the driver's, with an id of its own, and none that reaches beyond.
 */

enum { DS_LIMITS = 16 /* above every CUlimit */ };

/* What a program sets for a context and asks for again. */
struct ds_settings {
	unsigned flags;
	size_t limits[DS_LIMITS];
	CUfunc_cache cache;
};

struct ds_own {
	CUcontext handle;
	CUgreenCtx green;
	CUcontext primary;
	CUdevice device;
	atomic_bool alive;
	atomic_uint uses;            /* cuCtxAttach, cuCtxDetach */
	unsigned affinity_sms;       /* as asked for; 0: not */
	struct ds_settings settings; /* own_settings.c */
	struct ds_own *next;
};

/* The live context of the program's own that has this handle, or NULL. No lock. */
struct ds_own *ds_own_find(CUcontext handle);

/* The one that is current to the calling thread, or NULL. */
struct ds_own *ds_own_current(void);

/* Whether any is alive. */
bool ds_own_any(void);

/* Enter a new one into the list, where it stays for ever: a thread may have it current when it is dead. */
void ds_own_add(struct ds_own *own);

/*
 * Its end begins: it is found no more, and no longer current to the calling thread. False: another thread
 * was faster. ds_own_gone() when it is over.
 */
bool ds_own_take(struct ds_own *own);
void ds_own_gone(void);

/* Make it current, and no longer current. *context, if asked for: what the program had there. */
CUresult ds_own_push(struct ds_own *own);
CUresult ds_own_pop(CUcontext *context);

/* Which flags cuCtxCreate takes. Pure. */
bool ds_own_flags_are_fine(unsigned flags);

/* What a new context has, and `flags`. With the primary context current. */
CUresult ds_own_settings_init(struct ds_own *own, unsigned flags);

/* The context that `context` stands for in calls of the driver: the primary one for one of these. */
static inline CUcontext ds_own_real(CUcontext context)
{
	const struct ds_own *own = ds_own_find(context);

	return own ? own->primary : context;
}

/* The primary context as the thread knows it: the program's own, if that is current. */
static inline CUcontext ds_own_seen(CUcontext primary)
{
	const struct ds_own *own = ds_own_current();

	return own && own->primary == primary ? own->handle : primary;
}

#endif
