/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_LEDGER_H
#define DETSHARE_NODERUNTIME_LEDGER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/groups.h"
#include "common/process.h"
#include "gres/grant.h"
#include "noderuntime/demand.h"
#include "noderuntime/plan.h"
#include "noderuntime/policy.h"
#include "noderuntime/turns.h"
#include "noderuntime/whole_gpu.h"

/*
 * The ledger: one file per GPU, RUNTIME_DIR/gpu-UUID/ledger, the record of its allocations and
 * partitions, shared by the node runtimes of that GPU. Written only by node runtimes (root, or the
 * user of a runtime directory of his own) under an exclusive lock that dies with its holder. A change
 * is written as a whole into the inactive one of two copies and becomes valid by one atomic store, so
 * kill -9 at any instant leaves the old or the new state, never half of one. Readers need no lock.
 */
enum {
	DS_NAME_SIZE = 32,     /* an allocation's name: "job-123", "run-4567" */
	DS_PROGRAMS_MAX = 256, /* per GPU */
};

struct ds_ledger_resident {
	char name[DS_NAME_SIZE];
	uint32_t job_id; /* 0 outside Slurm */
	uint32_t uid;
	struct ds_grant grant;
	struct ds_process runtime;
	uint64_t arrival;         /* grows with every join: the order of residents */
	uint64_t joined_ns;       /* CLOCK_BOOTTIME */
	struct ds_groups own;     /* its partition: guaranteed to it by the plan */
	struct ds_groups planned; /* where it is to work now: see lend.h */
	struct ds_groups held;    /* what it may use: see ds_ledger_settle */
	uint32_t weight_milli;    /* ds_plan_partition.weight_milli */
	uint32_t memory_mib;      /* quota of GPU memory (quota.h) */
	uint32_t wish_milli;      /* of the policy, 0..1000 */
	uint32_t ended;           /* programs of it that were ended since they were late: late.h */
	uint32_t heeds_steps; /* 1: it is to know when neighbours of kind latency are in a step */
	uint32_t reserved;
	/* Whom it may take groups of, beyond its own, while it is active: bit i is residents[i]. advance.h */
	uint64_t owing;
	struct ds_demand demand; /* what its runtime knows of its programs */
	struct ds_whole_asking whole;
	struct ds_turn turn; /* of one with less than a group: turns.h */
	struct ds_policy_id policy;
};

/*
 * A program of a resident that was welcomed, and the groups it may still be running on. The entry
 * comes first, the program second: it is made, out of the resident's `held`, in the same change in
 * which the runtime decides to welcome, and gains a group before the program may run there. It
 * outlives its resident and loses a group only when the program acknowledged or is gone.
 */
struct ds_ledger_program {
	char resident[DS_NAME_SIZE];
	struct ds_process process;
	struct ds_groups groups;
	/* 1: it is suspended, has nothing on the GPU and begins nothing; its groups stay its own. */
	uint32_t quiet;
	/* CLOCK_BOOTTIME: since when it is late, of one whose deadline to leave has come; else 0. */
	uint32_t late_s;
	uint32_t
	    stays; /* enum ds_stays: of one with less than a group, for what it is not waited for */
	uint32_t long_s; /* CLOCK_BOOTTIME: with DS_STAYS_LONG */
};

/*
 * Lies in a file that everybody may read. So it has no padding, here and in what it holds: padding would
 * be copied from the stack of whoever wrote it.
 */
struct ds_ledger_state {
	char gpu_uuid[48];
	struct ds_gpu_shape shape;
	/* 1: made anew, and allocations that live are not in it yet: nobody gains a group. */
	uint32_t incomplete;
	uint64_t generation; /* changes so far */
	uint64_t next_arrival;
	struct ds_whole_window whole;
	uint32_t n_residents;
	uint32_t n_programs;
	struct ds_ledger_resident residents[DS_RESIDENTS_MAX]; /* in order of arrival */
	struct ds_ledger_program programs[DS_PROGRAMS_MAX];
};

struct ds_ledger; /* an open ledger */

/*
 * Open (create if absent) the ledger in `gpu_dir`. A file of another version, another GPU, another
 * boot or with a broken checksum is set aside as ledger.broken and a new one made; `err` then holds a
 * note although 0 is returned (empty text: nothing to say). The file's room is reserved here, so that
 * no later change fails for want of space. A new one gets its name when it is whole, so nobody reads half of
 * one. Returns 0 or -1. One thread at a time per open ledger; it may be used on both sides of a fork.
 */
int ds_ledger_open(const char *gpu_dir, const char *gpu_uuid, const struct ds_gpu_shape *shape,
		   struct ds_ledger **ledger, struct ds_error *err);

/*
 * What is known of a ledger whose file was lost: removed, cut, or written over by somebody else. `recall` is
 * given the empty state of a new one and fills in what was in the last, `incomplete` and its generation
 * included; or leaves it as it is. 0, or -1 with a reason. It runs with the ledger locked.
 */
struct ds_ledger_past {
	int (*recall)(void *arg, struct ds_ledger_state *state, struct ds_error *err);
	void *arg;
};

/*
 * As ds_ledger_open(), for whoever knows the past: a ledger that is made, now or later, is made from it, and
 * so ds_ledger_change(), too, sets aside a file that somebody else wrote to. `past` must outlive the ledger.
 */
int ds_ledger_open_with(const char *gpu_dir, const char *gpu_uuid, const struct ds_gpu_shape *shape,
			const struct ds_ledger_past *past, struct ds_ledger **ledger,
			struct ds_error *err);

/*
 * From now on each change that is made through `ledger` is first written to a copy, DIR/ledger, which
 * ds_ledger_read(DIR) reads. So the latest change is kept by whoever made it. Its room is reserved here.
 * Returns 0, or -1 with a reason.
 */
int ds_ledger_keep_copy(struct ds_ledger *ledger, const char *dir, struct ds_error *err);

/* NULL is fine. */
void ds_ledger_close(struct ds_ledger *ledger);

/*
 * A whole copy of the newest valid state of `gpu_dir`, without a lock and without write permission.
 * Returns 0, or -1 (errno ENOENT: no such ledger, or one of an earlier boot; ENODATA: it was emptied);
 * `err` has a text only then. Thread-safe.
 */
int ds_ledger_read(const char *gpu_dir, struct ds_ledger_state *state, struct ds_error *err);

/*
 * Lock, hand the current state to `change`, and commit what it made of it if it returned 0 (anything
 * else leaves the ledger as it was and is returned). Waits for the lock at most `timeout_ms`; -1 with
 * errno ETIMEDOUT when that was not enough. A state left as it was costs nothing and wakes nobody.
 * `change` must not block nor fork. Whoever watches the ledger file with inotify learns of the change:
 * IN_MODIFY comes with every one, since all writing is by pwrite, and IN_ATTRIB when all is written, unless
 * ds_ledger_tell_by() says that who has to know is told otherwise. A ledger that was set aside and made anew
 * meanwhile is found by itself: `change` then sees the new one. If the file is found to be removed, before
 * `change` or after it, that is called again with the next one.
 */
int ds_ledger_change(struct ds_ledger *ledger, unsigned timeout_ms,
		     int (*change)(struct ds_ledger_state *state, void *arg, struct ds_error *err),
		     void *arg, struct ds_error *err);

/*
 * Who is to be told of changes that are made through `ledger`, so that only those wake whom it concerns.
 * `decide` is called with the ledger locked, before a change is written: true if `tell`, which is called when
 * the lock is gone again, tells all whom it concerns; false, or without heralds, all who watch the file are
 * told. `heralds` must outlive the ledger.
 */
struct ds_ledger_heralds {
	bool (*decide)(const struct ds_ledger_state *before, const struct ds_ledger_state *after,
		       void *arg);
	void (*tell)(void *arg);
	void *arg;
};
void ds_ledger_tell_by(struct ds_ledger *ledger, const struct ds_ledger_heralds *heralds);

/*
 * The next change reads all of the file and judges it anew. Otherwise it does only if that has another
 * generation than our last change left or found, or another header.
 */
void ds_ledger_doubt(struct ds_ledger *ledger);

/*
 * The generation that the last change left or found, and the one that is in the file now, looked up
 * without a lock (-1: it cannot be, or the file was cut). A file that was set aside has another one's place: see inotify.
 */
uint64_t ds_ledger_generation(const struct ds_ledger *ledger);

/*
 * The state that is in the file now, if it is a newer one than the last change left or found, and can be read at
 * once, without the lock that somebody may have. NULL if not. It is valid until the next call, and old as soon as
 * somebody makes the next change.
 */
const struct ds_ledger_state *ds_ledger_glance(struct ds_ledger *ledger);
int ds_ledger_peek(const struct ds_ledger *ledger, uint64_t *generation);

/* Copy what is in use; a state is mostly empty. */
void ds_ledger_copy(struct ds_ledger_state *to, const struct ds_ledger_state *from);

/* True if nothing that is in use differs. Pure. */
bool ds_ledger_same(const struct ds_ledger_state *a, const struct ds_ledger_state *b);

/* 1 if the process, a program or a runtime of that state, may still use the GPU; 0 if not. */
typedef int ds_ledger_judge(const struct ds_ledger_state *state, const struct ds_process *process,
			    void *arg);

/*
 * The pure part: recompute own, planned, held, weight and wish of every resident by plan.h and lend.h,
 * after removing what is dead according to `alive`, which is called with `arg`. A program is removed
 * when it is dead, a resident when its runtime is dead and no program of it is left. Wishes are those of
 * the policy of the earliest resident: a built-in one, or `site` if it is that; else they stay
 * what they were, since another runtime asks it. A group comes to be held by a
 * resident only when planned for it and not possibly still used by a program of another one, present
 * or gone; what it held already and is still planned stays, as long as no program of another one is there
 * but those of the owner of a window; what is no longer planned goes at once,
 * though its programs may still be there, except that one with programs is never left without a full
 * group. Residents with less than a group do not wait for each other to hold what is their own: who of them may use
 * it when is for ds_turns_step() to say, which is next; and of
 * two others that are in each other's place, each gets the one that it is in.
 * The owner of an open whole-GPU window (whole_gpu.h) holds all groups, and when that is over what is
 * planned for it again. One of kind besteffort for which nothing is planned is suspended: it holds
 * nothing, its programs end what they are at, and no floor is kept for it. In a ledger that is incomplete
 * nobody comes to hold a group that neither it held nor its programs are on.
 * Returns 0, or -1 with a reason: the shares do not fit.
 */
int ds_ledger_settle(struct ds_ledger_state *state, ds_ledger_judge *alive, void *arg,
		     struct ds_policy *site, struct ds_error *err);

/*
 * The judgement of a runtime or of who ends one: what has ended may run on until MPS lets go of it, and the
 * runtime that looks after it removes it then. So a program counts as long as its runtime `lives`, unless
 * that is the one of `ours`; else, and a runtime, as long as it lives itself. Pure, but for `lives`.
 */
int ds_ledger_may_use_gpu(const struct ds_ledger_state *state, const struct ds_process *process,
			  const char *ours, ds_ledger_judge *lives, void *arg);

/* More pure parts, for use in `change`. Pointers returned live until the next join or leave. */

/* The resident of that name, or NULL. */
struct ds_ledger_resident *ds_ledger_find(struct ds_ledger_state *state, const char *name);

/*
 * Whether its programs may begin nothing now: for somebody's window, or since nothing is planned for it, or while it
 * is another one's turn.
 */
bool ds_ledger_is_suspended(const struct ds_ledger_state *state,
			    const struct ds_ledger_resident *resident);

/*
 * Add `resident` as the last to arrive; its arrival, groups, weight and wish are set here, the
 * partition by the next ds_ledger_settle. Returns 0, or -1: the name is there already, no room, or
 * its share does not fit beside the others'.
 */
int ds_ledger_join(struct ds_ledger_state *state, const struct ds_ledger_resident *resident,
		   struct ds_error *err);

/*
 * Remove the resident of that name; its programs stay until they are dead, since they may still run
 * on its groups. Returns 1, or 0 if there was none.
 */
int ds_ledger_leave(struct ds_ledger_state *state, const char *name);

/* Whether a program of the resident of that name is there, which may itself be gone. */
bool ds_ledger_has_programs(const struct ds_ledger_state *state, const char *name);

/* The program that is this process, or NULL. */
struct ds_ledger_program *ds_ledger_find_program(struct ds_ledger_state *state,
						 const struct ds_process *process);

/*
 * Note that `process`, of the resident of that name, may run on `groups` from now on (and on those it
 * had before, if it is known already). Returns 0, or -1: no such resident, a group that the resident
 * does not hold, or no room.
 */
int ds_ledger_add_program(struct ds_ledger_state *state, const char *resident,
			  const struct ds_process *process, const struct ds_groups *groups,
			  struct ds_error *err);

/*
 * The program has acknowledged that its work is on `in_use`, and will begin only there or on
 * `granted`, what its page grants. It gains nothing by that. True if it lost a group.
 */
bool ds_ledger_shrink_program(struct ds_ledger_program *program, const struct ds_groups *in_use,
			      const struct ds_groups *granted);

/* Whether less than a group is guaranteed to it: it shares one in time with others, unless there is room. */
bool ds_ledger_is_small(const struct ds_ledger_state *state,
			const struct ds_ledger_resident *resident);

/* True if the policy of this GPU, which is that of its earliest resident, may lend anything. */
bool ds_ledger_is_lending(const struct ds_ledger_state *state);

/* May its groups be lent while it is idle, and may it have groups beyond its own? */
bool ds_ledger_lends(const struct ds_ledger_resident *resident);
bool ds_ledger_borrows(const struct ds_ledger_resident *resident);

/* Returns 1, or 0 if there was none. */
int ds_ledger_remove_program(struct ds_ledger_state *state, const struct ds_process *process);

#endif
