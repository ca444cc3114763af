/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_ENVIRONMENT_H
#define DETSHARE_NODERUNTIME_ENVIRONMENT_H

/*
 * The caller's environment without variables that begin with one of the prefixes in `without`
 * (NULL-terminated), plus the assignments in `with` (NULL-terminated). One block: the caller frees it
 * with one free(); the strings are borrowed. NULL when memory is out.
 */
char **ds_environment(const char *const *without, const char *const *with);

/*
 * The same for the programs of detshare itself: nothing in it that a task is given (a library to
 * preload, a GPU to see), for these programs are nobody's task, even when one of them starts them.
 */
char **ds_environment_own(void);

#endif
