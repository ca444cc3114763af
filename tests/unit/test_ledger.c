/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger's file: what is kept, and what is refused or set aside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/process.h"
#include "noderuntime/ledger.h"
#include "noderuntime/ledger_image.h"
#include "tests/unit/ledger_tests.h"

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
	};

	alarm(60);
	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
