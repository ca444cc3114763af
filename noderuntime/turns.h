/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_TURNS_H
#define DETSHARE_NODERUNTIME_TURNS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/groups.h"
#include "common/process.h"

/*
 * Residents with less than a group that hold the same one take turns in it: one has it, the others are
 * suspended (their pages say stop, their programs acknowledge with nothing in use and are `quiet`). They keep
 * holding it meanwhile, so that nobody else gets it, work that is pinned there included, and going on costs one
 * page. Pure: what the runtimes of a GPU do with its ledger, each on its own, all alike.
 *
 * Everybody's use of the group is added up, divided by his share; at the end of a turn who has least goes on,
 * kind latency first among those who had less than the average. So over some turns each gets its part, and
 * what somebody overran, in a long kernel, he pays back. Only who is active is waited for: one that is idle
 * has no turn, and one beside whom nobody is active has the group without an end, and without a timer. Who was idle
 * has saved up no more than one turn, and nobody owes more than five seconds of his own time, however much he
 * has used.
 *
 * Where somebody cannot give the group back they use it side by side, all of them. So they do for half a minute
 * when a program that runs has not left it within five seconds: it is in a kernel that may wait for what runs nowhere
 * before others have their turn, as a part of it does that is on another node, beside one that waits for it there.
 */
enum ds_turn_state {
	DS_TURN_ALONE,  /* nobody to share with */
	DS_TURN_WAITS,  /* another one has the group */
	DS_TURN_HAS,    /* it may use the group when the others have left it */
	DS_TURN_BESIDE, /* all who hold the group use it, side by side: see `why` */
};
enum { DS_TURN_STATES = DS_TURN_BESIDE + 1 };

/* Why nobody takes turns. */
enum ds_turn_why {
	DS_TURN_WHY_NONE,
	DS_TURN_WHY_FIXED,     /* somebody's programs are not moved: move_programs = no */
	DS_TURN_WHY_BUSY,      /* a program stays on the GPU when it is told to stop */
	DS_TURN_WHY_IMMOVABLE, /* a program cannot be moved at present */
	DS_TURN_WHY_ORPHAN,    /* nobody can tell a program to stop: its runtime is dead */
	DS_TURN_WHY_LONG,      /* a program has not left in time: tried again after a while */
};
enum { DS_TURN_WHYS = DS_TURN_WHY_LONG + 1 };

/* A resident's part in it, in the ledger; no padding. All times are of CLOCK_BOOTTIME. */
struct ds_turn {
	uint32_t state;  /* enum ds_turn_state */
	uint32_t why;    /* enum ds_turn_why */
	uint32_t set;    /* the group that it shares, plus one; 0: none */
	uint32_t active; /* it was, at the last step */
	uint32_t fixed;  /* its programs are not moved; of its runtime, for good */
	uint32_t count;  /* turns that it had while others waited */
	uint64_t used;   /* ns in the group x 1000 / share_milli; counts against the others' only */
	uint64_t since_ns; /* its use since then is not in `used` yet; 0: all is */
	uint64_t
	    until_ns; /* the end of its turn, if others wait; or of its patience with one of them; or 0 */
};

/* Why a program is not waited for, bits, in the ledger: it said all it can say, or there is no point in it. */
enum ds_stays {
	DS_STAYS_PINNED =
	    1 << 0, /* on groups beyond what it was granted, with work that cannot be moved */
	DS_STAYS_BUSY = 1 << 1,      /* on the GPU, although it was told to stop */
	DS_STAYS_IMMOVABLE = 1 << 2, /* where it is, since it cannot be moved at present */
	DS_STAYS_ORPHAN = 1 << 3,    /* where it is, since its runtime is dead */
	DS_STAYS_LONG = 1 << 4,      /* longer than others wait; until `long_s` */
};
enum { DS_STAYS_ALL = (1 << 5) - 1 };

struct ds_ledger_state;
struct ds_ledger_resident;
struct ds_ledger_program;

/*
 * Let the turns go on to what they can be by now. After ds_ledger_settle, which says who holds what. `alive` is
 * asked of runtimes. For programs for which `stopped` says 1 one waits on: they are late (late.h). While a ledger is incomplete, or a window for the whole GPU is there, nobody's turn ends
 * or begins. Once more at the same time changes nothing.
 */
void ds_turns_step(struct ds_ledger_state *state, uint64_t now_ns,
		   int (*alive)(const struct ds_ledger_state *state,
				const struct ds_process *process, void *arg),
		   void *arg, int (*stopped)(const struct ds_process *process));

/*
 * Whether the programs of `resident` may begin nothing now: it is another one's turn, or one of those that it
 * shares a group with is still in there.
 */
bool ds_turns_suspend(const struct ds_ledger_state *state,
		      const struct ds_ledger_resident *resident);

/*
 * Whether `program` is why `resident`, whose turn it is or who needs none, has to wait: it may be on what that
 * one holds. False for one of those that nobody waits for.
 */
bool ds_turns_wait_for(const struct ds_ledger_state *state,
		       const struct ds_ledger_resident *resident,
		       const struct ds_ledger_program *program);

/*
 * When the runtime of `resident` has to look at the turns, if nothing else happens; 0: never. Whose turn it is
 * ends it; the others look later, should that one's runtime be stopped.
 */
uint64_t ds_turns_next_ns(const struct ds_ledger_state *state,
			  const struct ds_ledger_resident *resident, uint64_t now_ns);

/* Whose turn it is of those that `resident` shares a group with; NULL: nobody's, or they take none. */
const struct ds_ledger_resident *ds_turns_whose(const struct ds_ledger_state *state,
						const struct ds_ledger_resident *resident);

/* Why they use the group side by side, for people; NULL: they do not. */
const char *ds_turns_why(const struct ds_ledger_resident *resident);

#endif
