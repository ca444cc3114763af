/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger's file between several processes, which may be killed at any instant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/ledger.h"
#include "noderuntime/ledger_image.h"
#include "tests/unit/ledger_tests.h"

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int sleep_long(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	int fd = *(int *)arg;

	if (write(fd, "l", 1) != 1)
		_exit(1);
	pause();
	return 0;
}

/* A holder that does not let go is waited for as long as was said, and no longer than it lives. */
static void lock_wait_is_bounded(void **state)
{
	struct ds_error err;
	struct ds_ledger *ledger = open_ledger();
	int ends[2];
	char byte;

	assert_int_equal(pipe(ends), 0);
	pid_t holder = fork();
	if (!holder) {
		alarm(30);
		ds_ledger_change(ledger, 1000, sleep_long, &ends[1], NULL);
		_exit(0);
	}
	assert_int_equal(read(ends[0], &byte, 1), 1);
	int64_t begin_ms = now_ms();
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), -1);
	assert_int_equal(errno, ETIMEDOUT);
	assert_true(now_ms() - begin_ms >= 100);
	kill(holder, SIGKILL);
	assert_int_equal(ds_ledger_change(ledger, 5000, join, "job-1", &err), 0);
	assert_int_equal(waitpid(holder, NULL, 0), holder);
	close(ends[0]);
	close(ends[1]);
	ds_ledger_close(ledger);
}

static int count_events(int fd)
{
	char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	int n = 0;

	if (poll(&ready, 1, 0) != 1)
		return 0;
	ssize_t size = read(fd, events, sizeof(events));
	for (ssize_t at = 0; at < size; n++) {
		const struct inotify_event *event = (const struct inotify_event *)(events + at);
		at += (ssize_t)(sizeof(*event) + event->len);
	}
	return n;
}

static void watchers_learn_of_changes(void **state)
{
	struct ds_error err;
	struct ds_ledger *ledger = open_ledger();
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	assert_true(fd >= 0);
	assert_true(inotify_add_watch(fd, file, IN_MODIFY) >= 0);
	assert_int_equal(ds_ledger_change(ledger, 100, nothing, NULL, &err), 0);
	assert_int_equal(ds_ledger_change(ledger, 100, refuse, NULL, &err), 42);
	assert_int_equal(count_events(fd), 0);
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), 0);
	assert_true(count_events(fd) >= 1);
	close(fd);
	ds_ledger_close(ledger);
}

/* Every change keeps this: all residents but the first carry the number of the change. */
static int stamp(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	if (state->n_residents == DS_RESIDENTS_MAX)
		ds_ledger_leave(state, "stamp");
	while (state->n_residents < DS_RESIDENTS_MAX) {
		struct ds_ledger_resident r = resident("stamp", 1);

		if (state->n_residents)
			snprintf(r.name, sizeof(r.name), "r%u", (unsigned)state->next_arrival);
		if (ds_ledger_join(state, &r, err))
			return -1;
	}
	for (uint32_t i = 0; i < state->n_residents; i++)
		state->residents[i].uid = (uint32_t)state->generation + 1;
	return 0;
}

static void check_stamps(const struct ds_ledger_state *state)
{
	if (state->generation)
		assert_int_equal(state->n_residents, DS_RESIDENTS_MAX);
	for (uint32_t i = 0; i < state->n_residents; i++)
		assert_int_equal(state->residents[i].uid, (uint32_t)state->generation);
}

static pid_t start_writer(void)
{
	pid_t pid = fork();

	if (!pid) {
		struct ds_ledger *ledger;
		struct ds_error err;

		alarm(30);
		if (ds_ledger_open(dir, GPU, &h200, &ledger, &err) || err.text[0])
			_exit(1);
		for (;;) {
			if (ds_ledger_change(ledger, 2000, stamp, NULL, &err))
				_exit(1);
		}
	}
	return pid;
}

/* Writers are killed at random instants; whoever comes next always finds a whole state. */
static void kill_at_any_instant(void **state)
{
	static struct ds_ledger_state read;
	struct ds_error err;
	uint64_t generation = 0;
	uint32_t random = 1;

	/* The watchdog of main() ends what does not come to so many on a busy machine. */
	for (int round = 0; round < 300 || generation <= 300; round++) {
		pid_t pid = start_writer();
		int status;

		assert_true(pid > 0);
		random = random * 1664525 + 1013904223;
		usleep(random >> 20);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		if (ds_ledger_read(dir, &read, &err)) {
			assert_int_equal(errno, ENOENT);
			assert_int_equal(generation, 0);
			continue;
		}
		assert_true(read.generation >= generation);
		generation = read.generation;
		check_stamps(&read);
	}
	assert_int_equal(access(broken, F_OK), -1);
	ds_ledger_close(open_ledger());
}

/* Readers without a lock, beside two writers that do nothing else, see whole states only. */
static void readers_need_no_lock(void **state)
{
	static struct ds_ledger_state read;
	struct ds_error err;
	uint64_t generation = 0;
	int status;

	ds_ledger_close(open_ledger());
	pid_t writers[] = {start_writer(), start_writer()};
	int64_t end_ms = now_ms() + 500;
	while (now_ms() < end_ms || generation <= 10) {
		if (ds_ledger_read(dir, &read, &err))
			fail_msg("%s", err.text);
		assert_true(read.generation >= generation);
		generation = read.generation;
		check_stamps(&read);
	}
	for (int i = 0; i < 2; i++) {
		kill(writers[i], SIGKILL);
		assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
		assert_true(WIFSIGNALED(status));
	}
}

static unsigned char kept[sizeof(struct ds_ledger_image)];
static int written_fd;

static void write_it(int signal_number)
{
	(void)!pwrite(written_fd, kept, sizeof(kept), 0);
}

/* A ledger that is not whole at the first look is looked at again; that it was not is nobody's business then. */
static void readers_look_again(void **state)
{
	const struct itimerspec soon = {.it_value.tv_nsec = 5000000};
	struct sigevent usr1 = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	timer_t timer;
	static struct ds_ledger_state read;
	struct ds_error err = {""};

	ds_ledger_close(open_ledger());
	written_fd = open(file, O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(written_fd, kept, sizeof(kept), 0), sizeof(kept));
	signal(SIGUSR1, write_it);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &usr1, &timer), 0);
	for (int round = 0; round < 10; round++) {
		assert_int_equal(ftruncate(written_fd, round % 2 ? 1000 : 0), 0);
		assert_int_equal(timer_settime(timer, 0, &soon, NULL), 0);
		assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
		assert_string_equal(err.text, "");
	}
	timer_delete(timer);
	close(written_fd);
}

/* Many create the same ledger at once: one file, nobody's join is lost. */
static void creation_races(void **state)
{
	static struct ds_ledger_state read;
	struct ds_error err;
	pid_t pids[8];

	for (int i = 0; i < 8; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			struct ds_ledger *ledger;
			char name[16];

			alarm(30);
			snprintf(name, sizeof(name), "job-%d", i);
			if (ds_ledger_open(dir, GPU, &h200, &ledger, &err))
				_exit(1);
			struct ds_ledger_resident r = resident(name, 100);
			_exit(ds_ledger_change(ledger, 5000,
					       (int (*)(struct ds_ledger_state *, void *,
							struct ds_error *))ds_ledger_join,
					       &r, &err) != 0);
		}
	}
	for (int i = 0; i < 8; i++) {
		int status;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 8);
	assert_int_equal(access(broken, F_OK), -1);
}

int main(void)
{
#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
	static const struct CMUnitTest tests[] = {
	    IN_DIR(lock_wait_is_bounded), IN_DIR(watchers_learn_of_changes),
	    IN_DIR(kill_at_any_instant),  IN_DIR(readers_need_no_lock),
	    IN_DIR(readers_look_again),   IN_DIR(creation_races),
	};

	alarm(60);
	return cmocka_run_group_tests_name("ledger_races", tests, NULL, NULL);
}
