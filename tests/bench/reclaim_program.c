/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two programs of bench_reclaim, on whatever libcuda.so.1 there is. Each answers in lines of JSON.
 *   reclaim_program borrow --capacity N --runs FILE (--kernel-us US | --units N)
 *       launches equal kernels without a pause until its input ends: of so many units, or of as many as take
 *       US on all SMs. First line: ready; last line: what became of it.
 *   reclaim_program own --capacity N --runs FILE --units N
 *       first line: ready, and idle. Then, told by a line "LOW HIGH CYCLES PAUSE_US WORK_US SECONDS SEED POLL_NS" which
 *       groups are its own (bits, hexadecimal), so many cycles: waits until some of its groups are lent, and then as
 *       long as is drawn at random, PAUSE_US on average; becomes active by a launch, and works for WORK_US and
 *       until it has them all. Last line: each cycle.
 * FILE gets what each launch has been (struct gpu_run), on the host's CLOCK_MONOTONIC.
 */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/bench/reclaim_gpu.h"
#include "tests/bench/reclaim_page.h"

enum {
	AHEAD = 64,            /* launches, as far as no window is shorter */
	LOOK_EVERY = 64,       /* launches between two looks at the input */
	MORE = 3,              /* kernels after the grant, to see one on all groups */
	LEND_S = 20,           /* for a loan to come about */
	GRANT_S = 10,          /* for it to come back */
	LOOK_NS = 50000,       /* between two looks whether something is lent */
	SHORTEST_NS = 1000000, /* of a pause: for the borrower to come in */
};

struct options {
	size_t capacity;
	const char *runs;
	double kernel_us;
	unsigned units;
};

/* One cycle. Times on CLOCK_MONOTONIC. */
struct cycle {
	int64_t lent_ns;    /* the page did not grant all groups any more */
	int64_t request_ns; /* just before the first call of the driver */
	int64_t begun_ns;   /* that call has returned */
	int64_t grant_ns;   /* seen on the page */
	int64_t before_ns;  /* the page was seen the last time before that */
	int64_t idle_ns;    /* the last kernel was done */
	size_t first, last; /* launches */
};

struct tour {
	struct ds_groups own;
	unsigned cycles, poll_ns;
	double pause_us, work_us, seconds;
	unsigned short random[3];
};

static _Noreturn void usage(void)
{
	fputs("usage: reclaim_program borrow|own --capacity N --runs FILE [--kernel-us US | "
	      "--units N]\n",
	      stderr);
	exit(2);
}

static bool input_ended(void)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	char bytes[64];

	return poll(&input, 1, 0) == 1 && read(STDIN_FILENO, bytes, sizeof(bytes)) <= 0;
}

static void say_ready(unsigned units)
{
	const struct ds_page *page = page_find();
	uint32_t flags = 0;

	if (page)
		page_granted(page, &flags);
	printf("{\"ready\":true,\"device\":\"%s\",\"sms\":%u,\"units\":%u,\"library\":%s,"
	       "\"window\":%s}\n",
	       gpu_name(), gpu_sms(), units, page ? "true" : "false",
	       flags & DS_PAGE_WINDOW ? "true" : "false");
	fflush(stdout);
}

static void write_runs(const char *path, const struct gpu_run *runs, size_t n)
{
	FILE *file = fopen(path, "we");

	if (!file || fwrite(runs, sizeof(*runs), n, file) != n || fclose(file)) {
		perror(path);
		exit(1);
	}
}

static int borrow(const struct options *o)
{
	gpu_open(o->capacity);
	const unsigned units = o->units ? o->units : gpu_units(o->kernel_us);
	const struct gpu_clock first = gpu_compare_clocks();

	for (bool said = false, ended = false; !ended && gpu_launched() < o->capacity;) {
		gpu_launch(units);
		gpu_wait_behind(AHEAD);
		if (gpu_launched() % LOOK_EVERY)
			continue;
		if (!said)
			say_ready(units);
		said = true;
		ended = input_ended();
	}
	gpu_wait();
	const size_t launched = gpu_launched();
	const struct gpu_clock last = gpu_compare_clocks();
	struct gpu_run *runs = gpu_runs(launched, &first, &last);

	write_runs(o->runs, runs, launched);
	free(runs);
	printf("{\"launches\":%zu,\"full\":%s,\"clock_error_ns\":%" PRId64 "}\n", launched,
	       launched == o->capacity ? "true" : "false", gpu_clock_error_ns(&first, &last));
	return fflush(stdout) ? 1 : 0;
}

static void sleep_until(int64_t ns)
{
	const struct timespec then = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL))
		;
}

/* Until a group is lent. False: none is, for too long. */
static bool await_loan(const struct ds_page *page, const struct ds_groups *own, int64_t *lent_ns)
{
	const int64_t until_ns = ds_now_ns(CLOCK_MONOTONIC) + LEND_S * INT64_C(1000000000);
	uint32_t flags;

	for (;;) {
		const struct ds_groups granted = page_granted(page, &flags);

		*lent_ns = ds_now_ns(CLOCK_MONOTONIC);
		if (!ds_groups_within(own, &granted))
			return true;
		if (*lent_ns > until_ns)
			return false;
		sleep_until(*lent_ns + LOOK_NS);
	}
}

/*
 * Be active until the work is done and the groups are there. seen_ns gets when the host put each launch, and saw
 * that it was done. False: they did not come back.
 */
static bool work(const struct tour *tour, unsigned units, struct cycle *cycle,
		 int64_t (*seen_ns)[2])
{
	const int64_t work_ns = (int64_t)(tour->work_us * 1e3);
	unsigned more = 0;

	page_watch();
	cycle->first = gpu_launched();
	cycle->request_ns = ds_now_ns(CLOCK_MONOTONIC);
	for (;;) {
		int64_t *seen = seen_ns[gpu_launched()];

		seen[0] =
		    gpu_launched() == cycle->first ? cycle->request_ns : ds_now_ns(CLOCK_MONOTONIC);
		gpu_launch(units);
		if (gpu_launched() == cycle->first + 1)
			cycle->begun_ns = ds_now_ns(CLOCK_MONOTONIC);
		gpu_wait();
		seen[1] = cycle->idle_ns = ds_now_ns(CLOCK_MONOTONIC);
		more += page_watched(&cycle->grant_ns, &cycle->before_ns);
		if (more > MORE && seen[1] - cycle->request_ns >= work_ns)
			break;
		if (seen[1] - cycle->request_ns > GRANT_S * INT64_C(1000000000))
			break;
	}
	cycle->last = gpu_launched();
	page_watch_stop();
	return more > MORE;
}

/* By how much at most a kernel lies outside of what the host saw of it, once the clocks are one. */
static int64_t outside_ns(const struct gpu_run *runs, int64_t (*seen_ns)[2], size_t first,
			  size_t last)
{
	int64_t most = INT64_MIN;

	for (size_t i = first; i < last; i++) {
		if (seen_ns[i][0] - runs[i].begin_ns > most)
			most = seen_ns[i][0] - runs[i].begin_ns;
		if (runs[i].end_ns - seen_ns[i][1] > most)
			most = runs[i].end_ns - seen_ns[i][1];
	}
	return most;
}

static void print_cycles(const struct cycle *cycles, unsigned n)
{
	fputs("\"cycles\":[", stdout);
	for (unsigned i = 0; i < n; i++)
		printf("%s{\"lent_ns\":%" PRId64 ",\"request_ns\":%" PRId64 ",\"begun_ns\":%" PRId64
		       ",\"grant_ns\":%" PRId64 ",\"before_ns\":%" PRId64 ",\"idle_ns\":%" PRId64
		       ",\"first\":%zu,\"last\":%zu}",
		       i ? "," : "", cycles[i].lent_ns, cycles[i].request_ns, cycles[i].begun_ns,
		       cycles[i].grant_ns, cycles[i].before_ns, cycles[i].idle_ns, cycles[i].first,
		       cycles[i].last);
	fputs("]}\n", stdout);
}

/* False: there is nothing to do. */
static bool hear(struct tour *tour)
{
	unsigned seed;
	char line[256];

	if (!fgets(line, sizeof(line), stdin))
		return false;
	if (sscanf(line, "%" SCNx64 " %" SCNx64 " %u %lf %lf %lf %u %u", &tour->own.bits[0],
		   &tour->own.bits[1], &tour->cycles, &tour->pause_us, &tour->work_us,
		   &tour->seconds, &seed, &tour->poll_ns) != 8)
		usage();
	tour->random[0] = (unsigned short)seed;
	tour->random[1] = (unsigned short)(seed >> 16);
	tour->random[2] = 0x330e;
	return true;
}

static int own(const struct options *o)
{
	int64_t(*seen_ns)[2] = calloc(o->capacity, sizeof(*seen_ns));
	const char *failure = "";
	struct tour tour = {0};
	unsigned n = 0;

	if (!o->units || !seen_ns)
		usage();
	gpu_open(o->capacity);
	gpu_compare_clocks(); /* warm */
	gpu_launch(o->units);
	gpu_wait();
	say_ready(o->units);
	const struct ds_page *page = page_find();
	if (!hear(&tour))
		return 0;
	struct cycle *cycles = calloc(tour.cycles + 1, sizeof(*cycles));
	if (!page || !cycles) {
		fprintf(stderr, "reclaim_program: %s\n",
			cycles ? "the coroutine library is not there, or has no page"
			       : "no memory");
		return 1;
	}
	page_watch_start(page, &tour.own, tour.poll_ns);
	const struct gpu_clock first = gpu_compare_clocks();
	const size_t warm = gpu_launched();
	const int64_t until_ns = ds_now_ns(CLOCK_MONOTONIC) + (int64_t)(tour.seconds * 1e9);
	while (n < tour.cycles && ds_now_ns(CLOCK_MONOTONIC) < until_ns && !input_ended()) {
		struct cycle *cycle = &cycles[n];

		if (!await_loan(page, &tour.own, &cycle->lent_ns)) {
			failure = "nothing is lent any more";
			break;
		}
		sleep_until(cycle->lent_ns + SHORTEST_NS -
			    (int64_t)(log(1 - erand48(tour.random)) * tour.pause_us * 1e3));
		if (!work(&tour, o->units, cycle, seen_ns)) {
			failure = "groups that were lent did not come back";
			break;
		}
		n++;
	}
	const size_t launched = gpu_launched();
	const struct gpu_clock last = gpu_compare_clocks();
	struct gpu_run *runs = gpu_runs(launched, &first, &last);

	write_runs(o->runs, runs, launched);
	printf("{\"failure\":\"%s\",\"clock_error_ns\":%" PRId64 ",\"outside_ns\":%" PRId64 ",",
	       failure, gpu_clock_error_ns(&first, &last),
	       launched > warm ? outside_ns(runs, seen_ns, warm, launched) : 0);
	print_cycles(cycles, n);
	free(runs);
	free(cycles);
	free(seen_ns);
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {{"capacity", 1, NULL, 'c'},
					      {"runs", 1, NULL, 'r'},
					      {"kernel-us", 1, NULL, 'k'},
					      {"units", 1, NULL, 'u'},
					      {NULL, 0, NULL, 0}};
	struct options o = {0};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'c')
			o.capacity = strtoul(optarg, NULL, 10);
		else if (c == 'r')
			o.runs = optarg;
		else if (c == 'k')
			o.kernel_us = strtod(optarg, NULL);
		else if (c == 'u')
			o.units = (unsigned)strtoul(optarg, NULL, 10);
		else
			usage();
	}
	if (optind + 1 != argc || !o.runs || o.capacity < 1024 || (!o.units && !(o.kernel_us > 0)))
		usage();
	if (!strcmp(argv[optind], "borrow"))
		return borrow(&o);
	return strcmp(argv[optind], "own") ? 2 : own(&o);
}
