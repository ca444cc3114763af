/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_TRIAL_H
#define DETSHARE_COROUTINE_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * When a program is to be in a smaller partition than it has, for a moment, to find out what bounds its
 * kernels (bound.h): many are measured where it is, then as many in the smaller one. Often at first, ever
 * more rarely later. Under lending, sizes change as neighbours begin and end their steps, and so does the bandwidth that
 * they leave over: only a change of our own says which of the two it was. Pure.
 */
enum ds_trial_phase {
	DS_TRIAL_REST,
	DS_TRIAL_LARGE, /* measures, where it is */
	DS_TRIAL_SMALL, /* measures, in the smaller one */
};

enum {
	DS_TRIAL_NS = 10000000, /* of each of the two, at least, */
	DS_TRIAL_LAUNCHES = 32, /* and until there were so many, but no longer than */
	DS_TRIAL_MAX_NS = 40000000,
	DS_TRIAL_FIRST_NS =
	    50000000, /* between two trials: half as long again each time, until it is: */
	DS_TRIAL_LAST_NS = INT32_MAX,
};

/* Zero to begin with. */
struct ds_trial {
	enum ds_trial_phase phase;
	uint64_t began_ns; /* the phase; 0: nothing has begun */
	uint64_t next_ns;  /* it may end */
	uint64_t pause_ns; /* after this trial */
	uint64_t launches; /* of the program, when the phase began */
};

/*
 * Look: which phase it is in from now on. `possible`: nothing else is asked of the program; `launches`: of it so far,
 * without which there is nothing to try.
 */
enum ds_trial_phase ds_trial_look(struct ds_trial *trial, uint64_t now_ns, bool possible,
				  uint64_t launches);

/* What came between has ended it: the program's place is somebody else's to choose. Whether it was in the smaller one. */
bool ds_trial_stop(struct ds_trial *trial);

#endif
