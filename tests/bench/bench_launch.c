/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the coroutine library adds to cuLaunchKernel. Runs itself again and again, in turns without
 * and with the library, on whatever libcuda.so.1 there is; plays the node runtime for those with.
 *
 * Usage: bench_launch [LIBRARY [TURNS]]
 * Prints one line of JSON per number of streams, with the median over all turns of the time of one
 * launch: without the library, without it in green contexts that the program made itself, with it.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "noderuntime/coroutine/cuda_api.h"
#include "noderuntime/port_protocol.h"

#if CUDA_VERSION < 12050
CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *, CUgreenCtx, unsigned, int);
#endif

enum {
	TURNS = 11,
	BATCH = 100,   /* launches timed together; fewer than the driver queues without waiting */
	BATCHES = 300, /* per turn */
	WARM_UP = 20,  /* batches */
	STREAMS_MAX = 16,
};

static const unsigned stream_counts[] = {0, 1, 4, 16}; /* 0: the NULL stream */
enum { N_COUNTS = sizeof(stream_counts) / sizeof(stream_counts[0]) };

static const char empty_kernel[] = ".version 6.0\n"
				   ".target sm_70\n"
				   ".address_size 64\n"
				   ".visible .entry spin_us(.param .u32 us, .param .u64 smids) {\n"
				   "  ret;\n"
				   "}\n";

static _Noreturn void die(const char *what, int error)
{
	fprintf(stderr, "bench_launch: %s: %d\n", what, error);
	exit(1);
}

/* Looked up by name, as most programs do. */
static void *driver(const char *symbol)
{
	static void *libcuda;
	void *address;

	if (!libcuda)
		libcuda = dlopen("libcuda.so.1", RTLD_NOW);
	if (!libcuda) {
		fprintf(stderr, "bench_launch: no libcuda.so.1 here: nothing measured\n");
		exit(77);
	}
	address = dlsym(libcuda, symbol);
	if (!address)
		die(symbol, 0);
	return address;
}

#define CALL(symbol, ...)                                                           \
	do {                                                                        \
		CUresult call_result =                                              \
		    ((__typeof__(&symbol))(uintptr_t)driver(#symbol))(__VA_ARGS__); \
		if (call_result)                                                    \
			die(#symbol, (int)call_result);                             \
	} while (0)

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[n / 2];
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* ---- one turn: a process of its own, which prints a median per number of streams ---- */

static double time_launches(CUfunction function, const CUstream *streams, unsigned n_streams)
{
	static double batch_ns[BATCHES];
	__typeof__(&cuLaunchKernel) launch =
	    (__typeof__(&cuLaunchKernel))(uintptr_t)driver("cuLaunchKernel");
	unsigned us = 0;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	for (int batch = -WARM_UP; batch < BATCHES; batch++) {
		const double begin = now_ns();

		for (unsigned i = 0; i < BATCH; i++)
			if (launch(function, 1, 1, 1, 1, 1, 1, 0, streams[i % n_streams], args,
				   NULL))
				die("cuLaunchKernel", 0);
		if (batch >= 0)
			batch_ns[batch] = (now_ns() - begin) / BATCH;
		CALL(cuCtxSynchronize);
	}
	return median(batch_ns, BATCHES);
}

/* The same streams as the library makes, made here: what green contexts cost by themselves. */
static void make_green(CUstream *streams, CUstream *null)
{
	CUdevResource all, rest, groups[DS_GROUPS_MAX];
	unsigned n = DS_GROUPS_MAX;
	CUdevResourceDesc description;
	CUgreenCtx green;

	CALL(cuDeviceGetDevResource, 0, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, groups, &n, &all, &rest, 0, 8);
	CALL(cuDevResourceGenerateDesc, &description, groups, (n + 1) / 2);
	CALL(cuGreenCtxCreate, &green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM);
	CALL(cuGreenCtxStreamCreate, null, green, CU_STREAM_NON_BLOCKING, 0);
	for (unsigned i = 0; i < STREAMS_MAX; i++)
		CALL(cuGreenCtxStreamCreate, &streams[i], green, CU_STREAM_NON_BLOCKING, 0);
}

static void turn(bool green)
{
	CUstream streams[STREAMS_MAX], null = NULL;
	CUfunction function;
	CUcontext context;
	CUmodule module;

	CALL(cuInit, 0);
	CALL(cuDevicePrimaryCtxRetain, &context, 0);
	CALL(cuCtxSetCurrent, context);
	CALL(cuModuleLoadData, &module, empty_kernel);
	CALL(cuModuleGetFunction, &function, module, "spin_us");
	if (green)
		make_green(streams, &null);
	for (unsigned i = 0; !green && i < STREAMS_MAX; i++)
		CALL(cuStreamCreate, &streams[i], CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < N_COUNTS; i++) {
		const unsigned n = stream_counts[i];

		printf("%.1f\n", time_launches(function, n ? streams : &null, n ? n : 1));
	}
}

/* ---- the node runtime's part ---- */

/* In a process of its own: the page that grants half of the first device's groups. */
static void probe(void)
{
	struct ds_page page = {
	    .magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION, .epoch = 2, .share_milli = 500};
	CUdevResource all, rest, groups[DS_GROUPS_MAX];
	unsigned n = DS_GROUPS_MAX, group_sms = 8;
	const unsigned char *b;
	CUuuid uuid;

	CALL(cuInit, 0);
	CALL(cuDeviceGetUuid_v2, &uuid, 0);
	CALL(cuDeviceGetDevResource, 0, &all, CU_DEV_RESOURCE_TYPE_SM);
	CALL(cuDevSmResourceSplitByCount, groups, &n, &all, &rest, 0, group_sms);
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
		die("probe", errno);
}

static int memory_file(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		die(name, errno);
	return fd;
}

static void welcome(int connection, int page)
{
	const struct ds_port_welcome text = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};
	const int descriptors[2] = {memory_file("port", DS_PORT_SIZE), page};
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
		die("welcome", errno);
	close(descriptors[0]);
}

struct server {
	int listener, page;
};

static void *serve(void *arg)
{
	const struct server *server = arg;

	for (;;) {
		int connection = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);

		if (connection < 0)
			return NULL;
		welcome(connection, server->page);
		/* Kept open as long as the program's end is. */
		while (recv(connection, &(char){0}, 1, 0) > 0)
			;
		close(connection);
	}
}

/* ---- the parent ---- */

/* Run this program as `role`, with the library if not NULL; what it prints goes to `output`. */
static size_t run(const char *role, const char *library, char *output, size_t size)
{
	size_t length = 0;
	int pipe_fd[2], status;
	ssize_t got;
	pid_t pid;

	if (pipe2(pipe_fd, 0) < 0 || (pid = fork()) < 0)
		die("fork", errno);
	if (!pid) {
		dup2(pipe_fd[1], STDOUT_FILENO);
		close(pipe_fd[0]);
		close(pipe_fd[1]);
		if (library)
			setenv("LD_PRELOAD", library, 1);
		else
			unsetenv("LD_PRELOAD");
		execl("/proc/self/exe", "bench_launch", role, (char *)NULL);
		_exit(127);
	}
	close(pipe_fd[1]);
	while (length + 1 < size &&
	       (got = read(pipe_fd[0], output + length, size - length - 1)) > 0)
		length += (size_t)got;
	output[length] = '\0';
	close(pipe_fd[0]);
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		die(role, status);
	if (WEXITSTATUS(status))
		exit(WEXITSTATUS(status));
	return length;
}

static void take(const char *text, double *values, size_t stride)
{
	char *end;

	for (unsigned i = 0; i < N_COUNTS; i++, text = end)
		values[i * stride] = strtod(text, &end);
}

int main(int argc, char **argv)
{
	const char *library = argc > 1 ? argv[1] : DS_LIBRARY;
	const int turns = argc > 2 ? atoi(argv[2]) : TURNS;
	static double without[N_COUNTS][64], green[N_COUNTS][64], with[N_COUNTS][64];
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char directory[] = "/tmp/bench_launch.XXXXXX";
	char output[4096];
	struct server server;
	pthread_t thread;

	if (argc > 1 && !strcmp(argv[1], "--turn"))
		return turn(false), fflush(stdout) != 0;
	if (argc > 1 && !strcmp(argv[1], "--turn-green"))
		return turn(true), fflush(stdout) != 0;
	if (argc > 1 && !strcmp(argv[1], "--probe"))
		return probe(), fflush(stdout) != 0;
	if (turns < 1 || turns > 64)
		die("TURNS must be 1 to 64", turns);
	server.page = memory_file("page", DS_PAGE_SIZE);
	if (run("--probe", NULL, output, sizeof(output)) != sizeof(struct ds_page) ||
	    pwrite(server.page, output, sizeof(struct ds_page), 0) != sizeof(struct ds_page))
		die("probe", errno);
	if (!mkdtemp(directory))
		die(directory, errno);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/port", directory);
	server.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(server.listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(server.listener, 8) < 0 || pthread_create(&thread, NULL, serve, &server))
		die(address.sun_path, errno);
	setenv("DETSHARE_PORT", address.sun_path, 1);
	for (int i = 0; i < turns; i++) {
		run("--turn", NULL, output, sizeof(output));
		take(output, &without[0][i], 64);
		run("--turn-green", NULL, output, sizeof(output));
		take(output, &green[0][i], 64);
		run("--turn", library, output, sizeof(output));
		take(output, &with[0][i], 64);
	}
	unlink(address.sun_path);
	rmdir(directory);
	for (unsigned i = 0; i < N_COUNTS; i++) {
		const double before = median(without[i], (size_t)turns);
		const double by_hand = median(green[i], (size_t)turns);
		const double after = median(with[i], (size_t)turns);

		printf("{\"bench\":\"launch\",\"streams\":%u,\"null_stream\":%s,\"turns\":%d,"
		       "\"without_ns\":%.1f,\"green_ns\":%.1f,\"with_ns\":%.1f,"
		       "\"added_ns\":%.1f,\"added_to_green_ns\":%.1f}\n",
		       stream_counts[i] ? stream_counts[i] : 1, stream_counts[i] ? "false" : "true",
		       turns, before, by_hand, after, after - before, after - by_hand);
	}
	return 0;
}
