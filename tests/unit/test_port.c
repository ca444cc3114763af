/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/port.h"

static const struct ds_gpu_shape shape = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};

static void the_page_is_ours_alone_to_write(void **state)
{
	struct ds_published published;
	struct ds_error err;
	char self[64];

	assert_int_equal(ds_page_create(&published, &shape, "GPU-1", "latency", 250, &err), 0);
	const struct ds_page *seen =
	    mmap(NULL, DS_PAGE_SIZE, PROT_READ, MAP_SHARED, published.readonly_fd, 0);
	assert_true(seen != MAP_FAILED);
	assert_int_equal(seen->magic, DS_PORT_MAGIC);
	assert_int_equal(seen->version, DS_PORT_VERSION);
	assert_int_equal(seen->epoch, 0);
	assert_int_equal(seen->share_milli, 250);
	assert_string_equal(seen->class_name, "latency");
	assert_string_equal(seen->gpu_uuid, "GPU-1");

	struct ds_page_terms terms = {.granted = {{0xff, 0}}};
	ds_page_publish(&published, &terms);
	assert_int_equal(seen->epoch, 2);
	assert_true(ds_groups_equal(&seen->granted, &terms.granted));
	ds_page_publish(&published, &terms);
	assert_int_equal(seen->epoch, 2); /* nothing new */
	terms.granted = (struct ds_groups){{0, 0}};
	ds_page_publish(&published, &terms);
	assert_int_equal(seen->epoch, 4);
	terms.flags = DS_PAGE_WINDOW;
	ds_page_publish(&published, &terms);
	assert_int_equal(seen->epoch, 6);
	terms.window_us = 250;
	ds_page_publish(&published, &terms);
	ds_page_publish(&published, &terms);
	assert_int_equal(seen->epoch, 8);
	assert_int_equal(seen->flags, DS_PAGE_WINDOW);
	assert_int_equal(seen->window_us, 250);

	assert_true(mmap(NULL, DS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 published.readonly_fd, 0) == MAP_FAILED);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", published.readonly_fd);
	int again = open(self, O_RDWR);
	if (again >= 0) { /* as root, or the owner: then the seal still holds */
		assert_true(mmap(NULL, DS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, again,
				 0) == MAP_FAILED);
		assert_int_equal(pwrite(again, "x", 1, 0), -1);
		assert_int_equal(ftruncate(again, 0), -1);
		close(again);
	}
	munmap((void *)(uintptr_t)seen, DS_PAGE_SIZE);
	ds_page_destroy(&published);
	ds_page_destroy(&published);
}

struct reader {
	const struct ds_page *page;
	atomic_bool stop;
	uint64_t copies;
	bool torn;
};

/* As the coroutine library reads. Both words are always published equal. */
static void *read_page(void *arg)
{
	struct reader *reader = arg;

	while (!atomic_load(&reader->stop)) {
		uint64_t before = atomic_load_explicit(&reader->page->epoch, memory_order_acquire);
		struct ds_groups copy = reader->page->granted;
		atomic_thread_fence(memory_order_acquire);
		uint64_t after = atomic_load_explicit(&reader->page->epoch, memory_order_relaxed);
		if (before != after || before & 1)
			continue;
		reader->copies++;
		reader->torn |= copy.bits[0] != copy.bits[1];
	}
	return NULL;
}

static void a_reader_never_sees_half_of_a_page(void **state)
{
	struct ds_published published;
	struct ds_error err;
	pthread_t thread;

	assert_int_equal(ds_page_create(&published, &shape, "GPU-1", "latency", 250, &err), 0);
	struct reader reader = {.page = published.page};
	assert_int_equal(pthread_create(&thread, NULL, read_page, &reader), 0);
	for (uint64_t i = 1; i < 200000; i++) {
		const struct ds_page_terms terms = {.granted = {{i, i}}};
		ds_page_publish(&published, &terms);
	}
	atomic_store(&reader.stop, true);
	pthread_join(thread, NULL);
	assert_false(reader.torn);
	ds_page_destroy(&published);
}

static void the_port_keeps_its_size(void **state)
{
	struct ds_error err;
	int fd = ds_port_create(&err);
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, DS_PORT_SIZE);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(ftruncate(fd, 2 * DS_PORT_SIZE), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	close(fd);
}

static void only_what_is_plausible_is_believed(void **state)
{
	const struct ds_groups had = {{0xff, 0}};
	const uint64_t epoch = 6;
	static const struct {
		struct ds_groups in_use;
		uint64_t epoch;
		uint32_t magic;
		uint16_t version;
		enum ds_port_word word;
	} cases[] = {
	    {{{0xff, 0}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_SAID},
	    {{{0x0f, 0}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_SAID},
	    {{{0, 0}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_SAID}, /* is on none now */
	    {{{0x0f, 0}},
	     4,
	     DS_PORT_MAGIC,
	     DS_PORT_VERSION,
	     DS_PORT_SILENT}, /* says it of before */
	    {{{0x0f, 0}},
	     0,
	     DS_PORT_MAGIC,
	     DS_PORT_VERSION,
	     DS_PORT_SILENT}, /* has not said so yet */
	    {{{0, 0}}, 0, 0, 0, DS_PORT_SILENT},
	    {{{0x0f, 0}},
	     8,
	     DS_PORT_MAGIC,
	     DS_PORT_VERSION,
	     DS_PORT_UNFIT}, /* of what is to come */
	    {{{0x0f, 0}}, UINT64_MAX, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_UNFIT},
	    {{{0x1ff, 0}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_UNFIT},
	    {{{0x1ff, 0}}, 4, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_UNFIT},
	    {{{0xff, 1}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_UNFIT},
	    {{{UINT64_MAX, UINT64_MAX}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_UNFIT},
	    {{{0x0f, 0}}, 6, DS_PORT_MAGIC, DS_PORT_VERSION + 1, DS_PORT_UNFIT},
	    {{{0x0f, 0}}, 6, 0, 0, DS_PORT_UNFIT},
	};
	struct ds_error err;
	struct ds_port copy;
	int fd = ds_port_create(&err);

	assert_true(fd >= 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ds_port port = {.magic = cases[i].magic,
				       .version = cases[i].version,
				       .acknowledged_epoch = cases[i].epoch,
				       .in_use = cases[i].in_use};
		const struct ds_groups untouched = {{42, 42}};
		struct ds_groups in_use = untouched;
		assert_int_equal(pwrite(fd, &port, sizeof(port), 0), sizeof(port));
		assert_int_equal(ds_port_copy(fd, &copy), 0);
		assert_int_equal(ds_port_understand(&copy, epoch, &had, &in_use), cases[i].word);
		assert_true(ds_groups_equal(
		    &in_use, cases[i].word == DS_PORT_SAID ? &cases[i].in_use : &untouched));
	}
	close(fd);
	assert_int_equal(ds_port_copy(-1, &copy), -1);
}

static void notices(void **state)
{
	const struct ds_port_notice good = {DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_ACKNOWLEDGED,
					    4};
	struct ds_port_notice other = good;
	int pair[2];

	assert_int_equal(ds_port_notice_kind(&good, sizeof(good)), DS_PORT_ACKNOWLEDGED);
	assert_int_not_equal(ds_port_notice_kind(&good, sizeof(good) - 1), DS_PORT_ACKNOWLEDGED);
	assert_int_not_equal(ds_port_notice_kind(NULL, 0), DS_PORT_ACKNOWLEDGED);
	other.kind = DS_PORT_EPOCH;
	assert_int_not_equal(ds_port_notice_kind(&other, sizeof(other)), DS_PORT_ACKNOWLEDGED);
	other = good;
	other.version++;
	assert_int_not_equal(ds_port_notice_kind(&other, sizeof(other)), DS_PORT_ACKNOWLEDGED);

	/* One that never reads does not stop us, and has enough to read when it does. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	for (uint64_t epoch = 2; epoch < 20000; epoch += 2)
		assert_int_equal(ds_port_notify(pair[0], epoch), 0);
	assert_int_equal(recv(pair[1], &other, sizeof(other), 0), sizeof(other));
	assert_int_equal(other.magic, DS_PORT_MAGIC);
	assert_int_equal(other.kind, DS_PORT_EPOCH);
	assert_int_equal(other.epoch, 2);
	close(pair[1]);
	assert_int_equal(ds_port_notify(pair[0], 2), -1); /* and no SIGPIPE */
	close(pair[0]);
}

static void hellos(void **state)
{
	static const struct {
		struct ds_port_hello hello;
		const char *words; /* NULL: accepted */
	} cases[] = {
	    {{DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_PROGRAM, 0, 0}, NULL},
	    {{DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_STEP, 7, 1}, NULL},
	    {{DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_STEP, 7, 1000}, NULL},
	    {{DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_STEP, 7, 0}, "share of 0"},
	    {{DS_PORT_MAGIC, DS_PORT_VERSION, DS_PORT_STEP, 7, 1001}, "share of 1001"},
	    {{DS_PORT_MAGIC, DS_PORT_VERSION, 0, 0, 0}, "kind of hello: 0"},
	    {{DS_PORT_MAGIC, 99, DS_PORT_PROGRAM, 0, 0}, "version 99"},
	    {{0, DS_PORT_VERSION, DS_PORT_PROGRAM, 0, 0}, "not a hello"},
	};
	struct ds_port_hello hello;
	struct ds_error err;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int rc = ds_port_check_hello(&cases[i].hello, sizeof(hello), &hello, &err);
		assert_int_equal(rc, cases[i].words ? -1 : 0);
		if (cases[i].words && !strstr(err.text, cases[i].words))
			fail_msg("case %zu: %s", i, err.text);
	}
	assert_int_equal(ds_port_check_hello("", 0, &hello, &err), -1);
	assert_int_equal(ds_port_check_hello(&cases[0].hello, sizeof(hello) - 1, &hello, &err), -1);
}

static void lists_of_processes(void **state)
{
	static struct ds_port_end sent, end;
	const size_t head = offsetof(struct ds_port_end, pids);
	struct ds_port_hello hello;
	struct ds_error err;

	sent.hello = (struct ds_port_hello){
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_END};
	sent.n_pids = 2;
	sent.pids[0] = 4711;
	sent.pids[1] = 2;
	assert_int_equal(ds_port_check_hello(&sent, head + 8, &hello, &err), 0);
	assert_int_equal(ds_port_check_end(&sent, head + 8, &end, &err), 2);
	assert_int_equal(end.pids[0], 4711);
	for (size_t size = 0; size < sizeof(sent) + 8; size += 4) {
		if (size != head + 8 && size <= sizeof(sent))
			assert_int_equal(ds_port_check_end(&sent, size, &end, &err), -1);
	}
	sent.pids[1] = 1; /* init */
	assert_int_equal(ds_port_check_end(&sent, head + 8, &end, &err), -1);
	sent.pids[1] = -4711; /* a process group */
	assert_int_equal(ds_port_check_end(&sent, head + 8, &end, &err), -1);
	sent.n_pids = UINT32_MAX; /* times four is a small number */
	assert_int_equal(ds_port_check_end(&sent, head - 4, &end, &err), -1);
	assert_int_equal(ds_port_check_end(&sent, head + 8, &end, &err), -1);
	sent.n_pids = 0;
	assert_int_equal(ds_port_check_end(&sent, head, &end, &err), 0);
	/* Nothing else may be longer than a hello. */
	sent.hello.kind = DS_PORT_PROGRAM;
	assert_int_equal(ds_port_check_hello(&sent, head + 8, &hello, &err), -1);
}

static void peers_and_answers(void **state)
{
	char dir[] = "/tmp/ds-port-XXXXXX", path[64];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ds_port_welcome welcome;
	struct ds_peer peer;
	struct ds_error err;
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/port", dir);
	int listener = ds_port_listen(path, &err);
	assert_true(listener >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0666);
	assert_int_equal(ds_port_listen(path, &err), -1); /* somebody else's */

	int client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	int served = accept(listener, NULL, NULL);
	assert_true(served >= 0);
	assert_int_equal(ds_port_peer(served, &peer, &err), 0);
	assert_int_equal(peer.process.pid, getpid());
	assert_int_equal(peer.uid, getuid());
	assert_true(peer.pidfd >= 0);
	close(peer.pidfd);

	assert_int_equal(ds_port_refuse(served, "because"), 0);
	assert_int_equal(recv(client, &welcome, sizeof(welcome), 0), sizeof(welcome));
	assert_int_equal(welcome.refused, 1);
	assert_string_equal(welcome.reason, "because");

	/* A reason that is too long is cut; a client that never reads does not stop us. */
	char long_reason[1000];
	memset(long_reason, 'x', sizeof(long_reason));
	long_reason[sizeof(long_reason) - 1] = '\0';
	while (ds_port_refuse(served, long_reason) == 0)
		;
	assert_true(errno == EAGAIN || errno == EWOULDBLOCK);
	assert_int_equal(recv(client, &welcome, sizeof(welcome), 0), sizeof(welcome));
	assert_int_equal(strlen(welcome.reason), sizeof(welcome.reason) - 1);
	close(client);
	assert_int_equal(ds_port_refuse(served, "gone"), -1); /* and no SIGPIPE */
	close(served);
	close(listener);
	unlink(path);
	rmdir(dir);

	memset(address.sun_path, 'x', sizeof(address.sun_path));
	char too_long[200];
	memset(too_long, 'x', sizeof(too_long));
	too_long[0] = '/';
	too_long[sizeof(too_long) - 1] = '\0';
	assert_int_equal(ds_port_listen(too_long, &err), -1);
	assert_non_null(strstr(err.text, "shorten runtime_dir"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_page_is_ours_alone_to_write),
	    cmocka_unit_test(a_reader_never_sees_half_of_a_page),
	    cmocka_unit_test(the_port_keeps_its_size),
	    cmocka_unit_test(only_what_is_plausible_is_believed),
	    cmocka_unit_test(notices),
	    cmocka_unit_test(hellos),
	    cmocka_unit_test(lists_of_processes),
	    cmocka_unit_test(peers_and_answers),
	};

	alarm(60);
	return cmocka_run_group_tests_name("port", tests, NULL, NULL);
}
