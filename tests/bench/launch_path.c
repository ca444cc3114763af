/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the coroutine library does for a kernel launch, instruction by instruction: runs itself once more,
 * with the library, and steps through launches. Counts the instructions of the library; what the driver
 * does meanwhile is not counted, but how often it is called is. Code of anybody else in between (the C
 * library: a lock, an allocation, a system call) is an error, and so is a system call of the library's own.
 * No clock is read, so the result is the same every time.
 *
 * Usage: LD_PRELOAD=LIBRARY DETSHARE_PORT=... launch_path
 * Prints one line of JSON per way to launch: the most and the fewest instructions of one launch, how many of
 * them are atomic read-modify-writes, calls of the driver, and where somebody else's code came from.
 * Exits 77 where programs cannot be stepped through.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/fake_runtime.h"

enum { STREAMS_MAX = 16, ROUNDS = 3, WARM_UP = 4 };

/* ---- the program that is stepped through ---- */

typedef __typeof__(&cuLaunchKernel) launch_kernel;
typedef __typeof__(&cuLaunchKernelEx) launch_kernel_ex;

enum { PLAIN, EX };

static const struct way {
	const char *name; /* of the call */
	int call;
	unsigned streams; /* 0: the default stream */
	unsigned flags;   /* of the streams */
} ways[] = {
    {"cuLaunchKernel", PLAIN, 0, 0},
    {"cuLaunchKernel", PLAIN, 1, CU_STREAM_NON_BLOCKING},
    {"cuLaunchKernel", PLAIN, 4, CU_STREAM_NON_BLOCKING},
    {"cuLaunchKernel", PLAIN, 16, CU_STREAM_NON_BLOCKING},
    {"cuLaunchKernel", PLAIN, 16, CU_STREAM_DEFAULT},
    {"cuLaunchKernelEx", EX, 0, 0},
    {"cuLaunchKernelEx", EX, 1, CU_STREAM_NON_BLOCKING},
    {"cuLaunchKernelEx", EX, 16, CU_STREAM_NON_BLOCKING},
    {"cuLaunchKernel_ptsz", PLAIN, 0, 0},
    {"cuLaunchKernel_ptsz", PLAIN, 16, CU_STREAM_NON_BLOCKING},
    {"cuLaunchKernelEx_ptsz", EX, 0, 0},
};
enum { N_WAYS = sizeof(ways) / sizeof(ways[0]) };

static CUresult launch(const struct way *way, void *call, CUfunction function, CUstream stream)
{
	unsigned us = 0;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};
	const CUlaunchConfig config = {.gridDimX = 1,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = 1,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .hStream = stream};

	if (way->call == EX)
		return ((launch_kernel_ex)(uintptr_t)call)(&config, function, args, NULL);
	return ((launch_kernel)(uintptr_t)call)(function, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

static int be_stepped_through(void)
{
	CUfunction function = fake_empty_kernel();

	for (const struct way *way = ways; way < ways + N_WAYS; way++) {
		CUstream streams[STREAMS_MAX] = {NULL};
		const unsigned n = way->streams ? way->streams : 1;
		void *call = fake_driver(way->name);

		for (unsigned i = 0; i < way->streams; i++)
			CALL(cuStreamCreate, &streams[i], way->flags);
		for (unsigned i = 0; i < WARM_UP * n; i++)
			if (launch(way, call, function, streams[i % n]))
				fake_die(way->name, 0);
		raise(SIGSTOP);
		for (unsigned i = 0; i < ROUNDS * n; i++)
			if (launch(way, call, function, streams[i % n]))
				fake_die(way->name, 0);
		raise(SIGSTOP);
		CALL(cuCtxSynchronize);
		for (unsigned i = 0; i < way->streams; i++)
			CALL(cuStreamDestroy_v2, streams[i]);
	}
	return 0;
}

/* ---- who steps ---- */

enum whose { PROGRAM, LIBRARY, DRIVER, OTHERS };

enum { MAPS_MAX = 256 };

static struct {
	pid_t pid;
	struct map {
		uintptr_t begin, end, offset;
		enum whose whose;
		char name[48];
	} maps[MAPS_MAX];
	size_t n_maps;
} stepped;

struct counts {
	unsigned launches;
	unsigned instructions, most, fewest; /* of the launch under way, of any */
	unsigned atomics, driver_calls;
	unsigned foreign, system_calls;
	char who[64]; /* the first of others */
};

static enum whose whose_is(const char *path)
{
	if (strstr(path, "libdetshare-cuda.so"))
		return LIBRARY;
	if (strstr(path, "/libcuda.so"))
		return DRIVER;
	return strstr(path, "launch_path") ? PROGRAM : OTHERS;
}

static void read_maps(void)
{
	char path[64], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)stepped.pid);
	file = fopen(path, "re");
	if (!file) {
		perror(path);
		exit(1);
	}
	stepped.n_maps = 0;
	while (fgets(line, sizeof(line), file) && stepped.n_maps < MAPS_MAX) {
		struct map *map = &stepped.maps[stepped.n_maps];
		char access[8], *name;

		if (sscanf(line, "%lx-%lx %7s %lx", &map->begin, &map->end, access, &map->offset) !=
			4 ||
		    access[2] != 'x')
			continue;
		line[strcspn(line, "\n")] = '\0';
		map->whose = whose_is(line);
		name = strrchr(line, '/');
		snprintf(map->name, sizeof(map->name), "%s", name ? name + 1 : "?");
		stepped.n_maps++;
	}
	fclose(file);
}

static const struct map *map_of(uintptr_t pc)
{
	static const struct map nowhere = {.whose = OTHERS, .name = "?"};

	for (size_t i = 0; i < stepped.n_maps; i++)
		if (pc >= stepped.maps[i].begin && pc < stepped.maps[i].end)
			return &stepped.maps[i];
	return &nowhere;
}

static uintptr_t program_counter(void)
{
	struct user_regs_struct registers;
	struct iovec data = {.iov_base = &registers, .iov_len = sizeof(registers)};

	if (ptrace(PTRACE_GETREGSET, stepped.pid, (void *)1 /* NT_PRSTATUS */, &data) < 0)
		fake_die("PTRACE_GETREGSET", errno);
#if defined(__x86_64__)
	return registers.rip;
#elif defined(__aarch64__)
	return registers.pc;
#else
	printf("launch_path: this processor's registers are not known\n");
	exit(77);
#endif
}

/* Of the library's own instructions. */
static void look_at(uintptr_t pc, struct counts *counts)
{
#if defined(__x86_64__)
	const unsigned long code =
	    (unsigned long)ptrace(PTRACE_PEEKTEXT, stepped.pid, (void *)pc, NULL);

	counts->atomics +=
	    (code & 0xff) == 0xf0; /* the lock prefix; xchg needs none, and there is none */
	counts->system_calls += (code & 0xffff) == 0x050f;
#else
	(void)pc;
	(void)counts;
#endif
}

static void launch_ended(struct counts *counts)
{
	if (!counts->instructions)
		return;
	counts->launches++;
	if (counts->instructions > counts->most)
		counts->most = counts->instructions;
	if (!counts->fewest || counts->instructions < counts->fewest)
		counts->fewest = counts->instructions;
	counts->instructions = 0;
}

/* One more instruction of whoever. Returns whom it belongs to: others work for who called them. */
static enum whose count(uintptr_t pc, enum whose before, struct counts *counts)
{
	const struct map *map = map_of(pc);

	switch (map->whose) {
	case PROGRAM:
		launch_ended(counts);
		break;
	case LIBRARY:
		counts->instructions++;
		look_at(pc, counts);
		break;
	case DRIVER:
		counts->driver_calls += before == LIBRARY;
		break;
	case OTHERS:
		if (before == LIBRARY && !counts->foreign++)
			snprintf(counts->who, sizeof(counts->who), "%s+0x%lx", map->name,
				 (unsigned long)(pc - map->begin + map->offset));
		return before == LIBRARY ? LIBRARY : before;
	}
	return map->whose;
}

/* Go on until the program stops itself. Returns false at its end. */
static bool go_on(int request, struct counts *counts)
{
	enum whose whose = PROGRAM;
	int status, signal = 0;

	for (;;) {
		if (ptrace(request, stepped.pid, NULL, (void *)(intptr_t)signal) < 0)
			fake_die("ptrace", errno);
		if (waitpid(stepped.pid, &status, 0) < 0)
			fake_die("waitpid", errno);
		if (!WIFSTOPPED(status)) {
			if (!WIFEXITED(status) || WEXITSTATUS(status))
				exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
			return false;
		}
		if (WSTOPSIG(status) == SIGSTOP)
			return true;
		signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
		if (counts && !signal)
			whose = count(program_counter(), whose, counts);
	}
}

static void start(char **argv)
{
	int status;

	stepped.pid = fork();
	if (stepped.pid < 0)
		fake_die("fork", errno);
	if (!stepped.pid) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		execl("/proc/self/exe", argv[0], "--stepped", (char *)NULL);
		_exit(127);
	}
	if (waitpid(stepped.pid, &status, 0) < 0 || !WIFSTOPPED(status)) {
		printf("launch_path: programs cannot be stepped through here\n");
		exit(77);
	}
	ptrace(PTRACE_SETOPTIONS, stepped.pid, NULL, (void *)PTRACE_O_EXITKILL);
}

int main(int argc, char **argv)
{
	const struct way *way = ways;

	if (argc > 1 && !strcmp(argv[1], "--stepped"))
		return be_stepped_through();
	start(argv);
	while (go_on(PTRACE_CONT, NULL)) {
		struct counts counts = {0};

		read_maps();
		if (!go_on(PTRACE_SINGLESTEP, &counts))
			return 1;
		printf("{\"bench\":\"launch_path\",\"call\":\"%s\",\"streams\":%u,"
		       "\"blocking\":%s,\"launches\":%u,\"most\":%u,\"fewest\":%u,"
		       "\"atomics\":%.1f,\"driver_calls\":%.1f,\"system_calls\":%u,"
		       "\"foreign\":%u,\"foreign_code\":\"%s\"}\n",
		       way->name, way->streams ? way->streams : 1,
		       way->flags & CU_STREAM_NON_BLOCKING ? "false" : "true", counts.launches,
		       counts.most, counts.fewest, (double)counts.atomics / counts.launches,
		       (double)counts.driver_calls / counts.launches, counts.system_calls,
		       counts.foreign, counts.who);
		way++;
	}
	return way == ways + N_WAYS ? 0 : 1;
}
