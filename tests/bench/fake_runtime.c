/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/fake_runtime.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "noderuntime/book.h"

static const char empty_kernel[] = ".version 6.0\n"
				   ".target sm_70\n"
				   ".address_size 64\n"
				   ".visible .entry spin_us(.param .u32 us, .param .u64 smids) {\n"
				   "  ret;\n"
				   "}\n";

static struct {
	struct sockaddr_un address;
	char directory[32];
	int listener;
	int page;
	int port;             /* of the program that was welcomed last */
	pthread_mutex_t lock; /* the rest: */
	pthread_cond_t heard;
	int connection; /* -1: no program is there */
	uint64_t acknowledged;
	double acknowledged_ns;
} runtime = {.listener = -1,
	     .page = -1,
	     .port = -1,
	     .lock = PTHREAD_MUTEX_INITIALIZER,
	     .heard = PTHREAD_COND_INITIALIZER,
	     .connection = -1};

_Noreturn void fake_die(const char *what, int error)
{
	fprintf(stderr, "%s: %s: %d\n", program_invocation_short_name, what, error);
	exit(1);
}

void *fake_driver(const char *symbol)
{
	static void *libcuda;
	void *address;

	if (!libcuda)
		libcuda = dlopen("libcuda.so.1", RTLD_NOW);
	if (!libcuda) {
		fprintf(stderr, "%s: no libcuda.so.1 here: nothing measured\n",
			program_invocation_short_name);
		exit(77);
	}
	address = dlsym(libcuda, symbol);
	if (!address)
		fake_die(symbol, 0);
	return address;
}

double fake_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double fake_quantile(double *values, size_t n, double quantile)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[(size_t)((double)(n - 1) * quantile)];
}

CUfunction fake_empty_kernel(void)
{
	CUfunction function;
	CUcontext context;
	CUmodule module;

	CALL(cuInit, 0);
	CALL(cuDevicePrimaryCtxRetain, &context, 0);
	CALL(cuCtxSetCurrent, context);
	CALL(cuModuleLoadData, &module, empty_kernel);
	CALL(cuModuleGetFunction, &function, module, "spin_us");
	return function;
}

CUfunction fake_empty_kernel_in(CUcontext context)
{
	CUfunction function;
	CUlibrary library;
	CUkernel kernel;

	CALL(cuCtxSetCurrent, context);
	CALL(cuLibraryLoadData, &library, empty_kernel, NULL, NULL, 0, NULL, NULL, 0);
	CALL(cuLibraryGetKernel, &kernel, library, "spin_us");
	CALL(cuKernelGetFunction, &function, kernel);
	return function;
}

unsigned fake_split(CUdevResource *groups, CUdevResource *rest)
{
	unsigned n = DS_GROUPS_MAX;
	CUdevResource all;

	CALL(cuDeviceGetDevResource, 0, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, groups, &n, &all, rest, 0, 8);
	return n;
}

const char *fake_library(const char *argument)
{
	const char *named = argument ? argument : getenv("DETSHARE_LIBRARY");
	const char *library = named ? named : BUILT_LIBRARY;

	if (!named && access(library, R_OK) < 0)
		library = INSTALLED_LIBRARY;
	if (access(library, R_OK) < 0)
		fake_die(library, errno);
	return library;
}

/* In a process of its own: the page that grants half of the first device's groups. */
static void probe(void)
{
	struct ds_page page = {.magic = DS_PORT_MAGIC,
			       .version = DS_PORT_VERSION,
			       .epoch = 2,
			       .share_milli = 500,
			       .sample_launches = 512};
	CUdevResource all, rest, groups[DS_GROUPS_MAX];
	const unsigned char *b;
	CUuuid uuid;
	unsigned n;

	CALL(cuInit, 0);
	CALL(cuDeviceGetUuid_v2, &uuid, 0);
	CALL(cuDeviceGetDevResource, 0, &all, CU_DEV_RESOURCE_TYPE_SM);
	n = fake_split(groups, &rest);
	page.shape.n_groups = n;
	page.shape.group_sms = groups[0].sm.smCount;
	page.shape.rest_sms = all.sm.smCount - n * groups[0].sm.smCount;
	for (unsigned i = 0; i < (n + 1) / 2; i++)
		ds_groups_add(&page.granted, i);
	b = (const unsigned char *)uuid.bytes;
	snprintf(page.gpu_uuid, sizeof(page.gpu_uuid),
		 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
		 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
		 b[14], b[15]);
	if (fwrite(&page, sizeof(page), 1, stdout) != 1)
		fake_die("probe", errno);
}

static int memory_file(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		fake_die(name, errno);
	return fd;
}

static void welcome(int connection)
{
	const struct ds_port_welcome text = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};
	const int book = memory_file("book", DS_BOOK_SIZE);
	const int descriptors[3] = {memory_file("port", DS_PORT_SIZE), runtime.page, book};
	union {
		char bytes[CMSG_SPACE(sizeof(descriptors))];
		struct cmsghdr header;
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(descriptors)),
				.cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS}};
	struct iovec data = {.iov_base = (void *)(uintptr_t)&text, .iov_len = sizeof(text)};
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	struct ds_port_hello hello;

	memcpy(CMSG_DATA(&control.header), descriptors, sizeof(descriptors));
	if (recv(connection, &hello, sizeof(hello), 0) != (ssize_t)sizeof(hello) ||
	    sendmsg(connection, &message, MSG_NOSIGNAL) < 0)
		fake_die("welcome", errno);
	close(book);
	pthread_mutex_lock(&runtime.lock);
	if (runtime.port >= 0)
		close(runtime.port);
	runtime.port = descriptors[0];
	pthread_mutex_unlock(&runtime.lock);
}

static void set_connection(int connection)
{
	pthread_mutex_lock(&runtime.lock);
	runtime.connection = connection;
	pthread_mutex_unlock(&runtime.lock);
}

static void hear(const struct ds_port_notice *notice)
{
	if (notice->kind != DS_PORT_ACKNOWLEDGED)
		return;
	pthread_mutex_lock(&runtime.lock);
	runtime.acknowledged = notice->epoch;
	runtime.acknowledged_ns = fake_now_ns();
	pthread_cond_broadcast(&runtime.heard);
	pthread_mutex_unlock(&runtime.lock);
}

static void *serve(void *arg)
{
	(void)arg;
	for (;;) {
		int connection = accept4(runtime.listener, NULL, NULL, SOCK_CLOEXEC);
		struct ds_port_notice notice;

		if (connection < 0)
			return NULL;
		welcome(connection);
		set_connection(connection);
		/* Kept open as long as the program's end is. */
		while (recv(connection, &notice, sizeof(notice), 0) == (ssize_t)sizeof(notice))
			hear(&notice);
		set_connection(-1);
		close(connection);
	}
}

static struct ds_page *map_page(void)
{
	struct ds_page *page =
	    mmap(NULL, DS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, runtime.page, 0);

	if (page == MAP_FAILED)
		fake_die("page", errno);
	return page;
}

uint64_t fake_runtime_grant(const struct ds_groups *groups)
{
	struct ds_port_notice notice = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .kind = DS_PORT_EPOCH};
	struct ds_page *page = map_page();

	atomic_fetch_add(&page->epoch, 1);
	page->granted = *groups;
	notice.epoch = atomic_fetch_add(&page->epoch, 1) + 1;
	munmap(page, DS_PAGE_SIZE);
	pthread_mutex_lock(&runtime.lock);
	if (runtime.connection >= 0)
		send(runtime.connection, &notice, sizeof(notice), MSG_NOSIGNAL | MSG_DONTWAIT);
	pthread_mutex_unlock(&runtime.lock);
	return notice.epoch;
}

double fake_runtime_acknowledged_ns(uint64_t epoch, double seconds)
{
	struct timespec until;
	double at = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)seconds + 1;
	pthread_mutex_lock(&runtime.lock);
	while (runtime.acknowledged < epoch && runtime.connection >= 0 &&
	       pthread_cond_timedwait(&runtime.heard, &runtime.lock, &until) == 0)
		;
	if (runtime.acknowledged >= epoch)
		at = runtime.acknowledged_ns;
	pthread_mutex_unlock(&runtime.lock);
	return at;
}

struct ds_gpu_shape fake_runtime_shape(void)
{
	struct ds_page *page = map_page();
	const struct ds_gpu_shape shape = page->shape;

	munmap(page, DS_PAGE_SIZE);
	return shape;
}

bool fake_runtime_has_program(void)
{
	bool there;

	pthread_mutex_lock(&runtime.lock);
	there = runtime.connection >= 0;
	pthread_mutex_unlock(&runtime.lock);
	return there;
}

void fake_runtime_role(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "--probe"))
		return;
	probe();
	exit(fflush(stdout) != 0);
}

void fake_runtime_start(void)
{
	char page[sizeof(struct ds_page) + 1];
	pthread_t thread;

	if (fake_run("--probe", NULL, NULL, page, sizeof(page), NULL) != sizeof(struct ds_page))
		fake_die("probe", 0);
	runtime.page = memory_file("page", DS_PAGE_SIZE);
	if (pwrite(runtime.page, page, sizeof(struct ds_page), 0) != sizeof(struct ds_page))
		fake_die("page", errno);
	strcpy(runtime.directory, "/tmp/bench.XXXXXX");
	if (!mkdtemp(runtime.directory))
		fake_die(runtime.directory, errno);
	runtime.address.sun_family = AF_UNIX;
	snprintf(runtime.address.sun_path, sizeof(runtime.address.sun_path), "%s/port",
		 runtime.directory);
	runtime.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(runtime.listener, (struct sockaddr *)&runtime.address, sizeof(runtime.address)) <
		0 ||
	    listen(runtime.listener, 8) < 0 || pthread_create(&thread, NULL, serve, NULL))
		fake_die(runtime.address.sun_path, errno);
	setenv("DETSHARE_PORT", runtime.address.sun_path, 1);
}

void fake_runtime_ask(uint32_t flags, uint32_t window_us)
{
	if (pwrite(runtime.page, &flags, sizeof(flags), offsetof(struct ds_page, flags)) < 0 ||
	    pwrite(runtime.page, &window_us, sizeof(window_us),
		   offsetof(struct ds_page, window_us)) < 0)
		fake_die("page", errno);
}

void fake_runtime_stop(void)
{
	unlink(runtime.address.sun_path);
	rmdir(runtime.directory);
}

static _Noreturn void become(const char *role, const char *library, const char *chaos, int output)
{
	dup2(output, STDOUT_FILENO);
	if (library)
		setenv("LD_PRELOAD", library, 1);
	else
		unsetenv("LD_PRELOAD");
	if (chaos)
		setenv("DETSHARE_CHAOS", chaos, 1);
	else
		unsetenv("DETSHARE_CHAOS");
	execl("/proc/self/exe", program_invocation_short_name, role, (char *)NULL);
	_exit(127);
}

size_t fake_run(const char *role, const char *library, const char *chaos, char *output, size_t size,
		struct ds_port *port)
{
	size_t length = 0;
	int pipe_fd[2], status;
	ssize_t got;
	pid_t pid;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0 || (pid = fork()) < 0)
		fake_die("fork", errno);
	if (!pid)
		become(role, library, chaos, pipe_fd[1]);
	close(pipe_fd[1]);
	while (length + 1 < size &&
	       (got = read(pipe_fd[0], output + length, size - length - 1)) > 0)
		length += (size_t)got;
	output[length] = '\0';
	close(pipe_fd[0]);
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		fake_die(role, status);
	if (WEXITSTATUS(status))
		exit(WEXITSTATUS(status));
	pthread_mutex_lock(&runtime.lock);
	if (port && pread(runtime.port, port, sizeof(*port), 0) != (ssize_t)sizeof(*port))
		fake_die("port", errno);
	pthread_mutex_unlock(&runtime.lock);
	return length;
}
