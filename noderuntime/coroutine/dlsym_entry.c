/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dlsym for the whole process. The real one finds out who called it from the return address, because
 * RTLD_NEXT and RTLD_DEFAULT depend on the caller. So this is a few instructions that ask ds_dlsym_filter
 * (dlsym.c) and, if that has no answer, jump to the real one with the caller's return address in place.
 *
 * It has the versions that the C library's has had: an interposer in front of us, which looks for the next
 * dlsym by version, must find it here, and hand the program what we hand out.
 */
#if defined(__x86_64__)
__asm__(".pushsection .text\n"
	".globl ds_dlsym\n"
	".type ds_dlsym, @function\n"
	"ds_dlsym:\n"
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
	".size ds_dlsym, .-ds_dlsym\n"
	".popsection\n");
#elif defined(__aarch64__)
__asm__(".pushsection .text\n"
	".globl ds_dlsym\n"
	".type ds_dlsym, %function\n"
	"ds_dlsym:\n"
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
	".size ds_dlsym, .-ds_dlsym\n"
	".popsection\n");
#else
_Static_assert(0, "dlsym needs its few instructions for this processor");
#endif

#if defined(__x86_64__)
#define OLD_VERSION "GLIBC_2.2.5"
#else
#define OLD_VERSION "GLIBC_2.17"
#endif
__asm__(".globl ds_dlsym_old\n"
	".set ds_dlsym_old, ds_dlsym\n"
	".symver ds_dlsym_old, dlsym@" OLD_VERSION "\n"
	".symver ds_dlsym, dlsym@@GLIBC_2.34\n");
