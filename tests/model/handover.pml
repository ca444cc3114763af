/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How SM groups change hands, for spin (tests/model/check runs it): two allocations on a GPU of three
 * groups, with their node runtimes, programs of several processes and threads, and everything that
 * may die or stop at any instant. Each step stands for the C that it names.
 *
 * Invariants: no group ever has work of two allocations (Launcher); and when nothing more can
 * happen, everybody has what is planned for it, unless a program that is stopped for good, or whose
 * runtime is dead, has not acknowledged (Checker). The checker also finds every deadlock in between.
 *
 * Left out: the page's copy in halves, which readers repeat (test_port.c); and what a GPU still does for a process after that is gone,
 * which is nothing here.
 *
 * FAULT names a mistake that the checker must find, so that we know that it can:
 *   1 acknowledge before what is on the old groups is drained
 *   2 acknowledge without waiting for threads that are about to launch
 *   3 no fence: a thread's mark may be seen after it has read where to launch
 *   4 grant a group on the page before the ledger knows the programs to be on it
 *   5 tell programs before the page is written
 *   6 leave an acknowledgement for the next look at the ledger
 *   7 open a window before the others are quiet
 *   8 acknowledge a suspension without shutting the gate
 *   9 let the others go on before the window's owner has left their groups
 *  10 forget to tell when a launch on the whole GPU is over
 *  11 look at the gate before the mark is there
 *  12 keep the word of a program that it is quiet when it may begin again
 *  13 go on at once, suspended, when the runtime is gone
 *  14 tell nobody that others may be on a group no more
 *  15 do not look when a neighbour's runtime has died, which may have told nobody of its last change
 *  16 never wait for an acknowledgement
 *  17 grant at a glance what the ledger does not know the programs to be on, entered by nobody else
 *  18 have one's turn before the other one has left the group
 *  19 tell nobody whose turn it is
 *
 * With WINDOWS, both allocations run from the start, and programs of the first one (1) or of both (2)
 * ask for the GPU as a whole (whole_gpu.c). A window's deadline may pass once, at any time, and with an
 * owner that is stopped always. Patience with
 * one that cannot stop is over at any time, and never with others: what is modelled is that they do.
 * A program that is suspended when its runtime dies stays so for a time in which the window's owner leaves,
 * or is known to be dead: what is modelled is that it does.
 *
 * With TURNS, both have less than a group, hold the middle one, and take turns in it (turns_step.c), which are
 * suspensions, too. A turn ends by the clock at any time, so often; and always when who has it has nothing to do.
 * Where a runtime is dead nobody waits for its programs: then both may be in the group. That one who does not leave
 * is waited for no longer than patience lasts is left out: what is modelled is that all leave who are not stopped.
 */
#ifndef FAULT
#define FAULT 0
#endif
#ifndef PROCESSES /* of the first allocation; the second has one */
#define PROCESSES 1
#endif
#ifndef THREADS /* that launch, in every process */
#define THREADS 1
#endif
#ifndef LAUNCHES /* of every thread */
#define LAUNCHES 1
#endif
#ifndef LESS /* who asks for the whole GPU launches nothing else */
#define LESS 0
#endif
#ifndef EVENTS /* kills, stops, leaves */
#define EVENTS 1
#endif
#ifndef WINDOWS /* allocations whose programs ask for the whole GPU, once for every thread */
#define WINDOWS 0
#endif
#ifndef TURNS /* times that one's turn in the group that both share may end while the other one waits */
#define TURNS 0
#endif
#define SUSPENSION (WINDOWS || TURNS)
#ifndef DEADLINES /* of windows, that pass at any time */
#define DEADLINES 1
#endif
#ifndef PLANS /* times that the plan changes beside that */
#define PLANS 0
#endif

#define P	 (PROCESSES + 1)
#define OWNER(p) ((p) / PROCESSES)
#define T	 (P * THREADS)
#define PROC(t)	 ((t) / THREADS)

#define FIRST  1 /* the groups: the first allocation's, */
#define MIDDLE 2 /* now one's, now the other's, */
#define LAST   4 /* and the second one's */
#define ALL    7

/* The ledger: ledger.h. What is in one d_step below is under its lock and committed as a whole. */
bit present[2];	       /* ds_ledger_state.residents */
byte planned[2];       /* ds_ledger_resident.planned */
byte held[2];	       /* ds_ledger_resident.held */
bit listed[P];	       /* ds_ledger_state.programs */
byte may_be_on[P];     /* ds_ledger_program.groups */
bit middle_is_seconds; /* what makes the plan change: residents that are not modelled */
bit changed[2];	       /* WATCH_LEDGER, WATCH_BELL: somebody has something to tell; WATCH_NEIGHBOUR: or is dead */

/* port_protocol.h */
byte epoch[2], granted[2]; /* struct ds_page; the epoch by ones */
bit unawaited[2];
byte acknowledged[P];	   /* struct ds_port: acknowledged_epoch */
byte in_use[P];		   /* struct ds_port: in_use */
bit hello[P], welcomed[P]; /* the connection: said and not answered; answered */
bit notice[P], said[P];	   /* the connection: unread notices, one way and the other */

#if SUSPENSION
/* The window: struct ds_whole_window, ds_whole_asking, ds_ledger_program.quiet */
mtype = {NONE, GATHERING, OPEN, RETURNING};
mtype phase = NONE;
bit window_of;	     /* its owner */
bit asking[2];	     /* ds_whole_asking.asked_ns */
bit first;	     /* who asked first, if both do */
bit opened[2];
bit quiet[P];
bit wanted[P];	     /* struct ds_port: whole_wanted */
bit suspended[2];    /* struct ds_page: DS_PAGE_SUSPENDED */
bit shut[P];	     /* suspend.c: the gate */
byte own[P];	     /* granted last, and not as a window */
bit alone[P];	     /* it knows that its runtime is dead */
bit deadline_passed = !DEADLINES; /* of a window: once is enough */
#if TURNS
/* struct ds_turn, and in struct ds_demand: active */
bit turn_of;	     /* DS_TURN_HAS */
bit works[2];
bit busy[P];	     /* struct ds_port: demand */
byte turns = TURNS;  /* that may end by the clock */
/* ds_turns_wait_for(): programs of the dead are not waited for, DS_STAYS_ORPHAN */
#define IN_THE_WAY(r, p) (listed[p] && OWNER(p) != (r) && !quiet[p] && (may_be_on[p] & held[r]) && runtime_lives[1 - (r)])
#if FAULT == 18
#define AWAITS(r) 0
#else
#define AWAITS(r) (IN_THE_WAY(r, 0) || IN_THE_WAY(r, P - 1) || IN_THE_WAY(r, P - 2))
#endif
/* why_beside(): one of them cannot be told to stop */
#define BESIDE (ORPHANS_OF(0) || ORPHANS_OF(1))
/* ds_turns_suspend() */
#define SUSPENDS(r) (!BESIDE && ((present[0] && present[1] && turn_of != (r)) || AWAITS(r)))
#define IS_PLAIN    0 /* who shares in time neither lends nor borrows */
#else
#define SUSPENDS(r) (phase != NONE && window_of != (r))
#define IS_PLAIN    (phase == NONE)
#endif
#else
#define SUSPENDS(r) 0
#define IS_PLAIN    1
#endif

/* Processes */
bit runtime_lives[2], lives[P], stopped[P];
#define UP(p) (lives[p] && !stopped[p])

/* The coroutine library of each process */
bit ready[P];	/* it may launch */
byte target[P]; /* where new work goes: ds_remap_target() */
bit marked[T];	/* mark.h: between ds_mark_begin() and ds_mark_end() */
bit noted[T];	/* ds_marks_note(), and not ended since */

#if THREADS == 1
#define NONE_NOTED(p)  (!noted[p])
#define NONE_MARKED(p) (!marked[p])
#else
#define NONE_NOTED(p)  (!noted[2 * (p)] && !noted[2 * (p) + 1])
#define NONE_MARKED(p) (!marked[2 * (p)] && !marked[2 * (p) + 1])
#endif

/* The GPU: groups on which a process has work. */
byte work[P];

#if PROCESSES == 1
#define ANY(r, what) (r == 0 -> what(0) : what(1))
#else
#define ANY(r, what) (r == 0 -> what(0) || what(1) : what(2))
#endif
#define IS_LISTED(p)	(listed[p])
#define HAS_PROGRAMS(r) ANY(r, IS_LISTED)
/* pidfds stay readable: WATCH_PROGRAM, and WATCH_NEIGHBOUR with ds_neighbours_watch()'s second look */
#define IS_DEAD(p)	     (listed[p] && !lives[p])
#define PROGRAM_DEAD(r)	     ANY(r, IS_DEAD)
#define NEIGHBOUR_DEAD(r)                                                                             \
	(present[1 - r] && !runtime_lives[1 - r] && (!HAS_PROGRAMS(1 - r) || PROGRAM_DEAD(1 - r)))
#define SAYS(p)	     (said[p])
#define SAYS_HELLO(p) (hello[p] && lives[p])

/* ---- the ledger's rules: settle.c, plan.c ---- */

inline remove_program(p)
{
	listed[p] = 0;
	may_be_on[p] = 0
}

/* remove_dead() in settle.c */
inline remove_dead()
{
	for (i : 0 .. P - 1) {
		if
		:: listed[i] && !lives[i] -> remove_program(i)
		:: else
		fi
	}
	for (i : 0 .. 1) {
		k = 0;
		for (j : 0 .. P - 1) {
			k = k | (listed[j] && OWNER(j) == i)
		}
		if
		:: present[i] && !runtime_lives[i] && !k ->
			present[i] = 0;
			planned[i] = 0;
			held[i] = 0
		:: else
		fi
	}
}

/* ds_plan(): stable, so that only the middle group and those of who is not there move */
inline plan()
{
#if TURNS
	planned[0] = (present[0] -> MIDDLE : 0);
	planned[1] = (present[1] -> MIDDLE : 0)
#else
	planned[0] = (present[0] -> (present[1] -> (middle_is_seconds -> FIRST : FIRST | MIDDLE) : ALL) : 0);
	planned[1] = (present[1] -> (present[0] -> (middle_is_seconds -> LAST | MIDDLE : LAST) : ALL) : 0)
#endif
}

#if SUSPENSION
/* others_are_quiet() */
#define UNQUIET(p)    (listed[p] && OWNER(p) != window_of && !quiet[p])
#if FAULT == 7
#define OTHERS_QUIET 1
#else
#define OTHERS_QUIET (!UNQUIET(0) && !UNQUIET(P - 1) && !UNQUIET(P - 2))
#endif
/* is_given_back() */
#define OUTSIDE(p)    (listed[p] && OWNER(p) == window_of && (may_be_on[p] & ~held[window_of]))
#if FAULT == 9
#define GIVEN_BACK 1
#else
#define GIVEN_BACK (!OUTSIDE(0) && !OUTSIDE(P - 1) && !OUTSIDE(P - 2))
#endif
#define ASKS_ALIVE(r) (asking[r] && present[r] && runtime_lives[r])
/* somebody_cannot_stop(), of those without a runtime */
#define ORPHANS_OF(r) (HAS_PROGRAMS(r) && (!runtime_lives[r] || !present[r]))
/* take_from_orphans(), when all that they had there is over */
#define IS_OVER(p)    (OWNER(p) != window_of || !lives[p] || (alone[p] && !(work[p] & ~held[window_of]) && NONE_MARKED(p)))

/* ds_whole_step() */
inline window_step()
{
	for (i : 0 .. P - 1) {
		quiet[i] = quiet[i] && listed[i] && runtime_lives[OWNER(i)] && present[OWNER(i)]
	}
	k = phase == NONE; /* the others have their turn first: not_before_ns */
	if
	:: phase == GATHERING && (!ASKS_ALIVE(window_of) || ORPHANS_OF(1 - window_of)) -> phase = NONE
	:: phase == OPEN && (!ASKS_ALIVE(window_of) || !OTHERS_QUIET) -> phase = RETURNING
	:: phase == RETURNING && !opened[window_of] ->
		if
		:: present[window_of] && !runtime_lives[window_of] && IS_OVER(0) && IS_OVER(P - 1) && IS_OVER(P - 2) ->
			for (i : 0 .. P - 1) {
				may_be_on[i] = (OWNER(i) == window_of -> may_be_on[i] & held[window_of] : may_be_on[i])
			}
		:: else
		fi;
		if
		:: GIVEN_BACK -> phase = NONE
		:: else
		fi
	:: else
	fi;
	if
	:: k && ASKS_ALIVE(0) && !ORPHANS_OF(1) && (!ASKS_ALIVE(1) || !first) ->
		phase = GATHERING;
		window_of = 0
	:: k && ASKS_ALIVE(1) && !ORPHANS_OF(0) && (!ASKS_ALIVE(0) || first) ->
		phase = GATHERING;
		window_of = 1
	:: else
	fi;
	if
	:: phase == GATHERING && OTHERS_QUIET ->
		phase = OPEN;
		opened[window_of] = 1
	:: else
	fi;
	i = 0
}
#endif

/* ds_ledger_settle(), with used_by_others() and keep_floor() */
inline settle()
{
	remove_dead();
#if SUSPENSION
#if !TURNS
	window_step();
#else
	for (i : 0 .. P - 1) {
		quiet[i] = quiet[i] && listed[i] && runtime_lives[OWNER(i)] && present[OWNER(i)]
	}
	i = 0;
#endif
#endif
	plan();
	for (i : 0 .. 1) {
		k = 0;
		for (j : 0 .. P - 1) {
			k = k | (listed[j] && OWNER(j) != i && !TURNS -> may_be_on[j] : 0)
		}
		j = held[i];
#if SUSPENSION
		j = (opened[i] && !(phase == OPEN && window_of == i) -> 0 : j);
		opened[i] = opened[i] && phase == OPEN && window_of == i;
#endif
#if SUSPENSION
		held[i] = planned[i] & ~(k & ~((phase == OPEN || phase == RETURNING) && window_of != i -> j : 0));
		held[i] = (opened[i] && present[i] -> ALL : held[i]);
#else
		held[i] = planned[i] & ~k;
#endif
		k = 0;
		if
		:: present[i] && !held[i] ->
			/* keep_floor() */
			held[i] = j;
			for (j : 0 .. P - 1) {
				k = k | (listed[j] && OWNER(j) == i -> may_be_on[j] : 0)
			}
			held[i] = held[i] & k;
			held[i] = (held[i] & FIRST -> FIRST : (held[i] & MIDDLE -> MIDDLE : held[i]))
		:: else
		fi
	}
#if TURNS
	/* ds_turns_step(): choose() */
	turn_of = ((!works[turn_of] || !present[turn_of]) && works[1 - turn_of] && present[1 - turn_of] -> 1 - turn_of : turn_of);
#endif
	i = 0;
	j = 0;
	k = 0
}

/*
 * What the other one is told of, as concern.c has it: everything about a window or about who is there, and what
 * is its own or held by it. Our own event would only have us look once more.
 */
#if SUSPENSION
#if TURNS
/* ds_concerns(): whether it is suspended, and whether the other one waits beside it */
#define OF_TURN(r) (SUSPENDS(r) * 2 + (works[1 - (r)] && turn_of == (r)))
#define OF_WINDOW 0
#else
#define OF_TURN(r) 0
#define OF_WINDOW ((phase == NONE -> 0 : phase) * 16 + window_of * 8 + asking[0] * 4 + asking[1] * 2 + first)
#endif
#define QUIET	  (quiet[0] + quiet[P - 1] * 2 + quiet[P - 2] * 4)
#define OF_QUIET(p) quiet[p]
#define IS_OPEN_FOR(r) opened[r]
#else
#define OF_TURN(r) 0
#define OF_WINDOW 0
#define QUIET	  0
#define OF_QUIET(p) 0
#define IS_OPEN_FOR(r) 0
#endif
#define FINGERPRINT(r)                                                                                \
	((((present[0] * 2 + present[1]) * 8 + (FAULT == 14 -> 0 : held[r])) * 64) + planned[0] * 8 + planned[1] + \
	 (TURNS -> (FAULT == 19 -> 0 : OF_TURN(r)) : OF_WINDOW * 8 + QUIET) * 2048)

/* ds_note_acknowledged() in follow.c: ds_port_understand(), then ds_ledger_shrink_program() */
#define ACKNOWLEDGED(r, p) (listed[p] && acknowledged[p] == epoch[r])
#if SUSPENSION
#define TAKES(r, p) (!suspended[r] && (may_be_on[p] & ~(in_use[p] | granted[r])))
#define STOPS(r, p) (suspended[r] && !in_use[p] && !quiet[p]) /* ds_whole_note_quiet() */
#define ANY_WANTED(r) ANY(r, IS_WANTED)
#define IS_WANTED(p) (listed[p] && lives[p] && wanted[p]) /* its pidfd tells before its port */
#define NEWS(r, p) \
	((ACKNOWLEDGED(r, p) && (TAKES(r, p) || STOPS(r, p))) || (asking[r] != ANY_WANTED(r)) || DEMANDS(r))
#if TURNS
#define IS_BUSY(p) (listed[p] && lives[p] && busy[p])
#define DEMANDS(r) (works[r] != ANY(r, IS_BUSY)) /* ds_wants_differ() */
#else
#define DEMANDS(r) 0
#endif
#else
#define TAKES(r, p) (may_be_on[p] & ~(in_use[p] | granted[r]))
#define NEWS(r, p)  (ACKNOWLEDGED(r, p) && TAKES(r, p))
#endif

/* ds_follow_settle(), under the lock, and what change_settle() and change_admit() commit of it */
inline look(r)
{
	before = FINGERPRINT(1 - r);
	differs = 0;
	for (p : 0 .. P - 1) {
		if
		:: OWNER(p) == r && ACKNOWLEDGED(r, p) && TAKES(r, p) ->
			may_be_on[p] = may_be_on[p] & (in_use[p] | granted[r]);
			differs = OF_WINDOW >= 16
#if SUSPENSION
		:: OWNER(p) == r && ACKNOWLEDGED(r, p) && STOPS(r, p) -> quiet[p] = 1
#endif
		:: else
		fi
	}
#if SUSPENSION
	/* ds_whole_enter() */
	first = (asking[1 - r] -> first : r);
	first = (!asking[r] && asking[1 - r] -> 1 - r : first);
	asking[r] = ANY_WANTED(r);
#endif
#if TURNS
	works[r] = ANY(r, IS_BUSY)
#endif
	for (p : 0 .. P - 1) {
		differs = differs | (listed[p] && !lives[p])
	}
	settle();
#if SUSPENSION
	if
	:: phase == RETURNING -> settle()
	:: else
	fi;
#endif
#if SUSPENSION && FAULT != 12
	for (p : 0 .. P - 1) {
		quiet[p] = quiet[p] && (OWNER(p) != r || SUSPENDS(r))
	}
#endif
	for (p : 0 .. P - 1) {
		if
#if FAULT != 4
		:: OWNER(p) == r && listed[p] && (held[r] & ~may_be_on[p]) && !(TURNS && SUSPENDS(r)) ->
			may_be_on[p] = may_be_on[p] | held[r];
			differs = differs | (OF_WINDOW >= 16)
		/* enter_neighbours() */
		:: OWNER(p) != r && listed[p] && present[1 - r] && runtime_lives[1 - r] && IS_PLAIN && FAULT != 17 ->
			may_be_on[p] = may_be_on[p] | held[1 - r]
#endif
		:: else
		fi
	}
	p = 0;
	seen = (SUSPENDS(r) -> 0 : held[r]);
#if SUSPENSION
	stop = SUSPENDS(r);
#endif
	rings = differs | (before != FINGERPRINT(1 - r));
	/* are_within() */
	calm = !SUSPENDS(r) && !IS_OPEN_FOR(r);
	for (p : 0 .. P - 1) {
		calm = calm && !(OWNER(p) == r && listed[p] && (OF_QUIET(p) || (may_be_on[p] & ~held[r])))
	}
	p = 0;
	before = 0;
	differs = 0
}

/* ds_bell_ring(), or all who watch the file: when the ledger has the change, and whoever made it may be dead */
inline tell(r)
{
	d_step {
		changed[1 - r] = changed[1 - r] | rings;
		rings = 0
	}
}

/*
 * ds_publish(): ds_page_publish(), then notify_programs(). A socket that is full has notices
 * waiting already, which is the same.
 */
#if SUSPENSION
#define STOP	   stop
#define DIFFERS(r) (granted[r] != seen || suspended[r] != stop || (unawaited[r] && !calm))
#else
#define STOP	   0
#define DIFFERS(r) (granted[r] != seen || (unawaited[r] && !calm))
#endif
inline publish(r)
{
#if FAULT == 5
	d_step {
		for (p : 0 .. P - 1) {
			notice[p] = notice[p] | (OWNER(p) == r && welcomed[p] && DIFFERS(r))
		}
		p = 0
	}
#endif
	d_step {
		if
		:: DIFFERS(r) && (seen || !HAS_PROGRAMS(r) || STOP) ->
			granted[r] = seen;
			unawaited[r] = calm || FAULT == 16;
#if SUSPENSION
			suspended[r] = stop;
#endif
			epoch[r]++;
#if FAULT != 5
			for (p : 0 .. P - 1) {
				notice[p] = notice[p] | (OWNER(p) == r && welcomed[p])
			}
			p = 0
#endif
		:: else
		fi;
		seen = 0;
		calm = 0
	}
}

#if SUSPENSION
#define IS_QUIET(p) (quiet[p])
#define CANNOT(p)   (UNQUIET(p) && (stopped[p] || !runtime_lives[OWNER(p)]))
#define CANNOT_STOP (CANNOT(0) || CANNOT(P - 1) || CANNOT(P - 2))
#endif

#if SUSPENSION
#define IS_STOPPED(r) suspended[r]
#define CLEAR_STOP    stop = 0
#else
#define IS_STOPPED(r) 0
#define CLEAR_STOP    skip
#endif
#define UNENTERED(r, p) (OWNER(p) == r && listed[p] && (OF_QUIET(p) || (FAULT != 17 && (held[r] & ~may_be_on[p]))))
#define BEYOND(r, p)	(OWNER(p) == r && listed[p] && (may_be_on[p] & ~held[r]))

proctype Runtime(bit r)
{
	byte i, j, k, p, seen;
	int before;
	bit differs, rings, calm, waits;
#if SUSPENSION
	bit stop;
#endif

	{
		/* set_up() in runtime.c: ds_follow_join(), then ds_follow() */
		if
		:: !present[r] ->
			d_step {
				present[r] = 1;
				look(r)
			}
			tell(r);
			publish(r)
		:: else
		fi;
		do
		:: changed[r] || PROGRAM_DEAD(r) || NEIGHBOUR_DEAD(r) ->
follow:			/* follow(); its events are read before the ledger is */
			skip;
			/* ds_glance(): without the lock, and nothing is written */
			if
			:: d_step {
				changed[r] && IS_PLAIN && present[r] && !UNENTERED(r, 0) && !UNENTERED(r, P - 1) &&
					!UNENTERED(r, P - 2) && !IS_STOPPED(r) && !IS_OPEN_FOR(r) && held[r] != granted[r] ->
				seen = held[r];
				calm = !BEYOND(r, 0) && !BEYOND(r, P - 1) && !BEYOND(r, P - 2);
				CLEAR_STOP
			   }
			   publish(r)
			:: else
			fi;
			d_step {
				changed[r] = 0;
				look(r)
			}
			tell(r);
			publish(r);
			/* ds_greet_waiting() */
			if
			:: held[r] && ANY(r, SAYS_HELLO) -> goto greet
			:: else
			fi
		:: ANY(r, SAYS) ->
			/* ds_program_said(), has_news() */
			d_step {
				for (p : 0 .. P - 1) {
					if
					:: OWNER(p) == r && said[p] ->
						said[p] = 0;
						differs = differs | NEWS(r, p)
					:: else
					fi
				}
				p = 0
			}
			if
#if FAULT != 6
			:: differs -> differs = 0; goto follow
#endif
			:: else -> differs = 0
			fi
		:: !waits && ANY(r, SAYS_HELLO) && !held[r] -> waits = 1 /* let_wait(): until it follows */
		:: !waits && ANY(r, SAYS_HELLO) && held[r] ->
greet:			/* admit(): change_admit(), publish(), then take_on() and ds_port_welcome() */
			skip;
			d_step {
				waits = 0;
				look(r);
				for (p : 0 .. P - 1) {
					if
					:: OWNER(p) == r && hello[p] && lives[p] && held[r] ->
						listed[p] = 1;
						may_be_on[p] = held[r];
						rings = 1
					:: else
					fi
				}
				p = 0
			}
			tell(r);
			publish(r);
			d_step {
				for (p : 0 .. P - 1) {
					if
					:: OWNER(p) == r && hello[p] && listed[p] ->
						hello[p] = 0;
						welcomed[p] = 1
					:: else
					fi
				}
				p = 0
			}
#if SUSPENSION
#if TURNS
		:: turns && present[0] && present[1] && works[0] && works[1] && (turn_of == r) ->
			/* ds_turns_over(): the timer */
			d_step {
				turns--;
				turn_of = 1 - turn_of;
				changed[1 - r] = 1
			}
			goto follow
#endif
		:: phase == OPEN && window_of == r && (!deadline_passed || stopped[r]) ->
			/* the deadline of a window */
			d_step {
				deadline_passed = 1;
				phase = RETURNING;
				changed[1 - r] = 1
			}
			goto follow
		:: (phase == GATHERING || phase == OPEN) && !runtime_lives[1 - r] &&
		   (window_of != r || ANY(1 - r, IS_QUIET)) -> goto follow /* WATCH_NEIGHBOUR */
		:: phase == NONE && asking[r] && !ORPHANS_OF(1 - r) -> goto follow /* WATCH_WHOLE: it is its turn */
		:: (phase == GATHERING && window_of == r && CANNOT_STOP) ||
		   (phase == NONE && asking[r] && ORPHANS_OF(1 - r)) ->
			/* patience is over: bar(), and the library gives up */
			d_step {
				wanted[r] = 0;
				wanted[P - 1] = (r == 1 -> 0 : wanted[P - 1]);
				phase = NONE;
				changed[1 - r] = 1
			}
			goto follow
		:: phase == RETURNING && !opened[window_of] && window_of != r && !runtime_lives[window_of] &&
		   IS_OVER(0) && IS_OVER(P - 1) && IS_OVER(P - 2) -> goto follow
#endif
		od
	} unless {
		!runtime_lives[r]
	}
}

/* session.c, then the library's thread: acknowledger.c. What is in one step, nobody can tell apart. */
#if SUSPENSION
bit launched[P]; /* the launch that wanted the whole GPU is there */
#define IS_ALONE(p) (alone[p])
#else
#define IS_ALONE(p) 0
#endif

proctype Acknowledger(byte p)
{
	byte t, groups, seen_epoch;
	bit silent;
#if SUSPENSION
	bit stop;
#endif

	{
		if
		:: ready[p]
		:: !ready[p] ->
			hello[p] = 1;
			welcomed[p];
			d_step {
				/* ds_session_open(), ds_session_granted(): the page is copied whole, or again */
				seen_epoch = epoch[OWNER(p)];
				groups = granted[OWNER(p)]
			}
			in_use[p] = groups; /* ds_session_use(), before the first work */
			d_step {
				/* ds_session_acknowledge() */
				acknowledged[p] = seen_epoch;
				target[p] = groups;
				ready[p] = 1
			}
		fi;
		do
		:: d_step {
				/* ds_session_hear(), then follow() and ds_session_look() */
				notice[p] && !IS_ALONE(p) ->
				notice[p] = 0;
				silent = unawaited[OWNER(p)];
				seen_epoch = epoch[OWNER(p)];
				groups = granted[OWNER(p)];
#if SUSPENSION
				stop = suspended[OWNER(p)];
				own[p] = (stop || groups == ALL -> own[p] : groups)
#endif
			}
			in_use[p] = in_use[p] | groups;
#if SUSPENSION
			d_step {
				/* ds_suspend_begin(), or ds_remap_publish() and ds_suspend_end() */
				target[p] = (stop -> target[p] : groups);
				shut[p] = (FAULT == 8 -> 0 : stop)
			}
#else
			target[p] = groups; /* ds_remap_publish() */
#endif
#if FAULT != 2
			d_step {
				/* ds_marks_fence(), ds_marks_note() */
				for (t : 0 .. T - 1) {
					noted[t] = (PROC(t) == p -> marked[t] : noted[t])
				}
				t = 0
			}
			NONE_NOTED(p); /* ds_marks_passed() */
#endif
#if FAULT != 1
			!(work[p] & ~groups); /* ds_occupied_any() */
#endif
			in_use[p] = groups;
			d_step {
				/* ds_session_acknowledge(), and the notice of it */
				acknowledged[p] = seen_epoch;
				said[p] = said[p] || !silent;
				silent = 0;
				groups = 0;
				seen_epoch = 0
			}
#if SUSPENSION
		:: d_step {
				/* go_on_alone() */
				!runtime_lives[OWNER(p)] && !alone[p] ->
				alone[p] = 1;
				target[p] = own[p];
				wanted[p] = 0
			}
		:: d_step {
				/* stay_suspended(), and it was long enough */
				alone[p] && shut[p] &&
				(FAULT == 13 || phase == NONE || phase == GATHERING || window_of == OWNER(p)) ->
				shut[p] = 0
			}
#if FAULT != 10
		:: d_step {
				/* ds_whole_look(): nothing of it is on the whole GPU any more */
				wanted[p] && launched[p] && !work[p] ->
				launched[p] = 0;
				wanted[p] = 0;
				said[p] = 1
			}
#endif
#endif
		od
	} unless {
		!UP(p)
	}
}

#define OF_OTHERS(p)                                                                                  \
	((OWNER(0) != OWNER(p) -> work[0] : 0) | (OWNER(P - 1) != OWNER(p) -> work[P - 1] : 0) |       \
	 (OWNER(P - 2) != OWNER(p) -> work[P - 2] : 0))

/* A thread of the program: launch.c, work.c (ds_op_begin() and its end), the driver's call between. */
#if SUSPENSION
#define IS_SHUT(p)   shut[p]
#define HAS_ASKED(p) (asked || OWNER(p) >= WINDOWS)
#else
#define IS_SHUT(p)   0
#define HAS_ASKED(p) 1
#endif
#define MOST(p) (LESS && OWNER(p) < WINDOWS -> 0 : LAUNCHES)
#if TURNS
/* Nobody waits for one that nobody can tell to stop. */
#define SIDE_BY_SIDE (!runtime_lives[0] || !runtime_lives[1])
#else
#define SIDE_BY_SIDE 0
#endif
proctype Launcher(byte t)
{
	byte n, groups;
#if SUSPENSION
	bit asked;
#endif

	{
		ready[PROC(t)];
again:		do
		:: n < MOST(PROC(t)) && !IS_SHUT(PROC(t)) ->
#if FAULT == 3
			groups = target[PROC(t)]; /* read, while the mark is still in a store buffer */
			marked[t] = 1;
#else
#if FAULT == 11
			!IS_SHUT(PROC(t));
#endif
			marked[t] = 1;		  /* ds_mark_begin() */
#if SUSPENSION && FAULT != 11
			if
			:: IS_SHUT(PROC(t)) ->
				/* ds_gate_pass(), ds_suspend_wait() */
				d_step {
					marked[t] = 0;
					noted[t] = 0
				}
				goto again
			:: else
			fi;
#endif
			groups = target[PROC(t)]; /* ds_remap_target() */
#endif
			atomic {
				/* the driver has it: from now on it may run on any of these; ds_mark_end() */
				if
#if PLANS
				:: groups = groups & MIDDLE /* nothing else is ever contested then */
#else
				:: groups & FIRST -> groups = FIRST
				:: groups & MIDDLE -> groups = MIDDLE
				:: groups & LAST -> groups = LAST
#endif
				fi;
				assert(!(OF_OTHERS(PROC(t)) & groups) || SIDE_BY_SIDE);
				work[PROC(t)] = work[PROC(t)] | groups;
				marked[t] = 0;
				noted[t] = 0;
				groups = 0;
				n++
			}
#if SUSPENSION
		:: !asked && OWNER(PROC(t)) < WINDOWS ->
			/* begin_whole() */
			d_step {
				asked = 1;
				wanted[PROC(t)] = 1;
				said[PROC(t)] = 1
			}
			do
			:: target[PROC(t)] == ALL && !shut[PROC(t)] && wanted[PROC(t)] ->
				marked[t] = 1;
				if
				:: target[PROC(t)] == ALL && !shut[PROC(t)] ->
					atomic {
						assert(!OF_OTHERS(PROC(t)));
						work[PROC(t)] = work[PROC(t)] | ALL;
						launched[PROC(t)] = 1;
						marked[t] = 0;
						noted[t] = 0
					}
					break
				:: else ->
					d_step {
						marked[t] = 0;
						noted[t] = 0
					}
				fi
			:: !wanted[PROC(t)] -> break /* refused */
			od
#endif
		:: n >= MOST(PROC(t)) && HAS_ASKED(PROC(t)) -> break
		od;
#if TURNS
		/* ds_demand_look(): it falls asleep */
		!work[PROC(t)];
		d_step {
			busy[PROC(t)] = 0;
			said[PROC(t)] = 1
		}
#endif
	} unless {
		!UP(PROC(t))
	}
}

/* Kernels end when they end, also those of a stopped program. */
proctype Gpu()
{
	do
	:: work[0] -> work[0] = 0
	:: work[P - 1] -> work[P - 1] = 0
	:: P > 2 && work[P - 2] -> work[P - 2] = 0
	od
}

#define KILL(p)                                                                                       \
	lives[p] = 0;                                                                                  \
	work[p] = 0

/* Whatever may happen from outside, in any order, at any instant. */
proctype World()
{
	byte i, j, k, n, plans;

	do
	:: d_step { n < EVENTS && lives[0] -> n++; KILL(0) }
	:: d_step { n < EVENTS && lives[P - 1] -> n++; KILL(P - 1) }
	:: d_step { n < EVENTS && UP(0) -> n++; stopped[0] = 1 }
	:: d_step { n < EVENTS && UP(P - 1) -> n++; stopped[P - 1] = 1 }
	:: d_step { n < EVENTS && runtime_lives[0] -> n++; runtime_lives[0] = 0; changed[1] = changed[1] || FAULT != 15 }
	:: d_step { n < EVENTS && runtime_lives[1] -> n++; runtime_lives[1] = 0; changed[0] = changed[0] || FAULT != 15 }
	:: d_step {
			/* somebody else joins or leaves: the plan is another one */
			plans < PLANS && present[0] && present[1] ->
			plans++;
			middle_is_seconds = !middle_is_seconds;
			settle();
			changed[0] = 1;
			changed[1] = 1
		}
	:: d_step {
			/* ds_leave(): end_programs(), then leave_ledger() */
			n < EVENTS && runtime_lives[1] && present[1] ->
			n++;
			KILL(P - 1);
			runtime_lives[1] = 0;
			present[1] = 0;
			held[1] = 0;
			settle();
			changed[0] = 1
		}
	:: d_step { n < EVENTS || plans < PLANS -> n = EVENTS; plans = PLANS /* no more */ }
	od
}

/* When nothing can happen any more, nobody waits who need not. */
#define EXCUSE(p) (listed[p] && (stopped[p] || !runtime_lives[OWNER(p)]) -> may_be_on[p] : 0)
#define EXCUSED	  (EXCUSE(0) | EXCUSE(P - 1) | EXCUSE(P - 2))
#define SERVED(r)                                                                                     \
	(!present[r] || !runtime_lives[r] ||                                                          \
	 ((planned[r] & ~held[r] & ~EXCUSED) == 0 && (granted[r] == held[r] || SUSPENDS(r))))
#define FOLLOWED(p)                                                                                   \
	(!UP(p) || !runtime_lives[OWNER(p)] || !welcomed[p] || target[p] == granted[OWNER(p)] || SUSPENDS(OWNER(p)))
#if SUSPENSION
/* Nobody waits for the whole GPU, nor for another one's, but for a program that is stopped on it. */
#define STOPPED_ON_IT (phase == RETURNING && ((stopped[0] && OUTSIDE(0)) || (stopped[P - 1] && OUTSIDE(P - 1))))
/* Nobody waits for a turn who has something to do, but for a program that is stopped in its own. */
#define STOPPED_THERE(p) (stopped[p] && listed[p] && !quiet[p])
#define HAD_TURNS(p)  (!UP(p) || !runtime_lives[OWNER(p)] || !busy[p] || STOPPED_THERE(0) || STOPPED_THERE(P - 1) || STOPPED_THERE(P - 2))
#define SETTLED(p)    (!UP(p) || !runtime_lives[OWNER(p)] || STOPPED_ON_IT || (!shut[p] && !wanted[p]))
#endif

proctype Checker()
{
	timeout;
#if SUSPENSION
#if TURNS
	assert(HAD_TURNS(0) && HAD_TURNS(P - 1) && HAD_TURNS(P - 2));
#else
	assert(SETTLED(0) && SETTLED(P - 1) && SETTLED(P - 2));
#endif
	assert(phase == NONE || STOPPED_ON_IT || (!runtime_lives[0] && !runtime_lives[1]));
	if
	:: phase != NONE -> goto judged
	:: else
	fi;
#endif
	assert(SERVED(0));
	assert(SERVED(1));
	assert(FOLLOWED(0) && FOLLOWED(P - 1) && FOLLOWED(P - 2));
#if SUSPENSION
judged:	skip
#endif
}

#if SUSPENSION
#define BEGINS_WITH(p) (TURNS -> MIDDLE : (OWNER(p) == 0 -> 3 : LAST)) /* FIRST | MIDDLE */
#define RUNS(p)	       1
#else
#define BEGINS_WITH(p) ALL
#define RUNS(p)	       (OWNER(p) == 0)
#endif

/* The first allocation has the GPU and runs; the second one begins. With WINDOWS both run. */
init
{
	byte p;

	atomic {
		d_step {
			present[0] = 1;
			planned[0] = ALL;
			held[0] = ALL;
			granted[0] = ALL;
			epoch[0] = 1;
#if SUSPENSION
			present[1] = 1;
			planned[0] = FIRST | MIDDLE;
			planned[1] = LAST;
			held[0] = planned[0];
			held[1] = planned[1];
			granted[0] = held[0];
			granted[1] = held[1];
			epoch[1] = 1;
#if TURNS
			planned[0] = MIDDLE;
			planned[1] = MIDDLE;
			held[0] = MIDDLE;
			held[1] = MIDDLE;
			granted[0] = MIDDLE;
			granted[1] = 0;
			suspended[1] = 1;
			works[0] = 1;
			works[1] = 1;
#endif
#endif
			for (p : 0 .. P - 1) {
				lives[p] = 1;
				if
				:: RUNS(p) ->
					listed[p] = 1;
					may_be_on[p] = BEGINS_WITH(p);
					welcomed[p] = 1;
					in_use[p] = may_be_on[p];
					acknowledged[p] = 1;
					target[p] = may_be_on[p];
#if SUSPENSION
					own[p] = target[p];
#if TURNS
					busy[p] = 1;
					quiet[p] = OWNER(p);
					shut[p] = OWNER(p);
					in_use[p] = (OWNER(p) -> 0 : MIDDLE);
#endif
#endif
					ready[p] = 1
				:: else
				fi
			}
			runtime_lives[0] = 1;
			runtime_lives[1] = 1
		}
		for (p : 0 .. P - 1) {
			run Acknowledger(p)
		}
		for (p : 0 .. T - 1) {
			run Launcher(p)
		}
		p = 0;
		run Gpu();
		run Runtime(0);
		run Runtime(1);
		run World();
		run Checker()
	}
}
