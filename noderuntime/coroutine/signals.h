/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_SIGNALS_H
#define DETSHARE_COROUTINE_SIGNALS_H

#include <signal.h>

/*
 * What a thread of the library blocks: all signals, for they are the program's, but those that the thread
 * itself causes. Blocked, these would end the process without the program's own handler having been asked,
 * which may write down what happened.
 */
static inline void ds_signals_of_the_program(sigset_t *set)
{
	sigfillset(set);
	sigdelset(set, SIGSEGV);
	sigdelset(set, SIGBUS);
	sigdelset(set, SIGFPE);
	sigdelset(set, SIGILL);
	sigdelset(set, SIGTRAP);
	sigdelset(set, SIGABRT);
}

#endif
