/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/reclaim_page.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/clock.h"

enum state { ASLEEP, CALLED, WATCHES, SEEN };

static struct {
	const struct ds_page *page;
	struct ds_groups groups;
	unsigned pause_ns;
	sem_t called;
	_Atomic enum state state;
	int64_t seen_ns, before_ns; /* once SEEN */
} the;

const struct ds_page *page_find(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	const struct ds_page *found = NULL;
	char line[4352];

	while (maps && !found && fgets(line, sizeof(line), maps)) {
		const struct ds_page *page = (const struct ds_page *)strtoul(line, NULL, 16);

		if (strstr(line, "/memfd:detshare-page") && page->magic == DS_PORT_MAGIC &&
		    page->version == DS_PORT_VERSION)
			found = page;
	}
	if (maps)
		fclose(maps);
	return found;
}

struct ds_groups page_granted(const struct ds_page *page, uint32_t *flags)
{
	struct ds_groups granted;
	uint64_t epoch;

	do {
		epoch = atomic_load_explicit(&page->epoch, memory_order_acquire);
		granted = page->granted;
		*flags = page->flags;
		atomic_thread_fence(memory_order_acquire);
	} while (epoch % 2 || epoch != atomic_load_explicit(&page->epoch, memory_order_relaxed));
	return granted;
}

/* Until the page grants them, or nobody wants to know any more. */
static void look(void)
{
	const struct timespec pause = {.tv_nsec = the.pause_ns};
	enum state state = CALLED;
	int64_t before_ns = ds_now_ns(CLOCK_MONOTONIC);
	uint32_t flags;

	if (!atomic_compare_exchange_strong(&the.state, &state, WATCHES))
		return;
	while (atomic_load_explicit(&the.state, memory_order_relaxed) == WATCHES) {
		const struct ds_groups granted = page_granted(the.page, &flags);
		const int64_t now_ns = ds_now_ns(CLOCK_MONOTONIC);

		if (ds_groups_within(&the.groups, &granted)) {
			the.seen_ns = now_ns;
			the.before_ns = before_ns;
			state = WATCHES;
			atomic_compare_exchange_strong(&the.state, &state, SEEN);
			return;
		}
		before_ns = now_ns;
		if (the.pause_ns)
			nanosleep(&pause, NULL);
	}
}

static void *run(void *unused)
{
	(void)unused;
	prctl(PR_SET_TIMERSLACK, 1000UL);
	while (!sem_wait(&the.called) || errno == EINTR)
		look();
	return NULL;
}

void page_watch_start(const struct ds_page *page, const struct ds_groups *groups, unsigned pause_ns)
{
	pthread_t thread;

	the.page = page;
	the.groups = *groups;
	the.pause_ns = pause_ns;
	if (sem_init(&the.called, 0, 0) || pthread_create(&thread, NULL, run, NULL) ||
	    pthread_detach(thread)) {
		perror("reclaim_program: cannot watch the page");
		exit(1);
	}
}

void page_watch(void)
{
	const struct timespec pause = {.tv_nsec = 5000};

	atomic_store(&the.state, CALLED);
	sem_post(&the.called);
	while (atomic_load(&the.state) == CALLED)
		nanosleep(&pause, NULL);
}

bool page_watched(int64_t *seen_ns, int64_t *before_ns)
{
	if (atomic_load(&the.state) != SEEN)
		return false;
	*seen_ns = the.seen_ns;
	*before_ns = the.before_ns;
	return true;
}

void page_watch_stop(void)
{
	atomic_store(&the.state, ASLEEP);
}
