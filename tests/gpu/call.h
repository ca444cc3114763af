/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_GPU_CALL_H
#define DETSHARE_TESTS_GPU_CALL_H

/* Calls of the driver that must succeed, in a program that has them in `cu`. After cuda.h; PROGRAM is its name. */

#include <stdio.h>
#include <stdlib.h>

static _Noreturn void die(const char *what, CUresult result)
{
	fprintf(stderr, PROGRAM ": %s: error %d\n", what, (int)result);
	exit(1);
}

#define CALL(name, ...)                                           \
	do {                                                      \
		CUresult call_result = cu.do_##name(__VA_ARGS__); \
		if (call_result)                                  \
			die(#name, call_result);                  \
	} while (0)

#endif
