/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the coroutine library adds to cuLaunchKernel, on whatever libcuda.so.1 there is. One process, with
 * the library and this program as its node runtime, launches in batches, in turns through the library and
 * past it: what is compared are batches of the same process within milliseconds of each other, for
 * processes differ by more than the library adds.
 *
 * Usage: bench_launch [LIBRARY [TURNS]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * TURNS: processes, one after the other.
 * Prints one line of JSON per number of streams, with the median over all batches of the time of one launch:
 * past the library; past it, but with what the library must do (enum way); through it. What is added is the
 * median of the differences within a round of batches; of those of all turns, the median is printed, and
 * the least and the most.
 */
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/fake_runtime.h"

#if CUDA_VERSION < 12050
CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *, CUgreenCtx, unsigned, int);
#endif

enum {
	TURNS = 11,
	TURNS_MAX = 64,
	BATCH = 100,   /* launches timed together; fewer than the driver queues without waiting */
	BATCHES = 300, /* per turn */
	WARM_UP = 20,  /* batches */
	STREAMS_MAX = 16,
};

static const unsigned stream_counts[] = {0, 1, 4, 16}; /* 0: the NULL stream */
enum { N_COUNTS = sizeof(stream_counts) / sizeof(stream_counts[0]) };

/*
 * ASKED: the driver is asked for the current context before each launch, as the library does for default
 * streams. GREEN: on streams of a green context; CURRENT: which is current, too; OWN: with a function that was
 * looked up while it was.
 */
enum way { WITHOUT, ASKED, GREEN, GREEN_CURRENT, GREEN_OWN, GREEN_OWN_CURRENT, WITH, N_WAYS };
static const char *const names[] = {"without_ns",       "asked_ns",     "green_ns",
				    "green_current_ns", "green_own_ns", "green_own_current_ns",
				    "with_ns"};

/* What is said of a turn, for a number of streams. */
enum said { ADDED = N_WAYS, ADDED_BY_GREEN, ADDED_TO_GREEN, N_SAID };

/* ---- one turn: a process with the library ---- */

/* The driver's own, past the library, which answers dlsym for the whole process. */
static void *past_library(const char *symbol)
{
	static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
	void *libc = dlopen("libc.so.6", RTLD_NOW), *libcuda = dlopen("libcuda.so.1", RTLD_NOW);
	void *(*real_dlsym)(void *, const char *) = NULL;
	void *address = NULL;

	for (size_t i = 0; !real_dlsym && i < sizeof(versions) / sizeof(versions[0]); i++)
		*(void **)&real_dlsym = dlvsym(libc, "dlsym", versions[i]);
	if (real_dlsym && libcuda)
		address = real_dlsym(libcuda, symbol);
	if (!address)
		fake_die(symbol, 0);
	if (address == fake_driver("cuLaunchKernel"))
		fake_die("the library is not in this process", 0);
	return address;
}

#define PAST(symbol) ((__typeof__(&symbol))(uintptr_t)past_library(#symbol))

typedef __typeof__(&cuLaunchKernel) launch_kernel;
typedef __typeof__(&cuCtxGetCurrent) get_current;

struct launching {
	launch_kernel launch;
	__typeof__(&cuStreamSynchronize) synchronize;
	get_current asks; /* before each launch; NULL: not */
	CUcontext current;
	CUfunction function;
	CUstream streams[STREAMS_MAX], null;
};

static double time_batch(const struct launching *with, unsigned n_streams)
{
	CUdeviceptr smids = 0;
	unsigned us = 0;
	void *args[] = {&us, &smids};
	CUcontext context;
	double begin;

	CALL(cuCtxSetCurrent, with->current);
	begin = fake_now_ns();
	for (unsigned i = 0; i < BATCH; i++) {
		const CUstream stream = n_streams ? with->streams[i % n_streams] : with->null;

		if ((with->asks && with->asks(&context)) ||
		    with->launch(with->function, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL))
			fake_die("cuLaunchKernel", 0);
	}
	begin = (fake_now_ns() - begin) / BATCH;
	for (unsigned i = 0; i < (n_streams ? n_streams : 1); i++)
		if (with->synchronize(n_streams ? with->streams[i] : with->null))
			fake_die("cuStreamSynchronize", 0);
	return begin;
}

/* The same streams as the library makes, made here: what green contexts cost by themselves. */
static CUcontext make_green(struct launching *with)
{
	CUdevResource rest, groups[DS_GROUPS_MAX];
	CUdevResourceDesc description;
	CUcontext context;
	CUgreenCtx green;
	const unsigned n = fake_split(groups, &rest);

	CALL(cuDevResourceGenerateDesc, &description, groups, (n + 1) / 2);
	if (PAST(cuGreenCtxCreate)(&green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM) ||
	    PAST(cuGreenCtxStreamCreate)(&with->null, green, CU_STREAM_NON_BLOCKING, 0) ||
	    PAST(cuCtxFromGreenCtx)(&context, green))
		fake_die("cuGreenCtxCreate", 0);
	for (unsigned i = 0; i < STREAMS_MAX; i++)
		if (PAST(cuGreenCtxStreamCreate)(&with->streams[i], green, CU_STREAM_NON_BLOCKING,
						 0))
			fake_die("cuGreenCtxStreamCreate", 0);
	return context;
}

static void prepare(struct launching with[N_WAYS])
{
	const launch_kernel past = PAST(cuLaunchKernel);
	const CUfunction function = fake_empty_kernel();
	CUcontext primary, green;

	CALL(cuCtxGetCurrent, &primary);
	for (unsigned way = 0; way < N_WAYS; way++) {
		with[way].launch = past;
		with[way].synchronize = PAST(cuStreamSynchronize);
		with[way].current = primary;
		with[way].function = function;
	}
	for (unsigned i = 0; i < STREAMS_MAX; i++) {
		CALL(cuStreamCreate, &with[WITH].streams[i], CU_STREAM_NON_BLOCKING);
		if (PAST(cuStreamCreate)(&with[WITHOUT].streams[i], CU_STREAM_NON_BLOCKING))
			fake_die("cuStreamCreate", 0);
	}
	with[WITH].launch = (launch_kernel)(uintptr_t)fake_driver("cuLaunchKernel");
	with[WITH].synchronize =
	    (__typeof__(&cuStreamSynchronize))(uintptr_t)fake_driver("cuStreamSynchronize");
	with[ASKED] = with[WITHOUT];
	with[ASKED].asks = PAST(cuCtxGetCurrent);
	green = make_green(&with[GREEN]);
	with[GREEN_CURRENT] = with[GREEN_OWN] = with[GREEN_OWN_CURRENT] = with[GREEN];
	with[GREEN_OWN].function = with[GREEN_OWN_CURRENT].function = fake_empty_kernel_in(green);
	with[GREEN_CURRENT].current = with[GREEN_OWN_CURRENT].current = green;
}

/*
 * Every turn launches from the same CPU, the last one it may use: another may be slower, or near another part
 * of the memory. Threads that the driver has started stay where they are.
 */
static void stay_on_one_cpu(void)
{
	int last = -1;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return;
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &cpus))
			last = i;
	CPU_ZERO(&cpus);
	CPU_SET(last, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

static double difference(double batch_ns[N_WAYS][BATCHES], enum way way, enum way than)
{
	double more[BATCHES];

	for (unsigned i = 0; i < BATCHES; i++)
		more[i] = batch_ns[way][i] - batch_ns[than][i];
	return fake_quantile(more, BATCHES, 0.5);
}

static int turn(void)
{
	static struct launching with[N_WAYS];
	static double batch_ns[N_WAYS][BATCHES];

	prepare(with);
	stay_on_one_cpu();
	for (unsigned k = 0; k < N_COUNTS; k++) {
		double added, by_green, to_green;

		for (int batch = -WARM_UP; batch < BATCHES; batch++)
			for (unsigned i = 0; i < N_WAYS; i++) {
				/* Whoever comes behind the same one each time may gain by it. */
				const unsigned way = (i + (unsigned)(batch + WARM_UP)) % N_WAYS;
				const double ns = time_batch(&with[way], stream_counts[k]);

				if (batch >= 0)
					batch_ns[way][batch] = ns;
			}
		added = difference(batch_ns, WITH, WITHOUT);
		by_green = difference(batch_ns, GREEN, WITHOUT);
		to_green = difference(batch_ns, WITH, GREEN);
		for (unsigned way = 0; way < N_WAYS; way++)
			printf("%.1f\n", fake_quantile(batch_ns[way], BATCHES, 0.5));
		printf("%.1f\n%.1f\n%.1f\n", added, by_green, to_green);
	}
	return fflush(stdout) != 0;
}

/* ---- the parent ---- */

static void print(unsigned count, double ns[N_SAID][TURNS_MAX], size_t turns)
{
	const double median = fake_quantile(ns[ADDED], turns, 0.5);

	printf("{\"bench\":\"launch\",\"streams\":%u,\"null_stream\":%s,\"turns\":%zu",
	       stream_counts[count] ? stream_counts[count] : 1,
	       stream_counts[count] ? "false" : "true", turns);
	for (unsigned way = 0; way < N_WAYS; way++)
		printf(",\"%s\":%.1f", names[way], fake_quantile(ns[way], turns, 0.5));
	printf(",\"added_ns\":%.1f,\"added_least_ns\":%.1f,\"added_most_ns\":%.1f,"
	       "\"added_by_green_ns\":%.1f,\"added_to_green_ns\":%.1f}\n",
	       median, ns[ADDED][0], ns[ADDED][turns - 1],
	       fake_quantile(ns[ADDED_BY_GREEN], turns, 0.5),
	       fake_quantile(ns[ADDED_TO_GREEN], turns, 0.5));
}

int main(int argc, char **argv)
{
	static double ns[N_COUNTS][N_SAID][TURNS_MAX];
	const int turns = argc > 2 ? atoi(argv[2]) : TURNS;
	char output[8192], *end;
	const char *library;

	fake_runtime_role(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "--turn"))
		return turn();
	if (turns < 1 || turns > TURNS_MAX)
		fake_die("TURNS must be 1 to 64", turns);
	library = fake_library(argc > 1 ? argv[1] : NULL);
	fake_runtime_start();
	for (int i = 0; i < turns; i++) {
		fake_run("--turn", library, NULL, output, sizeof(output), NULL);
		end = output;
		for (unsigned count = 0; count < N_COUNTS; count++)
			for (unsigned said = 0; said < N_SAID; said++)
				ns[count][said][i] = strtod(end, &end);
	}
	fake_runtime_stop();
	for (unsigned count = 0; count < N_COUNTS; count++)
		print(count, ns[count], (size_t)turns);
	return 0;
}
