/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads every state of a GPU's ledger that it can catch and checks what must hold in each:
 *
 *   ledger_watch GPU_DIR
 *
 * A line of JSON for everything that is wrong; at the end of standard input one that says how much was
 * seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "noderuntime/ledger.h"

enum { NAMES_MAX = 4096 };

static struct ds_ledger_state state, before;
static char shared_in_time[NAMES_MAX][DS_NAME_SIZE]; /* who ever had less than a group */
static unsigned n_shared;
static unsigned long n_states, n_wrong;
static unsigned residents_most, programs_most;

static void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void wrong(const char *format, ...)
{
	va_list args;

	n_wrong++;
	printf("{\"generation\":%llu,\"wrong\":\"", (unsigned long long)state.generation);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	puts("\"}");
	fflush(stdout);
}

static bool shares_in_time(const char *name)
{
	for (unsigned i = 0; i < n_shared; i++)
		if (!strcmp(shared_in_time[i], name))
			return true;
	return false;
}

static void note_small(void)
{
	for (uint32_t i = 0; i < state.n_residents; i++) {
		const struct ds_ledger_resident *r = &state.residents[i];
		if (r->weight_milli < 1000 && !shares_in_time(r->name) && n_shared < NAMES_MAX)
			memcpy(shared_in_time[n_shared++], r->name, DS_NAME_SIZE);
	}
}

static const char *text_of(const struct ds_groups *groups)
{
	static char text[256];

	return ds_groups_format(groups, &state.shape, text, sizeof(text));
}

static void check_resident(const struct ds_ledger_resident *r)
{
	const unsigned floor_groups = r->grant.share_milli * state.shape.n_groups / 1000;
	struct ds_groups full = r->own;
	const struct ds_groups kept = ds_groups_intersection(r->own, r->planned);

	ds_groups_remove(&full, state.shape.n_groups);
	if (ds_groups_count(&full) < floor_groups)
		wrong("%s has a share of %u thousandths and owns %s only", r->name,
		      r->grant.share_milli, text_of(&r->own));
	if (r->demand.active && !ds_groups_within(&r->own, &r->planned))
		wrong("%s is active and is not planned to have all of its own %s", r->name,
		      text_of(&r->own));
	if (!ds_groups_has_full(&kept, &state.shape))
		wrong("%s is planned to have no full group of its own", r->name);
	for (unsigned g = state.shape.n_groups + (state.shape.rest_sms > 0); g < DS_GROUPS_MAX; g++)
		if (ds_groups_has(&r->own, g) || ds_groups_has(&r->planned, g) ||
		    ds_groups_has(&r->held, g))
			wrong("%s has group %u, which the GPU does not have", r->name, g);
}

/* A whole-GPU window: its owner is where the others, who are quiet, will be again. */
static bool owns_window(const char *name)
{
	return state.whole.phase >= DS_WHOLE_OPEN && !strcmp(state.whole.owner, name);
}

static void check_two(const struct ds_ledger_resident *a, const struct ds_ledger_resident *b)
{
	struct ds_groups both;

	if (!strcmp(a->name, b->name))
		wrong("%s is there twice", a->name);
	if (shares_in_time(a->name) && shares_in_time(b->name))
		return;
	both = ds_groups_intersection(a->own, b->own);
	if (!ds_groups_empty(&both))
		wrong("%s and %s both own %s", a->name, b->name, text_of(&both));
	both = ds_groups_intersection(a->planned, b->planned);
	if (!ds_groups_empty(&both))
		wrong("%s and %s are both planned to have %s", a->name, b->name, text_of(&both));
	if (owns_window(a->name) || owns_window(b->name))
		return; /* it may be on what the other one keeps for later */
	both = ds_groups_intersection(a->held, b->held);
	if (!ds_groups_empty(&both))
		wrong("%s and %s both hold %s", a->name, b->name, text_of(&both));
}

static void check_two_programs(const struct ds_ledger_program *a, const struct ds_ledger_program *b)
{
	struct ds_groups both = ds_groups_intersection(a->groups, b->groups);

	if (a->process.pid == b->process.pid && a->process.start_ticks == b->process.start_ticks)
		wrong("process %d is there twice", a->process.pid);
	if (!strcmp(a->resident, b->resident) || ds_groups_empty(&both) ||
	    ((owns_window(a->resident) || owns_window(b->resident)) && (a->quiet || b->quiet)) ||
	    (shares_in_time(a->resident) && shares_in_time(b->resident)))
		return;
	wrong("process %d of %s and process %d of %s may both be on %s", a->process.pid,
	      a->resident, b->process.pid, b->resident, text_of(&both));
}

static void check(void)
{
	uint32_t shares = 0;

	note_small();
	for (uint32_t i = 0; i < state.n_residents; i++) {
		shares += state.residents[i].grant.share_milli;
		check_resident(&state.residents[i]);
		for (uint32_t k = 0; k < i; k++)
			check_two(&state.residents[k], &state.residents[i]);
	}
	if (shares > 1000)
		wrong("shares of %u thousandths on one GPU", shares);
	for (uint32_t i = 0; i < state.n_programs; i++)
		for (uint32_t k = 0; k < i; k++)
			check_two_programs(&state.programs[k], &state.programs[i]);
	residents_most = state.n_residents > residents_most ? state.n_residents : residents_most;
	programs_most = state.n_programs > programs_most ? state.n_programs : programs_most;
}

static void look(const char *dir)
{
	if (ds_ledger_read(dir, &state, NULL) < 0)
		return; /* none, or one that is broken and about to be set aside */
	if (!memcmp(&state, &before, sizeof(state)))
		return;
	n_states++;
	check();
	before = state;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("Usage: ledger_watch GPU_DIR\n", stderr);
		return 2;
	}
	int changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (changes < 0 ||
	    inotify_add_watch(changes, argv[1], IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
		fprintf(stderr, "ledger_watch: cannot watch %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	struct pollfd events[] = {{.fd = STDIN_FILENO, .events = POLLIN},
				  {.fd = changes, .events = POLLIN}};
	while (!events[0].revents) {
		char skipped[4096];

		look(argv[1]);
		if (poll(events, 2, -1) < 0 && errno != EINTR)
			return 1;
		while (read(changes, skipped, sizeof(skipped)) > 0)
			;
	}
	look(argv[1]);
	printf("{\"states\":%lu,\"wrong_states\":%lu,\"residents_most\":%u,\"programs_most\":%u}\n",
	       n_states, n_wrong, residents_most, programs_most);
	return n_wrong ? 1 : 0;
}
