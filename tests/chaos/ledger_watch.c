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
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "noderuntime/ledger.h"
#include "tests/chaos/invariants.h"

static struct ds_ledger_state state, before;
static unsigned long n_states, n_wrong;
static unsigned residents_most, programs_most;

static void wrong(const struct ds_ledger_state *where, const char *text)
{
	printf("{\"generation\":%llu,\"wrong\":\"%s\"}\n", (unsigned long long)where->generation,
	       text);
	fflush(stdout);
}

static void look(const char *dir)
{
	if (ds_ledger_read(dir, &state, NULL) < 0)
		return; /* none, or one that is broken and about to be set aside */
	if (!memcmp(&state, &before, sizeof(state)))
		return;
	n_states++;
	n_wrong += invariants_check(&state, wrong);
	residents_most = state.n_residents > residents_most ? state.n_residents : residents_most;
	programs_most = state.n_programs > programs_most ? state.n_programs : programs_most;
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
