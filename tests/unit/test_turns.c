/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turns by the ledger alone: runtimes and programs are played here, millisecond by millisecond, and each looks at the
 * ledger only when it is told to (concern.h), when its timer is due or when one of its programs says something.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/concern.h"
#include "noderuntime/late.h"
#include "noderuntime/ledger.h"
#include "noderuntime/terms.h"

#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

enum { PARTIES = 6, NEVER = 0x7fffffff };

/* A runtime with one program. */
struct party {
	char name[DS_NAME_SIZE];
	bool there, runtime_lives, told;
	bool suspended;  /* by its page */
	bool hung;       /* the runtime */
	bool stopped;    /* the program, by a signal */
	bool stubborn;   /* the program stays on the GPU when it is told to stop, and says so */
	bool wants;      /* the program has work */
	uint64_t due_ns; /* its timer */
	int32_t runtime, program;
	uint64_t kernel_ms; /* how long its kernels are */
	uint64_t end_ms;    /* of the one that runs */
	uint64_t used_ms;
};

static struct ds_ledger_state state;
static struct party parties[PARTIES];
static uint64_t now_ms;
static unsigned looks;
static uint32_t drawn;

static uint32_t below(uint32_t n)
{
	drawn = drawn * 1664525 + 1013904223;
	return (drawn >> 8) % n;
}

static uint64_t now_ns(void)
{
	return now_ms * MS;
}

static int lives(const struct ds_ledger_state *of, const struct ds_process *process, void *arg)
{
	(void)of;
	(void)arg;
	for (int i = 0; i < PARTIES; i++) {
		if (parties[i].runtime == process->pid)
			return parties[i].runtime_lives;
		if (parties[i].program == process->pid)
			return parties[i].there;
	}
	return 0;
}

static int is_stopped(const struct ds_process *process)
{
	for (int i = 0; i < PARTIES; i++)
		if (parties[i].program == process->pid)
			return parties[i].stopped;
	return 0;
}

static struct ds_ledger_resident *resident(const struct party *p)
{
	return ds_ledger_find(&state, p->name);
}

static struct ds_ledger_program *entry(const struct party *p)
{
	return ds_ledger_find_program(&state, &(struct ds_process){.pid = p->program});
}

static void settle(void)
{
	static struct ds_ledger_state before;
	struct ds_error err;

	for (int round = 0; round < 2; round++) {
		before = state;
		assert_int_equal(ds_ledger_settle(&state, lives, NULL, NULL, &err), 0);
		ds_turns_step(&state, now_ns(), lives, NULL, is_stopped);
	}
	assert_true(ds_ledger_same(&before, &state)); /* the second time changes nothing */
}

static bool is_running(const struct party *p)
{
	return p->there && p->end_ms > now_ms;
}

/* Of a change by another one, if it is concerned; else it would do nothing else than before if it looked. */
static void tell(struct party *p, const struct ds_ledger_state *before, uint32_t i)
{
	const struct ds_ledger_resident *was = &before->residents[i], *is = &state.residents[i];
	struct ds_page_terms said = {.flags = 0}, says = {.flags = 0};

	if (ds_concerns_all(before, &state) || ds_concerns(before, &state, i)) {
		p->told = true;
		return;
	}
	ds_terms(before, was, &said);
	ds_terms(&state, is, &says);
	assert_memory_equal(&said, &says, sizeof(says));
	assert_int_equal(ds_ledger_is_suspended(before, was), ds_ledger_is_suspended(&state, is));
	if (is->turn.state != DS_TURN_WAITS)
		assert_int_equal(ds_turns_next_ns(before, was, now_ns()),
				 ds_turns_next_ns(&state, is, now_ns()));
}

/* What follow.c does. */
static void look(struct party *p)
{
	static struct ds_ledger_state before;
	struct ds_ledger_program *program = entry(p);
	struct ds_ledger_resident *self = resident(p);

	looks++;
	p->told = false;
	before = state;
	if (program && p->suspended && !p->stopped && !is_running(p))
		program->quiet = 1;
	if (program && p->suspended && !p->stopped && p->stubborn)
		program->stays |= DS_STAYS_BUSY;
	if (self)
		self->demand.active = program && p->wants;
	settle();
	self = resident(p);
	program = entry(p);
	if (self) {
		p->suspended = ds_ledger_is_suspended(&state, self);
		if (program && !p->suspended) {
			program->quiet = 0;
			program->groups = self->held;
		}
		p->due_ns = ds_turns_next_ns(&state, self, now_ns());
	}
	if (ds_ledger_same(&before, &state))
		return;
	for (uint32_t i = 0; i < state.n_residents; i++)
		for (int k = 0; k < PARTIES; k++)
			if (&parties[k] != p && !strcmp(parties[k].name, state.residents[i].name))
				tell(&parties[k], &before, i);
}

static void tell_all(void)
{
	for (int i = 0; i < PARTIES; i++)
		parties[i].told |= parties[i].runtime != 0;
}

static struct party *join_as(uint32_t share_milli, enum ds_class_kind kind)
{
	static int32_t pids = 1000;
	struct ds_ledger_resident r = {.grant = {.share_milli = share_milli, .kind = kind}};
	struct party *p = NULL;
	struct ds_error err;

	for (int i = PARTIES; i-- > 0;)
		if (!parties[i].runtime)
			p = &parties[i];
	assert_non_null(p);
	*p = (struct party){.there = true, .runtime_lives = true, .wants = true, .kernel_ms = 1};
	p->runtime = ++pids;
	p->program = ++pids;
	snprintf(p->name, sizeof(p->name), "job-%d", p->runtime);
	memcpy(r.name, p->name, sizeof(r.name));
	r.runtime.pid = p->runtime;
	assert_int_equal(ds_ledger_join(&state, &r, &err), 0);
	settle();
	assert_int_equal(ds_ledger_add_program(&state, p->name,
					       &(struct ds_process){.pid = p->program},
					       &resident(p)->held, &err),
			 0);
	p->suspended = ds_ledger_is_suspended(&state, resident(p));
	entry(p)->quiet = p->suspended;
	look(p);
	tell_all();
	return p;
}

static struct party *join(uint32_t share_milli)
{
	return join_as(share_milli, DS_KIND_THROUGHPUT);
}

/* Who comes and goes concerns all. */
static void end_program(struct party *p)
{
	ds_ledger_remove_program(&state, &(struct ds_process){.pid = p->program});
	p->there = p->wants = false;
	p->end_ms = 0;
	look(p);
	tell_all();
}

/* All watch its pidfd. */
static void kill_runtime(struct party *p)
{
	p->runtime_lives = false;
	tell_all();
}

static void check_use(void)
{
	for (int i = 0; i < PARTIES; i++) {
		const struct ds_ledger_program *a = entry(&parties[i]);

		for (int k = 0; k < i && a && is_running(&parties[i]); k++) {
			const struct ds_ledger_program *b = entry(&parties[k]);
			struct ds_groups both;

			if (!b || !is_running(&parties[k]))
				continue;
			both = ds_groups_intersection(a->groups, b->groups);
			if (!ds_groups_empty(&both) &&
			    !(resident(&parties[i])->turn.why && resident(&parties[k])->turn.why) &&
			    !(ds_ledger_is_suspended(&state, resident(&parties[i])) &&
			      ds_ledger_is_suspended(&state, resident(&parties[k]))))
				fail_msg("%s and %s are both there at %u ms", a->resident,
					 b->resident, (unsigned)now_ms);
		}
	}
}

static void one_ms(void)
{
	now_ms++;
	for (int i = 0; i < PARTIES; i++) {
		struct party *p = &parties[i];
		const struct ds_ledger_program *program = entry(p);

		if (!p->there || !program)
			continue;
		/* It ends what it is at; then it says so, or begins the next one. */
		if (p->suspended && p->runtime_lives && !p->hung && !program->quiet &&
		    !is_running(p) && !p->stopped)
			look(p);
		if (!p->suspended && p->wants && !p->stopped && !is_running(p))
			p->end_ms = now_ms + p->kernel_ms;
		p->used_ms += is_running(p);
	}
	for (int i = 0; i < PARTIES; i++) {
		struct party *p = &parties[i];

		/* Not always at once: it may have to wait for a CPU. */
		if (p->runtime_lives && p->runtime && !p->hung && below(4) &&
		    (p->told || (p->due_ns && p->due_ns <= now_ns())))
			look(p);
	}
	check_use();
}

static void run_ms(unsigned ms)
{
	while (ms--)
		one_ms();
}

static void set_wants(struct party *p, bool wants)
{
	p->wants = wants;
	look(p);
}

static void forget_use(void)
{
	for (int i = 0; i < PARTIES; i++)
		parties[i].used_ms = 0;
}

static int set_up(void **unused)
{
	(void)unused;
	memset(&state, 0, sizeof(state));
	memset(parties, 0, sizeof(parties));
	state.shape = (struct ds_gpu_shape){.n_groups = 4, .group_sms = 8};
	now_ms = 1000;
	drawn = 1;
	return 0;
}

/* So that there is room in one group only: three have one each. */
static void fill(void)
{
	for (int i = 0; i < 3; i++) {
		struct party *p = join(250);

		p->wants = false;
	}
	run_ms(5);
}

/* Thousandths of the time that a and b used together, that were a's. */
static unsigned part_of(const struct party *a, const struct party *b)
{
	return (unsigned)(a->used_ms * 1000 / (a->used_ms + b->used_ms + 1));
}

static void by_weight(void **unused)
{
	struct party *a, *b, *c;

	fill();
	a = join(30);
	b = join(90);
	run_ms(4000);
	assert_in_range(part_of(a, b), 230, 270);
	assert_in_range(a->used_ms + b->used_ms, 3200, 4000); /* hand-overs take looks here */
	c = join(120);
	forget_use();
	run_ms(8000);
	assert_in_range(part_of(a, b), 230, 270);
	assert_in_range(part_of(b, c), 400, 460);
	assert_true(resident(a)->turn.count > 20);
}

static void alone_or_beside_who_is_idle_there_are_no_turns(void **unused)
{
	struct party *a, *b;
	unsigned before;

	fill();
	a = join(30);
	run_ms(100);
	assert_int_equal(resident(a)->turn.state, DS_TURN_ALONE);
	assert_int_equal(a->due_ns, 0);
	b = join(90);
	run_ms(100);
	assert_true(a->due_ns && b->due_ns);
	set_wants(b, false);
	run_ms(100);
	assert_int_equal(resident(a)->turn.state, DS_TURN_HAS);
	assert_false(a->suspended);
	before = looks;
	forget_use();
	run_ms(1000);
	assert_int_equal(looks, before);
	assert_int_equal(a->due_ns, 0);
	assert_int_equal(b->due_ns, 0);
	assert_int_equal(a->used_ms, 1000);
	/* Who comes back waits for what is under way only, and has saved up no more than a turn. */
	a->kernel_ms = 3;
	set_wants(b, true);
	run_ms(20);
	assert_true(b->used_ms > 5);
	forget_use();
	run_ms(2000);
	assert_in_range(part_of(a, b), 220, 280);
	/* And who had it last keeps it when nobody wants it. */
	set_wants(a, false);
	run_ms(50);
	set_wants(b, false);
	run_ms(50);
	assert_int_equal(resident(b)->turn.state, DS_TURN_HAS);
	before = looks;
	run_ms(1000);
	assert_int_equal(looks, before);
	set_wants(a, true);
	run_ms(10);
	assert_true(is_running(a));
}

/* One with kernels three turns long gets no more than its part. */
static void what_is_overrun_is_paid_back(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	a->kernel_ms = 70;
	run_ms(5000);
	assert_in_range(part_of(a, b), 450, 550);
	a->kernel_ms = 4000;
	run_ms(100);
	forget_use();
	a->kernel_ms = 1;
	run_ms(8000);
	assert_in_range(part_of(a, b), 450, 550);
	assert_true(a->used_ms > 3500);
}

/* As one that waits for its other part, on another node, where that is not its turn. */
static void who_does_not_leave_is_not_waited_for_long(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	run_ms(500);
	a->kernel_ms = 60000;
	run_ms(200);
	assert_true(is_running(a));
	forget_use();
	run_ms(4000);
	assert_int_equal(b->used_ms, 0);
	run_ms(2000);
	assert_true(b->used_ms > 500);
	assert_int_equal(resident(b)->turn.why, DS_TURN_WHY_LONG);
	/* Asked again, and not waited for again; when it has ended, there are turns. */
	forget_use();
	run_ms(36000);
	assert_in_range(b->used_ms, 29000, 32000);
	a->kernel_ms = 1;
	run_ms(60000);
	assert_int_equal(resident(b)->turn.why, DS_TURN_WHY_NONE);
	forget_use();
	run_ms(1000);
	assert_in_range(part_of(a, b), 450, 550);
}

/* Somebody comes into the group who has work elsewhere under way: the rest of a turn is not how long that may take. */
static void patience_is_not_the_rest_of_a_turn(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	run_ms(100);
	for (int i = 0; a->suspended || !entry(b)->quiet || !resident(a)->turn.since_ns; i++) {
		assert_true(i < 1000);
		one_ms();
	}
	assert_true(resident(a)->turn.until_ns < now_ns() + S);
	entry(b)->quiet = 0;
	settle();
	assert_true(ds_ledger_is_suspended(&state, resident(a)));
	assert_true(resident(a)->turn.until_ns > now_ns() + 4 * S);
}

/* Who ran while nobody else wanted to, or wanted to when nobody else did, keeps nobody waiting for that. */
static void old_accounts_starve_nobody(void **unused)
{
	struct party *a, *b, *c;

	fill();
	a = join(40);
	b = join(40);
	c = join(40);
	set_wants(c, false);
	run_ms(60000);
	set_wants(a, false);
	set_wants(b, false);
	run_ms(50);
	set_wants(c, true);
	run_ms(50);
	set_wants(a, true);
	forget_use();
	run_ms(12000);
	assert_true(a->used_ms > 3000 && c->used_ms > 3000);
}

static void latency_goes_first(void **unused)
{
	struct party *a, *b, *l;

	fill();
	a = join(60);
	b = join(60);
	l = join_as(60, DS_KIND_LATENCY);
	set_wants(l, false);
	for (int i = 0; i < 40; i++) {
		uint64_t since;

		run_ms(97);
		since = l->used_ms;
		set_wants(l, true);
		run_ms(25 + 6); /* the turn that is under way, and two hand-overs */
		assert_true(l->used_ms > since);
		set_wants(l, false);
	}
	assert_in_range(part_of(a, b), 450, 550);
}

/* At the end of a turn who had least is next; but latency, if it had less than the average. */
static void latency_below_the_average_is_next(void **unused)
{
	struct party *a, *b, *l;

	fill();
	a = join(60);
	b = join(60);
	l = join_as(60, DS_KIND_LATENCY);
	for (int round = 0; round < 2; round++) {
		run_ms(100);
		for (int i = 0; ds_turns_whose(&state, resident(a)) != resident(a); i++) {
			assert_true(i < 1000);
			one_ms();
		}
		run_ms(5);
		resident(a)->turn.used = 2 * S;
		resident(b)->turn.used = 0;
		resident(l)->turn.used = round ? 2 * S : S / 2;
		resident(a)->turn.until_ns = now_ns();
		settle();
		assert_ptr_equal(ds_turns_whose(&state, resident(a)), resident(round ? b : l));
		a->told = b->told = l->told = true;
	}
}

static void who_dies_in_its_turn(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	b->kernel_ms = 10;
	run_ms(500);
	while (!is_running(a))
		one_ms();
	end_program(a);
	forget_use();
	run_ms(200);
}

static void who_is_stopped_in_its_turn_is_late(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	run_ms(500);
	while (!is_running(a) || a->suspended)
		one_ms();
	a->stopped = true;
	run_ms(100);
	forget_use();
	run_ms(20000);
	assert_int_equal(b->used_ms, 0);
	struct ds_groups late = ds_late_groups(&state, resident(a), entry(a));
	assert_true(ds_groups_equal(&late, &resident(b)->own));
	late = ds_late_groups(&state, resident(b), entry(b));
	assert_true(ds_groups_empty(&late));
	a->stopped = false;
	run_ms(100);
	late = ds_late_groups(&state, resident(a), entry(a));
	assert_true(ds_groups_empty(&late));
	assert_true(b->used_ms > 20);
}

static void a_stopped_runtime_does_not_stop_the_others(void **unused)
{
	struct party *a, *b, *c;

	fill();
	a = join(40);
	b = join(40);
	c = join(40);
	run_ms(500);
	while (!a->suspended || entry(a)->quiet == 0)
		one_ms();
	a->hung = true; /* nobody hears of it, and it looks no more */
	forget_use();
	run_ms(5000);
	assert_int_equal(a->used_ms, 0);
	assert_true(b->used_ms > 500 && c->used_ms > 500);
}

static void side_by_side(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	run_ms(100);
	/* It says so when it is told to stop. */
	a->stubborn = true;
	a->kernel_ms = 3;
	run_ms(200);
	assert_int_equal(resident(b)->turn.why, DS_TURN_WHY_BUSY);
	assert_non_null(ds_turns_why(resident(b)));
	forget_use();
	run_ms(1000);
	assert_int_equal(a->used_ms, 1000);
	assert_int_equal(b->used_ms, 1000);
	assert_int_equal(b->due_ns, 0);
	/* When it has ended, there are turns again. */
	end_program(a);
	join(20);
	run_ms(200);
	assert_int_equal(resident(b)->turn.why, DS_TURN_WHY_NONE);
	assert_null(ds_turns_why(resident(b)));
	/* Nobody hears of the dead. */
	kill_runtime(b);
	run_ms(100);
	assert_int_equal(resident(b)->turn.why, DS_TURN_WHY_ORPHAN);
}

/* Not moved at all, as the site wants it. */
static void fixed(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	run_ms(50);
	resident(b)->turn.fixed = 1;
	settle();
	assert_int_equal(resident(a)->turn.why, DS_TURN_WHY_FIXED);
	assert_false(ds_ledger_is_suspended(&state, resident(a)));
	assert_false(ds_ledger_is_suspended(&state, resident(b)));
}

/* The owner has the GPU, whoever's turn it is; and nobody's turn ends meanwhile. */
static void in_a_window(void **unused)
{
	struct party *a, *b;

	fill();
	a = join(60);
	b = join(60);
	run_ms(100);
	const struct ds_ledger_resident *has = ds_turns_whose(&state, resident(a));
	struct party *other = has == resident(a) ? b : a;
	state.whole.phase = DS_WHOLE_OPEN;
	memcpy(state.whole.owner, other->name, sizeof(state.whole.owner));
	resident(other)->whole.opened = 1;
	settle();
	assert_false(ds_ledger_is_suspended(&state, resident(other)));
	assert_true(ds_ledger_is_suspended(&state, has));
	now_ms += 500;
	settle();
	assert_ptr_equal(ds_turns_whose(&state, resident(a)), has);
	assert_int_equal(has->turn.until_ns, 0);
	state.whole.phase = DS_WHOLE_RETURNING;
	settle();
	assert_true(ds_ledger_is_suspended(&state, resident(other)));
	state.whole = (struct ds_whole_window){.phase = DS_WHOLE_NONE};
	settle();
	assert_false(ds_ledger_is_suspended(&state, has));
}

/* Two that are each in the other's group: both stop, then both are where they should be. */
static void two_that_changed_places(void **unused)
{
	struct party *a, *b;

	a = join(200);
	b = join(200);
	assert_int_equal(resident(a)->turn.state, DS_TURN_ALONE);
	assert_int_equal(resident(b)->turn.state, DS_TURN_ALONE);
	const struct ds_groups of_a = resident(a)->own, of_b = resident(b)->own;
	assert_false(ds_groups_equal(&of_a, &of_b));
	run_ms(10);
	resident(a)->own = resident(a)->planned = resident(a)->held = of_b;
	resident(b)->own = resident(b)->planned = resident(b)->held = of_a;
	a->told = b->told = true;
	run_ms(50);
	assert_true(ds_groups_equal(&entry(a)->groups, &of_b));
	assert_true(ds_groups_equal(&entry(b)->groups, &of_a));
	forget_use();
	run_ms(100);
	assert_int_equal(a->used_ms, 100);
	assert_int_equal(b->used_ms, 100);
}

/* Random shares, kernels, pauses, joins and ends: at most one is there (one_ms), and nobody waits for ever. */
static void histories(void **unused)
{
	unsigned turns = 0;

	for (uint32_t seed = 1; seed <= 60; seed++) {
		uint64_t waited[PARTIES] = {0};

		set_up(NULL);
		drawn = seed;
		fill();
		for (int i = 0; i < 3; i++)
			join(10 + below(70))->kernel_ms = 1 + below(30);
		for (unsigned ms = 0; ms < 3000; ms++) {
			struct party *p = &parties[3 + below(3)];

			one_ms();
			for (int i = 3; i < PARTIES; i++) {
				const bool waits = parties[i].there && parties[i].wants &&
						   !is_running(&parties[i]) && !parties[i].stopped;
				waited[i] = waits ? waited[i] + 1 : 0;
				/* All that the others may owe, with the smallest share here. */
				assert_true(waited[i] < 2000);
			}
			if (below(50))
				continue;
			if (p->there && below(20) == 0)
				end_program(p);
			else if (p->there)
				set_wants(p, !p->wants);
		}
		for (int i = 3; i < PARTIES; i++)
			turns += resident(&parties[i])->turn.count;
	}
	assert_true(turns > 1000);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup(test, set_up)
	static const struct CMUnitTest tests[] = {
	    FRESH(by_weight),
	    FRESH(alone_or_beside_who_is_idle_there_are_no_turns),
	    FRESH(what_is_overrun_is_paid_back),
	    FRESH(who_does_not_leave_is_not_waited_for_long),
	    FRESH(patience_is_not_the_rest_of_a_turn),
	    FRESH(old_accounts_starve_nobody),
	    FRESH(latency_goes_first),
	    FRESH(latency_below_the_average_is_next),
	    FRESH(who_dies_in_its_turn),
	    FRESH(who_is_stopped_in_its_turn_is_late),
	    FRESH(a_stopped_runtime_does_not_stop_the_others),
	    FRESH(side_by_side),
	    FRESH(fixed),
	    FRESH(in_a_window),
	    FRESH(two_that_changed_places),
	    cmocka_unit_test(histories),
	};

	alarm(60);
	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
