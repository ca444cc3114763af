/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it costs a program with CUDA graphs to be moved. It launches a graph of many nodes, and a few kernels
 * after it, all the time, while its grant goes round among more partitions than the library keeps: so
 * an executable has to be made ready for each move.
 *
 * Usage: bench_graph [LIBRARY [NODES [MOVES [GRAPHS]]]]
 * LIBRARY: else DETSHARE_LIBRARY, else the one of this build, else the installed one.
 * NODES: of a graph (1000); MOVES: how often the grant changes (40); GRAPHS: launched in turn (1).
 * Prints lines of JSON:
 *   instantiate  cuGraphInstantiate alone, and inside where a second executable may be needed
 *   launch       the host's time of a graph's launch: without the library; inside and never moved; inside and
 *                moved, in the time between a grant and its acknowledgement (the executable is made, the
 *                streams follow, the old partition drains), and after it
 *   kernel       the same of a kernel's launch
 *   move         from grant to acknowledgement; launches of graphs in that time, against as long a time after it
 * "histogram" counts launches by host time: below 10, 20, 50, 100, 200, 500, 1000, 2000, 5000 us, and longer.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/fake_runtime.h"

enum {
	NODES = 1000,
	NODES_MAX = 20000,
	MOVES = 40,
	MOVES_MAX = 1000,
	GRAPHS_MAX = 64,
	KERNELS = 4,      /* launched after each graph */
	QUEUED = 3,       /* launches of graphs before a synchronisation */
	PARTITIONS = 12,  /* more than the library keeps */
	SETTLE_MS = 60,   /* between moves */
	WARM_UP_MS = 300, /* before the first */
	RECORDS_MAX = 1 << 17,
	INSTANTIATIONS = 9,
};

/* One round of the program. */
struct record {
	double at_ns; /* when the graph's launch began */
	double graph_ns;
	double kernel_ns; /* of the longest of KERNELS */
};

/* What a program prints, in bytes: for pipes only. */
struct result {
	double instantiate_ns[INSTANTIATIONS];
	unsigned n;
	struct record records[RECORDS_MAX];
};

static unsigned setting(const char *name)
{
	const char *text = getenv(name);

	return text ? (unsigned)atoi(text) : 1;
}

/* ---- the program ---- */

static CUgraph chain(CUfunction function, unsigned nodes)
{
	CUgraphNode last = NULL;
	CUgraph graph;

	CALL(cuGraphCreate, &graph, 0);
	for (unsigned i = 0; i < nodes; i++) {
		unsigned us = 0;
		CUdeviceptr smids = 0;
		void *args[] = {&us, &smids};
		const CUDA_KERNEL_NODE_PARAMS params = {.func = function,
							.gridDimX = 1,
							.gridDimY = 1,
							.gridDimZ = 1,
							.blockDimX = 1,
							.blockDimY = 1,
							.blockDimZ = 1,
							.kernelParams = args};
		CUgraphNode node;

		CALL(cuGraphAddKernelNode_v2, &node, graph, last ? &last : NULL, last != NULL,
		     &params);
		last = node;
	}
	return graph;
}

static struct result result;

/* Until standard input ends. */
static void launch_all_the_time(CUgraphExec *execs, unsigned n_execs, CUfunction function)
{
	__typeof__(&cuGraphLaunch) launch_graph =
	    (__typeof__(&cuGraphLaunch))(uintptr_t)fake_driver("cuGraphLaunch");
	__typeof__(&cuLaunchKernel) launch =
	    (__typeof__(&cuLaunchKernel))(uintptr_t)fake_driver("cuLaunchKernel");
	const double end_ns = fake_now_ns() + 1e6 * setting("BENCH_MS");
	unsigned us = 0;
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};
	CUstream stream;

	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; fake_now_ns() < end_ns; i++) {
		struct record record = {.at_ns = fake_now_ns()};

		if (launch_graph(execs[i % n_execs], stream))
			fake_die("cuGraphLaunch", 0);
		record.graph_ns = fake_now_ns() - record.at_ns;
		for (unsigned k = 0; k < KERNELS; k++) {
			const double begin_ns = fake_now_ns();
			double took_ns;

			if (launch(function, 1, 1, 1, 1, 1, 1, 0, stream, args, NULL))
				fake_die("cuLaunchKernel", 0);
			took_ns = fake_now_ns() - begin_ns;
			if (took_ns > record.kernel_ns)
				record.kernel_ns = took_ns;
		}
		if (result.n < RECORDS_MAX)
			result.records[result.n++] = record;
		if (i % QUEUED == QUEUED - 1)
			CALL(cuStreamSynchronize, stream);
	}
	CALL(cuStreamSynchronize, stream);
}

static int program(void)
{
	static CUgraphExec execs[GRAPHS_MAX];
	CUfunction function = fake_empty_kernel();
	CUgraph graph = chain(function, setting("BENCH_NODES"));

	for (unsigned i = 0; i < INSTANTIATIONS; i++) {
		const double begin_ns = fake_now_ns();
		CUgraphExec exec;

		CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
		result.instantiate_ns[i] = fake_now_ns() - begin_ns;
		CALL(cuGraphExecDestroy, exec);
	}
	for (unsigned i = 0; i < setting("BENCH_GRAPHS"); i++)
		CALL(cuGraphInstantiateWithFlags, &execs[i], graph, 0);
	launch_all_the_time(execs, setting("BENCH_GRAPHS"), function);
	return fwrite(&result, sizeof(result), 1, stdout) != 1 || fflush(stdout);
}

/* ---- the node runtime's part ---- */

static struct move {
	double granted_ns, acknowledged_ns;
} moves[MOVES_MAX];
static unsigned n_moves;

/* Partitions of half of the groups, or nearly, each one group further. */
static struct ds_groups partition(unsigned i)
{
	const struct ds_gpu_shape shape = fake_runtime_shape();
	const unsigned half = shape.n_groups / 2 ? shape.n_groups / 2 : 1;
	struct ds_groups groups = {{0}};

	for (unsigned g = 0; g < half - i / shape.n_groups % half; g++)
		ds_groups_add(&groups, (i + g) % shape.n_groups);
	return groups;
}

static void nap_ms(unsigned ms)
{
	const struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	nanosleep(&nap, NULL);
}

static void *move_about(void *how_often)
{
	const unsigned n = *(const unsigned *)how_often;

	while (!fake_runtime_has_program())
		nap_ms(10);
	nap_ms(WARM_UP_MS);
	for (n_moves = 0; n_moves < n && fake_runtime_has_program(); n_moves++) {
		const struct ds_groups groups = partition(n_moves % PARTITIONS);
		struct move *move = &moves[n_moves];
		uint64_t epoch;

		move->granted_ns = fake_now_ns();
		epoch = fake_runtime_grant(&groups);
		move->acknowledged_ns = fake_runtime_acknowledged_ns(epoch, 10);
		if (!move->acknowledged_ns)
			break;
		nap_ms(SETTLE_MS);
	}
	return NULL;
}

/* ---- what came of it ---- */

static const double bounds_us[] = {10, 20, 50, 100, 200, 500, 1000, 2000, 5000};
enum { N_BOUNDS = sizeof(bounds_us) / sizeof(bounds_us[0]), STALL_US = 200 };

static double values[RECORDS_MAX];

static void print_values(const char *name, size_t n)
{
	unsigned counts[N_BOUNDS + 1] = {0}, stalls = 0;

	printf(",\"%s\":{\"n\":%zu", name, n);
	for (size_t i = 0; i < n; i++) {
		unsigned bound = 0;

		while (bound < N_BOUNDS && values[i] / 1e3 >= bounds_us[bound])
			bound++;
		counts[bound]++;
		stalls += values[i] / 1e3 > STALL_US;
	}
	if (n) {
		printf(",\"p50_us\":%.2f,\"p99_us\":%.2f", fake_quantile(values, n, 0.5) / 1e3,
		       fake_quantile(values, n, 0.99) / 1e3);
		printf(",\"longest_us\":%.2f,\"over_%d_us\":%u,\"histogram\":[",
		       values[n - 1] / 1e3, STALL_US, stalls);
		for (unsigned i = 0; i <= N_BOUNDS; i++)
			printf("%s%u", i ? "," : "", counts[i]);
		printf("]");
	}
	printf("}");
}

enum when { ALWAYS, MOVING, MOVED };

static bool is_then(double at_ns, enum when when)
{
	if (when == ALWAYS)
		return true;
	for (unsigned i = 0; i < n_moves; i++) {
		const double next_ns = i + 1 < n_moves ? moves[i + 1].granted_ns : 1e300;

		if (at_ns >= moves[i].granted_ns && at_ns < moves[i].acknowledged_ns)
			return when == MOVING;
		if (at_ns >= moves[i].acknowledged_ns && at_ns < next_ns)
			return when == MOVED;
	}
	return false;
}

static void print_launches(const char *name, bool graphs, enum when when)
{
	size_t n = 0;

	for (unsigned i = 0; i < result.n; i++)
		if (is_then(result.records[i].at_ns, when))
			values[n++] =
			    graphs ? result.records[i].graph_ns : result.records[i].kernel_ns;
	print_values(name, n);
}

static unsigned launches_in(double begin_ns, double end_ns)
{
	unsigned n = 0;

	for (unsigned i = 0; i < result.n; i++)
		n += result.records[i].at_ns >= begin_ns && result.records[i].at_ns < end_ns;
	return n;
}

static void print_moves(void)
{
	unsigned meanwhile = 0, after = 0;

	printf("{\"bench\":\"graph\",\"what\":\"move\"");
	for (unsigned i = 0; i < n_moves; i++) {
		const double took_ns = moves[i].acknowledged_ns - moves[i].granted_ns;

		values[i] = took_ns;
		meanwhile += launches_in(moves[i].granted_ns, moves[i].acknowledged_ns);
		after += launches_in(moves[i].acknowledged_ns, moves[i].acknowledged_ns + took_ns);
	}
	print_values("acknowledged", n_moves);
	printf(",\"launches_meanwhile\":%u,\"launches_after\":%u}\n", meanwhile, after);
}

static void run(const char *library, unsigned ms, struct ds_port *port)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", ms);
	setenv("BENCH_MS", text, 1);
	if (fake_run("--program", library, NULL, (char *)&result, sizeof(result) + 1, port) !=
	    sizeof(result))
		fake_die("--program", 0);
}

/* Three programs, one after the other. What of each is needed is printed before the next one runs. */
static void measure(const char *library, const char *what, unsigned n)
{
	static const char *const ways[] = {"without", "still"};
	const bool graphs = !strcmp(what, "launch");
	const unsigned moving_ms = WARM_UP_MS + n * (SETTLE_MS + 40);
	struct ds_port port = {.magic = 0};
	pthread_t mover;

	for (unsigned way = 0; way < 2; way++) {
		run(way ? library : NULL, moving_ms / 4, NULL);
		print_launches(ways[way], graphs, ALWAYS);
	}
	if (pthread_create(&mover, NULL, move_about, &n))
		fake_die("pthread_create", errno);
	run(library, moving_ms, &port);
	pthread_join(mover, NULL);
	print_launches("moving", graphs, MOVING);
	print_launches("moved", graphs, MOVED);
	printf(",\"remaps\":%llu,\"stalls\":%llu}\n", (unsigned long long)port.remaps,
	       (unsigned long long)port.stalls);
}

static unsigned number(int argc, char **argv, int i, unsigned otherwise, unsigned most)
{
	const unsigned n = argc > i ? (unsigned)atoi(argv[i]) : otherwise;

	if (n < 1 || n > most)
		fake_die(argv[i], (int)n);
	return n;
}

static void put_setting(const char *name, unsigned n)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", n);
	setenv(name, text, 1);
}

int main(int argc, char **argv)
{
	const char *library;
	unsigned nodes, n;

	fake_runtime_role(argc, argv);
	if (argc > 1 && !strcmp(argv[1], "--program"))
		return program();
	library = fake_library(argc > 1 && *argv[1] ? argv[1] : NULL);
	nodes = number(argc, argv, 2, NODES, NODES_MAX);
	n = number(argc, argv, 3, MOVES, MOVES_MAX);
	put_setting("BENCH_NODES", nodes);
	put_setting("BENCH_GRAPHS", number(argc, argv, 4, 1, GRAPHS_MAX));
	fake_runtime_start();
	for (unsigned way = 0; way < 2; way++) {
		run(way ? library : NULL, 1, NULL);
		memcpy(values, result.instantiate_ns, sizeof(result.instantiate_ns));
		printf("{\"bench\":\"graph\",\"what\":\"instantiate\",\"nodes\":%u", nodes);
		print_values(way ? "inside" : "without", INSTANTIATIONS);
		printf("}\n");
	}
	printf("{\"bench\":\"graph\",\"what\":\"launch\"");
	measure(library, "launch", n);
	print_moves();
	printf("{\"bench\":\"graph\",\"what\":\"kernel\"");
	measure(library, "kernel", n);
	fake_runtime_stop();
	return 0;
}
