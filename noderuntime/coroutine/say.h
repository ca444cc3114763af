/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SAY_H
#define DETSHARE_COROUTINE_SAY_H

#include <stdatomic.h>

/*
 * Write one line, "detshare: ...", to the program's standard error, the first time it is called with
 * this `said`. One write, so that lines of several processes do not mix. Keeps errno. Thread-safe.
 */
void ds_say_once(atomic_flag *said, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
