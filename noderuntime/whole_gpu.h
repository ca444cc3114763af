/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_WHOLE_GPU_H
#define DETSHARE_NODERUNTIME_WHOLE_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "common/process.h"

/*
 * Whole-GPU windows: a resident has all groups of the GPU for a while, for launches that fit nowhere
 * else, and the others are suspended meanwhile. One window at a time, in the order in which they were
 * asked for. Pure: what the runtimes of a GPU do with its ledger, each on its own, all alike.
 *
 *   GATHERING  all others are told to stop; until nothing of them is on the GPU
 *   OPEN       the owner has all groups
 *   RETURNING  it has its own again, and the others begin when its programs are off theirs
 *
 * The others keep what they hold: it is theirs, and where their pinned work will go on, only do they
 * begin nothing there. So nobody else can get it meanwhile but the owner, whose window is the one
 * exception from "every group has one user".
 */
enum ds_whole_phase { DS_WHOLE_NONE, DS_WHOLE_GATHERING, DS_WHOLE_OPEN, DS_WHOLE_RETURNING };

enum { DS_WHOLE_PHASES = DS_WHOLE_RETURNING + 1 };

/* In the ledger; no padding. All times are of CLOCK_BOOTTIME. */
struct ds_whole_window {
	char owner[32]; /* name of the resident; "" without one */
	uint32_t phase; /* enum ds_whole_phase */
	uint32_t reserved;
	uint64_t begun_ns;      /* the window: when it began to gather */
	uint64_t since_ns;      /* the phase */
	uint64_t not_before_ns; /* the next window: the others have their turn */
};

/* A resident's part in it, in the ledger. */
struct ds_whole_asking {
	uint64_t asked_ns;      /* 0: it does not ask; else its place in the queue */
	uint64_t not_before_ns; /* it has had its part of the time, and waits */
	uint64_t barred_ns;     /* until then it asks in vain */
	uint64_t total_ns;      /* that others were suspended for it */
	uint32_t windows;       /* that it had */
	uint32_t overruns;      /* of those, not given back in time */
	uint32_t refusals;      /* times that what waited had to go without */
	uint32_t tries;         /* in a row to gather that came to nothing */
	uint32_t opened;        /* 1: `held` is the whole GPU's groups */
	uint32_t reserved;
};

/* The site's rules. */
struct ds_whole_rules {
	uint32_t
	    deadline_ms; /* of a window; and of the first try to gather, longer for later ones */
	uint32_t patience_ms; /* of a launch that asks */
};

struct ds_ledger_state;
struct ds_ledger_resident;

/*
 * `wants`: launches of the resident wait for the whole GPU or are on it. Enters that into its asking,
 * unless it is barred.
 */
void ds_whole_enter(struct ds_ledger_resident *resident, bool wants, uint64_t now_ns);

/*
 * Let the window go on to what it can be by now, and the next one begin. Before ds_ledger_settle, which
 * acts on it. A runtime for which `alive` says 0 can neither hold a window nor speak for its programs: one
 * beside them is over, and as long as they live none begins. Programs for which `stopped` says 1 could not get off
 * the GPU, so none is begun because of them.
 */
void ds_whole_step(struct ds_ledger_state *state, const struct ds_whole_rules *rules,
		   uint64_t now_ns, int (*alive)(const struct ds_process *),
		   int (*stopped)(const struct ds_process *));

/* When ds_whole_step or the flags of a page may change, if nothing else happens; 0: never. */
uint64_t ds_whole_next_ns(const struct ds_ledger_state *state, const struct ds_whole_rules *rules,
			  uint64_t now_ns);

/* Whether the programs of the resident may begin nothing now: for a window of another one. */
bool ds_whole_suspends(const struct ds_ledger_state *state,
		       const struct ds_ledger_resident *resident);

/* Whether it has the GPU as a whole now. */
bool ds_whole_is_open_for(const struct ds_ledger_state *state,
			  const struct ds_ledger_resident *resident);

/* Whether it asks in vain. */
bool ds_whole_refuses(const struct ds_ledger_resident *resident, uint64_t now_ns);

#endif
