/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/driver.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

/*
 * dlsym for the whole process. The real one finds out who called it from the return address, because
 * RTLD_NEXT and RTLD_DEFAULT depend on the caller. So the exported dlsym is a few instructions that ask
 * ds_dlsym_filter and, if that has no answer, jump to the real one with the caller's return address
 * in place.
 */

typedef void *dlsym_function(void *handle, const char *name);

/*
 * The sanitizers look up what they intercept through dlsym, before they can bear a call from code
 * that they have instrumented.
 */
#define PLAIN \
	__attribute__((no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))

/* Read by the instructions below, after ds_dlsym_filter has set it. */
__attribute__((visibility("hidden"))) _Atomic(dlsym_function *) ds_dlsym_next;

/* Returns what dlsym(*handle, name) answers, or NULL: ask the real one, with *handle. */
__attribute__((visibility("hidden"))) void *ds_dlsym_filter(void **handle, const char *name);

#if defined(__x86_64__)
__asm__(".pushsection .text\n"
	".globl dlsym\n"
	".type dlsym, @function\n"
	"dlsym:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	pushq %rdi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	pushq %rsi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	subq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	leaq 16(%rsp), %rdi\n"
	"	call ds_dlsym_filter\n"
	"	addq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	popq %rsi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	popq %rdi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	testq %rax, %rax\n"
	"	jne 1f\n"
	"	jmpq *ds_dlsym_next(%rip)\n"
	"1:	ret\n"
	"	.cfi_endproc\n"
	".size dlsym, .-dlsym\n"
	".popsection\n");
#elif defined(__aarch64__)
__asm__(".pushsection .text\n"
	".globl dlsym\n"
	".type dlsym, %function\n"
	"dlsym:\n"
	"	.cfi_startproc\n"
	"	hint 34\n" /* bti c */
	"	stp x29, x30, [sp, -32]!\n"
	"	.cfi_adjust_cfa_offset 32\n"
	"	.cfi_rel_offset 29, 0\n"
	"	.cfi_rel_offset 30, 8\n"
	"	stp x0, x1, [sp, 16]\n"
	"	add x0, sp, 16\n"
	"	bl ds_dlsym_filter\n"
	"	mov x16, x0\n"
	"	ldp x0, x1, [sp, 16]\n"
	"	ldp x29, x30, [sp], 32\n"
	"	.cfi_adjust_cfa_offset -32\n"
	"	.cfi_restore 29\n"
	"	.cfi_restore 30\n"
	"	cbnz x16, 1f\n"
	"	adrp x17, ds_dlsym_next\n"
	"	ldr x17, [x17, :lo12:ds_dlsym_next]\n"
	"	br x17\n"
	"1:	mov x0, x16\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size dlsym, .-dlsym\n"
	".popsection\n");
#else
_Static_assert(0, "dlsym needs its few instructions for this processor");
#endif

/* glibc 2.34 moved dlsym from libdl to libc and gave it a new version; programs may use either. */
PLAIN static dlsym_function *find_next(void)
{
	static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
	void *found = NULL;

	for (size_t i = 0; !found && i < sizeof(versions) / sizeof(versions[0]); i++)
		found = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
	return (dlsym_function *)found;
}

PLAIN static dlsym_function *next(void)
{
	dlsym_function *function = atomic_load_explicit(&ds_dlsym_next, memory_order_acquire);

	if (!function) {
		function = find_next();
		if (!function)
			__builtin_trap(); /* a C library without dlsym */
		atomic_store_explicit(&ds_dlsym_next, function, memory_order_release);
	}
	return function;
}

void *ds_next_dlsym(void *handle, const char *name)
{
	return next()(handle, name);
}

/* The preload list may name two copies of us (two installations): the first one does the work. */
static bool another_copy_is_first(void)
{
	static atomic_int answer; /* 0: not asked yet */
	int known = atomic_load_explicit(&answer, memory_order_relaxed);
	Dl_info first, self;

	if (!known) {
		const char *file = NULL;

		if (dladdr(ds_next_dlsym(RTLD_DEFAULT, "dlsym"), &first) && first.dli_fname)
			file = strrchr(first.dli_fname, '/');
		known = file && !strcmp(file, "/libdetshare-cuda.so") &&
				dladdr((void *)find_next, &self) &&
				first.dli_fbase != self.dli_fbase
			    ? 1
			    : -1;
		atomic_store_explicit(&answer, known, memory_order_relaxed);
	}
	return known > 0;
}

PLAIN void *ds_dlsym_filter(void **handle, const char *name)
{
	dlsym_function *real_dlsym = next();
	const struct ds_hook *hook;
	void *address;

	if (!name || name[0] != 'c' || name[1] != 'u' || name[2] < 'A' || name[2] > 'Z')
		return NULL;
	hook = ds_hook_by_symbol(name);
	if (!hook || another_copy_is_first())
		return NULL;
	/*
	 * Relative to the caller, who may itself be an interposer further down: the linker's order with
	 * our exported symbols in it is the right one. Without a driver, those must not show.
	 */
	if (*handle == RTLD_NEXT) {
		if (!ds_driver_ready())
			*handle = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
		return NULL;
	}
	address = real_dlsym(*handle, name);
	if (!address)
		return NULL;
	if (address == (void *)hook->stand_in) {
		if (ds_driver_ready() && ds_driver_has(hook))
			return address;
		*handle = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
		return NULL;
	}
	return ds_stand_in_for(address);
}
