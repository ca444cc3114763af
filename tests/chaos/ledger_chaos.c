/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ledger_chaos [--seed N] [--events N] [--break WHAT]: runtimes and programs of one GPU, in this process, in an
 * order drawn from the seed. The ledger's and the plan's decisions are the real ones; who decides them when, and
 * what programs do with it, is drawn: each party takes one small step at a time and may be stopped or die between
 * any two. After each step no group is in use by two, and what must hold in a ledger does; from time to time all
 * that go on come to rest, and then everybody holds what is planned for him.
 *
 * --break puts a fault into a party, which must be found: "ack" (a program acknowledges before its old work is
 * off), "grant" (a runtime publishes what its programs are not entered for yet), "late" (a runtime takes a late
 * acknowledgement for one of the present epoch), "turn" (a runtime's page grants what it holds in another one's turn),
 * "quiet" (a runtime takes one for quiet that has only been told to stop).
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/demand.h"
#include "noderuntime/ledger.h"
#include "noderuntime/port.h"
#include "noderuntime/terms.h"
#include "tests/chaos/invariants.h"

enum { RUNTIMES = 64, PROGRAMS = 160, NAMES = 1000000, EVENTS = 10000, SEEDS = 24 };

struct runtime {
	bool there, alive, lends;
	struct ds_process process;
	char name[DS_NAME_SIZE];
	uint32_t share_milli;
	/* Its page, and what it is going to publish. */
	uint64_t epoch;
	struct ds_groups granted, next;
	bool suspended, next_suspended;
	bool beside, next_beside; /* made when nobody took turns in its group */
};

/* A program, and where its work is. */
struct program {
	bool alive;
	int runtime; /* index, and its name since it may be another's by now */
	char owner[DS_NAME_SIZE];
	struct ds_process process;
	struct ds_port port;
	uint64_t epoch;          /* of the page, as it saw it last */
	struct ds_groups target; /* where new work goes */
	struct ds_groups old;    /* where old work still is */
	struct ds_groups place;  /* where it was before it was suspended */
	bool suspended;          /* by the page, as it saw it last */
	/* Where new work goes it was, or was let in, while nobody took turns there; and where old work is. */
	bool beside, old_beside;
};

static const struct ds_gpu_shape shape = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};
static struct ds_ledger_state ledger;
static struct runtime runtimes[RUNTIMES];
static struct program programs[PROGRAMS];
static uint64_t drawn, now_ns = 1;
static unsigned long seed = 1, event, names;
static int32_t pids;
static const char *fault = "";
static bool failed, resting;

static uint64_t draw(void)
{
	uint64_t z = (drawn += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static unsigned below(unsigned n)
{
	return (unsigned)(draw() % n);
}

static void wrong(const struct ds_ledger_state *state, const char *text)
{
	(void)state;
	if (!failed)
		printf(
		    "seed %lu, event %lu: %s\nrepeat: ledger_chaos --seed %lu --events %lu%s%s\n",
		    seed, event, text, seed, event + 1, *fault ? " --break " : "", fault);
	failed = true;
}

static bool is_broken(const char *what)
{
	return !strcmp(fault, what);
}

static int alive(const struct ds_ledger_state *state, const struct ds_process *process, void *arg)
{
	(void)state;
	(void)arg;
	for (int i = 0; i < RUNTIMES; i++)
		if (runtimes[i].process.pid == process->pid)
			return runtimes[i].alive;
	for (int i = 0; i < PROGRAMS; i++)
		if (programs[i].process.pid == process->pid)
			return programs[i].alive;
	return 0;
}

/* Of a program that does not stop: with some seeds one waits on for it, with others not for ever. */
static int is_stopped(const struct ds_process *process)
{
	(void)process;
	return seed % 3 != 0;
}

/* ---- what runtimes do: follow.c's steps, without its files and sockets ---- */

static struct program *process_of(const struct ds_ledger_program *entry)
{
	for (int i = 0; i < PROGRAMS; i++)
		if (programs[i].alive && programs[i].process.pid == entry->process.pid)
			return &programs[i];
	return NULL;
}

static bool has_programs(const struct runtime *rt)
{
	for (int i = 0; i < PROGRAMS; i++)
		if (programs[i].alive && !strcmp(programs[i].owner, rt->name))
			return true;
	return false;
}

static void note_acknowledged(const struct runtime *rt, const struct ds_port *port,
			      struct ds_ledger_program *entry)
{
	const struct ds_ledger_resident *self = ds_ledger_find(&ledger, rt->name);
	struct ds_groups in_use;
	struct ds_port copy = *port;

	if (is_broken("late") && copy.acknowledged_epoch)
		copy.acknowledged_epoch = rt->epoch;
	if (rt->suspended && is_broken("quiet"))
		entry->quiet = 1;
	if (ds_port_understand(&copy, rt->epoch, &entry->groups, &in_use) != DS_PORT_SAID)
		return;
	if (!rt->suspended) {
		ds_ledger_shrink_program(entry, &in_use, &rt->granted);
		return;
	}
	ds_ledger_shrink_program(entry, &in_use, self ? &self->held : &rt->granted);
	entry->quiet = ds_groups_empty(&in_use);
}

static void settle(void)
{
	struct ds_error err;

	if (ds_ledger_settle(&ledger, alive, NULL, NULL, &err) < 0)
		wrong(&ledger, err.text);
	ds_turns_step(&ledger, now_ns, alive, NULL, is_stopped);
}

/*
 * Who owes it something: any of them when it becomes active, and later one after the other does not. Not at
 * all times: what is not drawn changes nothing, or nothing would ever come to rest.
 */
static void enter_owing(struct ds_ledger_resident *self, bool was_active)
{
	const uint64_t all = (UINT64_C(2) << (ledger.n_residents - 1)) - 1;
	const uint64_t others = all & ~(UINT64_C(1) << (self - ledger.residents));

	if (!self->demand.active || !self->grant.advance_milli)
		self->owing = 0;
	else if (!was_active)
		self->owing = (below(2) ? draw() : all) & others;
	else if (!resting && below(4) == 0)
		self->owing &= draw();
}

static void follow(struct runtime *rt, bool newcomer)
{
	struct ds_demand_sum sum = {.demand = {.active = newcomer}, .drain_unknown = newcomer};

	for (uint32_t i = 0; i < ledger.n_programs; i++) {
		const struct program *p = process_of(&ledger.programs[i]);
		if (!p || strcmp(ledger.programs[i].resident, rt->name) != 0)
			continue;
		note_acknowledged(rt, &p->port, &ledger.programs[i]);
		ds_demand_add(&sum, &p->port);
	}
	struct ds_ledger_resident *self = ds_ledger_find(&ledger, rt->name);
	if (self) {
		const bool was_active = self->demand.active;

		self->demand = ds_demand_enter(&sum, &self->demand);
		enter_owing(self, was_active);
	}
	settle();
	self = ds_ledger_find(&ledger, rt->name);
	const bool suspended = self && ds_ledger_is_suspended(&ledger, self) && !is_broken("turn");
	for (uint32_t i = 0; self && i < ledger.n_programs && !is_broken("grant") && !suspended;
	     i++) {
		if (strcmp(ledger.programs[i].resident, rt->name) != 0 ||
		    !process_of(&ledger.programs[i]))
			continue;
		if (ledger.programs[i].quiet)
			ledger.programs[i].groups = self->held;
		ledger.programs[i].quiet = 0;
		ledger.programs[i].groups = ds_groups_union(ledger.programs[i].groups, self->held);
	}
	if (!self) {
		wrong(&ledger, "a runtime that lives is not in the ledger");
		return;
	}
	rt->next = suspended ? (struct ds_groups){{0, 0}} : self->held;
	rt->next_suspended = suspended;
	rt->next_beside = self->turn.state == DS_TURN_BESIDE;
}

static void publish(struct runtime *rt)
{
	if (!ds_groups_has_full(&rt->next, &shape) && has_programs(rt) && !rt->next_suspended)
		return;
	if (!ds_groups_equal(&rt->next, &rt->granted) || rt->suspended != rt->next_suspended)
		rt->epoch += 2;
	rt->granted = rt->next;
	rt->suspended = rt->next_suspended;
	rt->beside = rt->next_beside;
}

static void join(struct runtime *rt)
{
	static const struct ds_policy_id policies[] = {{.name = "static"}, {.name = "lend"}};
	struct ds_ledger_resident r = {.uid = 1000};
	struct ds_error err;
	uint32_t free_milli = 1000;

	for (uint32_t i = 0; i < ledger.n_residents; i++)
		free_milli -= ledger.residents[i].grant.share_milli;
	uint32_t share_milli = 1 + below(below(4) ? 400 : below(2) ? 60 : 1000);
	snprintf(r.name, sizeof(r.name), "job-%lu", names++ % NAMES);
	r.grant.share_milli = share_milli;
	r.grant.kind = (enum ds_class_kind)below(3);
	r.runtime = (struct ds_process){.pid = ++pids, .start_ticks = 1};
	r.policy = policies[seed % 2];
	if (seed % 2) {
		r.grant.policy = DS_POLICY_LEND;
		r.grant.lends = below(8) != 0;
		r.grant.borrows = below(8) != 0;
		r.grant.reclaim_us = 500;
		if (r.grant.kind == DS_KIND_LATENCY && below(4))
			r.grant.advance_milli = (uint16_t)(below(2) ? 1000 : 1 + below(1000));
	}
	settle();
	bool fits = share_milli <= free_milli && ledger.n_residents < DS_RESIDENTS_MAX;
	if ((ds_ledger_join(&ledger, &r, &err) == 0) != fits && fits)
		wrong(&ledger,
		      err.text); /* one may fit that did not before the dead were removed */
	if (!ds_ledger_find(&ledger, r.name))
		return;
	*rt = (struct runtime){.there = true, .alive = true, .process = r.runtime, .epoch = 2};
	memcpy(rt->name, r.name, sizeof(rt->name));
	rt->share_milli = share_milli;
	settle();
	follow(rt, false);
	publish(rt);
}

/* A program is let in: entered, published, then welcomed. */
static void admit(struct runtime *rt)
{
	struct program *p = NULL;
	struct ds_error err;

	for (int i = 0; i < PROGRAMS && !p; i++)
		if (!programs[i].alive)
			p = &programs[i];
	if (!p || ledger.n_programs >= DS_PROGRAMS_MAX / 2)
		return;
	follow(rt, true);
	const struct ds_ledger_resident *self = ds_ledger_find(&ledger, rt->name);
	if (!self || !ds_groups_has_full(&self->held, &shape))
		return;
	*p = (struct program){.alive = true, .runtime = (int)(rt - runtimes)};
	p->port =
	    (struct ds_port){.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .drain_us = 100};
	p->process = (struct ds_process){.pid = ++pids, .start_ticks = 1};
	memcpy(p->owner, rt->name, sizeof(p->owner));
	if (ds_ledger_add_program(&ledger, rt->name, &p->process, &self->held, &err) < 0) {
		wrong(&ledger, err.text);
		return;
	}
	if (ds_ledger_is_suspended(&ledger, self) && !is_broken("turn"))
		ds_ledger_find_program(&ledger, &p->process)->quiet = 1;
	publish(rt);
	p->epoch = rt->epoch;
	p->target = rt->granted;
	p->place = self->held;
	p->suspended = rt->suspended;
	p->beside = rt->beside;
	if (below(2)) /* it says at once how soon it is off a group */
		follow(rt, false);
	publish(rt);
}

/* ---- what programs do ---- */

static void look(struct program *p)
{
	const struct runtime *rt = &runtimes[p->runtime];
	const struct ds_ledger_program *entry = ds_ledger_find_program(&ledger, &p->process);

	/* Where it was: the others have noticed by then. */
	if (p->suspended && entry && entry->stays & DS_STAYS_ORPHAN) {
		p->target = p->place;
		p->suspended = false;
	}
	if (!strcmp(rt->name, p->owner) && rt->beside)
		p->beside = true;
	if (strcmp(rt->name, p->owner) != 0 || rt->epoch == p->epoch || !rt->alive)
		return; /* the page of a runtime that is gone does not change any more */
	if (!p->suspended)
		p->place = p->target;
	p->old = ds_groups_union(p->old, p->target);
	p->target = rt->granted;
	p->old_beside |= p->beside;
	p->beside = rt->beside;
	p->suspended = rt->suspended;
	p->epoch = rt->epoch;
}

static void drain(struct program *p)
{
	p->old.bits[0] &= below(2) ? draw() : 0;
}

static void acknowledge(struct program *p)
{
	p->port.magic = DS_PORT_MAGIC;
	p->port.version = DS_PORT_VERSION;
	p->port.in_use = is_broken("ack") ? p->target : ds_groups_union(p->target, p->old);
	p->port.acknowledged_epoch = p->epoch;
}

static struct ds_groups in_use(const struct program *p)
{
	return ds_groups_union(p->target, p->old);
}

static void end_program(struct program *p)
{
	p->alive = false;
	p->target = p->old = (struct ds_groups){{0, 0}};
}

/* ---- what must hold ---- */

/* Of two with less than a group one is there at an instant, unless they cannot take turns. */
static bool are_beside(int i, int k)
{
	const struct ds_ledger_resident *a = ds_ledger_find(&ledger, programs[i].owner);
	const struct ds_ledger_resident *b = ds_ledger_find(&ledger, programs[k].owner);
	const struct ds_ledger_program *of_a =
	    ds_ledger_find_program(&ledger, &programs[i].process);
	const struct ds_ledger_program *of_b =
	    ds_ledger_find_program(&ledger, &programs[k].process);

	if (!invariants_in_time(programs[i].owner) || !invariants_in_time(programs[k].owner))
		return false;
	return !a || !b || !of_a || !of_b || of_a->stays || of_b->stays ||
	       ((programs[i].beside || programs[i].old_beside) &&
		(programs[k].beside || programs[k].old_beside));
}

static void check_use(void)
{
	char text[300], where[128];

	for (int i = 0; i < PROGRAMS; i++) {
		const struct ds_ledger_resident *r = ds_ledger_find(&ledger, programs[i].owner);

		if (r && r->turn.state == DS_TURN_BESIDE)
			programs[i].beside = programs[i].old_beside = true;
		programs[i].old_beside &= !ds_groups_empty(&programs[i].old);
	}
	for (int i = 0; i < PROGRAMS; i++) {
		for (int k = 0; k < i && programs[i].alive; k++) {
			struct program *a = &programs[i], *b = &programs[k];
			const struct ds_groups both = ds_groups_intersection(in_use(a), in_use(b));
			if (!b->alive || ds_groups_empty(&both) || !strcmp(a->owner, b->owner))
				continue;
			if (are_beside(i, k)) {
				a->beside = b->beside = true; /* until both have left it */
				continue;
			}
			snprintf(text, sizeof(text), "programs of %s and %s are both on group %s",
				 a->owner, b->owner,
				 ds_groups_format(&both, &shape, where, sizeof(where)));
			wrong(&ledger, text);
		}
	}
}

static void check(void)
{
	invariants_check(&ledger, wrong);
	check_use();
}

/* Everybody goes on until nothing changes any more; then all have what is planned. */
static void rest(void)
{
	static struct ds_ledger_state before;
	char text[300];

	/* Those whose runtime was killed keep what they have while they live. */
	for (int i = 0; i < PROGRAMS; i++)
		if (programs[i].alive &&
		    (!runtimes[programs[i].runtime].alive ||
		     strcmp(runtimes[programs[i].runtime].name, programs[i].owner)))
			end_program(&programs[i]);
	resting = true;
	/* What is acknowledged last in a round is heard of in the next one. */
	for (int round = 0, quiet = 0; quiet < 2; round++) {
		before = ledger;
		for (int i = 0; i < RUNTIMES; i++) {
			if (!runtimes[i].alive)
				continue;
			follow(&runtimes[i], false);
			publish(&runtimes[i]);
		}
		for (int i = 0; i < PROGRAMS; i++) {
			if (!programs[i].alive)
				continue;
			look(&programs[i]);
			programs[i].old = (struct ds_groups){{0, 0}};
			acknowledge(&programs[i]);
		}
		check();
		quiet = ds_ledger_same(&before, &ledger) ? quiet + 1 : 0;
		if (round == 200) {
			wrong(&ledger, "it does not come to rest");
			break;
		}
	}
	resting = false;
	for (uint32_t i = 0; i < ledger.n_residents; i++) {
		const struct ds_ledger_resident *r = &ledger.residents[i];
		if (alive(&ledger, &r->runtime, NULL) && r->turn.state != DS_TURN_WAITS &&
		    ds_turns_suspend(&ledger, r)) {
			snprintf(text, sizeof(text), "%s does not get its turn", r->name);
			wrong(&ledger, text);
		}
		if (alive(&ledger, &r->runtime, NULL) && !ds_groups_equal(&r->held, &r->planned)) {
			snprintf(text, sizeof(text), "%s does not get what is planned for it",
				 r->name);
			wrong(&ledger, text);
		}
	}
}

/* ---- events ---- */

static struct runtime *some_runtime(bool living)
{
	for (unsigned i = 0, at = below(RUNTIMES); i < RUNTIMES; i++, at = (at + 1) % RUNTIMES)
		if (runtimes[at].there && (!living || runtimes[at].alive))
			return &runtimes[at];
	return NULL;
}

static struct program *some_program(void)
{
	for (unsigned i = 0, at = below(PROGRAMS); i < PROGRAMS; i++, at = (at + 1) % PROGRAMS)
		if (programs[at].alive)
			return &programs[at];
	return NULL;
}

static void leave(struct runtime *rt)
{
	for (int i = 0; i < PROGRAMS; i++)
		if (programs[i].alive && !strcmp(programs[i].owner, rt->name))
			end_program(&programs[i]);
	ds_ledger_leave(&ledger, rt->name);
	settle();
	*rt = (struct runtime){.there = false};
}

enum verb {
	JOIN,
	LEAVE,
	KILL_RUNTIME,
	ADMIT,
	END_PROGRAM,
	FOLLOW,
	PUBLISH,
	LOOK,
	DRAIN,
	ACKNOWLEDGE,
	DEMAND,
	REST,
	VERBS
};

static const unsigned usual[VERBS] = {
    [JOIN] = 12,    [LEAVE] = 8, [KILL_RUNTIME] = 1, [ADMIT] = 40, [END_PROGRAM] = 6, [FOLLOW] = 60,
    [PUBLISH] = 20, [LOOK] = 60, [ACKNOWLEDGE] = 40, [DRAIN] = 8,  [DEMAND] = 16,     [REST] = 1};
static unsigned weights[VERBS], all_weights;

/* Every seed has another mix: what is rare in one is the rule in another. */
static void mix(void)
{
	all_weights = 0;
	for (int verb = 0; verb < VERBS; verb++) {
		weights[verb] = usual[verb] * (1 + below(8));
		all_weights += weights[verb];
	}
}

static enum verb some_verb(void)
{
	unsigned at = below(all_weights);
	int verb = 0;

	while (at >= weights[verb])
		at -= weights[verb++];
	return (enum verb)verb;
}

static void join_somewhere(void)
{
	for (int i = 0; i < RUNTIMES; i++) {
		if (runtimes[i].there)
			continue;
		join(&runtimes[i]);
		return;
	}
}

static void of_runtime(enum verb verb, struct runtime *rt)
{
	switch (verb) {
	case KILL_RUNTIME:
		rt->alive = false;
		break;
	case ADMIT:
		admit(rt);
		break;
	case FOLLOW:
		follow(rt, false);
		if (below(4))
			publish(rt); /* else it is overtaken, or killed, before */
		break;
	default:
		publish(rt);
	}
}

static void of_program(enum verb verb, struct program *p)
{
	switch (verb) {
	case END_PROGRAM:
		end_program(p);
		break;
	case LOOK:
		look(p);
		break;
	case DRAIN:
		drain(p);
		break;
	case ACKNOWLEDGE:
		acknowledge(p);
		break;
	default:
		p->port.demand = below(3);
		p->port.drain_us = below(16) ? 100 : 600; /* off in time, or not */
	}
}

static void step(void)
{
	struct runtime *rt = some_runtime(true), *any = some_runtime(false);
	struct program *p = some_program();
	const enum verb verb = some_verb();

	switch (verb) {
	case JOIN:
		join_somewhere();
		break;
	case LEAVE:
		if (any)
			leave(any);
		break;
	case REST:
		rest();
		break;
	case KILL_RUNTIME:
	case ADMIT:
	case FOLLOW:
	case PUBLISH:
		if (rt)
			of_runtime(verb, rt);
		break;
	default:
		if (p)
			of_program(verb, p);
	}
}

static void run(unsigned long events)
{
	memset(&ledger, 0, sizeof(ledger));
	memset(runtimes, 0, sizeof(runtimes));
	memset(programs, 0, sizeof(programs));
	ledger.shape = shape;
	snprintf(ledger.gpu_uuid, sizeof(ledger.gpu_uuid), "GPU-chaos");
	drawn = seed * UINT64_C(0x2545f4914f6cdd1d);
	mix();
	for (event = 0; event < events && !failed; event++) {
		now_ns += below(4) ? 0 : UINT64_C(1000000) * below(40);
		step();
		check();
	}
	if (!failed)
		rest();
}

static unsigned long number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || end == text) {
		fprintf(stderr, "ledger_chaos: %s is no number\n", text);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", 1, NULL, 's'},
						{"events", 1, NULL, 'e'},
						{"break", 1, NULL, 'b'},
						{NULL, 0, NULL, 0}};
	unsigned long first = 1, seeds = SEEDS, events = EVENTS;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's') {
			first = number(optarg);
			seeds = 1;
		} else if (c == 'e') {
			events = number(optarg);
		} else if (c == 'b') {
			fault = optarg;
		} else {
			return 2;
		}
	}
	for (seed = first; seed < first + seeds && !failed; seed++)
		run(events);
	if (!failed)
		printf("%lu events with each of %lu seeds\n", events, seeds);
	return failed ? 1 : 0;
}
