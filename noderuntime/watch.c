/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/watch.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"

struct ds_watch *ds_watch_add(struct ds_runtime *rt, enum ds_watch_kind kind, int fd,
			      uint32_t events)
{
	struct ds_watch *new = calloc(1, sizeof(*new));
	struct epoll_event event = {.events = events, .data.ptr = new};

	if (!new || epoll_ctl(rt->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		free(new);
		return NULL;
	}
	*new = (struct ds_watch){.kind = kind,
				 .fd = fd,
				 .next = rt->watches,
				 .port_fd = -1,
				 .book_slot = -1,
				 .answer_fd = -1,
				 .bell_fd = -1};
	rt->watches = new;
	rt->n_peers += kind == DS_WATCH_PEER;
	return new;
}

int ds_watch_or_fail(struct ds_runtime *rt, enum ds_watch_kind kind, int fd, const char *what,
		     struct ds_error *err)
{
	if (fd < 0)
		return ds_fail(err, "cannot watch %s: %s", what, strerror(errno));
	if (!ds_watch_add(rt, kind, fd, EPOLLIN)) {
		ds_fail(err, "cannot watch %s: %s", what, strerror(errno));
		close(fd);
		return -1;
	}
	return 0;
}

/* What a program says that it measured goes with its port, so it is kept when the port goes. */
static void note_measured(struct ds_runtime *rt, const struct ds_watch *program)
{
	double lifetime_s = (double)(ds_now_ns(CLOCK_BOOTTIME) - program->since_ns) / 1e9;
	char copy[DS_PORT_SIZE];
	ssize_t n = pread(program->port_fd, copy, sizeof(copy), 0);

	if (n > 0)
		ds_measured_add(&rt->allocation->measured, copy, (size_t)n, lifetime_s);
}

void ds_watch_at(int timer, uint64_t at_ns)
{
	const struct itimerspec then = {.it_value = {.tv_sec = (time_t)(at_ns / 1000000000),
						     .tv_nsec = (long)(at_ns % 1000000000)}};

	timerfd_settime(timer, TFD_TIMER_ABSTIME, &then, NULL);
}

void ds_unwatch(struct ds_runtime *rt, struct ds_watch *old)
{
	struct ds_watch **link = &rt->watches;

	while (*link && *link != old)
		link = &(*link)->next;
	if (*link)
		*link = old->next;
	rt->n_peers -= old->kind == DS_WATCH_PEER;
	if (old->kind == DS_WATCH_NEIGHBOUR || old->kind == DS_WATCH_PROGRAM)
		rt->all_watched = false;
	/*
	 * Not by close() alone: a child that was just forked for an errand has the descriptor, too, and until
	 * it has closed it, events would go on coming, for a watch that is gone or another one in its place.
	 */
	epoll_ctl(rt->epoll, EPOLL_CTL_DEL, old->fd, NULL);
	close(old->fd);
	if (old->port_fd >= 0) {
		note_measured(rt, old);
		close(old->port_fd);
	}
	ds_quota_free_slot(&rt->quota, old->book_slot);
	if (old->child > 0) {
		kill(old->child, SIGKILL); /* not reaped, so it is still that process */
		waitpid(old->child, NULL, 0);
	}
	if (old->answer_fd >= 0)
		close(old->answer_fd);
	if (old->bell_fd >= 0)
		close(old->bell_fd);
	free(old);
}

static bool same_process(const struct ds_process *a, const struct ds_process *b)
{
	return a->pid == b->pid && a->start_ticks == b->start_ticks;
}

struct ds_watch *ds_watch_find(struct ds_runtime *rt, enum ds_watch_kind kind,
			       const struct ds_process *process)
{
	for (struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind == kind && same_process(&w->process, process))
			return w;
	}
	return NULL;
}

void ds_complain(const struct ds_runtime *rt, const struct ds_error *reason)
{
	syslog(LOG_ERR, "%s: %s", rt->allocation->name, reason->text);
}
