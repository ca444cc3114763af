/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_WATCH_H
#define DETSHARE_NODERUNTIME_WATCH_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/node_config.h"
#include "common/process.h"
#include "common/spin.h"
#include "noderuntime/advance.h"
#include "noderuntime/allocation.h"
#include "noderuntime/gpu.h"
#include "noderuntime/late.h"
#include "noderuntime/ledger.h"
#include "noderuntime/port.h"
#include "noderuntime/quota.h"
#include "noderuntime/recall.h"
#include "noderuntime/reclaim.h"
#include "noderuntime/squeeze.h"

/*
 * What the runtime of an allocation is made of, for the files that are its rooms: watch (descriptors),
 * follow (the ledger), programs (those that were let in), peers (who connects), runtime (set up, loop,
 * tear down). One thread.
 */
enum { DS_STRAYS_MAX = 32 };

enum { DS_LEDGER_MS = 1000 }; /* other runtimes hold the ledger for microseconds */

/* What epoll watches: every descriptor belongs to one of these. */
enum ds_watch_kind {
	DS_WATCH_SIGNALS,
	DS_WATCH_LEDGER, /* inotify: on the ledger's directory, and on the GPU's device file (strays.h) */
	DS_WATCH_BELL, /* somebody changed the ledger, and it concerns us */
	DS_WATCH_LISTENER,
	DS_WATCH_OWNER,
	DS_WATCH_PATIENCE,
	DS_WATCH_RETRY,
	DS_WATCH_WHOLE,     /* a whole-GPU window, or somebody's wait for one, may be over */
	DS_WATCH_TURN,      /* the end of a turn: turns_follow.h */
	DS_WATCH_LATE,      /* the deadline of a program that does not acknowledge: late_follow.h */
	DS_WATCH_ADVANCE,   /* a neighbour owes us nothing any more: advance_follow.h */
	DS_WATCH_PEER,      /* a connection before its welcome */
	DS_WATCH_PROGRAM,   /* a program's pidfd */
	DS_WATCH_WELCOMED,  /* a program's connection: notices, and so that it notices our death */
	DS_WATCH_STRAYS,    /* timer, armed when somebody has opened it */
	DS_WATCH_MPS,       /* pidfd of the GPU's MPS daemon: mps_care.h */
	DS_WATCH_ERRAND,    /* a child of ours that is out on something that may take long */
	DS_WATCH_NEIGHBOUR, /* pidfd of another runtime, or of a program that has none any more */
};

struct ds_runtime;
struct ds_watch;

/* What is to be done with what an errand brought: `size` bytes, 0 if it failed. See errand.h. */
typedef void (*ds_errand_done)(struct ds_runtime *rt, struct ds_watch *errand, const void *brought,
			       size_t size);

struct ds_watch {
	enum ds_watch_kind kind;
	int fd;
	struct ds_watch *next;
	struct ds_process process; /* PROGRAM, WELCOMED, NEIGHBOUR */
	int port_fd;               /* PROGRAM */
	int book_slot;             /* PROGRAM: in the book of memory */
	int64_t since_ns;          /* PROGRAM: its welcome, CLOCK_BOOTTIME */
	uint32_t unfit;            /* PROGRAM: how often it said what cannot be */
	uint32_t useless;          /* WELCOMED: messages since the last that changed something */
	uint64_t notified_epoch;   /* WELCOMED: what it was told last */
	uint64_t heard_epoch;      /* WELCOMED: what it acknowledged last, of any age */
	struct ds_late late;       /* PROGRAM, NEIGHBOUR: how long it has been awaited */
	bool faulted;              /* PROGRAM: its fault, or its end, was written down */
	bool waits;                /* PEER: said hello, and there were no groups to give */
	bool wanted;               /* NEIGHBOUR: mark while the list is compared */
	pid_t child;               /* ERRAND */
	ds_errand_done done;       /* ERRAND */
	int answer_fd;             /* ERRAND: who waits for it, or -1 */
	int bell_fd;               /* NEIGHBOUR: of a runtime that was rung for once, or -1 */
};

struct ds_runtime {
	const struct ds_node_config *config;
	struct ds_allocation *allocation;
	struct ds_allocation saved; /* as it was when it was written last */
	const struct ds_topology *topology;
	char gpu_dir[PATH_MAX];
	struct ds_ledger *ledger;
	struct ds_recall recall;     /* of what was in it, should it be lost */
	struct ds_ledger_state seen; /* the ledger as of our last look */
	uint64_t followed;           /* the generation that we followed last */
	uint64_t turn_at_ns;         /* what the timer `turn` is set to */
	struct ds_ledger_heralds heralds;
	struct {
		int bells[DS_RESIDENTS_MAX]; /* to be rung for the change that is being made */
		unsigned n;
	} to_ring;
	/* All who are in `seen` live, since we watch them or whoever looks after them. */
	bool all_watched;
	bool has_orphans;  /* among those that we watch, programs that have lost their runtime */
	bool whole_is_set; /* the timer `whole`, at our last look */
	bool unwritten; /* what we made of it could not be written: no program may be told of it */
	struct ds_published page;
	struct ds_quota quota;
	struct ds_policy_id policy; /* whose wishes hold for us */
	struct ds_policy site;      /* the site's own policy, if it has one */
	int64_t idle_ns; /* what our idle words are worth, and since when our drain is shorter, */
	int64_t
	    shorter_ns; /* than what is entered, and how long it was at most since: see wants.c */
	uint32_t shorter_us;
	bool look_again;
	struct ds_squeeze squeeze; /* neighbours have groups of ours in advance, or had of late */
	struct ds_watch *watches;
	unsigned n_peers;
	int epoll;
	int patience; /* timer, armed only while a program waits for groups */
	int retry;    /* timer, armed only while there is a reason to look at the ledger again */
	int whole;    /* timer, armed only while there is or may be a whole-GPU window */
	int turn;     /* timer, armed only while somebody waits for a turn, we or beside us */
	int late; /* timer, armed only while a program of ours keeps what is guaranteed to others */
	int advance_timer;           /* armed only while we have something in advance */
	struct ds_advance advance;   /* what neighbours owe us */
	int64_t advance_ends_ns;     /* what that timer is set to, of CLOCK_MONOTONIC; 0: nothing */
	struct ds_whole_asking said; /* of us, as it was when it was written to the log last */
	int state_fd;
	/* Programs that have ended, and that MPS may still list: off_gpu.h */
	struct {
		struct ds_process process;
		int64_t since_ns; /* CLOCK_BOOTTIME */
	} gone[DS_PROGRAMS_MAX];
	uint32_t n_gone;
	bool gone_asked; /* an errand is out for some of them */
	int inotify; /* that of DS_WATCH_LEDGER: the kernel gives a user few, so each runtime has one */
	int device_wd; /* of the device file in it; 0: it is not watched */
	int strays_timer;
	/* Processes that use the GPU without having come to the port, and were named. */
	struct ds_process strays[DS_STRAYS_MAX];
	uint32_t n_strays;
	int mps;              /* enum ds_mps_answer */
	unsigned mps_starts;  /* in a row */
	char mps_reason[256]; /* why DS_MPS_REFUSE */
	/* What the job's user should know: notes.h. The latest, oldest first. */
	struct {
		int64_t at_ns; /* CLOCK_BOOTTIME */
		bool told;
		char text[DS_PORT_NOTE_SIZE];
	} notes[DS_PORT_NOTES_MAX];
	uint32_t n_notes;
	bool had_fault; /* a program of ours: note_faults.h */
	bool told_of_fault;
	enum ds_reclaim reclaim; /* of us, at our last look, */
	struct ds_spin spin;     /* and for that */
	bool stop;
};

/* Watch `fd`, which is the watch's from then on. NULL: it cannot be, and is still the caller's. */
struct ds_watch *ds_watch_add(struct ds_runtime *rt, enum ds_watch_kind kind, int fd,
			      uint32_t events);

/* The same for one that the runtime cannot do without. Closes it if it cannot be watched. 0 or -1. */
int ds_watch_or_fail(struct ds_runtime *rt, enum ds_watch_kind kind, int fd, const char *what,
		     struct ds_error *err);

/* Have a timer's descriptor wake us at `at_ns`, by the clock that the timer was made with; 0: not at all. */
void ds_watch_at(int timer, uint64_t at_ns);

/* Forget it and close what it holds. */
void ds_unwatch(struct ds_runtime *rt, struct ds_watch *old);

/* The watch of that kind of that process, or NULL. */
struct ds_watch *ds_watch_find(struct ds_runtime *rt, enum ds_watch_kind kind,
			       const struct ds_process *process);

/* To syslog, with the allocation's name. */
void ds_complain(const struct ds_runtime *rt, const struct ds_error *reason);

#endif
