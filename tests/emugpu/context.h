/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_CONTEXT_H
#define DETSHARE_TESTS_EMUGPU_CONTEXT_H

#include "tests/emugpu/driver.h"

/* What contexts of all kinds have between them; context.c. */

/* Under the mutex. A context of these SMs, green if it has a root; NULL: no memory. */
struct CUctx_st *emu_context_new(struct emu_device *dev, struct CUctx_st *root,
				 const struct emu_sms *sms);
/* When its work is done. */
void emu_context_free(struct CUctx_st *ctx);

/* Under the mutex. This thread's context; it may have been destroyed since: the driver tells that apart from none. */
CUresult emu_current_or_destroyed(struct CUctx_st **ctx);

/* As emu_begin_context(), for a handle, or this thread's context for NULL. */
CUresult emu_begin_named(CUcontext handle, struct CUctx_st **ctx);

/* Flags that a context may have. */
bool emu_are_context_flags(unsigned flags);

#endif
