/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/process.h"
#include "noderuntime/advance.h"
#include "noderuntime/allocation.h"
#include "noderuntime/concern.h"
#include "noderuntime/late.h"
#include "noderuntime/ledger.h"
#include "noderuntime/ledger_image.h"
#include "noderuntime/terms.h"

#define GPU "GPU-12345678-1234-1234-1234-123456789abc"

static const struct ds_gpu_shape h200 = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};

static char dir[] = "/tmp/detshare-test-ledger-XXXXXX";
static char file[sizeof(dir) + 8];
static char broken[sizeof(dir) + 15];
static char new_file[sizeof(dir) + 15];

static int make_dir(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/detshare-test-ledger-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(file, sizeof(file), "%s/ledger", dir);
	snprintf(broken, sizeof(broken), "%s/ledger.broken", dir);
	snprintf(new_file, sizeof(new_file), "%s/ledger.new", dir);
	return 0;
}

static int remove_dir(void **state)
{
	unlink(file);
	unlink(broken);
	unlink(new_file); /* of a maker that was killed */
	return rmdir(dir);
}

static struct ds_ledger *open_ledger(void)
{
	struct ds_ledger *ledger;
	struct ds_error err;

	if (ds_ledger_open(dir, GPU, &h200, &ledger, &err))
		fail_msg("%s", err.text);
	assert_string_equal(err.text, "");
	return ledger;
}

static struct ds_ledger_resident resident(const char *name, uint32_t share_milli)
{
	struct ds_ledger_resident r = {.job_id = 12, .uid = 1000, .runtime = {.pid = 1}};

	snprintf(r.name, sizeof(r.name), "%s", name);
	snprintf(r.grant.class_name, sizeof(r.grant.class_name), "throughput");
	r.grant.kind = DS_KIND_THROUGHPUT;
	r.grant.share_milli = share_milli;
	return r;
}

static int join(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	struct ds_ledger_resident r = resident(arg, 500);

	return ds_ledger_join(state, &r, err);
}

static int leave(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	return !ds_ledger_leave(state, arg);
}

static int refuse(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	memset(state, 0xff, sizeof(*state));
	return 42;
}

static int nothing(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	return 0;
}

static int spoil(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	state->n_residents = DS_RESIDENTS_MAX + 1;
	return 0;
}

static void changes_are_kept(void **state)
{
	static struct ds_ledger_state read;
	struct ds_error err = {""};
	struct ds_ledger *ledger = open_ledger();
	struct ds_ledger *other = open_ledger();

	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.generation, 0);
	assert_string_equal(read.gpu_uuid, GPU);
	assert_memory_equal(&read.shape, &h200, sizeof(h200));

	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), 0);
	assert_int_equal(ds_ledger_change(other, 100, join, "job-2", &err), 0);
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-2", &err), -1);
	assert_string_equal(err.text, "job-2 is on GPU " GPU " already");
	assert_int_equal(ds_ledger_change(ledger, 100, refuse, NULL, &err), 42);
	assert_int_equal(ds_ledger_change(ledger, 100, nothing, NULL, &err), 0);
	assert_int_equal(ds_ledger_change(ledger, 100, spoil, NULL, &err), -1);
	assert_int_equal(errno, EINVAL);

	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.generation, 2);
	assert_int_equal(read.n_residents, 2);
	assert_string_equal(read.residents[0].name, "job-1");
	assert_string_equal(read.residents[1].name, "job-2");
	assert_int_equal(read.residents[1].arrival, 1);

	assert_int_equal(ds_ledger_change(other, 100, leave, "job-1", &err), 0);
	ds_ledger_close(ledger);
	ds_ledger_close(other);
	ds_ledger_close(NULL);
	ledger = open_ledger();
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.generation, 3);
	assert_int_equal(read.n_residents, 1);
	assert_int_equal(read.next_arrival, 2);
	ds_ledger_close(ledger);

	struct stat st;
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(st.st_size, sizeof(struct ds_ledger_image));
	assert_true((size_t)st.st_blocks * 512 >= sizeof(struct ds_ledger_image));
}

static void umask_does_not_hide_the_ledger(void **state)
{
	mode_t old = umask(0077);
	struct stat st;

	ds_ledger_close(open_ledger());
	umask(old);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
}

static void absent(void **state)
{
	static struct ds_ledger_state read;
	struct ds_ledger *ledger;
	struct ds_error err;

	assert_int_equal(ds_ledger_read(dir, &read, &err), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(ds_ledger_read("/nonexistent/gpu", &read, &err), -1);
	assert_int_equal(errno, ENOENT);
	assert_string_equal(err.text,
			    "cannot open /nonexistent/gpu/ledger: No such file or directory");
	assert_int_equal(ds_ledger_open("/nonexistent/gpu", GPU, &h200, &ledger, &err), -1);
	assert_int_equal(errno, ENOENT);
	assert_null(ledger);

	/* One that somebody emptied. */
	int fd = open(file, O_CREAT | O_WRONLY, 0644);
	assert_int_equal(ftruncate(fd, 10000), 0);
	close(fd);
	assert_int_equal(ds_ledger_read(dir, &read, &err), -1);
	assert_int_equal(errno, ENODATA);
	ds_ledger_close(open_ledger());
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
}

static void bad_arguments(void **state)
{
	struct ds_gpu_shape nothing_there = {0};
	struct ds_ledger *ledger;
	struct ds_error err;

	assert_int_equal(ds_ledger_open(dir, "", &h200, &ledger, &err), -1);
	assert_int_equal(ds_ledger_open(dir, GPU, &nothing_there, &ledger, &err), -1);
	assert_int_equal(ds_ledger_open(dir, "GPU-0123456789012345678901234567890123456789012345",
					&h200, &ledger, &err),
			 -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(access(file, F_OK), -1);
}

static void patch(off_t offset, const void *bytes, size_t size)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, size, offset), size);
	close(fd);
}

/* Opens anew, expects the file set aside with that reason, and the new ledger empty. */
static void expect_set_aside(const struct ds_gpu_shape *shape, const char *uuid, const char *reason)
{
	static struct ds_ledger_state read;
	struct ds_ledger *ledger;
	struct ds_error err;
	char note[600];

	snprintf(note, sizeof(note), "%s was set aside as ledger.broken: %s", file, reason);
	unlink(broken);
	assert_int_equal(ds_ledger_open(dir, uuid, shape, &ledger, &err), 0);
	assert_string_equal(err.text, note);
	assert_int_equal(access(broken, F_OK), 0);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 0);
	assert_int_equal(read.generation, 0);
	assert_string_equal(read.gpu_uuid, uuid);
	ds_ledger_close(ledger);
}

static void join_one(void)
{
	struct ds_ledger *ledger = open_ledger();
	struct ds_error err;

	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), 0);
	ds_ledger_close(ledger);
}

static void broken_ones_are_set_aside(void **state)
{
	static struct ds_ledger_state read;
	struct ds_gpu_shape other_shape = {.n_groups = 16, .group_sms = 8};
	struct ds_error err;
	char expected[200];

	join_one();
	expect_set_aside(&h200, "GPU-other", "it is of GPU " GPU);
	expect_set_aside(&h200, GPU, "it is of GPU GPU-other");
	join_one();
	expect_set_aside(&other_shape, GPU,
			 "it is of a GPU of 15 groups of 8 SMs and 12 more, not 16 of 8 and 0");
	expect_set_aside(&h200, GPU,
			 "it is of a GPU of 16 groups of 8 SMs and 0 more, not 15 of 8 and 12");

	join_one();
	patch(0, "no ledger", 9);
	assert_int_equal(ds_ledger_read(dir, &read, &err), -1);
	assert_int_equal(errno, EIO);
	snprintf(expected, sizeof(expected), "cannot use %s: it is no ledger", file);
	assert_string_equal(err.text, expected);
	expect_set_aside(&h200, GPU, "it is no ledger");

	join_one();
	patch(offsetof(struct ds_ledger_header, version), &(uint32_t){DS_LEDGER_VERSION + 1}, 4);
	snprintf(expected, sizeof(expected), "it has version %d (%zu bytes), not %d (%zu bytes)",
		 DS_LEDGER_VERSION + 1, sizeof(struct ds_ledger_copy), DS_LEDGER_VERSION,
		 sizeof(struct ds_ledger_copy));
	expect_set_aside(&h200, GPU, expected);

	join_one();
	patch(offsetof(struct ds_ledger_header, boot_id), "00000000", 8);
	assert_int_equal(ds_ledger_read(dir, &read, &err), -1);
	assert_int_equal(errno, ENOENT);
	expect_set_aside(&h200, GPU, "it is of an earlier boot");

	join_one();
	patch(offsetof(struct ds_ledger_image, copies[1].state.residents[0].uid), "abc", 3);
	expect_set_aside(&h200, GPU, "its generation 1 has a wrong checksum");

	join_one();
	patch(DS_LEDGER_ACTIVE_OFFSET, &(uint64_t){5}, 8);
	expect_set_aside(&h200, GPU, "its generation 5 has a wrong checksum");

	join_one();
	assert_int_equal(truncate(file, 9000), 0);
	snprintf(expected, sizeof(expected), "it has 9000 bytes, not %zu",
		 sizeof(struct ds_ledger_image));
	expect_set_aside(&h200, GPU, expected);
}

/* Nobody changes a ledger that is broken; whoever opens anew finds a good one, the others follow. */
static void broken_under_an_open_one(void **state)
{
	static struct ds_ledger_state read;
	struct ds_error err;
	struct ds_ledger *ledger = open_ledger();
	char expected[200];

	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), 0);
	patch(offsetof(struct ds_ledger_image, copies[1].state.residents[0].uid), "abc", 3);
	/* Whoever made the last change knows what it was, unless there is a reason to look. */
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-2", &err), 0);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 2);
	assert_int_equal(read.residents[0].uid, resident("job-1", 1).uid);
	patch(offsetof(struct ds_ledger_image, copies[0].state.residents[0].uid), "abc", 3);
	ds_ledger_doubt(ledger);
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-2", &err), -1);
	assert_int_equal(errno, EIO);
	snprintf(expected, sizeof(expected), "cannot use %s: its generation 2 has a wrong checksum",
		 file);
	assert_string_equal(err.text, expected);
	expect_set_aside(&h200, GPU, "its generation 2 has a wrong checksum");
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-3", &err), 0);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 1);
	assert_string_equal(read.residents[0].name, "job-3");

	/* A file that is gone is made anew, too. */
	assert_int_equal(unlink(file), 0);
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-4", &err), 0);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_string_equal(read.residents[0].name, "job-4");
	ds_ledger_close(ledger);
}

static int recall_half(void *arg, struct ds_ledger_state *state, struct ds_error *err)
{
	int *times = arg;

	++*times;
	state->generation = 7;
	return join(state, "job-half", err);
}

static int join_and_remove(struct ds_ledger_state *state, void *arg, struct ds_error *err)
{
	int *times = arg;

	if (++*times == 1)
		assert_int_equal(unlink(file), 0);
	return join(state, "job-2", err);
}

/* Who knows the past makes a lost ledger from it, whenever that is found; and no change is lost with a file. */
static void lost_ones_are_recalled(void **state)
{
	static struct ds_ledger_state read;
	int recalled = 0, changed = 0;
	const struct ds_ledger_past past = {.recall = recall_half, .arg = &recalled};
	struct ds_ledger *ledger;
	struct ds_error err;

	assert_int_equal(ds_ledger_open_with(dir, GPU, &h200, &past, &ledger, &err), 0);
	assert_int_equal(recalled, 1);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_string_equal(read.residents[0].name, "job-half");
	assert_true(read.generation > 7);

	uint64_t generation = read.generation;
	patch(DS_LEDGER_ACTIVE_OFFSET, &(uint64_t){5}, 8);
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), 0);
	assert_int_equal(recalled, 2);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 2);
	assert_int_equal(read.generation, generation + 1);

	assert_int_equal(truncate(file, 0), 0);
	assert_int_equal(ds_ledger_change(ledger, 100, nothing, NULL, &err), 0);
	assert_int_equal(recalled, 3);

	assert_int_equal(ds_ledger_change(ledger, 100, join_and_remove, &changed, &err), 0);
	assert_int_equal(changed, 2);
	assert_int_equal(recalled, 4);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 2);

	/* One of another version is somebody's who would do the same to ours. */
	patch(offsetof(struct ds_ledger_header, version), &(uint32_t){DS_LEDGER_VERSION + 1}, 4);
	assert_int_equal(ds_ledger_change(ledger, 100, nothing, NULL, &err), -1);
	patch(0, "DSDLGR99", 8);
	assert_int_equal(ds_ledger_change(ledger, 100, nothing, NULL, &err), -1);
	assert_non_null(strstr(err.text, "it is of another version"));
	assert_int_equal(recalled, 4);
	ds_ledger_close(ledger);
}

static int look_meanwhile(void *arg, struct ds_ledger_state *state, struct ds_error *err)
{
	const int *expected = arg;
	static struct ds_ledger_state read;
	struct ds_error reason = {""};

	assert_int_equal(ds_ledger_read(dir, &read, &reason), -1);
	assert_int_equal(errno, *expected);
	return 0;
}

/* However long it takes to make one, a reader meets what was there before. */
static void one_that_is_being_made_is_not_seen(void **state)
{
	static struct ds_ledger_state read;
	int expected = ENOENT;
	const struct ds_ledger_past past = {.recall = look_meanwhile, .arg = &expected};
	struct ds_ledger *ledger;
	struct ds_error err;

	/* Half of one, by a maker that was killed. */
	int fd = open(new_file, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	assert_int_equal(write(fd, "half", 4), 4);
	close(fd);
	assert_int_equal(ds_ledger_open_with(dir, GPU, &h200, &past, &ledger, &err), 0);
	assert_string_equal(err.text, "");
	assert_int_equal(access(new_file, F_OK), -1);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);

	expected = EIO;
	patch(0, "no ledger", 9);
	assert_int_equal(ds_ledger_change(ledger, 100, join, "job-1", &err), 0);
	assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
	assert_int_equal(read.n_residents, 1);
	assert_int_equal(access(broken, F_OK), 0);
	ds_ledger_close(ledger);
}

static void copies_are_kept(void **state)
{
	static struct ds_ledger_state read, kept;
	char copy_dir[64], copy[80];
	struct ds_ledger *ledger = open_ledger();
	struct ds_error err;

	snprintf(copy_dir, sizeof(copy_dir), "%s/copy", dir);
	snprintf(copy, sizeof(copy), "%s/ledger", copy_dir);
	assert_int_equal(mkdir(copy_dir, 0700), 0);
	assert_int_equal(ds_ledger_keep_copy(ledger, "/nonexistent", &err), -1);
	assert_int_equal(ds_ledger_keep_copy(ledger, copy_dir, &err), 0);
	assert_int_equal(ds_ledger_read(copy_dir, &kept, &err), 0);
	assert_int_equal(kept.generation, 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ds_ledger_change(ledger, 100, i % 2 ? leave : join, "job-1", &err),
				 0);
		assert_int_equal(ds_ledger_read(dir, &read, &err), 0);
		assert_int_equal(ds_ledger_read(copy_dir, &kept, &err), 0);
		assert_memory_equal(&read, &kept, sizeof(read));
	}
	ds_ledger_close(ledger);
	unlink(copy);
	rmdir(copy_dir);
}

static int really_lives(const struct ds_ledger_state *state, const struct ds_process *process,
			void *arg)
{
	return ds_process_alive(process);
}

static void nobody_gains_in_an_incomplete_ledger(void **state)
{
	static struct ds_ledger_state ledger;
	struct ds_ledger_resident r = resident("job-1", 1000);
	struct ds_error err;

	snprintf(ledger.gpu_uuid, sizeof(ledger.gpu_uuid), GPU);
	ledger.shape = h200;
	assert_int_equal(ds_process_identify(getpid(), &r.runtime, &err), 0);
	assert_int_equal(ds_ledger_join(&ledger, &r, &err), 0);
	struct ds_ledger_resident *self = ds_ledger_find(&ledger, "job-1");
	ds_groups_add(&self->held, 3);
	ledger.incomplete = 1;
	assert_int_equal(ds_ledger_settle(&ledger, really_lives, NULL, NULL, &err), 0);
	assert_int_equal(ds_groups_sms(&self->planned, &h200), 132);
	assert_int_equal(ds_groups_sms(&self->held, &h200), 8);
	assert_true(ds_groups_has(&self->held, 3));
	ledger.incomplete = 0;
	assert_int_equal(ds_ledger_settle(&ledger, really_lives, NULL, NULL, &err), 0);
	assert_int_equal(ds_groups_sms(&self->held, &h200), 132);
}

static void what_was_planted_is_refused(void **state)
{
	static struct ds_ledger_state read;
	struct ds_ledger *ledger;
	struct ds_error err;
	char target[64];

	snprintf(target, sizeof(target), "%s.target", dir);
	int fd = open(target, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "precious", 8), 8);
	close(fd);
	assert_int_equal(symlink(target, file), 0);
	assert_int_equal(ds_ledger_open(dir, GPU, &h200, &ledger, &err), -1);
	assert_int_equal(errno, ELOOP);
	assert_int_equal(ds_ledger_read(dir, &read, &err), -1);
	assert_int_equal(errno, ELOOP);
	struct stat st;
	assert_int_equal(stat(target, &st), 0);
	assert_int_equal(st.st_size, 8);
	unlink(file);
	unlink(target);

	assert_int_equal(symlink(dir, target), 0);
	assert_int_equal(ds_ledger_open(target, GPU, &h200, &ledger, &err), -1);
	unlink(target);

	/* Opening a fifo must not wait for somebody at its other end. */
	assert_int_equal(mkfifo(file, 0600), 0);
	assert_int_equal(ds_ledger_open(dir, GPU, &h200, &ledger, &err), -1);
	assert_int_equal(ds_ledger_read(dir, &read, &err), -1);
	unlink(file);

	assert_int_equal(symlink(target, new_file), 0);
	assert_int_equal(ds_ledger_open(dir, GPU, &h200, &ledger, &err), -1);
	assert_int_equal(errno, ELOOP);
	assert_int_equal(access(target, F_OK), -1);
	unlink(new_file);

	join_one();
	assert_int_equal(chmod(file, 0666), 0);
	assert_int_equal(ds_ledger_open(dir, GPU, &h200, &ledger, &err), -1);
	assert_int_equal(errno, EPERM);
	assert_non_null(strstr(err.text, "with mode 666"));
	assert_int_equal(chmod(file, 0644), 0);
	ds_ledger_close(open_ledger());
}

/* A limit on the size of files stands for the full disk; it comes with a signal. */
static void disk_full(void **state)
{
	struct rlimit old;
	struct ds_ledger *ledger;
	struct ds_error err;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	struct rlimit tight = {.rlim_cur = 8192, .rlim_max = old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	int rc = ds_ledger_open(dir, GPU, &h200, &ledger, &err);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(rc, -1);
	assert_non_null(strstr(err.text, "File too large"));
	assert_int_equal(access(file, F_OK), -1);
	assert_int_equal(access(new_file, F_OK), -1);
	ds_ledger_close(open_ledger());
}

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

/* Settling: who lives is a table. */

static int32_t dead_pids[8];
static unsigned n_dead;

static int lives(const struct ds_ledger_state *state, const struct ds_process *process, void *arg)
{
	for (unsigned i = 0; i < n_dead; i++) {
		if (dead_pids[i] == process->pid)
			return 0;
	}
	return 1;
}

static void settle(struct ds_ledger_state *state)
{
	struct ds_error err;

	if (ds_ledger_settle(state, lives, NULL, NULL, &err) || ds_ledger_state_check(state, &err))
		fail_msg("%s", err.text);
}

static void add(struct ds_ledger_state *state, const char *name, uint32_t share_milli, int32_t pid)
{
	struct ds_ledger_resident r = resident(name, share_milli);
	struct ds_error err;

	r.runtime.pid = pid;
	if (ds_ledger_join(state, &r, &err))
		fail_msg("%s", err.text);
	settle(state);
}

static void welcome(struct ds_ledger_state *state, const char *name, int32_t pid)
{
	struct ds_process process = {.pid = pid, .start_ticks = 5};
	struct ds_error err;

	if (ds_ledger_add_program(state, name, &process, &ds_ledger_find(state, name)->held, &err))
		fail_msg("%s", err.text);
}

static void expect(struct ds_ledger_state *state, const char *name, const char *planned,
		   const char *held)
{
	const struct ds_ledger_resident *r = ds_ledger_find(state, name);
	char text[64];

	assert_non_null(r);
	ds_groups_format(&r->planned, &state->shape, text, sizeof(text));
	assert_string_equal(text, planned);
	ds_groups_format(&r->held, &state->shape, text, sizeof(text));
	assert_string_equal(text, held);
}

static struct ds_ledger_state *new_state(void)
{
	static struct ds_ledger_state state;

	memset(&state, 0, sizeof(state));
	memcpy(state.gpu_uuid, GPU, sizeof(GPU));
	state.shape = h200;
	n_dead = 0;
	return &state;
}

static void settle_two_halves(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 500, 1);
	expect(state, "a", "0-7", "0-7");
	add(state, "b", 500, 2);
	expect(state, "a", "0-7", "0-7");
	expect(state, "b", "8-14+rest", "8-14+rest");
	welcome(state, "a", 11);
	welcome(state, "b", 12);
	settle(state);
	expect(state, "a", "0-7", "0-7");
	expect(state, "b", "8-14+rest", "8-14+rest");
	assert_int_equal(state->n_programs, 2);
}

/* Groups go over in two steps: planned at once, held when their programs are gone. */
static void settle_waits_for_programs(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 600, 1);
	expect(state, "a", "0-8+rest", "0-8+rest");
	welcome(state, "a", 11);
	assert_int_equal(ds_ledger_leave(state, "a"), 1);
	assert_int_equal(ds_ledger_leave(state, "a"), 0);
	add(state, "b", 1000, 2);
	expect(state, "b", "0-14+rest", "9-14");
	settle(state);
	expect(state, "b", "0-14+rest", "9-14");
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "b", "0-14+rest", "0-14+rest");
	assert_int_equal(state->n_programs, 0);
}

/* A holder that must give up a group keeps nobody from what it never had. */
static void settle_newcomer_takes_what_is_given_up(void **unused)
{
	struct ds_ledger_state *state = new_state();

	/* 14.7 groups are 15 while alone, 14 and the remainder beside another. */
	add(state, "a", 980, 1);
	expect(state, "a", "0-14", "0-14");
	welcome(state, "a", 11);
	add(state, "b", 20, 2);
	expect(state, "a", "0-13+rest", "0-13+rest");
	expect(state, "b", "14", "none");
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "a", "0-13+rest", "0-13+rest");
	expect(state, "b", "14", "14");
}

/* Nobody waits for a group that another gives up while there are groups that nobody uses. */
static void settle_newcomer_avoids_what_is_given_up(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 350, 1);
	welcome(state, "a", 11);
	add(state, "b", 250, 2);
	expect(state, "a", "0-4+rest", "0-4+rest");
	expect(state, "b", "6-9", "6-9");
}

static struct ds_groups range(unsigned first, unsigned last)
{
	struct ds_groups set = {{0, 0}};

	for (unsigned g = first; g <= last; g++)
		ds_groups_add(&set, g);
	return set;
}

/* What a program acknowledges not to use any more goes to who waits for it, while both run. */
static void settle_moves_what_is_acknowledged(void **unused)
{
	struct ds_ledger_state *state = new_state();
	const struct ds_groups none = {{0, 0}};

	add(state, "a", 950, 1);
	welcome(state, "a", 11);
	add(state, "b", 50, 2);
	expect(state, "b", "14", "none");
	struct ds_ledger_program *program = &state->programs[0];
	struct ds_groups pinned = range(13, 14), granted = range(0, 13);
	assert_false(ds_ledger_shrink_program(program, &pinned, &granted));
	settle(state);
	expect(state, "b", "14", "none");
	granted = range(0, 15); /* the remainder was not its: it gains nothing */
	assert_false(ds_ledger_shrink_program(program, &none, &granted));
	assert_false(ds_groups_has(&program->groups, 15));
	granted = range(0, 13);
	assert_true(ds_ledger_shrink_program(program, &none, &granted));
	settle(state);
	expect(state, "b", "14", "14");
	assert_int_equal(ds_ledger_leave(state, "b"), 1);
	settle(state);
	expect(state, "a", "0-14", "0-14");
}

/* However a broken ledger was put together again: who runs keeps a group until it gets another. */
static void settle_leaves_nobody_without_a_group(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 900, 1);
	add(state, "b", 50, 2);
	welcome(state, "a", 11);
	welcome(state, "b", 12);
	ds_ledger_find(state, "a")->held = range(0, 13);
	state->programs[0].groups = range(14, 14);
	ds_ledger_find(state, "b")->held = state->programs[1].groups = range(3, 3);
	settle(state);
	expect(state, "b", "14", "3");
	state->programs[0].groups = range(0, 2);
	settle(state);
	expect(state, "b", "14", "14");
}

/* A runtime that died leaves its place to its programs; the last of them gives it back. */
static void settle_removes_the_dead(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 500, 1);
	add(state, "b", 500, 2);
	welcome(state, "a", 11);
	welcome(state, "a", 12);
	dead_pids[n_dead++] = 1;
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "a", "0-7", "0-7");
	assert_int_equal(state->n_programs, 1);
	dead_pids[n_dead++] = 12;
	settle(state);
	assert_null(ds_ledger_find(state, "a"));
	assert_int_equal(state->n_programs, 0);
	expect(state, "b", "0,8-14", "0,8-14");
}

/* Those who share a group in time do not wait for each other; others wait for all of them. */
static void settle_shared_groups(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 20, 1);
	expect(state, "a", "0", "0");
	assert_int_equal(ds_ledger_find(state, "a")->weight_milli, 1000);
	welcome(state, "a", 11);
	add(state, "b", 20, 2);
	expect(state, "a", "0", "0");
	expect(state, "b", "0", "0");
	assert_int_equal(ds_ledger_find(state, "a")->weight_milli, 300);
	assert_int_equal(ds_ledger_find(state, "b")->weight_milli, 300);
	welcome(state, "b", 12);
	assert_int_equal(ds_ledger_leave(state, "a"), 1);
	settle(state);
	/* Alone now, beside a's last program: what b had it keeps. */
	expect(state, "b", "0", "0");
	assert_int_equal(ds_ledger_find(state, "b")->weight_milli, 1000);
	ds_ledger_leave(state, "b");
	add(state, "c", 1000, 3);
	expect(state, "c", "0-14+rest", "1-14+rest");
	dead_pids[n_dead++] = 11;
	settle(state);
	expect(state, "c", "0-14+rest", "1-14+rest");
	dead_pids[n_dead++] = 12;
	settle(state);
	expect(state, "c", "0-14+rest", "0-14+rest");
}

/* Ten groups; each of two residents owns the group that a program of the other one is on, and holds none. */
static struct ds_ledger_state *exchanged(uint32_t share_milli)
{
	static const char *const names[] = {"a", "b"};
	struct ds_ledger_state *state = new_state();

	state->shape = (struct ds_gpu_shape){.n_groups = 10, .group_sms = 8};
	for (int i = 0; i < 2; i++)
		add(state, names[i], share_milli, 1 + i);
	for (int i = 0; i < 2; i++) {
		struct ds_ledger_resident *r = ds_ledger_find(state, names[i]);

		r->held = range(0, 9);
		welcome(state, names[i], 11 + i);
		r->own = r->planned = range(1 - i, 1 - i);
		r->held = (struct ds_groups){{0, 0}};
		state->programs[i].groups = range(i, i);
	}
	return state;
}

/*
 * It comes about when plans change twice before programs hear of the first. Neither may wait for the
 * other: nobody would ever move, and no program of theirs be let in.
 */
static void settle_two_that_changed_places(void **unused)
{
	struct ds_ledger_state *state = exchanged(100);

	settle(state);
	expect(state, "a", "0", "0");
	expect(state, "b", "1", "1");

	state = exchanged(60);
	settle(state);
	expect(state, "a", "1", "1");
	expect(state, "b", "0", "0");
}

/* A runtime that was taken for dead comes back with its programs: who was given their groups waits. */
static void settle_one_that_came_back(void **unused)
{
	struct ds_ledger_state *state = new_state();

	add(state, "a", 500, 1);
	add(state, "b", 500, 2);
	settle(state);
	expect(state, "a", "0-7", "0-7");
	welcome(state, "b", 12);
	state->programs[0].groups = range(0, 9);
	settle(state);
	expect(state, "a", "0-7", "none");
	state->programs[0].groups = range(8, 9);
	settle(state);
	expect(state, "a", "0-7", "0-7");
}

static void limits(void **unused)
{
	struct ds_ledger_state *state = new_state();
	struct ds_ledger_resident r = resident("big", 501);
	struct ds_error err;

	add(state, "a", 500, 1);
	assert_int_equal(ds_ledger_join(state, &r, &err), -1);
	assert_int_equal(errno, ENOSPC);
	assert_string_equal(err.text, "big does not fit on GPU " GPU
				      ": it is granted 501 thousandths and 500 are left");
	for (unsigned i = 1; i < DS_RESIDENTS_MAX; i++) {
		r = resident("", 1);
		snprintf(r.name, sizeof(r.name), "job-%u", i);
		assert_int_equal(ds_ledger_join(state, &r, &err), 0);
	}
	r = resident("one-more", 1);
	assert_int_equal(ds_ledger_join(state, &r, &err), -1);
	assert_int_equal(errno, ENOSPC);
	settle(state);

	for (int32_t i = 0; i < DS_PROGRAMS_MAX; i++)
		welcome(state, "a", 100 + i);
	struct ds_process process = {.pid = 99, .start_ticks = 5};
	struct ds_groups first = {{1, 0}};
	assert_int_equal(ds_ledger_add_program(state, "a", &process, &first, &err), -1);
	assert_int_equal(errno, ENOSPC);
	process.pid = 100;
	assert_int_equal(ds_ledger_add_program(state, "a", &process, &first, &err), 0);
	assert_int_equal(ds_ledger_add_program(state, "job-1", &process, &first, &err), -1);
	assert_int_equal(ds_ledger_add_program(state, "nobody", &process, &first, &err), -1);
	process.start_ticks = 6; /* the same pid, another process */
	assert_null(ds_ledger_find_program(state, &process));
	assert_int_equal(ds_ledger_remove_program(state, &process), 0);
	process.start_ticks = 5;
	assert_int_equal(ds_ledger_remove_program(state, &process), 1);
	first.bits[0] = 1 << 14;
	assert_int_equal(ds_ledger_add_program(state, "a", &process, &first, &err), -1);
	assert_int_equal(errno, EBUSY);
	assert_string_equal(err.text, "process 100 cannot run on group 14 of GPU " GPU
				      ": a does not hold it");
}

/*
 * As a runtime does when it looks (follow.c): programs that acknowledge what the page grants lose the
 * rest, then all is settled, then programs have what the page is going to grant.
 */
static void follow(struct ds_ledger_state *state, const char *name, struct ds_groups *page,
		   bool acknowledged)
{
	const struct ds_groups none = {{0, 0}};

	for (uint32_t i = 0; acknowledged && i < state->n_programs; i++) {
		if (!strcmp(state->programs[i].resident, name))
			ds_ledger_shrink_program(&state->programs[i], &none, page);
	}
	settle(state);
	*page = ds_ledger_find(state, name)->held;
	for (uint32_t i = 0; i < state->n_programs; i++) {
		struct ds_ledger_program *p = &state->programs[i];
		if (!strcmp(p->resident, name))
			p->groups = ds_groups_union(p->groups, *page);
	}
}

/* One that lends and borrows, or does not, by the bits of `pick`. */
static void let_lend(struct ds_ledger_resident *r, uint32_t pick)
{
	r->grant.policy = DS_POLICY_LEND;
	r->grant.kind = (enum ds_class_kind)(pick % 3);
	r->grant.lends = (pick & 0x30) != 0;
	r->grant.borrows = (pick & 0xc0) != 0;
	r->grant.reclaim_us = 500;
	strcpy(r->policy.name, "lend");
	r->demand.active = pick >> 8 & 1;
	r->demand.drain_us = pick & 0x200 ? 400 : 600;
	if (r->grant.kind == DS_KIND_LATENCY)
		r->grant.advance_milli = (uint16_t)(pick & 1 ? 1000 : pick >> 3);
	r->heeds_steps = pick >> 10 & 1;
}

/* Groups that others have in advance of resident `i`. */
static struct ds_groups in_advance(const struct ds_ledger_state *state, uint32_t i)
{
	struct ds_groups taken = {{0, 0}};

	for (uint32_t j = 0; j < state->n_residents; j++) {
		const struct ds_ledger_resident *r = &state->residents[j];
		if (j != i && r->demand.active && r->grant.advance_milli && (r->owing >> i & 1))
			taken = ds_groups_union(taken, r->planned);
	}
	return ds_groups_intersection(taken, state->residents[i].own);
}

/* Nothing changes any more: whom a change does not concern does not look, so nobody else would settle the rest. */
static void check_settled(struct ds_ledger_state *state)
{
	static struct ds_ledger_state before;

	before = *state;
	settle(state);
	assert_true(ds_ledger_same(&before, state));
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		assert_true(ds_groups_has_full(&r->planned, &state->shape));
		if (r->demand.active || !r->grant.lends) {
			const struct ds_groups taken = in_advance(state, i);
			const struct ds_groups all = ds_groups_union(r->planned, taken);
			assert_true(ds_groups_within(&r->own, &all));
		}
		if (!r->grant.borrows || !r->demand.active)
			assert_true(ds_groups_within(&r->planned, &r->own));
		for (uint32_t j = 0; j < i; j++) {
			struct ds_groups both =
			    ds_groups_intersection(r->planned, state->residents[j].planned);
			assert_true(ds_groups_empty(&both) || r->weight_milli < 1000);
		}
	}
}

/*
 * Whom a change by somebody else does not concern would do nothing else than before if it looked. Returns how many
 * a change of places did not concern.
 */
static uint32_t check_unconcerned(const struct ds_ledger_state *before,
				  const struct ds_ledger_state *after, const char *actor)
{
	uint32_t n = 0;

	if (ds_concerns_all(before, after))
		return 0;
	for (uint32_t i = 0; i < after->n_residents; i++) {
		const struct ds_ledger_resident *was = &before->residents[i];
		const struct ds_ledger_resident *is = &after->residents[i];
		struct ds_page_terms said = {.flags = 0}, says = {.flags = 0};

		if (!strcmp(is->name, actor) || ds_concerns(before, after, i))
			continue;
		ds_terms(before, was, &said);
		ds_terms(after, is, &says);
		assert_memory_equal(&said, &says, sizeof(says));
		assert_int_equal(ds_ledger_is_suspended(before, was),
				 ds_ledger_is_suspended(after, is));
		const struct ds_held_sms had = ds_allocation_sms(before, was);
		const struct ds_held_sms has = ds_allocation_sms(after, is);
		assert_memory_equal(&had, &has, sizeof(has));
		for (uint32_t p = 0; p < after->n_programs; p++) {
			if (strcmp(after->programs[p].resident, is->name) != 0)
				continue;
			const struct ds_groups late =
			    ds_late_groups(before, was, &before->programs[p]);
			const struct ds_groups keeps =
			    ds_late_groups(after, is, &after->programs[p]);
			assert_int_equal(ds_groups_empty(&late), ds_groups_empty(&keeps));
		}
		assert_true(!is->grant.advance_milli || !ds_advance_differs(before, after, i));
		if (is->heeds_steps)
			assert_int_equal(ds_terms_neighbour_steps(before, was),
					 ds_terms_neighbour_steps(after, is));
		n += !ds_ledger_same(before, after);
	}
	return n;
}

/*
 * A long random history, every other one with lending. At every step: a group held exclusively has no
 * program of another one on it, except where both shared it in time; what a page grants is its
 * programs' own; and when all programs end, everybody gets its plan.
 */
static void settle_histories(void **unused)
{
	uint32_t random = 5;
	int32_t next_pid = 1000;
	uint32_t n_borrowed = 0, n_unconcerned = 0, n_advanced = 0;
	static struct ds_ledger_state before;

	for (int history = 0; history < 400; history++) {
		bool lending = history % 2;
		struct ds_ledger_state *state = new_state();
		struct ds_groups pages[100] = {0}; /* by arrival */
		struct ds_error err;

		for (int step = 0; step < 90; step++) {
			random = random * 1664525 + 1013904223;
			uint32_t kind = (random >> 20) % (lending ? 8 : 6);
			uint32_t pick = (random >> 8) & 0xfff;
			char actor[DS_NAME_SIZE] = "";

			/* Of those where all stay, an advance can come. */
			if (history % 4 == 1 && kind == 1)
				kind = 6;
			before = *state;
			if (state->n_residents)
				memcpy(actor, state->residents[pick % state->n_residents].name,
				       sizeof(actor));
			if (kind == 0 || !state->n_residents) {
				struct ds_ledger_resident r = resident("", 67 + pick % 400);

				snprintf(r.name, sizeof(r.name), "job-%d", next_pid++);
				if (lending)
					let_lend(&r, pick);
				ds_ledger_join(state, &r, &err);
			} else if (kind == 1) {
				ds_ledger_leave(state,
						state->residents[pick % state->n_residents].name);
			} else if (kind == 2 && state->n_programs < DS_PROGRAMS_MAX) {
				const struct ds_ledger_resident *r =
				    &state->residents[pick % state->n_residents];
				follow(state, r->name, &pages[r->arrival], pick & 64);
				welcome(state, r->name, next_pid++);
			} else if (kind >= 6) {
				struct ds_ledger_resident *r =
				    &state->residents[pick % state->n_residents];
				r->demand.active = pick >> 8 & 1;
				r->demand.drain_us = pick & 0x200 ? 400 : 600;
				r->owing = 0;
				for (uint32_t j = 0; r->demand.active && j < state->n_residents;
				     j++)
					r->owing |= (uint64_t)(&state->residents[j] != r &&
							       (random >> (8 + j) & 3))
						    << j;
			} else if (kind >= 4) {
				const struct ds_ledger_resident *r =
				    &state->residents[pick % state->n_residents];
				follow(state, r->name, &pages[r->arrival], kind == 5);
			} else if (state->n_programs) {
				dead_pids[0] =
				    state->programs[pick % state->n_programs].process.pid;
				n_dead = 1;
			}
			settle(state);
			n_unconcerned += check_unconcerned(&before, state, actor);
			check_settled(state);
			for (uint32_t i = 0; i < state->n_residents; i++) {
				const struct ds_groups taken = in_advance(state, i);
				n_advanced +=
				    state->residents[i].demand.active && !ds_groups_empty(&taken);
			}
			for (uint32_t i = 0; i < state->n_residents; i++)
				n_borrowed += !ds_groups_within(&state->residents[i].held,
								&state->residents[i].own);
			for (uint32_t i = 0; i < state->n_programs; i++) {
				const struct ds_ledger_program *p = &state->programs[i];

				for (uint32_t j = 0; j < state->n_residents; j++) {
					const struct ds_ledger_resident *r = &state->residents[j];
					struct ds_groups both =
					    ds_groups_intersection(p->groups, r->held);

					if (strcmp(p->resident, r->name) != 0) {
						assert_true(ds_groups_empty(&both));
						continue;
					}
					struct ds_groups unknown =
					    ds_groups_difference(pages[r->arrival], p->groups);
					assert_true(ds_groups_empty(&unknown));
				}
			}
		}
		while (state->n_programs)
			ds_ledger_remove_program(state, &state->programs[0].process);
		settle(state);
		for (uint32_t j = 0; j < state->n_residents; j++)
			assert_true(ds_groups_equal(&state->residents[j].held,
						    &state->residents[j].planned));
	}
	assert_true(n_borrowed > 1000 && n_unconcerned > 1000 &&
		    n_advanced > 100); /* or it tested nothing */
}

static void processes(void **state)
{
	struct ds_process self;
	struct ds_process child;
	struct ds_error err;
	siginfo_t info;

	assert_int_equal(ds_process_identify(getpid(), &self, &err), 0);
	assert_int_equal(self.pid, getpid());
	assert_true(self.start_ticks > 0);
	assert_int_equal(ds_process_alive(&self), 1);
	self.start_ticks++;
	assert_int_equal(ds_process_alive(&self), 0);
	assert_int_equal(ds_process_alive(&(struct ds_process){0}), 0);
	assert_int_equal(ds_process_alive(&(struct ds_process){.pid = -1}), 0);

	pid_t pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	assert_int_equal(ds_process_identify(pid, &child, &err), 0);
	assert_int_equal(ds_process_alive(&child), 1);
	kill(pid, SIGKILL);
	/* Dead but not reaped: on the GPU it is gone. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(ds_process_alive(&child), 0);
	assert_int_equal(ds_process_identify(pid, &self, &err), -1);
	assert_int_equal(errno, ESRCH);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(ds_process_alive(&child), 0);
	assert_int_equal(ds_process_identify(pid, &self, &err), -1);
	assert_int_equal(errno, ENOENT);
}

int main(void)
{
#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
	static const struct CMUnitTest tests[] = {
	    IN_DIR(changes_are_kept),
	    IN_DIR(umask_does_not_hide_the_ledger),
	    IN_DIR(absent),
	    IN_DIR(bad_arguments),
	    IN_DIR(broken_ones_are_set_aside),
	    IN_DIR(broken_under_an_open_one),
	    IN_DIR(lost_ones_are_recalled),
	    IN_DIR(one_that_is_being_made_is_not_seen),
	    IN_DIR(copies_are_kept),
	    IN_DIR(nobody_gains_in_an_incomplete_ledger),
	    IN_DIR(what_was_planted_is_refused),
	    IN_DIR(disk_full),
	    IN_DIR(lock_wait_is_bounded),
	    IN_DIR(watchers_learn_of_changes),
	    IN_DIR(kill_at_any_instant),
	    IN_DIR(readers_need_no_lock),
	    IN_DIR(readers_look_again),
	    IN_DIR(creation_races),
	    cmocka_unit_test(settle_two_halves),
	    cmocka_unit_test(settle_waits_for_programs),
	    cmocka_unit_test(settle_newcomer_takes_what_is_given_up),
	    cmocka_unit_test(settle_newcomer_avoids_what_is_given_up),
	    cmocka_unit_test(settle_moves_what_is_acknowledged),
	    cmocka_unit_test(settle_leaves_nobody_without_a_group),
	    cmocka_unit_test(settle_removes_the_dead),
	    cmocka_unit_test(settle_shared_groups),
	    cmocka_unit_test(settle_two_that_changed_places),
	    cmocka_unit_test(settle_one_that_came_back),
	    cmocka_unit_test(limits),
	    cmocka_unit_test(settle_histories),
	    cmocka_unit_test(processes),
	};

	alarm(60);
	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
