/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/port_protocol.h"
#include "spank/announce.h"

static char directory[] = "/tmp/detshare-announce-XXXXXX";
static char path[64];

static int make_directory(void **state)
{
	if (!mkdtemp(directory))
		return -1;
	snprintf(path, sizeof(path), "%s/port", directory);
	return 0;
}

static int remove_directory(void **state)
{
	unlink(path);
	return rmdir(directory);
}

/* A node runtime that answers one hello with `size` bytes; exits 0 if the hello was right. */
static pid_t serve(const void *answer, size_t size, int backlog_only)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	unlink(path);
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	pid_t child = fork();
	if (child != 0) {
		close(fd);
		return child;
	}
	alarm(20);
	if (backlog_only) {
		pause();
		_exit(1);
	}
	struct ds_port_hello hello;
	int peer = accept(fd, NULL, NULL);
	ssize_t n = recv(peer, &hello, sizeof(hello), 0);
	if (size > 0 && send(peer, answer, size, MSG_NOSIGNAL) < 0)
		_exit(2);
	_exit(n != sizeof(hello) || hello.magic != DS_PORT_MAGIC || hello.kind != DS_PORT_STEP ||
	      hello.version != DS_PORT_VERSION || hello.step_id != 7 || hello.share_milli != 250);
}

static void reap(pid_t child, int expected)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), expected);
}

static void welcome(void **state)
{
	struct ds_port_welcome answer = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};
	struct ds_error err = {0};
	pid_t child = serve(&answer, sizeof(answer), 0);

	assert_int_equal(ds_announce_step(path, 7, 250, 5000, &err), 0);
	reap(child, 0);
}

static void processes_to_be_killed(void **state)
{
	struct ds_port_welcome answer = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};
	static struct ds_port_end end;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ds_error err = {0};
	pid_t pids[DS_PORT_END_MAX + 1];
	int status;

	for (int i = 0; i <= DS_PORT_END_MAX; i++)
		pids[i] = 1000 + i;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	unlink(path);
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	for (int n = 3; n <= DS_PORT_END_MAX + 1; n += DS_PORT_END_MAX - 2) {
		pid_t child = fork();
		if (child == 0)
			_exit(ds_announce_end(path, pids, n, 5000, &err) != 0);
		int peer = accept(fd, NULL, NULL);
		ssize_t size = recv(peer, &end, sizeof(end), 0);
		uint32_t expected = n > DS_PORT_END_MAX ? DS_PORT_END_MAX : (uint32_t)n;
		assert_int_equal(size, offsetof(struct ds_port_end, pids) + 4 * expected);
		assert_int_equal(end.hello.kind, DS_PORT_END);
		assert_int_equal(end.n_pids, expected);
		assert_int_equal(end.pids[expected - 1], 1000 + expected - 1);
		assert_int_equal(send(peer, &answer, sizeof(answer), 0), sizeof(answer));
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
		close(peer);
	}
	close(fd);
}

static void bad_answers(void **state)
{
	struct ds_port_welcome refused = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .refused = 1};
	struct ds_port_welcome other = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION + 1};
	struct ds_port_welcome strange = {.magic = 1, .version = DS_PORT_VERSION};
	const struct {
		const void *answer;
		size_t size;
		const char *reason;
	} cases[] = {
	    {&refused, sizeof(refused), "refused: xxxx"},
	    {&other, sizeof(other), "another protocol"},
	    {&strange, sizeof(strange), "another protocol"},
	    {&refused, 8, "another protocol"},
	    {NULL, 0, "another protocol"}, /* the runtime ends without an answer */
	};

	memset(refused.reason, 'x', sizeof(refused.reason)); /* no terminator */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ds_error err = {0};
		pid_t child = serve(cases[i].answer, cases[i].size, 0);

		assert_int_equal(ds_announce_step(path, 7, 250, 5000, &err), -1);
		if (!strstr(err.text, cases[i].reason))
			fprintf(stderr, "# %zu: %s\n", i, err.text);
		assert_non_null(strstr(err.text, cases[i].reason));
		reap(child, 0);
	}
}

/* Whatever the answer is, what comes of it can be printed. */
static void what_became_of_programs(void **state)
{
	const size_t head = offsetof(struct ds_port_notes, text);
	const struct {
		uint32_t n;
		size_t size;
		int rv;
	} cases[] = {
	    {0, head, 0},
	    {2, head + 2 * DS_PORT_NOTE_SIZE, 0},
	    {2, head + DS_PORT_NOTE_SIZE, -1},
	    {DS_PORT_NOTES_MAX + 1, head + DS_PORT_NOTES_MAX * DS_PORT_NOTE_SIZE, -1},
	    {1, 8, -1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ds_port_notes answer = {
		    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .n = cases[i].n};
		struct ds_port_notes notes;
		struct ds_error err = {0};

		answer.until_ns = 9;
		memset(answer.text, 'x', sizeof(answer.text)); /* no terminator */
		strcpy(answer.text[1], "a\nb\033");
		pid_t child = serve(&answer, cases[i].size, 0);
		assert_int_equal(ds_ask_notes(path, 5, true, false, &notes, 5000, &err),
				 cases[i].rv);
		reap(child, 1); /* it expects something else */
		if (cases[i].rv < 0) {
			assert_int_equal(notes.n, 0);
			continue;
		}
		assert_int_equal(notes.n, cases[i].n);
		assert_int_equal(notes.until_ns, 9);
		if (notes.n) {
			assert_int_equal(strlen(notes.text[0]), DS_PORT_NOTE_SIZE - 1);
			assert_string_equal(notes.text[1], "a b ");
		}
	}
}

static void nobody_there(void **state)
{
	struct ds_error err = {0};
	char long_path[200];

	unlink(path);
	assert_int_equal(ds_announce_step(path, 7, 250, 5000, &err), -1);
	assert_int_equal(errno, ENOENT);
	memset(long_path, 'p', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	assert_int_equal(ds_announce_step(long_path, 7, 250, 5000, &err), -1);
	assert_int_equal(errno, ENAMETOOLONG);
}

static void a_dead_runtime(void **state)
{
	struct ds_error err = {0};
	pid_t child = serve(NULL, 0, 1);
	int status;

	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	assert_int_equal(ds_announce_step(path, 7, 250, 5000, &err), -1);
	assert_int_equal(errno, ECONNREFUSED);
}

static void a_stopped_runtime(void **state)
{
	struct ds_error err = {0};
	pid_t child = serve(NULL, 0, 1);
	int status;
	struct timespec begin, end;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	assert_int_equal(ds_announce_step(path, 7, 250, 200, &err), -1);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_non_null(strstr(err.text, "within 200 ms"));
	assert_true(end.tv_sec - begin.tv_sec < 20); /* it never answers */
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(welcome),
	    cmocka_unit_test(bad_answers),
	    cmocka_unit_test(nobody_there),
	    cmocka_unit_test(a_dead_runtime),
	    cmocka_unit_test(a_stopped_runtime),
	    cmocka_unit_test(processes_to_be_killed),
	    cmocka_unit_test(what_became_of_programs),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
